"""A run that two stores hold: which traces are the same, and what was said of them in either."""

from __future__ import annotations

from collections.abc import Mapping

from ringlens.display import plural
from ringlens.store.annotations.adding import add_rows
from ringlens.store.maintain import copying
from ringlens.store.read.store import Store

# Two samples of a problem may say the same: only what nothing else is like is told by its facts.
_TOLD_APART = """
select min(trace_id), md5(text), item, problem_id, sample, seed from traces where run_id = ?
group by all having count(*) = 1"""


def same_traces(source: Store, run_id: str, target: Store, twin: str) -> dict[int, int]:
    """Find the traces of a run in another store that has it.

    Args:
        source: A store.
        run_id: The run there.
        target: The other store.
        twin: The same run there.

    Returns:
        Ids in the target by ids in the source. Where traces were deleted in one of them, those that
        nothing tells from another are left out.
    """
    old, new = copying.trace_ids_of(source, run_id), copying.trace_ids_of(target, twin)
    if len(old) == len(new):
        return dict(zip(old, new, strict=True))
    there = _told_apart(target, twin)
    found = _told_apart(source, run_id).items()
    return {trace_id: there[facts] for facts, trace_id in found if facts in there}


def _told_apart(store: Store, run_id: str) -> dict[tuple[object, ...], int]:
    rows = store.sql(_TOLD_APART, [run_id]).fetchall()
    return {tuple(facts): trace_id for trace_id, *facts in rows}


def add_annotations(
    source: Store, run_id: str, target: Store, twin: str, ids: Mapping[int, int]
) -> str:
    """Add what was said of a run in another store, each annotation once.

    Args:
        source: Store that it was said in.
        run_id: The run there.
        target: Store to add it to.
        twin: The same run there.
        ids: Its traces there, by their ids in the source.

    Returns:
        What was done, to follow a sentence; "" for nothing.

    Raises:
        StoreError: An annotation cannot be read, or the target cannot be written.
    """
    known = {row for (row,) in target.sql("select annotation_id from annotations").fetchall()}
    found = source.sql("from annotations where run_id = ?", [run_id]).to_arrow_table().to_pylist()
    new = [row for row in found if row["annotation_id"] not in known]
    placed = [
        {**row, "run_id": twin, "trace_id": ids.get(row["trace_id"])}
        for row in new
        if row["trace_id"] is None or row["trace_id"] in ids
    ]
    if placed:
        add_rows(target.folder, placed)
    said = f", {plural(len(placed), 'annotation')}" if placed else ""
    left = len(new) - len(placed)
    if left:
        said += f"; {plural(left, 'annotation')} of traces that are not there left out"
    return said
