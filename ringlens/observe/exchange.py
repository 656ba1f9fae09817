"""Saved responses: JSON and JSONL files, read one exchange at a time.

A row is a response; an object with ``request`` and ``response``; or a row of an OpenAI batch, whose
response has a ``body``. A JSON file holds one row or a list of them, a JSONL file one a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ringlens.errors import ServingError
from ringlens.observe.answer import Exchange, parsed


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
        with path.open(encoding="utf-8") as file:
            if path.suffix == ".jsonl":
                for number, line in enumerate(file, start=1):
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
