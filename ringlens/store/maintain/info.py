"""Summarizes a store from its manifest and small tables, without opening large files."""

from __future__ import annotations

import json
from typing import Any

from ringlens.store.manifest.manifest import File
from ringlens.store.read.store import Store
from ringlens.store.schema import captured
from ringlens.store.storage import layout

TRACES = """
select run_id, count(*) as traces, count(*) filter (correct) as correct, count(correct) as graded,
       coalesce(sum(n_prompt + n_think + n_answer), 0)::bigint as tokens,
       coalesce(sum(n_think), 0)::bigint as think,
       count(*) filter (finish_reason = 'running') as running,
       count(*) filter (len(flags) > 0) as flagged,
       count(source_trace_id) as replays,
       coalesce(sum(n_prompt + n_think + n_answer) filter (source_trace_id is not null), 0)::bigint
           as replay_tokens,
       coalesce(sum(n_think) filter (source_trace_id is not null), 0)::bigint as replay_think,
       count(*) filter (correct and source_trace_id is not null) as replay_correct,
       count(correct) filter (source_trace_id is not null) as replay_graded
from traces group by run_id
"""

MANY_FILES = 1_000
"""Number of files of a table above which queries are much slower (20 times those of one file)."""

REPLAYED = ("replays", "replay_correct", "replay_graded", "replay_tokens", "replay_think")
"""The part of the counts that replays contribute; a replay repeats the text of another trace."""

COUNTS = ("traces", "correct", "graded", "tokens", "think", "running", "flagged", *REPLAYED)


def info(store: Store) -> dict[str, Any]:
    """Summarize a store as values that JSON can hold.

    Returns:
        ``store``, ``format_version``, ``created_by``, ``created``; ``runs``, each its row of
        ``runs`` with COUNTS of its traces and whether it is ``being_written``; ``tables``, each
        with rows, files, bytes and bytes per token; the sums of COUNTS; ``choices``, the number of
        chosen experts; ``bytes``; ``next``, useful commands, each with a reason.

    Raises:
        StoreError: A file of ``runs`` or ``traces`` is damaged.
    """
    runs = _runs(store)
    files = store.committed()
    totals = {name: sum(run[name] for run in runs) for name in COUNTS}
    k = {run["run_id"]: run["experts_per_token"] for run in runs}
    routed = [file for file in files if file.table == "routing"]
    tables = _tables(files, totals["tokens"])
    return {
        "store": store.address,
        **layout.read_marker(store.folder),
        **totals,
        "choices": sum(file.rows * k.get(file.run_id, 0) for file in routed),
        "bytes": sum(file.bytes for file in files),
        "runs": runs,
        "tables": tables,
        "next": _next(store.address, {table["table"]: table["files"] for table in tables}),
    }


def _next(address: str, files: dict[str, int]) -> list[dict[str, str]]:
    """Useful commands, given the number of files of each table."""
    found = [
        (f"ringlens check {address}", "verifies every file, and choices against logits"),
        (f"ringlens app {address}", "opens the dashboard"),
    ]
    if files.get("routing") and not files.get("usage_traces"):
        found.append((f"ringlens rollup {address}", "sums up the routing, for fast pages"))
    if max(files.values(), default=0) > MANY_FILES:
        found.append((f"ringlens compact {address}", "turns many small files into few large ones"))
    return [{"command": command, "why": why} for command, why in found]


def _runs(store: Store) -> list[dict[str, Any]]:
    counts = {row["run_id"]: row for row in store.sql(TRACES).to_arrow_table().to_pylist()}
    found = []
    for run in store.runs().to_arrow_table().to_pylist():
        own = counts.get(run["run_id"], {})
        run |= {name: json.loads(run[name]) for name in ("parallel", "versions", "sampling")}
        run |= {name: run[name] and str(run[name]) for name in ("started", "finished")}
        run["being_written"] = not run["finished"] and store.is_being_written(run["run_id"])
        found.append(run | {name: own.get(name, 0) for name in COUNTS})
    return found


def _tables(files: list[File], tokens: int) -> list[dict[str, Any]]:
    """Every table that has files, in the order of the schema, then those of later versions."""
    names = [table.name for table in captured.tables()]
    names += sorted({file.table for file in files} - set(names))
    found = []
    for name in names:
        own = [file for file in files if file.table == name]
        if own:
            size = sum(file.bytes for file in own)
            rows = sum(file.rows for file in own)
            each = round(size / tokens, 1) if tokens else None
            found.append(
                {"table": name, "rows": rows, "files": len(own), "bytes": size}
                | {"bytes_per_token": each}
            )
    return found
