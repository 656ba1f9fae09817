"""What people said of what a bundle holds: the answers of the dashboard, of a copy.

A copy shows what was said and takes no more. Names of those who said it are in it; where a label
was imported from is named without folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ringlens.app.annotations import said
from ringlens.app.shared.queries import Row, rows
from ringlens.store import Store
from ringlens.store.annotations.models import of_same_model

REFUSED = "this is a copy of what was said: more is said in the store itself"


def of_trace(store: Store, trace_id: int) -> Row:
    """What was said of a trace and its steps."""
    return _copy(said.of_trace(store, trace_id))


def of_experts(store: Store, run_id: str) -> Row:
    """What was said of the experts of a run's model."""
    return _copy(said.of_experts(store, run_id))


def _copy(answer: Row) -> Row:
    own: dict[str, Any] = {"author": "", "refused": REFUSED, "is_copy": True}
    shown = [{**row, "source": PurePath(row["source"]).name} for row in answer["rows"]]
    return {**answer, "rows": shown, **own}


def authors(store: Store, trace_ids: Sequence[int]) -> dict[str, int]:
    """Who said something that a bundle of some traces holds, and how many annotations each."""
    runs = "select run_id from traces where trace_id in (select unnest($traces))"
    query = f"""
select author, count(*) as n from current_annotations
where trace_id in (select unnest($traces))
    or kind = 'expert' and run_id in ({of_same_model(f"own.run_id in ({runs})")})
group by author order by author"""
    found = rows(store, query, {"traces": list(trace_ids)})
    return {row["author"]: row["n"] for row in found}
