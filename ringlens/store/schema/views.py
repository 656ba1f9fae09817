"""SQL of the views: one per table over its committed files, and views for convenience."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ringlens.store.schema.table import Table

_TYPES = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.uint64(): "UBIGINT",
    pa.uint32(): "UINTEGER",
    pa.uint16(): "USMALLINT",
    pa.uint8(): "UTINYINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}

_LITERAL = str.maketrans({letter: f"[{letter}]" for letter in "*?["})

# Lists are indexed after one unnest, not unnested side by side: DuckDB then reads only the lists
# that a query uses, and filters rows before it multiplies them (measured: half the time).
ROUTER_CHOICES = """
create or replace view router_choices as
select trace_id, layer, pos, rank,
       expert_ids[rank + 1]::usmallint as expert,
       weights[rank + 1] as weight,
       affinities[rank + 1] as affinity,
       list_contains(bias_flips, expert_ids[rank + 1]) as bias_flip
from (select *, unnest(range(len(expert_ids))) as rank from routing)
"""

ROUTER_CHOICES_COLUMNS = {
    "trace_id": "trace, unique in the store",
    "layer": "layer, 0 is the first",
    "pos": "token position in the trace",
    "rank": "0 for the expert with the largest weight",
    "expert": "expert id",
    "weight": "its routing weight; those of a token sum to runs.routed_scaling_factor",
    "affinity": "its affinity s = sigmoid(router logit), or as `score` in runs.router says",
    "bias_flip": "whether it was chosen only because of its selection bias",
}
"""Columns of ``router_choices`` and their meanings."""


def sql_type(arrow: pa.DataType) -> str:
    """DuckDB's name for an Arrow type."""
    if pa.types.is_list(arrow):
        return f"{sql_type(arrow.value_type)}[]"
    return _TYPES[arrow]


def has_sql_type(arrow: pa.DataType) -> bool:
    """Whether a type can be shown in queries."""
    return arrow in _TYPES or (pa.types.is_list(arrow) and has_sql_type(arrow.value_type))


def table_view(table: Table, paths: Sequence[str], guard: str = "") -> str:
    """SQL that creates the view of one table; without files the view is empty."""
    columns = ", ".join(_shown(field) for field in table.arrow)
    rows = scan(table, paths, guard)
    return f"create or replace view {quote(table.name)} as select {columns} from {rows}"


def scan(table: Table, paths: Sequence[str], guard: str = "") -> str:
    """SQL that reads the given files, with the table's columns and types.

    The types are given, so DuckDB opens no file before a query needs it, and files with UTINYINT
    and USMALLINT expert ids can be read together.

    Args:
        table: The table.
        paths: Files of the table, as DuckDB opens them.
        guard: Name of a SQL function that the list of files is passed through.
    """
    if not paths:
        nulls = ", ".join(f"null::{sql_type(f.type)} as {quote(f.name)}" for f in table.arrow)
        return f"(select {nulls} where false)"
    files = ", ".join(literal(without_glob(path)) for path in paths)
    columns = ", ".join(
        f"{literal(field.name)}: {{'name': {literal(field.name)}, "
        f"'type': {literal(sql_type(field.type))}, 'default_value': NULL}}"
        for field in table.arrow
    )
    listed = f"{guard}([{files}])" if guard else f"[{files}]"
    return f"read_parquet({listed}, schema = MAP {{{columns}}}, hive_partitioning = false)"


def quote(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("'", "''") + "'"


def _shown(field: pa.Field) -> str:
    name = quote(field.name)
    if pa.types.is_timestamp(field.type):
        # UTC without the zone: with it, DuckDB's Python client needs pytz to return a row.
        return f"make_timestamp(epoch_us({name})) as {name}"
    return name


def without_glob(path: str) -> str:
    """Escape a path for DuckDB, which reads ``*``, ``?`` and ``[`` as patterns."""
    return path.translate(_LITERAL)
