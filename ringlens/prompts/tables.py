"""Prompts from a column of a table: CSV or Parquet."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from ringlens.errors import ProblemError
from ringlens.prompts.fields import Row
from ringlens.prompts.stream import LARGEST, LONGEST, text_of, too_large

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"PAR1"
"""What a Parquet file begins with."""

BATCH = 1024
"""Rows of a Parquet file that are read at once."""

ASKED = "prompt"
"""The column that is taken where none is named."""


def csv_rows(
    stream: BinaryIO, name: str, column: str | None, delimiter: str = ","
) -> Iterator[Row]:
    """Prompts of one column of a CSV file, whose first row names its columns.

    Args:
        stream: The bytes.
        name: Their name, for errors.
        column: The column; None: "prompt".
        delimiter: What stands between cells.

    Raises:
        ProblemError: There is no such column, a row has other cells than the header, a quote is
            not closed, or the file is no UTF-8.
    """
    with text_of(stream, name, newline="") as text, _long_cells():
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            at = _index(header, column, name)
            for cells in reader:
                if not cells:  # a blank line
                    continue
                place = f"{name}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise ProblemError(
                        f"{place}: {len(cells)} cells, and {len(header)} columns in the header; "
                        "put cells that hold commas or ends of lines in quotes."
                    )
                yield place, {"prompt": cells[at]}
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


def _index(names: Sequence[str], column: str | None, table: str) -> int:
    """Where a column stands."""
    wanted = ASKED if column is None else column
    if wanted in names:
        if names.count(wanted) > 1:
            raise ProblemError(f"{table} has two columns {wanted!r:.60}; rename one of them.")
        return names.index(wanted)
    if not names:
        raise ProblemError(f"{table} holds no problems: it has no row that names its columns.")
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r:.60}?" if near else ""
    named = ", ".join(repr(each)[:60] for each in names[:20])
    advice = "" if column is not None else " Name the one that holds the prompts (column=)."
    raise ProblemError(f"{table} has no column {wanted!r:.60}.{hint}{advice} Columns: {named}.")


def parquet_rows(stream: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    """Prompts of one column of a Parquet file, read a batch at a time.

    Args:
        stream: The file, or a pipe, which is read whole.
        name: Its name, for errors.
        column: The column; None: "prompt".

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
        wanted = names[_index(names, column, name)]
        _check_text(file.schema_arrow.field(wanted).type, wanted, name)
        yield from _cells(file.iter_batches(BATCH, columns=[wanted]), wanted, name)
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


def _cells(batches: Iterator[pa.RecordBatch], column: str, name: str) -> Iterator[Row]:
    row, taken = 0, 0
    for batch in batches:
        taken += batch.nbytes
        if taken > LARGEST:
            raise too_large(name)
        for cell in batch.column(0).to_pylist():
            row += 1
            if cell is None:
                raise ProblemError(f"{name}, row {row}: {column!r:.60} is null; leave the row out.")
            yield f"{name}, row {row}", {"prompt": cell}
