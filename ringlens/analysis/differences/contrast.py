"""Is a difference between two selections real?

Shape letters: U traces, L layers, E experts, X quantities that are tested (layers × experts), B
draws.

For every layer and expert, the tokens of both selections are compared within strata (one for all
tokens; or each trace, where traces belong to both; or each token id). With N and M tokens of the
two in a stratum, w = N·M / (N + M), and p̂ the share of its tokens that chose the expert,

    difference = Σ_strata w·(share_a − share_b) / Σ_strata w = Σ_tokens of a (chosen − p̂) / Σ w,

the stratified risk difference of Mantel and Haenszel. The sum over tokens of a is one over traces,
whose terms are what is permuted and resampled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.differences.sql import difference_sql
from ringlens.analysis.selections import same_token
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.paired_counts import (
    Group,
    Terms,
    exclusive,
    scheme_of,
    shared_groups,
    terms_of,
)
from ringlens.analysis.statistics.bootstrap import DRAWS, intervals
from ringlens.analysis.statistics.fdr import q_values
from ringlens.analysis.statistics.permutation import p_values, smallest
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

TOKEN = "token"
"""``within`` that compares equal tokens only."""


@refuse_unknown
def contrast(
    store: Source,
    a: str,
    b: str,
    by: str | Iterable[str] = (),
    *,
    within: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Compare how often two selections choose each expert.

    Where traces have tokens in both selections, as with two phases, each trace is compared with
    itself; traces that have tokens in one only are left out, and counted in ``attrs``. Otherwise
    whole traces are compared. Which it is stands in ``attrs["paired"]``.

    Args:
        store: The store.
        a: First selection, a predicate over `token_context`.
        b: Second selection.
        by: Columns of `token_context` to group by; the phase is added where neither names it. A
            null is a group of its own.
        within: "token" compares equal token ids only, so that a preference for a word is told from
            one for what is done with it; None compares all tokens.
        draws: Resamples of traces for the intervals; 0 for no intervals.
        seed: Seed of permutations and resamples.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group, layer and expert: ``tokens_a`` and ``tokens_b``; ``share_a`` and
        ``share_b``, the shares of all tokens of a selection that chose it (uniform: k / E);
        ``difference`` as above, with its 95% interval over traces ``low`` and ``high``; ``p`` by
        permuting whole traces (or the two parts of each); and ``q`` by Benjamini and Hochberg over
        all rows. ``attrs`` holds ``traces``, ``paired``, ``left_out``, ``smallest_p``, the least
        that so few traces can give, and ``sql``, which gives all columns but the interval, p and q.

    Raises:
        ConfigError: A predicate is wrong, the selections share tokens, or one pools phases.
        StoreError: A selection is empty, or there are too few traces.
    """
    if within not in (None, TOKEN):
        raise ConfigError(f"within = {within!r:.60}; it is {TOKEN!r} or None.")
    first, second = exclusive(store, a, b, by)
    rng = np.random.default_rng(seed)
    groups = list(shared_groups(store, first, second, engine))
    terms = [
        same_token.terms(store, first, second, group, engine) if within else terms_of(group)
        for group in groups
    ]
    tables = [_compared(group, each, rng, draws) for group, each in zip(groups, terms, strict=True)]
    frame = pd.concat(tables, ignore_index=True)
    frame["q"] = q_values(frame["p"].to_numpy())
    return described(
        frame,
        first,
        len({trace for group in groups for trace in group.trace_U}),
        difference_sql(first, second, within),
        a=a,
        b=b,
        within=within,
        paired=[group.paired for group in groups],
        left_out=sum(group.left_out for group in groups),
        smallest_p=min(smallest(scheme_of(group)) for group in groups),
    )


def _compared(group: Group, terms: Terms, rng: np.random.Generator, draws: int) -> pd.DataFrame:
    """All layers and experts of one group, with intervals and p-values."""
    U, L, E = terms.residual_ULE.shape
    flat_UX = terms.residual_ULE.reshape(U, L * E)
    estimate_BX = _difference(terms, flat_UX, group, np.ones((1, U)), slice(0, L * E))
    sets = [U] if group.paired else [group.first, U - group.first]
    # Resamples scatter by far more than float32 rounds, and are found twice as fast in it.
    single_UX = flat_UX.astype(np.float32)

    def statistic(times_BU: NDArray[np.float64], part: slice) -> NDArray[np.floating]:
        return _difference(terms, single_UX, group, times_BU.astype(np.float32), part)

    found = {
        "layer": np.repeat(group.layer_L, E),
        "expert": np.tile(np.arange(E), L),
        "tokens_a": np.repeat(group.all_a.tokens_L, E),
        "tokens_b": np.repeat(group.all_b.tokens_L, E),
        "share_a": group.all_a.share_LE.ravel(),
        "share_b": group.all_b.share_LE.ravel(),
        "difference": estimate_BX[0],
    }
    if draws:
        found["low"], found["high"] = intervals(statistic, sets, L * E, rng, draws)
    return pd.DataFrame(group.key | found | {"p": p_values(flat_UX, scheme_of(group), rng)})


def _difference(
    terms: Terms,
    residual_UX: NDArray[np.floating],
    group: Group,
    times_BU: NDArray[np.floating],
    part: slice,
) -> NDArray[np.floating]:
    """Stratified risk differences of resamples, [B, quantities], in the type of the residuals."""
    U, L, E = terms.residual_ULE.shape
    residual_UX, kind = residual_UX[:, part], residual_UX.dtype
    layer_X = np.repeat(np.arange(L), E)[part]

    def mean_XB(own: slice, tokens_UL: NDArray[np.float64]) -> NDArray[np.floating]:
        # The resamples of a quantity side by side, as their percentiles are sought.
        times_UB = times_BU[:, own].T
        sums_XB = residual_UX[own].T @ times_UB
        sums_XB /= (tokens_UL[own].astype(kind).T @ times_UB)[layer_X]
        return sums_XB

    with np.errstate(invalid="ignore", divide="ignore"):
        if group.paired:
            return mean_XB(slice(None), terms.weight_UL).T
        # In the data itself this is the sum over a divided by Σ w: the residuals of b are its
        # negative. Resampled, each set is divided by its own tokens.
        apart_XB = mean_XB(slice(0, group.first), group.a_UL)
        apart_XB -= mean_XB(slice(group.first, U), group.b_UL)
        tokens_a_L, tokens_b_L = group.a_UL.sum(axis=0), group.b_UL.sum(axis=0)
        whole_L = tokens_a_L * tokens_b_L / (tokens_a_L + tokens_b_L)
        apart_XB *= (whole_L / terms.weight_UL.sum(axis=0)).astype(kind)[layer_X, None]
        return apart_XB.T
