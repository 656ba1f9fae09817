"""What an untrusted query may be: one SELECT, in all its parts, over the store's tables.

DuckDB's own parser says what a text is, so nothing here can read it differently. This is the first
of three walls; DuckDB's settings and the confined process are the others, and hold without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

MAX_LENGTH = 100_000
"""Most characters of a query."""

# A SELECT may hold statements: `with x as (copy … to …) select …` parses as one.
_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}

# Functions that read files, change the database, take addresses in memory, or hide SQL in a string.
_REFUSED = {
    "add_grammar_extension", "arrow_scan", "arrow_scan_dumb", "checkpoint",
    "create_external_resource", "deregister_external_resource", "destroy_external_resource",
    "disable_logging", "disable_profile", "disable_profiling", "duckdb_extensions",
    "enable_logging", "enable_profile", "enable_profiling", "force_checkpoint", "getenv",
    "glob", "json_execute_serialized_sql", "pandas_scan", "parquet_bloom_probe",
    "parquet_file_metadata", "parquet_full_metadata", "parquet_kv_metadata", "parquet_metadata",
    "parquet_page_index", "parquet_scan", "parquet_schema", "python_arrow_scan",
    "python_map_function", "query", "query_table", "read_blob", "read_csv", "read_csv_auto",
    "read_duckdb", "read_json", "read_json_auto", "read_json_objects", "read_json_objects_auto",
    "read_ndjson", "read_ndjson_auto", "read_ndjson_objects", "read_parquet",
    "read_single_csv_file", "read_single_json_file", "read_single_parquet_file", "read_text",
    "register_external_resource", "register_external_resource_type", "remove_grammar_extension",
    "seq_scan", "sniff_csv", "truncate_duckdb_logs", "write_log",
}  # fmt: skip


class RefusedError(Exception):
    """The query may not run; the message is for whoever wrote it."""


def check(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Check that a query may run.

    Args:
        connection: Any connection; it parses the query and runs nothing of it.
        query: The query.

    Raises:
        RefusedError: It is too long, no text, empty, several statements, no SELECT, or uses a
            function that untrusted queries may not use.
        duckdb.Error: It does not parse.
    """
    if len(query) > MAX_LENGTH:
        raise RefusedError(f"the query has {len(query):,} characters: {MAX_LENGTH:,} are the most")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(
            f"the query holds half a character at place {error.start + 1} (a lone surrogate): "
            f"type it again"
        ) from error
    statements = duckdb.extract_statements(query)
    if not statements:
        raise RefusedError("the query is empty: try `select * from traces`")
    if len(statements) > 1:
        raise RefusedError(f"one statement at a time: these are {len(statements)}")
    kind = _kind(statements[0])
    if kind == "MULTI":
        raise RefusedError("PIVOT must name its values here: `on phase in ('think', 'answer')`")
    if kind != "SELECT":
        raise RefusedError(f"only SELECT can run here, and this is {kind}")
    for node in nodes(_tree(connection, query)):
        _check_node(node)


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:  # a kind that DuckDB's Python client has no name for
        return "another statement"


def _tree(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    assert row is not None
    try:
        found = json.loads(row[0])
    except RecursionError:
        raise RefusedError("the query is nested too deeply") from None
    if found["error"]:
        raise RefusedError(f"this SELECT cannot be checked ({found['error_message']})")
    return found["statements"]


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a parsed text; a loop, as it can be nested deeper than Python's stack."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            yield node
            waiting.extend(node.values())


def _check_node(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _NODES:
        what = kind.removesuffix("_NODE").removesuffix("_QUERY").replace("_", " ")
        raise RefusedError(f"only SELECT can run here, and this one holds {what}")
    name = node.get("function_name")
    if isinstance(name, str) and name.lower() in _REFUSED:
        raise RefusedError(
            f"{name.lower()} is not for use here: query the store's tables; `Store.sql` and "
            f"`ringlens sql` have all of DuckDB"
        )
