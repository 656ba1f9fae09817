"""Foreign tables: tables of a later ringlens, or of an instrument that is not installed.

They can be queried with the columns of their files. As the meaning of these columns is unknown,
their rows are neither checked nor compacted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.schema import views
from ringlens.store.schema.table import Column, Table
from ringlens.store.storage.folder import Folder

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""Valid names of tables; other folders are ignored."""

MEANING = "A table that this ringlens does not know: of a later one, or of an instrument not here."

KEYS = ("trace_id", "layer", "pos")
"""Columns that identify a row, as far as a table has them."""


def as_stored(folder: Folder, file: File) -> Table:
    """Describe a file's table by the columns of the file.

    Raises:
        OSError: The file cannot be read.
        ArrowException: The file is damaged.
    """
    found = pq.read_schema(folder.source(file.path))
    columns = tuple(Column(f.name, f.type, "", nullable=f.nullable) for f in found)
    key = tuple(name for name in KEYS if name in found.names)
    return Table(file.table, MEANING, key, columns)


class ForeignTables:
    """The foreign tables of a store, as queries see them.

    The footer of the newest file of each table is read once.

    Attributes:
        names: Names of all tables found since the store was opened.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.names: set[str] = set()
        self._looked: dict[str, Table | None] = {}

    def of(self, files: Iterable[File], known: Iterable[str]) -> dict[str, Table]:
        """Foreign tables by name, without those whose newest file cannot be read."""
        ours = set(known)
        newest = {file.table: file for file in files if file.table not in ours}
        found = {name: self._table(file) for name, file in sorted(newest.items())}
        seen = {name: table for name, table in found.items() if table is not None}
        self.names |= seen.keys()
        return seen

    def _table(self, file: File) -> Table | None:
        if file.path not in self._looked:
            self._looked[file.path] = self._look(file)
        return self._looked[file.path]

    def _look(self, file: File) -> Table | None:
        if not NAME.fullmatch(file.table) or intact.size_fault(self._folder, file):
            return None
        try:
            table = as_stored(self._folder, file)
        except (OSError, pa.ArrowException):  # `ringlens check` says what is wrong with it
            return None
        columns = tuple(
            Column(c.name, c.type, "", nullable=True)
            for c in table.columns
            if views.has_sql_type(c.type)
        )
        return Table(table.name, table.meaning, table.key, columns) if columns else None
