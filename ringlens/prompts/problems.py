"""Problems of a bundled task, of a file, or of a stream such as standard input."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from os import PathLike, fspath
from os.path import exists
from pathlib import Path
from typing import BinaryIO

from ringlens.config import refuse_unknown
from ringlens.config import whole as whole_number
from ringlens.data import countdown, path
from ringlens.errors import ProblemError
from ringlens.problem import FROM_PROMPT, Problem
from ringlens.prompts.fields import Row, problems_of
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
    split: str = "heldout",
    seed: int | None = None,
    column: str | None = None,
    whole: bool = False,
) -> list[Problem]:
    """Problems of a bundled task or of a file.

    Args:
        source: A bundled task ("countdown", "graphs", "congruences" or "products"); the path of a
            file: ``.txt`` (one prompt a line), ``.jsonl`` or ``.json`` (objects with a ``prompt``
            or ``messages``, and optionally ``id``, ``task``, ``answer`` and ``fields``), ``.csv``,
            ``.tsv`` or ``.parquet``; or an open binary stream, as `sys.stdin.buffer`. Files without
            one of these suffixes, and streams, are known by how they begin: with an object (JSON
            lines), or else text.
        n: How many; None for all. Of a file no more is read than that takes.
        split: Split of a bundled task, "heldout" (the bundled models never saw these) or "train".
            A file has no splits.
        seed: None takes the first ``n``; a number seeds a random draw of ``n``.
        column: Column of a CSV or Parquet file that holds the prompts; "prompt" if left out. Other
            columns are not read.
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
    how = _how(column, whole)
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


def _how(column: object, whole: object) -> How:
    if column is not None and not isinstance(column, str):
        raise ProblemError(f"column = {column!r:.60}; it must be the name of a column.")
    if not isinstance(whole, bool):
        raise ProblemError(f"whole = {whole!r:.60}; it must be True or False.")
    return How(column, whole)


def _read(source: Source, split: str, how: How, first: int | None) -> tuple[str, list[Problem]]:
    """The name of a source, and its problems, the first ones alone if that is enough."""
    if not isinstance(source, str | PathLike) and hasattr(source, "read"):
        name = _named(source)
        return name, _first(problems_of(rows_of(source, name, "", how)), first)
    if isinstance(source, str) and source in TASKS:
        if how != How():
            raise ProblemError(
                f"{source} is a bundled task; column= and whole= belong to files. Leave them out."
            )
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
