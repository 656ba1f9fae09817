"""Problems of a bundled task, of a file, or of a stream such as standard input."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from os import PathLike, fspath
from os.path import exists
from pathlib import Path
from typing import Any, BinaryIO

from ringlens.config import refuse_unknown
from ringlens.config import whole as whole_number
from ringlens.data import countdown, path
from ringlens.errors import ProblemError
from ringlens.problem import FROM_PROMPT, Problem
from ringlens.prompts.columns import Columns
from ringlens.prompts.fields import Row, problems_of
from ringlens.prompts.hub import PREFIX, hub_rows
from ringlens.prompts.kinds import How, chat_of, rows_of
from ringlens.prompts.stream import LARGEST, opened, text_of

TASKS = (countdown.TASK, *FROM_PROMPT)
SPLITS = ("heldout", "train")

Source = str | PathLike[str] | BinaryIO


@refuse_unknown
def problems(
    source: Source,
    n: int | None = None,
    *,
    split: str | None = None,
    seed: int | None = None,
    column: str | None = None,
    answer: str | None = None,
    answer_after: str | None = None,
    task: str = "",
    whole: bool = False,
) -> list[Problem]:
    """Problems of a bundled task or of a file.

    Args:
        source: A bundled task ("countdown", "graphs", "congruences" or "products"); the path of a
            file: ``.txt`` (one prompt a line), ``.jsonl`` or ``.json`` (objects with a ``prompt``
            or ``messages``, and optionally ``id``, ``task``, ``answer`` and ``fields``), ``.csv``,
            ``.tsv`` or ``.parquet``; an open binary stream, as `sys.stdin.buffer`; or a set of the
            hub, as "hub:openai/gsm8k:main" (an id or a folder, and a configuration). Files without
            one of these suffixes, and streams, are known by how they begin: with an object (JSON
            lines), or else text.
        n: How many; None for all. Of a file no more is read than that takes.
        split: Split of a bundled task, "heldout" (the default; the bundled models never saw these)
            or "train"; or of a set of the hub. A file has no splits.
        seed: None takes the first ``n``; a number seeds a random draw of ``n``.
        column: Column of a table (CSV, Parquet, the hub) that holds the prompts; "prompt" if left
            out. Columns that are not named are not read.
        answer: Column that holds the expected answers.
        answer_after: What an answer stands behind in its cell, as "####" in GSM8K.
        task: The verifier of the answers of a table, as "math-verify"; they are compared as text
            if it is left out.
        whole: Take a file of text as one prompt.

    Returns:
        The problems in order. Those without an ``id`` have one made from what they ask; of equal
        ones the second ends in "-2". Those without an ``answer`` are not graded.

    Raises:
        ProblemError: There is no such source, split or column, the file is empty, malformed or
            binary or holds fewer than ``n`` problems, a prompt is empty, or ``n`` or ``seed`` is no
            whole number.
    """
    n = None if n is None else whole_number("n", n, -LARGEST, error=ProblemError)
    seed = None if seed is None else whole_number("seed", seed, 0, 2**63 - 1, error=ProblemError)
    columns = _columns(column=column, answer=answer, answer_after=answer_after, task=task)
    how = _how(columns, whole)
    first = n if seed is None and n is not None and n > 0 else None
    name, found = _read(source, split, how, first)
    if not found:
        raise ProblemError(f"{name} holds no problems. Write one prompt or JSON object a line.")
    n = len(found) if n is None else n
    if not 1 <= n <= len(found):
        raise ProblemError(
            f"{n} problems asked of {name}; it holds {len(found)}. Ask for 1 to {len(found)}."
        )
    return found[:n] if seed is None else random.Random(seed).sample(found, n)


def chat_rows(source: Path | BinaryIO) -> Iterator[Row]:
    """The one row of a JSON file that holds a chat: its messages, or an object with messages.

    Raises:
        ProblemError: The file cannot be read, or holds something else; while the row is used.
    """
    if not isinstance(source, Path):
        yield from chat_of(source, _named(source))
        return
    with opened(source) as stream:
        yield from chat_of(stream, str(source))


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        ProblemError: It is missing, no regular file, too large to be read whole, unreadable, or no
            UTF-8.
    """
    with opened(file) as stream, text_of(stream, str(file)) as text:
        return text.read()


def _columns(**given: Any) -> Columns:
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            wanted = "a text" if name in ("task", "answer_after") else "the name of a column"
            raise ProblemError(f"{name} = {value!r:.60}; it must be {wanted}.")
    after = given["answer_after"]
    if after is not None and (given["answer"] is None or not after):
        raise ProblemError("answer_after = is what answers stand behind: give answer= too.")
    return Columns(given["column"], given["answer"], after, given["task"] or "")


def _how(columns: Columns, whole: object) -> How:
    if not isinstance(whole, bool):
        raise ProblemError(f"whole = {whole!r:.60}; it must be True or False.")
    return How(columns, whole)


def _read(
    source: Source, split: str | None, how: How, first: int | None
) -> tuple[str, list[Problem]]:
    """The name of a source, and its problems, the first ones alone if that is enough."""
    if isinstance(source, str) and source.startswith(PREFIX):
        if how.whole:
            raise ProblemError(f"{source} is a table, but whole= belongs to text; leave it out.")
        rows = hub_rows(source, split, how.columns, first is None)
        return source, _first(problems_of(rows), first)
    if not isinstance(source, str | PathLike) and hasattr(source, "read"):
        name = _named(source)
        return name, _first(problems_of(rows_of(source, name, "", how)), first)
    if isinstance(source, str) and source in TASKS:
        if how != How():
            raise ProblemError(
                f"{source} is a bundled task; column=, answer=, task= and whole= belong to files. "
                "Leave them out."
            )
        split = SPLITS[0] if split is None else split
        if split not in SPLITS:
            raise ProblemError(f"no split {split!r} of {source}; there are {', '.join(SPLITS)}.")
        file = path(f"{source}.{split}.jsonl")
    else:
        file = _file(source)
    with opened(file, LARGEST if first is None else float("inf")) as stream:
        rows = rows_of(stream, str(file), file.suffix, how)
        return str(source), _first(problems_of(rows), first)


def _first(found: Iterator[Problem], n: int | None) -> list[Problem]:
    return list(found if n is None else islice(found, n))


def _named(stream: BinaryIO) -> str:
    """The name of a stream for messages.

    Raises:
        ProblemError: It gives text, and no bytes.
    """
    name = getattr(stream, "name", "the stream")
    if not hasattr(stream, "readinto"):
        raise ProblemError("cannot read problems from a stream of text; open it in mode 'rb'.")
    return "standard input" if name in ("<stdin>", 0) else str(name)


def _file(source: object) -> Path:
    if not isinstance(source, str | PathLike) or not isinstance(fspath(source), str):
        raise ProblemError(
            f"cannot read problems from {source!r:.60}; give a bundled task "
            f"({', '.join(TASKS)}), the path of a file, or an open binary stream."
        )
    file = Path(source)
    if not exists(file):  # Path.exists would raise for a name that is too long
        raise ProblemError(
            f"no problems under {str(source)!r:.200}: neither a bundled task ({', '.join(TASKS)}) "
            "nor a file (text, JSON lines, CSV or Parquet)."
        )
    return file
