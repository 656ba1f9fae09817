"""The folder of a problem in the layout of math-rollouts, read strictly.

``problem_N/`` holds ``base_solution.json`` (prompt, solution, full_cot, answer, is_correct), and
may hold ``problem.json`` (problem, gt_answer), ``chunks_labeled.json`` (the steps with their roles)
and ``chunk_i/solutions.json`` (rollouts that begin with another step i). Other files are not read.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringlens.analysis.roles.importing import ROLLOUTS, Steps, read_rollout, spans_of
from ringlens.errors import ConfigError
from ringlens.files import regular
from ringlens.plain import half_pair
from ringlens.strict_json import parsed

log = logging.getLogger(__name__)

BASE, PROBLEM, SOLUTIONS = "base_solution.json", "problem.json", "solutions.json"

LARGEST = 2**28
"""Bytes of a file."""

MOST = 100_000
"""Folders that are looked at."""

CHUNK = re.compile(r"chunk_(\d{1,6})")


@dataclass(frozen=True)
class Rollout:
    """A text, with what is said of it.

    Attributes:
        name: The problem; of a resampled rollout with the step that was removed behind it, as in
            "problem_330/chunk_5".
        question: The problem as it was asked.
        text: Prompt and what was written.
        prompt_end: Characters of the prompt, and of the steps that were given.
        answer: The answer found by whoever made the folder; None if there is none.
        expected: The right answer; None if it is unknown.
        correct: Whether the answer is right, by whoever made the folder; None if that is unknown.
        steps: Steps with their roles; None where there are none.
        sample: Number among the rollouts of this name.
    """

    name: str
    question: str
    text: str
    prompt_end: int
    answer: str | None
    expected: str | None
    correct: bool | None
    steps: Steps | None = None
    sample: int = 0


def problem_folders(path: Path) -> list[Path]:
    """The folders of problems at or below a folder, by name.

    Raises:
        ConfigError: There is none, two are of one problem, or there are too many folders.
    """
    if not os.path.isdir(path):  # Path.is_dir would raise for a name that is too long
        raise ConfigError(
            f"{str(path)!r:.200} is no folder; give one in the layout of math-rollouts."
        )
    found: dict[str, Path] = {}
    for seen, (folder, inner, files) in enumerate(os.walk(path)):
        if seen > MOST:
            raise ConfigError(f"{path} holds more than {MOST:,} folders; give a part of it.")
        if BASE not in files:
            continue
        inner.clear()
        name = Path(folder).resolve().name
        if name in found:
            raise ConfigError(
                f"{found[name]} and {folder} are of one problem; import one folder of problems at "
                "a time, each into a store of its own."
            )
        found[name] = Path(folder)
    if not found:
        raise ConfigError(f"{path} holds no {BASE}; give the folder of a problem, or one of these.")
    return [found[name] for name in sorted(found, key=lambda name: (len(name), name))]


def rollouts(folder: Path, resampled: bool) -> Iterator[Rollout]:
    """The base solution of a problem, then, if they are wanted, its resampled rollouts.

    Raises:
        ConfigError: A file is missing, a link that leads out of the folder, too large, or holds
            something else.
    """
    name = folder.resolve().name
    given = _object(folder, folder / BASE)
    about = _object(folder, folder / PROBLEM) if os.path.lexists(folder / PROBLEM) else {}
    place = str(folder / BASE)
    prompt, text = _text(given, "prompt", place), _text(given, "full_cot", place)
    if not text.startswith(prompt) or text == prompt:
        raise ConfigError(f"{place}: full_cot does not go on where the prompt ends.")
    question = _maybe(about, "problem", str(folder / PROBLEM)) or prompt
    expected = _maybe(about, "gt_answer", str(folder / PROBLEM)) or None
    yield Rollout(
        name, question, text, len(prompt), *_graded(given, expected, place), _steps(folder, text)
    )
    for index, file in _solutions(folder) if resampled else ():
        rows = _read(folder, file)
        if not isinstance(rows, list):
            raise ConfigError(f"{file}: expected a list, found {type(rows).__name__}.")
        failed = 0
        for number, row in enumerate(rows):
            here = f"{file}, entry {number}"
            if not isinstance(row, dict):
                raise ConfigError(f"{here}: expected an object, found {type(row).__name__}.")
            if "error" in row:
                failed += 1
                continue
            whole, written = _text(row, "full_cot", here), _text(row, "rollout", here)
            if not whole.endswith(written) or not whole.startswith(prompt):
                raise ConfigError(f"{here}: full_cot is not the prompt, a prefix and the rollout.")
            yield Rollout(
                f"{name}/chunk_{index}",
                question,
                whole,
                len(whole) - len(written),
                *_graded(row, expected, here),
                sample=number - failed,
            )
        if failed:
            log.warning(
                "%s: %d entries hold an error and no rollout; they are left out", file, failed
            )


def _graded(
    row: dict[str, Any], expected: str | None, place: str
) -> tuple[str | None, str | None, bool | None]:
    correct = row.get("is_correct")
    if correct is not None and not isinstance(correct, bool):
        raise ConfigError(
            f"{place}: is_correct is {correct!r:.40}; it must be true, false or null."
        )
    return _maybe(row, "answer", place) or None, expected, correct


def _steps(folder: Path, text: str) -> Steps | None:
    """The labelled steps, which must be in the text."""
    file = folder / ROLLOUTS
    if not os.path.lexists(file):
        return None
    _check(folder, file)
    steps = read_rollout(file)
    if spans_of(text, steps) is None:
        raise ConfigError(
            f"{file}: its chunks are not in full_cot of {BASE}, one behind the other."
        )
    return steps


def _solutions(folder: Path) -> Iterator[tuple[int, Path]]:
    """Files of resampled rollouts, by the step that they replace."""
    found = []
    for each in folder.iterdir():
        match = CHUNK.fullmatch(each.name)
        if match is not None and os.path.lexists(each / SOLUTIONS):
            found.append((int(match[1]), each / SOLUTIONS))
    yield from sorted(found)


def _check(folder: Path, file: Path) -> None:
    """Refuse what is no file of the folder, or too large."""
    try:
        size = regular(file).st_size
        outside = not file.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {str(file)!r:.200}: {why}.") from error
    if outside:
        raise ConfigError(f"{file} is a link that leads out of its folder; copy what it leads to.")
    if size > LARGEST:
        raise ConfigError(f"{file} has {size:,} bytes, and at most {LARGEST:,} are read.")


def _read(folder: Path, file: Path) -> Any:
    _check(folder, file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {str(file)!r:.200}: {error}.") from error
    return parsed(text, str(file), ConfigError)


def _object(folder: Path, file: Path) -> dict[str, Any]:
    found = _read(folder, file)
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: expected an object, found {type(found).__name__}.")
    return found


def _text(row: dict[str, Any], key: str, place: str) -> str:
    found = _maybe(row, key, place)
    if not found:
        raise ConfigError(f"{place}: {key!r} is missing or empty.")
    return found


def _maybe(row: dict[str, Any], key: str, place: str) -> str | None:
    found = row.get(key)
    if found is not None and not isinstance(found, str):
        raise ConfigError(f"{place}: {key!r} must be a text, found {found!r:.40}.")
    if found is not None and ("\0" in found or half_pair(found)):
        raise ConfigError(f"{place}: {key!r} holds what is no text (NUL, or half a character).")
    return found
