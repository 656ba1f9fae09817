"""Formats of a query's rows, each written batch by batch, so that any number of rows fits.

All formats hold the same values (`ringlens.store.read.values`): Parquet in types of its own, the
others as numbers and as DuckDB's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from ringlens.cli.console import harmless
from ringlens.errors import RinglensError

Write = Callable[[Any, IO[bytes]], None]
"""Writes the rows of a relation to a binary stream."""


def write_table(relation: Any, out: IO[bytes]) -> None:
    """Draw a table as DuckDB does: a few dozen rows, as wide as the terminal."""
    out.write(f"{harmless(str(relation))}\n".encode())


def write_csv(relation: Any, out: IO[bytes]) -> None:
    """Write CSV with a header; lists, maps and structs as JSON."""
    import pyarrow as pa
    from pyarrow import csv

    from ringlens.store.read import values

    kinds = relation.types
    reader = values.project(relation, values.textual).to_arrow_reader()
    schema = pa.schema(
        field.with_type(pa.string()) if values.is_nested(kind) else field
        for kind, field in zip(kinds, reader.schema, strict=True)
    )
    with csv.CSVWriter(out, schema) as writer:
        for batch in reader:
            columns = [
                values.json_column(column, kind) if values.is_nested(kind) else column
                for column, kind in zip(batch.columns, kinds, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def write_json(relation: Any, out: IO[bytes]) -> None:
    """Write one JSON array of objects."""
    out.write(b"[")
    for i, line in enumerate(_lines(relation)):
        out.write(b",\n " if i else b"\n ")
        out.write(line)
    out.write(b"\n]\n")


def write_jsonl(relation: Any, out: IO[bytes]) -> None:
    """Write one JSON object a line."""
    for line in _lines(relation):
        out.write(line + b"\n")


def write_parquet(relation: Any, out: IO[bytes]) -> None:
    """Write a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    from ringlens.store.read import values

    reader = values.project(relation, values.native).to_arrow_reader()
    try:
        with parquet.ParquetWriter(out, reader.schema, compression="zstd") as writer:
            for batch in reader:
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if not values.is_sound(column):
                        raise RinglensError(
                            f"{name} holds an integer of 39 digits or a time of 24:00:00, for "
                            f"which Parquet has no type: cast it to text, {name}::varchar"
                        )
                writer.write_batch(batch)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RinglensError(
            f"Parquet cannot hold these rows ({error}): cast the column to text in the query, or "
            f"use --format jsonl"
        ) from error


def write_markdown(relation: Any, out: IO[bytes]) -> None:
    """Write a Markdown table."""
    names, rows = _rows(relation)
    out.write(f"| {' | '.join(map(_cell, names))} |\n".encode())
    out.write(f"|{'---|' * len(names)}\n".encode())
    for row in rows:
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
"""The format that the ending of a file's name stands for."""


def _lines(relation: Any) -> Iterator[bytes]:
    names, rows = _rows(relation)
    for row in rows:
        found = dict(zip(names, row, strict=True))
        yield json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


def _rows(relation: Any) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The names of the columns, and the rows in JSON's types."""
    from ringlens.store.read import values

    makers = [values.plain(kind) for kind in relation.types]
    reader = values.project(relation, values.textual).to_arrow_reader()

    def rows() -> Iterator[tuple[Any, ...]]:
        for batch in reader:
            columns = [
                [make(value) for value in column.to_pylist()]
                for make, column in zip(makers, batch.columns, strict=True)
            ]
            yield from zip(*columns, strict=True)

    return reader.schema.names, rows()


def _cell(value: Any) -> str:
    from ringlens.store.read import values

    if value is None:
        return ""
    text = value if isinstance(value, str) else values.as_json(value)
    text = text.replace("\\", "\\\\").replace("|", "\\|")
    return re.sub("\r\n|\r|\n", "<br>", text)
