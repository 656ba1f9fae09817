"""How a store, a trace and a relation show themselves.

Nothing large is read for it: numbers of traces and tokens stand in the manifest, and of a relation
a few rows are asked for.
"""

from __future__ import annotations

from collections import Counter
from itertools import starmap
from typing import TYPE_CHECKING, Any

from ringlens.display import clean, html_facts, html_table, lines, plural, quoted
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.relation import Relation
    from ringlens.store.read.store import Store
    from ringlens.store.read.trace import Trace

RUNS = 4
ROWS = 10
"""Rows of a relation in a notebook."""
FEW = 3
"""Rows of a relation in a console."""


def store_text(store: Store) -> str:
    """A store in a few lines: what is in it, and its newest runs."""
    runs = _runs(store)
    traces, tokens = (sum(run[name] for run in runs) for name in ("traces", "tokens"))
    size = f"{plural(traces, 'trace')}, {plural(tokens, 'token')}, {plural(len(runs), 'run')}"
    return lines(
        f"Store({quoted(store.address, 200)}): {size}",
        *map(_run_text, runs),
    )


def store_html(store: Store) -> str:
    """A store as a table of its newest runs."""
    runs = _runs(store)
    head = ("run_id", "model", "mode", "started", "traces", "tokens", "recorded")
    more = f"and {len(runs) - ROWS} older runs" if len(runs) > ROWS else ""
    rows = [[run[name] for name in head] for run in runs[:ROWS]]
    return html_table(f"Store {store.address}", head, rows, more)


def trace_text(trace: Trace) -> str:
    """A trace in a few lines."""
    facts = trace_facts(trace)
    about = (f"{name} {clean(value)}" for name, value in facts.items() if value is not None)
    return lines(f"Trace({trace.trace_id}): {_lengths(trace)}", ", ".join(about), _end(trace, 100))


def trace_html(trace: Trace) -> str:
    """A trace as a table of facts."""
    facts = {"tokens": _lengths(trace), **trace_facts(trace), "ends": _end(trace, 300)}
    return html_facts(f"Trace {trace.trace_id}", {k: v for k, v in facts.items() if v is not None})


def trace_facts(trace: Trace) -> dict[str, Any]:
    """What is known of a trace beside its lengths and text."""
    row = trace.summary
    correct = {True: "correct", False: "wrong", None: None}[row["correct"]]
    return {
        "run": row["run_id"],
        "problem": row["problem_id"],
        "answer": row["answer"],
        "verdict": correct,
        "finished": row["finish_reason"],
        "flags": ", ".join(row["flags"]) if row["flags"] else None,
    }


def relation_text(relation: Relation) -> str:
    """A relation in a few lines: its columns and first rows."""
    try:
        names, rows = _head(relation, FEW)
    except StoreError as error:
        return f"Relation: {error}"
    more = ["…"] if len(rows) > FEW else []
    shown = [" | ".join(clean(value, 24) for value in row) for row in rows[:FEW]]
    columns = ", ".join(starmap(_typed, zip(names, relation.types, strict=False)))
    return lines(f"Relation: {clean(columns, 300)}", *shown, *more)


def relation_html(relation: Relation) -> str:
    """A relation as a table of its first rows."""
    try:
        names, rows = _head(relation, ROWS)
    except StoreError as error:
        return html_facts("Relation", {"error": error})
    note = "and more rows: .df() gives all of them" if len(rows) > ROWS else ""
    return html_table(plural(len(names), "column"), names, rows[:ROWS], note)


def _head(relation: Relation, rows: int) -> tuple[list[str], list[tuple]]:
    """Names of the columns, and the first rows with one more, in types that Python can hold."""
    found = relation.limit(rows + 1).exact()
    return found.columns, found.fetchall()


def _typed(name: str, kind: object) -> str:
    return f"{name} {kind}"


def _runs(store: Store) -> list[dict[str, Any]]:
    """Runs, newest first, with the traces and tokens that the manifest counts."""
    counts: Counter[tuple[str, str]] = Counter()
    for table in ("traces", "tokens"):
        for file in store.snapshot().get(table, ()):
            counts[table, file.run_id] += file.rows
    query = (
        "select run_id, model, mode, interventions, started, record from runs"
        " order by started desc, run_id"
    )
    return [
        {
            "run_id": run_id,
            "model": model,
            "mode": f"{mode} under {clean(' '.join(acts), 60)}" if acts else mode,
            "started": f"{started:%Y-%m-%d %H:%M}",
            "traces": counts["traces", run_id],
            "tokens": counts["tokens", run_id],
            "recorded": ", ".join(record or ["only tokens"]),
        }
        for run_id, model, mode, acts, started, record in store.sql(query).fetchall()
    ]


def _run_text(run: dict[str, Any]) -> str:
    model, traces = clean(run["model"]), plural(run["traces"], "trace")
    return f"{model}, {run['mode']}, {run['run_id']}: {traces}, {clean(run['recorded'])}"


def _lengths(trace: Trace) -> str:
    row = trace.summary
    parts = [f"{row[f'n_{phase}']:,} {phase}" for phase in ("prompt", "think", "answer")]
    return f"{plural(len(trace), 'token')} ({', '.join(parts)})"


def _end(trace: Trace, most: int) -> str:
    """The last characters of the text."""
    return (
        "…" + repr(trace.text[-most:])[1:-1] if len(trace.text) > most else quoted(trace.text, most)
    )
