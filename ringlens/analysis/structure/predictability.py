"""How much of a choice its surroundings explain.

A predictor knows one thing of a token and names the k experts that tokens of that kind chose most
often, in other traces. What it gets right beyond the predictor that knows nothing is explained.

Shape letters: R tokens of a layer, k experts per token, C kinds of tokens, E experts, U traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.selections.expert_counts import router_shape
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import read, traces_of
from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, intervals
from ringlens.config import refuse_unknown
from ringlens.store.encode.columns import matrix

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

FOLDS = 5
"""Parts of the traces; each is predicted from the others."""

DECILES = 10

KNOWN = {
    "nothing": "0",
    "token": "token_id",
    "bigram": "coalesce(lag(token_id) over (partition by trace_id order by pos), -1)"
    " * 2**32::bigint + token_id",
    "position": f"floor(rel_pos * {DECILES})::bigint",
    "phase": "hash(phase)",
    "role": "hash(coalesce(role, ''))",
    "previous_layer": "0",  # what it is depends on the layer
}
"""What predictors know, as SQL over `token_context`: a number for each kind of token."""


@refuse_unknown
def predictability(
    store: Source, where: str | None = None, *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Measure how well a token's surroundings predict its experts, in traces held out.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all. Bigrams are of neighbours
            in the selection.
        draws: Resamples of traces for the intervals.
        seed: Seed of the folds and resamples.

    Returns:
        A row per layer and predictor: ``known``, one of `KNOWN` ("previous_layer" is the heaviest
        expert of the sparse layer before); ``overlap``, the mean of |A ∩ Â| / k over held-out
        tokens; ``unseen``, the share of tokens of a kind that the other traces lack, for which the
        most frequent experts are named; ``gain``, the overlap beyond that of "nothing", with its
        95% interval over traces ``low`` and ``high``.

    Raises:
        ConfigError: The predicate is wrong.
        StoreError: Nothing is selected, in too few traces, or runs with different routers.
    """
    selection = read(store, where, "phase")  # phases are not told apart: a predictor knows them
    experts, _ = router_shape(store, selection)
    traces = traces_of(store, selection)
    enough_traces(traces, "the prediction of held-out traces")
    rng = np.random.default_rng(seed)
    tokens = _Tokens.read(store, selection.where)
    parts = []
    for (layer,) in store.sql("select distinct layer from routing order by 1").fetchall():
        ids_Rk, place_R = tokens.choices(store, int(layer))
        if len(ids_Rk):
            found = _of_layer(tokens, ids_Rk, place_R, experts, rng, draws)
            parts.append(found.assign(layer=layer))
            tokens.kinds["previous_layer"] = tokens.heaviest(ids_Rk, place_R, experts)
    frame = pd.concat(parts, ignore_index=True)
    frame.insert(0, "layer", frame.pop("layer"))
    return described(frame, selection, traces, None)


