"""Keeps what was said of experts when the run that it was said at is deleted.

An expert belongs to a model: its annotations go to another run of that model. Where a store has no
other, they go with the run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringlens.store.annotations.adding import add_rows
from ringlens.store.annotations.models import of_same_model

if TYPE_CHECKING:
    from ringlens.store.read.store import Store


@dataclass(frozen=True)
class Inheritance:
    """What was said of experts at a run, and where it stays.

    Attributes:
        current: Annotations that stand.
        heir: Run of the same model that takes them over; None if there is no other.
    """

    current: int
    heir: str | None


def inheritance(store: Store, run_id: str, doomed: Collection[str] = ()) -> Inheritance:
    """Find where the annotations of a run's experts stay: at the latest other run of its model.

    Args:
        store: The store.
        run_id: The run that is to be deleted.
        doomed: Further runs that are.
    """
    query = f"""
select (select count(*) from current_annotations where run_id = $run and kind = 'expert'),
       (select max_by(run_id, (started, run_id)) from runs where run_id in
            ({of_same_model("own.run_id = $run")})
        and run_id not in (select unnest($doomed)))"""
    params = {"run": run_id, "doomed": [run_id, *doomed]}
    ((current, heir),) = store.sql(query, params).fetchall()
    return Inheritance(current, heir)


def hand_over(store: Store, run_id: str, doomed: Collection[str] = ()) -> Inheritance:
    """Add the annotations of a run's experts, with their history, to its heir, each once.

    The caller deletes those of the run. If it is killed before, both runs have them, and the same
    again makes it good; views show an annotation once meanwhile.

    Raises:
        StoreError: An annotation cannot be read, or the store cannot be written.
    """
    found = inheritance(store, run_id, doomed)
    if found.heir is None:
        return found
    query = """
from annotations where run_id = $run and expert is not null and annotation_id not in
    (select annotation_id from annotations where run_id = $heir)"""
    rows = store.sql(query, {"run": run_id, "heir": found.heir}).to_arrow_table().to_pylist()
    if rows:
        add_rows(store.folder, [{**row, "run_id": found.heir} for row in rows])
    return found
