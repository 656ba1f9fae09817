"""Processes that annotate a store for ever, and what must be true of what they said."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

from ringlens.errors import NotInStoreError
from ringlens.store import Store
from ringlens.store.annotations import adding

GATHERED = 3
"""Files above which annotations are gathered, so that it happens all the time."""


def annotate_for_ever(path: Path, reports: Connection, name: str) -> None:
    """Say things of trace 1, and correct or retract what anybody said; report each id."""
    with patch.object(adding, "MANY", GATHERED), Store(path) as store:
        reports.send(name)
        for number in range(10**9):
            said = store.annotate(1, label=f"{name} {number}", note=text(name, number), author=name)
            reports.send(said)
            rows = store.annotations().limit(2).to_arrow_table().to_pylist()
            try:
                if number % 3 == 0:
                    reports.send(store.retract(rows[0]["annotation_id"], author=name))
                if number % 3 == 1:
                    label = f"{name} {number}"
                    supersedes = rows[-1]["annotation_id"]
                    reports.send(
                        store.annotate(
                            supersedes=supersedes,
                            label=label,
                            note=text(name, number),
                            author=name,
                        )
                    )
            except NotInStoreError:  # the other one was first
                pass


def text(name: str, number: int) -> str:
    """A note by which a half-written one would be seen."""
    return f"{name} {number} " * 40


def assert_all_said(path: Path, acknowledged: set[str]) -> set[str]:
    """What was acknowledged is there, once, and every row is whole; return all ids."""
    with Store(path) as store:
        rows = store.annotations(history=True).to_arrow_table().to_pylist()
        current = store.annotations().to_arrow_table().to_pylist()
    ids = [row["annotation_id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert acknowledged <= set(ids)
    for row in rows:
        assert row["is_retraction"] == (row["label"] is None)
        if not row["is_retraction"]:
            name, number = row["label"].split()
            assert (row["author"], row["note"]) == (name, text(name, int(number)).strip())
    over = {row["supersedes"] for row in rows}
    stand = {r["annotation_id"] for r in rows if not r["is_retraction"]} - over
    assert {row["annotation_id"] for row in current} == stand
    return set(ids)