@dataclass
class _Tokens:
    """Selected tokens, in order of trace and position.

    Attributes:
        key_N: Trace and position of each as one number.
        traces: Ids of the traces.
        trace_N: Place of each token's trace.
        kinds: Kind of each token [N], by what a predictor knows.
    """

    key_N: NDArray[np.int64]
    traces: NDArray[np.int64]
    trace_N: NDArray[np.int64]
    kinds: dict[str, NDArray[np.int64]]

    @classmethod
    def read(cls, store: Source, where: str) -> _Tokens:
        kinds = ", ".join(f"{sql} as {name}" for name, sql in KNOWN.items())
        table = store.sql(
            f"select trace_id, pos, {kinds} from token_context where ({where}\n) "
            "order by trace_id, pos"
        ).to_arrow_table()
        traces, trace_N = np.unique(table["trace_id"].to_numpy(), return_inverse=True)
        numbers = {n: np.unique(table[n].to_numpy(), return_inverse=True)[1] for n in KNOWN}
        return cls(_keys(table), traces, trace_N, numbers)

    def choices(self, store: Source, layer: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Experts on a layer [R, k], and the places [R] of their tokens."""
        query = f"select trace_id, pos, expert_ids from routing where layer = {layer}"
        table = store.sql(query).to_arrow_table()
        key_R = _keys(table)
        place_R = np.minimum(np.searchsorted(self.key_N, key_R), len(self.key_N) - 1)
        mine = self.key_N[place_R] == key_R
        ids_Rk = matrix(table["expert_ids"]).astype(np.int64)
        return (ids_Rk[mine], place_R[mine]) if len(key_R) else (ids_Rk, place_R)

    def heaviest(
        self, ids_Rk: NDArray[np.int64], place_R: NDArray[np.int64], experts: int
    ) -> NDArray[np.int64]:
        """Heaviest expert of every token on a layer [N]; a kind of its own where it has none."""
        found = np.full(len(self.key_N), experts)
        found[place_R] = ids_Rk[:, 0]
        return found


def _keys(table: pa.Table) -> NDArray[np.int64]:
    return table["trace_id"].to_numpy().astype(np.int64) * 2**32 + table["pos"].to_numpy()


def _of_layer(
    tokens: _Tokens,
    ids_Rk: NDArray[np.int64],
    place_R: NDArray[np.int64],
    experts: int,
    rng: np.random.Generator,
    draws: int,
) -> pd.DataFrame:
    """Predictors of one layer."""
    U, trace_R = len(tokens.traces), tokens.trace_N[place_R]
    fold_R = rng.permutation(np.arange(U) % min(FOLDS, U))[trace_R]
    size_U = np.bincount(trace_R, minlength=U).astype(np.float64)
    rows = []
    base_U: NDArray[np.float64] = np.zeros(U)
    for name in KNOWN:
        overlap_R, unseen_R = _held_out(ids_Rk, tokens.kinds[name][place_R], fold_R, experts)
        right_U = np.bincount(trace_R, overlap_R, minlength=U).astype(np.float64)
        base_U = right_U if name == "nothing" else base_U
        gain_U = right_U - base_U

        def gain(times_BU: NDArray[np.float64], _: slice, gain_U: NDArray = gain_U) -> NDArray:
            return ((times_BU @ gain_U) / (times_BU @ size_U))[:, None]

        low, high = intervals(gain, [U], 1, rng, draws)
        rows.append(
            {
                "known": name,
                "overlap": overlap_R.mean(),
                "unseen": unseen_R.mean(),
                "gain": gain_U.sum() / size_U.sum(),
                "low": low[0],
                "high": high[0],
            }
        )
    return pd.DataFrame(rows)


def _held_out(
    ids_Rk: NDArray[np.int64],
    kind_R: NDArray[np.int64],
    fold_R: NDArray[np.int64],
    experts: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Overlap of each token's experts with those predicted, and whether its kind was unseen."""
    k = ids_Rk.shape[1]
    overlap_R, unseen_R = np.zeros(len(ids_Rk)), np.zeros(len(ids_Rk), bool)
    for fold in np.unique(fold_R):
        mine, others = fold_R == fold, fold_R != fold
        kinds, kind = np.unique(kind_R[mine], return_inverse=True)  # others predict nothing here
        known = np.full(kind_R.max() + 1, -1)
        known[kinds] = np.arange(len(kinds))
        all_E = np.bincount(ids_Rk[others].ravel(), minlength=experts)
        kind_O, ids_Ok = known[kind_R[others]], ids_Rk[others]
        place = (kind_O[:, None] * experts + ids_Ok)[kind_O >= 0]
        n_CE = np.bincount(place.ravel(), minlength=len(kinds) * experts).reshape(-1, experts)
        # Experts that tokens of a kind chose equally often are ranked by how often all did.
        score_CE = n_CE + all_E / (all_E.sum() + 1)
        top_Ck = np.argpartition(-score_CE, k - 1, axis=1)[:, :k]
        both = ids_Rk[mine][:, :, None] == top_Ck[kind][:, None, :]
        overlap_R[mine] = both.any(axis=2).mean(axis=1)
        unseen_R[mine] = n_CE.sum(axis=1)[kind] == 0
    return overlap_R, unseen_R
