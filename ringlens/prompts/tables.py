"""Problems from columns of a table: CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from ringlens.errors import ProblemError
from ringlens.prompts.columns import Columns
from ringlens.prompts.fields import Row
from ringlens.prompts.stream import LARGEST, LONGEST, text_of, too_large

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"PAR1"
"""What a Parquet file begins with."""

BATCH = 1024
"""Rows of a Parquet file that are read at once."""


def csv_rows(stream: BinaryIO, name: str, columns: Columns, delimiter: str = ",") -> Iterator[Row]:
    """Problems of a CSV file, whose first row names its columns.

    Args:
        stream: The bytes.
        name: Their name, for errors.
        columns: Which columns hold what.
        delimiter: What stands between cells.

    Raises:
        ProblemError: There is no such column, a row has other cells than the header, a quote is
            not closed, or the file is no UTF-8.
    """
    with text_of(stream, name, newline="") as text, _long_cells():
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            prompt, answer = columns.places(header, name)
            for cells in reader:
                if not cells:  # a blank line
                    continue
                place = f"{name}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise ProblemError(
                        f"{place}: {len(cells)} cells, and {len(header)} columns in the header; "
                        "put cells that hold commas or ends of lines in quotes."
                    )
                given = None if answer is None else cells[answer]
                yield place, columns.row(cells[prompt], given, place)
        except csv.Error as error:
            raise ProblemError(f"{name}, line {reader.line_num}: not CSV ({error}).") from error


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells be long: Python's limit, of all readers, is shorter than a prompt may be."""
    earlier = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(earlier)


def parquet_rows(stream: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    """Problems of a Parquet file, read a batch at a time.

    Args:
        stream: The file, or a pipe, which is read whole.
        name: Its name, for errors.
        columns: Which columns hold what.

    Raises:
        ProblemError: It is no Parquet, there is no such column, the column is no text, or a cell
            is null.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if not stream.seekable():
        stream = io.BytesIO(stream.read())
    try:
        file = parquet.ParquetFile(stream)
        names = file.schema_arrow.names
        prompt, answer = columns.places(names, name)
        _check_text(file.schema_arrow.field(prompt).type, names[prompt], name)
        wanted = [names[prompt]] + ([] if answer is None else [names[answer]])
        yield from _cells(file.iter_batches(BATCH, columns=wanted), wanted, columns, name)
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, ProblemError):
            raise
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProblemError(f"{name}: not Parquet that can be read ({why:.200}).") from error


def _check_text(kind: pa.DataType, column: str, name: str) -> None:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(value) for is_text in texts):
        raise ProblemError(
            f"{name}: the column {column!r:.60} is {kind!s:.60}, and no text; name another."
        )


def _cells(
    batches: Iterator[pa.RecordBatch], wanted: list[str], columns: Columns, name: str
) -> Iterator[Row]:
    number, taken = 0, 0
    for batch in batches:
        taken += batch.nbytes
        if taken > LARGEST:
            raise too_large(name)
        prompts = batch.column(wanted[0]).to_pylist()
        answers = batch.column(wanted[-1]).to_pylist() if len(wanted) > 1 else prompts
        for prompt, answer in zip(prompts, answers, strict=True):
            number += 1
            place = f"{name}, row {number}"
            yield place, columns.row(prompt, answer, place)
