"""Two thoughts about one problem, step beside step.

Shape letters: I steps of the first trace, J of the second, D numbers of a signature, B orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.trajectory.geometry import described
from ringlens.analysis.trajectory.signatures import ROUTING, Signatures, signatures
from ringlens.config import number, refuse_unknown, whole
from ringlens.errors import ConfigError, StoreError
from ringlens.store.read.selection import check_where

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

GAP = 0.05
"""Cost of a step without a partner, in units of similarity."""

ROLE_WEIGHT = 0.25
"""Part of the similarity that is the role."""

DRAWS = 100
"""Random orders of the second trace's steps."""

MOST_CELLS = 25_000_000
"""Most pairs of steps of two traces."""

_TIE = 1e-9


@refuse_unknown
def alignment(
    store: Source,
    first: int,
    second: int,
    where: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    point: str = ROUTING,
    role_weight: float = ROLE_WEIGHT,
    gap: float = GAP,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Align the steps of two traces of a problem by dynamic programming (Needleman–Wunsch, 1970).

    Two steps are as similar as s = (1 − w)·c + w·[same role], with c the inner product of their
    signatures (of recorded vectors, the cosine after their common mean is taken away). A pair adds
    s − s̄ to the score, with s̄ the mean over all pairs, so that steps that have nothing to do with
    each other add nothing; a step without a partner costs ``gap``. The routing distance of a pair
    is the Hellinger distance √(1 − c): 0 for the same shares of the experts on each layer, 1 for no
    expert in common.

    Args:
        store: The store, cut into steps.
        first: Id of a trace.
        second: Id of another one.
        where: As in `signatures`.
        layers: As in `signatures`.
        point: As in `signatures`.
        role_weight: w, from 0 (routing alone) to 1 (roles alone).
        gap: Cost of a step without a partner.
        draws: Random orders of the second trace's steps, for the null; 0 for none.
        seed: Seed of these.

    Returns:
        A row per pair and per step without partner, in order: ``first`` and ``second``, numbers of
        the steps (missing where there is no partner); ``similarity``, s, and ``distance`` of their
        routing, NaN without one (and the distance of recorded vectors); ``score``, what the row
        adds to the sum; and ``role_first``, ``text_first``, ``role_second``, ``text_second``.
        ``attrs``: ``where``, ``kind``, ``layers``; ``pair``, the two; ``score``; ``chance`` = s̄;
        ``distance``, the mean over all pairs; ``paired``, the part of all steps that have a
        partner; and with draws ``null``, the mean score if the second's steps come in random order,
        and ``p``, the share of orders that score as much, the data counted.

    Raises:
        ConfigError: As `signatures`; the traces are of different problems or models, or one and the
            same; or a number is out of range.
        StoreError: As `signatures`; or a trace has no steps that are selected.
    """
    weight, gap = number("role_weight", role_weight, 0, 1), number("gap", gap, 0)
    a, b = (whole(name, trace, 0) for name, trace in (("first", first), ("second", second)))
    if a == b:
        raise ConfigError(f"first = second = {a}; give two traces.")
    _refuse_models(store, a, b)
    only = f"trace_id in ({a}, {b})"
    named = only if where is None else f"{only} and ({check_where(store, where)}\n)"
    found = signatures(store, named, layers=layers, point=point)
    first_I, second_J = _both(found, a, b)
    alike_IJ = _inner_products(found, first_I, second_J)
    same_IJ = _same_role(found, first_I, second_J)
    similarity_IJ = (1 - weight) * alike_IJ + weight * same_IJ
    chance = float(similarity_IJ.mean())
    excess_IJ = similarity_IJ - chance
    pairs, score = needleman_wunsch(excess_IJ, gap)
    frame = _table(found.steps, first_I, second_J, pairs)
    distance_IJ = _distance(found, alike_IJ)
    for name, values_IJ, alone in (
        ("score", excess_IJ, -gap),
        ("distance", distance_IJ, np.nan),
        ("similarity", similarity_IJ, np.nan),
    ):
        frame.insert(2, name, [alone if None in pair else values_IJ[pair] for pair in pairs])
    partners = 2 * int(frame["similarity"].notna().sum())
    frame.attrs |= described(found) | {
        "pair": (a, b),
        "score": score,
        "chance": chance,
        "distance": float(distance_IJ.mean()),
        "paired": partners / (len(first_I) + len(second_J)),
    }
    if draws := whole("draws", draws, 0):
        null_B = random_scores(excess_IJ, gap, draws, np.random.default_rng(seed))
        as_good = int((null_B >= score - _TIE).sum())
        frame.attrs |= {"null": float(null_B.mean()), "p": (as_good + 1) / (draws + 1)}
    return frame


def needleman_wunsch(
    score_IJ: NDArray[np.float64], gap: float
) -> tuple[list[tuple[int | None, int | None]], float]:
    """Align two sequences so that the sum of the scores of pairs less gaps is greatest.

    Args:
        score_IJ: What each pair adds.
        gap: What each element without a partner costs.

    Returns:
        The alignment in order, None for a partner that is missing, and its sum. Of alignments with
        the same sum, that with pairs rather than gaps, from the end.
    """
    total = _totals(score_IJ, gap)
    i, j = score_IJ.shape
    pairs: list[tuple[int | None, int | None]] = []
    while i or j:
        best = total[i, j] - _TIE
        if i and j and total[i - 1, j - 1] + score_IJ[i - 1, j - 1] >= best:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and total[i - 1, j] - gap >= best:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1], float(total[-1, -1])


def random_scores(
    score_IJ: NDArray[np.float64], gap: float, draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Scores of the best alignments if the second sequence comes in random orders, [B]."""
    J = score_IJ.shape[1]
    order_BJ = np.argsort(rng.random((draws, J)), axis=1)
    row_BJ = np.broadcast_to(-gap * np.arange(J + 1), (draws, J + 1))
    for score_J in score_IJ:
        row_BJ = _next_row(row_BJ, score_J[order_BJ], gap)
    return row_BJ[:, -1]


def _totals(score_IJ: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Best sums of all beginnings, [I + 1, J + 1]."""
    rows, columns = score_IJ.shape
    total = np.empty((rows + 1, columns + 1))
    total[0] = -gap * np.arange(columns + 1)
    for i in range(rows):
        total[i + 1] = _next_row(total[i], score_IJ[i], gap)
    return total


def _next_row(
    row: NDArray[np.float64], score: NDArray[np.float64], gap: float
) -> NDArray[np.float64]:
    """Best sums one element further, from [..., J + 1]; gaps in a row are a running maximum."""
    along = gap * np.arange(row.shape[-1])
    found = row - gap
    np.maximum(found[..., 1:], row[..., :-1] + score, out=found[..., 1:])
    return np.maximum.accumulate(found + along, axis=-1) - along


def _both(found: Signatures, a: int, b: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the steps of both traces."""
    of_trace = dict(found.paths())
    for trace in (a, b):
        if trace not in of_trace:
            raise StoreError(
                f"trace {trace} has no step that is selected by {found.where!r:.200} and recorded; "
                "cut it into steps with `ringlens steps`, or widen the selection."
            )
    problems = [found.steps["problem_id"].iloc[of_trace[trace][0]] for trace in (a, b)]
    if problems[0] != problems[1] and not pd.isna(problems).all():
        raise ConfigError(
            f"trace {a} is of problem {problems[0]!r:.60} and trace {b} of {problems[1]!r:.60}; "
            "align two traces of one problem."
        )
    ours, theirs = len(of_trace[a]), len(of_trace[b])
    if ours * theirs > MOST_CELLS:
        raise ConfigError(
            f"{ours:,} steps beside {theirs:,} are {ours * theirs:,} pairs, and {MOST_CELLS:,} "
            "are compared at once; select a part of the traces, for example by `rel_pos < 0.5`."
        )
    return of_trace[a], of_trace[b]


def _refuse_models(store: Source, a: int, b: int) -> None:
    """Refuse traces of two models: expert 5 of one is not expert 5 of the other."""
    rows = store.sql(
        "select trace_id, model, coalesce(revision, '') from traces join runs using (run_id) "
        f"where trace_id in ({a}, {b})"
    ).fetchall()
    model = {trace: " ".join(filter(None, names)) for trace, *names in rows}
    if len(set(model.values())) > 1:
        raise ConfigError(
            f"trace {a} is of model {model[a]!r:.80} and trace {b} of {model[b]!r:.80}, whose "
            "experts have nothing to do with each other; align two traces of one model."
        )


def _inner_products(
    found: Signatures, first_I: NDArray[np.int64], second_J: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compute c of all pairs [I, J]; see `alignment`."""
    vector_SD = found.vector_SD.astype(np.float64)
    if found.kind != ROUTING:
        vector_SD = vector_SD - vector_SD.mean(axis=0)
        vector_SD /= np.maximum(np.linalg.norm(vector_SD, axis=1), 1e-12)[:, None]
    inner_IJ: NDArray[np.float64] = vector_SD[first_I] @ vector_SD[second_J].T
    return inner_IJ


def _same_role(
    found: Signatures, first_I: NDArray[np.int64], second_J: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether two steps have the same known role [I, J]."""
    role_S = found.steps["role"].to_numpy(object)
    known_S = found.steps["role"].notna().to_numpy()
    return np.asarray((role_S[first_I, None] == role_S[second_J]) & known_S[first_I, None])


def _distance(found: Signatures, alike_IJ: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hellinger distances of all pairs [I, J]; NaN of recorded vectors, which have no shares."""
    if found.kind != ROUTING:
        return np.full_like(alike_IJ, np.nan)
    return np.sqrt(np.maximum(0, 1 - alike_IJ))


def _table(
    steps: pd.DataFrame,
    first_I: NDArray[np.int64],
    second_J: NDArray[np.int64],
    pairs: list[tuple[int | None, int | None]],
) -> pd.DataFrame:
    """The steps of each row."""
    rows = []
    for i, j in pairs:
        own = None if i is None else steps.iloc[first_I[i]]
        other = None if j is None else steps.iloc[second_J[j]]
        rows.append(
            {
                "first": pd.NA if own is None else own["step"],
                "second": pd.NA if other is None else other["step"],
                "role_first": None if own is None else own["role"],
                "text_first": None if own is None else own["text"],
                "role_second": None if other is None else other["role"],
                "text_second": None if other is None else other["text"],
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"first": "Int64", "second": "Int64"})
