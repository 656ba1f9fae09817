"""Labels that people gave an expert, which stand in front of the automatic one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringlens.analysis.selections.selection import read

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@dataclass(frozen=True)
class Said:
    """A label that a person gave an expert.

    Attributes:
        label: The label.
        author: Who gave it.
        created: When, UTC, as text.
    """

    label: str
    author: str
    created: str

    @property
    def by(self) -> str:
        """Who gave it, and when."""
        return f"said by {self.author}, {self.created[:10]}"


def labels_said(
    store: Source, layer: int, expert: int, where: str | None = None
) -> tuple[Said, ...]:
    """Read the labels that people gave an expert of the models that a selection is of.

    Args:
        store: The store.
        layer: The layer.
        expert: The expert.
        where: The tokens, a predicate over `token_context`; None for all.

    Returns:
        The labels that stand, the latest first.
    """
    query = f"""
select label, author, strftime(created, '%Y-%m-%d %H:%M:%S') as created, model,
       coalesce(revision, '') as revision
from current_annotations join runs using (run_id)
where kind = 'expert' and layer = {layer} and expert = {expert} and label is not null
order by current_annotations.created desc, annotation_id"""
    found = store.sql(query).fetchall()
    if not found:  # as for nearly all experts: the tokens need not be read
        return ()
    asked = read(store, where)
    models = f"select distinct model, coalesce(revision, '') from runs where {asked.of_runs}"
    known = set(store.sql(models).fetchall())
    return tuple(Said(*row[:3]) for row in found if tuple(row[3:]) in known)
