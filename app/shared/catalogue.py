"""Keeps the store's small tables in memory, so that the grid does not open a file per trace."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa

from ringlens.sandbox.statement import nodes
from ringlens.store import Store
from ringlens.store.manifest.manifest import File

Span = tuple[int, int]

# What is copied of each table; the columns of a row are those of the table, or sums over it.
_COPIES = {
    "runs": "select * from {source} where {inside}",
    "traces": "select * exclude (text) from {source} where {inside}",
    # Mean entropy of each trace over what the model wrote.
    "tokens": """
        select trace_id, avg(entropy) filter (phase <> 'prompt') as entropy
        from {source} where {inside} group by trace_id""",
    # What people said of each trace and its steps; a correction is of the same trace.
    "annotations": """
        with inside as (from {source} where {inside})
        select trace_id, count(*)::integer as said,
               string_agg(distinct label, ', ' order by label) as labels
        from inside where not is_retraction and annotation_id not in
            (select supersedes from inside where supersedes is not null)
        group by trace_id""",
}


class Catalogue:
    """Runs, traces (without their text) and the mean entropy of each trace, as SQL tables.

    Tables: ``runs``, ``traces``, ``tokens`` (trace_id, entropy) and ``annotations`` (trace_id,
    said, labels). They follow the store: before a query, the traces in files that came or went are
    read again, and no others. Safe for threads.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen: dict[str, dict[str, File]] = {name: {} for name in _COPIES}
        self._connection = duckdb.connect(config={"python_enable_replacements": "false"})
        self._read_by = lru_cache(256)(self._tables_of)  # most queries are asked again
        for name in _COPIES:
            self._fill(name, self._copy(name, (), ()), "create table {name} as from incoming")

    def sql(self, query: str, params: dict[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Query the tables as they are at this moment; those that it does not read may be old."""
        self._refresh(self._read_by(query))
        return self._connection.cursor().sql(query, params=params or {})

    def _tables_of(self, query: str) -> tuple[str, ...]:
        """The tables that a query reads; a column or a text of such a name is none."""
        asked = self._connection.cursor().execute("select json_serialize_sql(?)", [query])
        (tree,) = asked.fetchall()[0]
        found = {str(node.get("table_name")).lower() for node in nodes(json.loads(tree))}
        return tuple(name for name in _COPIES if name in found)

    def _refresh(self, names: Sequence[str]) -> None:
        with self._lock:
            files = self._store.snapshot()
            for name in names:
                seen = self._seen[name]
                now = {file.path: file for file in files.get(name, ())}
                if now.keys() != seen.keys():
                    changed = [(now.get(path) or seen[path]) for path in now.keys() ^ seen.keys()]
                    self._replace(name, list(now.values()), spans(changed))
                    self._seen[name] = now

    def _replace(self, name: str, files: Sequence[File], affected: Sequence[Span]) -> None:
        """Read the rows of some traces again, from all files that can hold one of them."""
        holding = [file for file in files if any(_overlap(file, span) for span in affected)]
        rows = self._copy(name, holding, affected)
        inside = _inside(name, affected)
        self._fill(
            name, rows, f"delete from {{name}} where {inside}", "insert into {name} from incoming"
        )

    def _copy(self, name: str, files: Sequence[File], affected: Sequence[Span]) -> pa.Table:
        source = self._store.scan(name, files)
        query = _COPIES[name].format(source=source, inside=_inside(name, affected))
        return self._store.sql(query).to_arrow_table().combine_chunks()  # else a chunk a file

    def _fill(self, name: str, rows: pa.Table, *statements: str) -> None:
        cursor = self._connection.cursor()
        cursor.register("incoming", rows)
        cursor.execute("begin")
        for statement in statements:
            cursor.execute(statement.format(name=name))
        cursor.execute("commit")
        cursor.close()


def spans(files: Iterable[File]) -> list[Span]:
    """Return the traces that files can hold, as few ranges as possible."""
    found: list[Span] = []
    for first, last in sorted((file.first_trace, file.last_trace) for file in files):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _overlap(file: File, span: Span) -> bool:
    return file.first_trace <= span[1] and file.last_trace >= span[0]


def _inside(name: str, affected: Sequence[Span]) -> str:
    """Return the condition on rows to read again; of runs, which are few, all."""
    if name == "runs":
        return "true"
    return " or ".join(f"trace_id between {a} and {b}" for a, b in affected) or "false"
