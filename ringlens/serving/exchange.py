"""Saved responses: JSON and JSONL files, read one exchange at a time.

A row is a response; an object with ``request`` and ``response``; or a row of an OpenAI batch, whose
response has a ``body``. A JSON file holds one row or a list of them, a JSONL file one a line.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ringlens.errors import ServingError
from ringlens.serving.responses import Exchange
from ringlens.strict_json import parsed

LARGEST_ROW = 1_000_000_000
"""Bytes of a JSON file, or letters of a line of JSONL, at most."""

_IN_LINES = "save one response a line, in a .jsonl file."


def exchanges(paths: Iterable[Path]) -> Iterator[Exchange | ServingError]:
    """The exchanges of some files, in order; in place of one that cannot be read, why.

    Raises:
        ServingError: A file cannot be read at all.
    """
    for path in paths:
        for place, row in _rows(path):
            try:
                yield _exchange(place, row)
            except ServingError as error:
                yield error


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows with their places; lines of JSONL that are no JSON are handed on as text."""
    try:
        with _opened(path) as file:
            if path.suffix == ".jsonl":
                for number, line in enumerate(_lines(path, file), start=1):
                    if line.strip():
                        yield f"{path}, line {number}", line
                return
            text = file.read()
    except OSError as error:
        raise ServingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ServingError(f"{path} is not UTF-8 text: {error}") from error
    try:
        found = parsed(str(path), text)
    except ServingError:
        yield str(path), text  # told with its place, like a bad line
        return
    if isinstance(found, list):
        yield from ((f"{path}, entry {number}", row) for number, row in enumerate(found))
    else:
        yield str(path), found


def _opened(path: Path) -> TextIO:
    """A file as text, if it is one that ends: no pipe, device or folder, and JSON of some size."""
    try:
        found = path.stat()
    except ValueError as error:  # NUL in its name
        raise ServingError(f"{str(path)!r} is no name of a file: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ServingError(
            f"{path} is no regular file: save the responses in one, as it is read twice."
        )
    if path.suffix != ".jsonl" and found.st_size > LARGEST_ROW:
        raise ServingError(f"{path} has {found.st_size:,} bytes: {_IN_LINES}")
    return path.open(encoding="utf-8-sig")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Lines of a file, none of which is read beyond the bound."""
    while line := file.readline(LARGEST_ROW + 1):
        if len(line) > LARGEST_ROW:
            raise ServingError(f"{path} has a line of over {LARGEST_ROW:,} letters: {_IN_LINES}")
        yield line


def _exchange(place: str, row: Any) -> Exchange:
    row = parsed(place, row) if isinstance(row, str) else row
    if not isinstance(row, Mapping) or not isinstance(row.get("response"), Mapping | list):
        if isinstance(row, Mapping) and "custom_id" in row:  # a batch's row that failed
            raise ServingError(f"{place}: no response, but an error: {str(row.get('error'))[:300]}")
        return Exchange(row, {}, place)
    response, request = row["response"], row.get("request") or {}
    if isinstance(response, Mapping) and isinstance(response.get("body"), Mapping):
        response = response["body"]
    if isinstance(request, Mapping) and isinstance(request.get("body"), Mapping):
        request = request["body"]
    if not isinstance(request, Mapping):
        raise ServingError(f"{place}: the request is {type(request).__name__}, not an object")
    return Exchange(response, request, place, str(row.get("custom_id") or ""))
