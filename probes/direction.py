"""Directions between two selections of tokens: the difference of their mean vectors.

Shape letters: P problems, D dimensions of the residual stream.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.trajectory.chosen_steps import of_thoughts
from ringlens.config import refuse_unknown, whole
from ringlens.errors import StoreError
from ringlens.store.encode.columns import matrix

if TYPE_CHECKING:
    from ringlens.store import Store

POINT = "resid_post"
"""Where directions are read, and added."""

_ROWS = 4_096
"""Vectors that are read at a time."""


@dataclass(frozen=True)
class Sums:
    """Vectors of one selection, summed by problem.

    Attributes:
        sum_PD: Their sums, float64.
        n_P: How many there are.
    """

    sum_PD: NDArray[np.float64]
    n_P: NDArray[np.int64]

    def mean(self, without: int | None) -> NDArray[np.float64]:
        """The mean vector [D] of all problems, or of all but one."""
        kept_P = np.arange(len(self.n_P)) != (-1 if without is None else without)
        mean_D: NDArray[np.float64] = self.sum_PD[kept_P].sum(axis=0) / self.n_P[kept_P].sum()
        return mean_D


@dataclass(frozen=True)
class Direction:
    """The way from the mean vector of one selection to that of another.

    Attributes:
        layer: The layer behind which it was read.
        problems: Names of the P problems that the tokens come from.
        a: What it leads to.
        b: What it leads away from.
    """

    layer: int
    problems: tuple[str, ...]
    a: Sums
    b: Sums

    @property
    def vector(self) -> NDArray[np.float32]:
        """The mean of a less the mean of b, float32 [D]."""
        return self.without(None)

    def without(self, problem: str | None) -> NDArray[np.float32]:
        """The direction of all problems but one, float32 [D].

        Args:
            problem: The problem, as `named` names it; of one that has no tokens here, or None, all
                are kept.
        """
        place = self.problems.index(problem) if problem in self.problems else None
        return (self.a.mean(place) - self.b.mean(place)).astype(np.float32)

    @property
    def digest(self) -> str:
        """A digest of all that it was made from."""
        parts = [self.a.sum_PD, self.b.sum_PD, self.a.n_P, self.b.n_P]
        found = hashlib.sha256(repr(self.problems).encode())
        for part in parts:
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()[:16]


def named(trace_id: int, problem_id: str | None) -> str:
    """Name the problem of a trace; a trace without one stands for itself."""
    return f"trace {trace_id}" if problem_id is None else f"problem {problem_id}"


@refuse_unknown
def difference_of_means(store: Store, a: str, b: str, *, layer: int) -> Direction:
    """Compute the direction from the tokens of one selection to those of another.

    Its ``vector`` fits :class:`ringlens.Steer`: a strength of 1 moves the mean of b onto that of a.

    Args:
        store: The store, with ``resid_post`` of the layer recorded.
        a: What it leads to, a predicate over `token_context`; thoughts only where it names no
            phase.
        b: What it leads away from.
        layer: The layer.

    Raises:
        ConfigError: A predicate is none.
        StoreError: The layer was not recorded, fewer than two problems have tokens of a selection,
            or the two means are equal.
    """
    place = whole("layer", layer, 0)
    _check_recorded(store, place)
    rows = store.sql("select trace_id, problem_id from traces order by trace_id").fetchall()
    problem_of = {trace_id: named(trace_id, problem) for trace_id, problem in rows}
    parts = [_of_traces(store, where, place) for where in (a, b)]
    there = {problem_of[trace_id] for part in parts for trace_id in part}
    problems = tuple(dict.fromkeys(name for name in problem_of.values() if name in there))
    D = next((len(total_D) for part in parts for total_D, _ in part.values()), 0)
    sums = []
    for where, part in zip((a, b), parts, strict=True):
        sum_PD, n_P = np.zeros((len(problems), D)), np.zeros(len(problems), np.int64)
        for trace_id, (total_D, n) in part.items():
            at = problems.index(problem_of[trace_id])
            sum_PD[at] += total_D
            n_P[at] += n
        if (n_P > 0).sum() < 2:
            raise StoreError(
                f"{where!r:.200} selects recorded tokens of {(n_P > 0).sum()} problems; the "
                "direction for a problem comes from the others, so select tokens of two at least "
                f"(`ringlens steps {store.address}` cuts all traces into steps)."
            )
        sums.append(Sums(sum_PD, n_P))
    found = Direction(place, problems, *sums)
    if not found.vector.any():
        raise StoreError("both selections have the same mean vector; select different tokens.")
    return found


def _check_recorded(store: Store, layer: int) -> None:
    rows = store.sql(
        "select distinct layer from activations where point = ? and head is null "
        "and layer is not null order by layer",
        [POINT],
    ).fetchall()
    there = [int(each) for (each,) in rows]
    if layer not in there:
        raise StoreError(
            f"{POINT} is recorded of layers {there or 'none'}, not of {layer}; record it when you "
            f"capture or replay (--record routing,{POINT}@{layer})."
        )


def _of_traces(store: Store, where: str, layer: int) -> dict[int, tuple[NDArray[np.float64], int]]:
    """By trace the sum of the selected vectors [D], and how many there are."""
    selection = of_thoughts(store, where)
    query = f"""select a.trace_id, a.vector from activations a
        join (select trace_id, pos from token_context where ({selection.where}\n)) s
        on a.trace_id = s.trace_id and a.pos = s.pos
        where a.point = ? and a.layer = ? and a.head is null order by a.trace_id, a.pos"""
    found: dict[int, tuple[NDArray[np.float64], int]] = {}
    for batch in store.sql(query, [POINT, layer]).to_arrow_reader(_ROWS):
        table = pa.Table.from_batches([batch])
        trace_N, vector_ND = table["trace_id"].to_numpy(), matrix(table["vector"])
        for trace_id in np.unique(trace_N).tolist():
            own_ND = vector_ND[trace_N == trace_id].astype(np.float64)
            before = found.get(trace_id, (0.0, 0))
            found[trace_id] = (before[0] + own_ND.sum(axis=0), before[1] + len(own_ND))
    return found
