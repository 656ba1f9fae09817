"""Rows of a query as text or a file: each form is written batch by batch, so any size will do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from ringlens.errors import RinglensError

Write = Callable[[Any, IO[bytes]], None]
"""Writes the rows of a relation to a binary stream."""


def write_table(relation: Any, out: IO[bytes]) -> None:
    """DuckDB's box drawing, of a few dozen rows and as wide as the terminal."""
    out.write(f"{relation}\n".encode())


def write_csv(relation: Any, out: IO[bytes]) -> None:
    """CSV with a header."""
    from pyarrow import csv, types

    reader = relation.to_arrow_reader()
    nested = [field.name for field in reader.schema if types.is_nested(field.type)]
    if nested:
        raise RinglensError(
            f"CSV holds no lists, and {nested[0]} is one: unnest it in the query, or use "
            f"--format jsonl or parquet"
        )
    with csv.CSVWriter(out, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def write_json(relation: Any, out: IO[bytes]) -> None:
    """One JSON array of objects."""
    out.write(b"[")
    for i, line in enumerate(_lines(relation)):
        out.write(b",\n " if i else b"\n ")
        out.write(line)
    out.write(b"\n]\n")


def write_jsonl(relation: Any, out: IO[bytes]) -> None:
    """One JSON object a line."""
    for line in _lines(relation):
        out.write(line + b"\n")


def write_parquet(relation: Any, out: IO[bytes]) -> None:
    """A Parquet file."""
    from pyarrow import parquet

    reader = relation.to_arrow_reader()
    with parquet.ParquetWriter(out, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def write_markdown(relation: Any, out: IO[bytes]) -> None:
    """A Markdown table."""
    names = relation.columns
    out.write(f"| {' | '.join(map(_cell, names))} |\n".encode())
    out.write(f"|{'---|' * len(names)}\n".encode())
    for batch in relation.to_arrow_reader():
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            out.write(f"| {' | '.join(map(_cell, row))} |\n".encode())


WRITERS: Mapping[str, Write] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "markdown": write_markdown,
}

ENDINGS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".md": "markdown",
}
"""The form that a file's name asks for."""


def _lines(relation: Any) -> Iterator[bytes]:
    for batch in relation.to_arrow_reader():
        for row in batch.to_pylist():
            yield json.dumps(_plain(row), default=str, ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    """What JSON has no number for, as text: inf and nan."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(_plain(value))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")
