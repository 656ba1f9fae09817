"""Kinds of files: which one a file is of, and the rows that it holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

from ringlens.errors import ProblemError
from ringlens.prompts.columns import Columns
from ringlens.prompts.fields import Row
from ringlens.prompts.stream import Bounded, lines_of, text_of
from ringlens.prompts.tables import MAGIC, csv_rows, parquet_rows
from ringlens.strict_json import parsed, parsed_object


@dataclass(frozen=True)
class How:
    """How a file is to be read.

    Attributes:
        columns: Columns of a table.
        whole: Whether a text is one prompt, and not one a line.
    """

    columns: Columns = field(default_factory=Columns)
    whole: bool = False

    @property
    def of_table(self) -> bool:
        """Whether it names anything that only a table has."""
        return self.columns != Columns()


Read = Callable[[BinaryIO, str, How], Iterator[Row]]


def rows_of(stream: BinaryIO, name: str, suffix: str, how: How) -> Iterator[Row]:
    """The rows of a file of any kind.

    Args:
        stream: Its bytes.
        name: Its name, for errors.
        suffix: The end of its name, which says of which kind it is; where that is not known, as
            for standard input, the first bytes do.
        how: How it is to be read.

    Raises:
        ProblemError: It is malformed, or no file of its kind; while the rows are used.
    """
    suffix = suffix.lower()
    kind = next((kind for kind, (suffixes, _) in KINDS.items() if suffix in suffixes), None)
    if how.whole and how.of_table:
        raise ProblemError(
            "column= belongs to tables (CSV, Parquet) and whole= to text; give one of them."
        )
    says = {
        "whole=": (how.whole, "text", ("text",)),
        how.columns.first_given: (how.of_table, "tables", TABLES),
    }
    for word, (given, wanted, kinds) in says.items():
        if given and kind not in (None, *kinds):
            raise ProblemError(f"{name} is {kind}, but {word} belongs to {wanted}; leave it out.")
    read = KINDS[kind][1] if kind is not None else _guessed
    return read(stream, name, how)


def _guessed(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    """Rows of what has no known suffix: what begins with an object is JSON lines."""
    begin = stream.read(len(MAGIC))
    bounded = io.BufferedReader(Bounded(stream, name, begin))
    if begin == MAGIC:
        return parquet_rows(bounded, name, how.columns)
    if how.of_table:
        return csv_rows(bounded, name, how.columns)
    return _whole(bounded, name, how) if how.whole else _lines_or_objects(bounded, name)


def _lines_or_objects(stream: BinaryIO, name: str) -> Iterator[Row]:
    lines = lines_of(stream, name)
    first = next(lines, None)
    if first is None:
        return iter(())
    every = chain([first], lines)
    return _objects(every) if _is_object(first[1]) else _prompts(every)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return line.lstrip().startswith('{"')


def _prompts(lines: Iterator[tuple[str, str]]) -> Iterator[Row]:
    for place, line in lines:
        yield place, {"prompt": line}


def _objects(lines: Iterator[tuple[str, str]]) -> Iterator[Row]:
    for place, line in lines:
        yield place, parsed_object(line, place, ProblemError)


def _text(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    return _whole(stream, name, how) if how.whole else _prompts(lines_of(stream, name))


def _whole(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    """One prompt, without the last end of a line."""
    with text_of(stream, name) as text:
        yield name, {"prompt": text.read().removesuffix("\n")}


def _json_lines(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    return _objects(lines_of(stream, name))


def _json(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    """One document: an object, the messages of a chat, or a list of objects or prompts."""
    with text_of(stream, name) as text:
        found = parsed(text.read(), name, ProblemError)
    if isinstance(found, dict):
        yield name, found
    elif not isinstance(found, list):
        raise ProblemError(f"{name}: expected an object or a list, found {type(found).__name__}.")
    elif found and all(isinstance(each, dict) and "role" in each for each in found):
        yield name, {"messages": found}
    else:
        for index, each in enumerate(found):
            yield f"{name}, item {index}", _item(each, f"{name}, item {index}")


def chat_of(stream: BinaryIO, name: str) -> Iterator[Row]:
    """The one chat of a JSON document: its messages, or an object with messages.

    Raises:
        ProblemError: It holds something else.
    """
    with text_of(stream, name) as text:
        found = parsed(text.read(), name, ProblemError)
    messages = found.get("messages") if isinstance(found, dict) else found
    if not isinstance(messages, list) or not messages:
        raise ProblemError(
            f"{name} holds no chat: write a list of messages, objects with role and content."
        )
    yield name, found if isinstance(found, dict) else {"messages": messages}


def _item(given: Any, place: str) -> dict[str, Any]:
    if isinstance(given, str):
        return {"prompt": given}
    if not isinstance(given, dict):
        kind = type(given).__name__
        raise ProblemError(f"{place}: expected an object or a prompt, found {kind}.")
    return given


def _csv(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    return csv_rows(stream, name, how.columns)


def _tsv(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    return csv_rows(stream, name, how.columns, delimiter="\t")


def _parquet(stream: BinaryIO, name: str, how: How) -> Iterator[Row]:
    return parquet_rows(stream, name, how.columns)


TABLES = ("CSV", "tab-separated", "Parquet")
KINDS: dict[str, tuple[tuple[str, ...], Read]] = {
    "text": ((".txt", ".md", ".text"), _text),
    "JSON lines": ((".jsonl", ".ndjson"), _json_lines),
    "JSON": ((".json",), _json),
    "CSV": ((".csv",), _csv),
    "tab-separated": ((".tsv",), _tsv),
    "Parquet": ((".parquet", ".pq"), _parquet),
}
"""Kind → suffixes, and what reads it."""
