"""Loads that experts would have with a selection bias of zero.

The routing alone does not tell them: it keeps which choices the bias made, and not whose place they
took. Recorded router logits do.

Shape letters: C cells (a group and a layer each), R rows, k experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.scans.parts import each
from ringlens.analysis.selections.expert_counts import chosen_tokens, values_of
from ringlens.analysis.selections.layer_parts import layer_parts
from ringlens.analysis.selections.selection import Selection, same
from ringlens.analysis.selections.shuffled import Shuffled
from ringlens.store.check.verify import BATCH_VALUES, router_of, scores, select
from ringlens.store.encode.columns import matrix
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@dataclass(frozen=True)
class UnbiasedLoad:
    """Choices without the bias, from the rows with recorded logits.

    Attributes:
        rows_C: Rows with logits.
        n_CE: Times that each expert would have been chosen.
        flips_C: Choices that the bias made.
        by_group_C: Those of an expert whose group would have been rejected without the bias.
    """

    rows_C: NDArray[np.int64]
    n_CE: NDArray[np.int64]
    flips_C: NDArray[np.int64]
    by_group_C: NDArray[np.int64]

    @classmethod
    def zeros(cls, cells: int, experts: int) -> UnbiasedLoad:
        """No rows."""
        shapes = (cells, (cells, experts), cells, cells)
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))


def unbiased_load(
    store: Source,
    selection: Selection,
    run: dict[str, Any],
    cells: Sequence[dict[str, Any]],
    engine: Engine = LOCAL,
) -> UnbiasedLoad:
    """Choose again from the logits of a selection, with a bias of zero.

    Args:
        store: The store; of a shuffled one the logits are not those of the choices, and not read.
        selection: The tokens.
        run: A row of ``runs`` with the rule of their routers.
        cells: Keys of the groups and layers.
        engine: Scans the store, in this process or on a cluster.
    """
    whole = UnbiasedLoad.zeros(len(cells), int(run["experts"]))
    if isinstance(store, Shuffled) or not store.sql("from router_logits limit 1").fetchall():
        return whole
    names = selection.keys("layer")
    place = {values_of(key[name] for name in names): c for c, key in enumerate(cells)}
    count = partial(_of_layers, run=run)
    parts = layer_parts(store, selection, engine)
    for keys, part in each(store, count, parts, engine):
        at = [place[values_of(key)] for key in keys]
        whole.rows_C[at] += part.rows_C
        whole.n_CE[at] += part.n_CE
        whole.flips_C[at] += part.flips_C
        whole.by_group_C[at] += part.by_group_C
    return whole


def _of_layers(
    store: Source, selection: Selection, run: dict[str, Any]
) -> tuple[list[tuple[Any, ...]], UnbiasedLoad]:
    """Choose again on the layers of a selection; its groups and layers, and what was chosen."""
    experts, chosen = int(run["experts"]), chosen_tokens(selection)
    query = f"""with found as (from {chosen}), {selection.cells("found")}"""
    listed = f"{query} select {selection.listed('layer')} from cells order by cell"
    keys = list(store.sql(listed).df().itertuples(index=False, name=None))
    found = UnbiasedLoad.zeros(len(keys), experts)
    rows = store.sql(
        f"""{query} select cell, expert_ids, logits from found
        join cells on {same(selection.keys("layer"), "found", "cells")}
        join router_logits as z
        on z.trace_id = found.trace_id and z.layer = found.layer and z.pos = found.pos"""
    )
    for batch in rows.to_arrow_reader(max(1, BATCH_VALUES // experts)):
        _add(found, pa.Table.from_batches([batch]), run)
    return keys, found


def _add(found: UnbiasedLoad, rows: pa.Table, run: dict[str, Any]) -> None:
    """Add the rows of a batch, in place."""
    router, cell_R = router_of(run), rows["cell"].to_numpy()
    logits_RE = matrix(rows["logits"]).astype(np.float64)
    s_RE = scores(logits_RE, np.zeros(1), router | {"bias": "none"})
    groups, kept, k = (int(run[name]) for name in ("groups", "groups_kept", "experts_per_token"))
    would_RE = select(s_RE, groups, kept, k, router["group_score"])
    does_RE = np.zeros(would_RE.shape, bool)
    np.put_along_axis(does_RE, matrix(rows["expert_ids"]).astype(np.int64), True, axis=1)
    flip_RE = does_RE & ~would_RE
    C, E = found.n_CE.shape
    row_X, expert_X = would_RE.nonzero()
    found.n_CE[:] += np.bincount(cell_R[row_X] * E + expert_X, minlength=C * E).reshape(C, E)
    found.rows_C[:] += np.bincount(cell_R, minlength=C)
    found.flips_C[:] += np.bincount(cell_R, flip_RE.sum(axis=1), C).astype(np.int64)
    if groups > 1:
        outside_RE = flip_RE & ~_stays(s_RE, groups, kept, router["group_score"])
        found.by_group_C[:] += np.bincount(cell_R, outside_RE.sum(axis=1), C).astype(np.int64)


def _stays(
    s_RE: NDArray[np.float64], groups: int, kept: int, group_score: str
) -> NDArray[np.bool_]:
    """Flag the experts whose group is kept, [R, E]."""
    size = s_RE.shape[1] // groups
    # All experts of the groups that are kept are the kept × size best inside them.
    return select(s_RE, groups, kept, kept * size, group_score)
