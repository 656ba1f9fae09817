"""Do two captures of the same tokens agree: live against replay, engine against engine.

Shape letters: L layers, T tokens of a trace, k experts per token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.encode.columns import matrix

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

MOST = 10_000
"""Most pairs of traces that are compared."""


class Pair(NamedTuple):
    """A trace of the first capture, and the one of the second that has the same tokens."""

    a: int
    b: int


class _Routing(NamedTuple):
    """Recorded choices of one trace, sorted by layer and position."""

    layer_R: NDArray[np.int64]
    pos_R: NDArray[np.int64]
    expert_Rk: NDArray[np.int64]
    weight_Rk: NDArray[np.float64]


@refuse_unknown
def agreement(store: Source, other: Source) -> pd.DataFrame:
    """Compare the routing of the same tokens in two captures, layer by layer.

    Traces of the second that replay those of the first are paired with these if their token ids are
    equal; if there are none, traces are paired by equal token ids, in their order. Only layers and
    positions that both captures recorded are compared.

    Args:
        store: The first capture, a.
        other: The second one, b; may be the same store, where it holds a run and its replay.

    Returns:
        A row per layer: ``tokens`` compared; ``mismatch``, the mean of 1 − |A ∩ B| / k (R3, arXiv
        2510.11370); ``tokens_differ``, the share of tokens with other experts; ``order_differs``,
        the share with the same experts in another order of weights; and ``weight_error``, the
        largest difference of a weight of an expert that both chose. The last two are NaN where a
        capture was imported. ``attrs`` holds ``traces`` and ``unpaired`` (traces of a and b without
        a partner); ``any_layer``, the share of tokens that differ on at least one layer; and
        ``logprob_error`` and ``logprob_error_differ``, the mean absolute difference of their
        log-probabilities, of all tokens and of those.

    Raises:
        StoreError: No trace of one is a capture of the same tokens as one of the other.
    """
    pairs, unpaired = paired(store, other)
    rows, tokens = zip(*(_compared(store, other, pair) for pair in pairs), strict=True)
    of_layer = pd.concat(rows, ignore_index=True)
    of_token = pd.concat(tokens, ignore_index=True)
    frame = of_layer.groupby("layer", as_index=False).agg(
        tokens=("mismatch", "size"),
        mismatch=("mismatch", "mean"),
        tokens_differ=("differs", "mean"),
        order_differs=("order_differs", "mean"),
        weight_error=("weight_error", "max"),
    )
    frame.attrs |= {
        "traces": len(pairs),
        "unpaired": unpaired,
        "any_layer": float(of_token["differs"].mean()),
        "logprob_error": float(of_token["logprob_error"].mean()),
        "logprob_error_differ": float(of_token["logprob_error"][of_token["differs"]].mean()),
    }
    return frame


def paired(store: Source, other: Source) -> tuple[list[Pair], tuple[int, int]]:
    """Pair the traces of two captures; see `agreement`.

    Returns:
        The pairs, and how many traces of each store have no partner.

    Raises:
        StoreError: There is no pair, or there are more than `MOST`.
    """
    ids_a, ids_b = _token_ids(store), _token_ids(other)
    sources = dict(
        other.sql("select trace_id, source_trace_id from traces order by trace_id").fetchall()
    )
    replays = [
        Pair(source, b)
        for b, source in sources.items()
        if source is not None and b in ids_b and ids_a.get(source) == ids_b[b]
    ]
    pairs = replays or _by_tokens(ids_a, ids_b, same=store.address == other.address)
    if not pairs:
        raise StoreError(
            f"{store.address} and {other.address} hold no traces of the same tokens; compare a "
            "capture with its own replay, or with an import of the same tokens."
        )
    if len(pairs) > MOST:
        raise StoreError(f"{len(pairs):,} pairs of traces are too many to compare; most: {MOST:,}.")
    return pairs, (len(ids_a) - len({p.a for p in pairs}), len(ids_b) - len({p.b for p in pairs}))


def _token_ids(store: Source) -> dict[int, str]:
    """Fingerprint of the token ids of each trace with routing."""
    query = """select trace_id, md5(string_agg(token_id::varchar, ' ' order by pos))
        from tokens where trace_id in (select trace_id from routing) group by trace_id
        order by trace_id"""
    return dict(store.sql(query).fetchall())


def _by_tokens(ids_a: dict[int, str], ids_b: dict[int, str], *, same: bool) -> list[Pair]:
    """Pair traces of equal tokens, the first with the first."""
    waiting: dict[str, list[int]] = {}
    for trace, tokens in ids_a.items():
        waiting.setdefault(tokens, []).append(trace)
    pairs = []
    for trace, tokens in ids_b.items():
        partner = next((a for a in waiting.get(tokens, ()) if not same or a < trace), None)
        if partner is not None:
            waiting[tokens].remove(partner)
            pairs.append(Pair(partner, trace))
    return pairs


def _compared(store: Source, other: Source, pair: Pair) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare one trace, by layer and token, and by token."""
    a, b = _routing(store, pair.a), _routing(other, pair.b)
    key_a, key_b = (r.layer_R * 2**32 + r.pos_R for r in (a, b))
    key_R, in_a, in_b = np.intersect1d(key_a, key_b, assume_unique=True, return_indices=True)
    a_Rk, b_Rk = a.expert_Rk[in_a], b.expert_Rk[in_b]
    if a_Rk.shape[1] != b_Rk.shape[1]:
        raise StoreError(
            f"a has {a_Rk.shape[1]} experts per token and b {b_Rk.shape[1]}; compare captures of "
            "one model."
        )
    both_Rkk = a_Rk[:, :, None] == b_Rk[:, None, :]
    common_R = both_Rkk.any(axis=2).sum(axis=1)
    error_Rkk = np.abs(a.weight_Rk[in_a][:, :, None] - b.weight_Rk[in_b][:, None, :])
    known_R = ~np.isnan(error_Rkk).any(axis=(1, 2))
    differs_R = common_R < a_Rk.shape[1]
    order_R = ~differs_R & (a_Rk != b_Rk).any(axis=1)
    layers = pd.DataFrame(
        {
            "layer": key_R >> 32,
            "mismatch": 1 - common_R / a_Rk.shape[1],
            "differs": differs_R,
            "order_differs": np.where(known_R, order_R, np.nan),
            "weight_error": np.where(
                known_R, np.where(both_Rkk, error_Rkk, 0).max(axis=(1, 2), initial=0), np.nan
            ),
        }
    )
    by_pos = pd.Series(differs_R).groupby(key_R & (2**32 - 1)).any()
    error = _logprobs(other, pair.b).sub(_logprobs(store, pair.a)).abs()
    tokens = pd.DataFrame({"differs": by_pos, "logprob_error": error.reindex(by_pos.index)})
    return layers, tokens


def _routing(store: Source, trace_id: int) -> _Routing:
    query = "select layer, pos, expert_ids, weights from routing where trace_id = ? order by all"
    table = store.sql(query, [trace_id]).to_arrow_table()
    ids_Rk = matrix(table["expert_ids"]).astype(np.int64)
    known = table["weights"].null_count == 0
    weight_Rk = matrix(table["weights"]) if known else np.full(ids_Rk.shape, np.nan)
    layer_R, pos_R = (table[name].to_numpy().astype(np.int64) for name in ("layer", "pos"))
    return _Routing(layer_R, pos_R, ids_Rk, weight_Rk)


def _logprobs(store: Source, trace_id: int) -> pd.Series:
    query = "select pos, logprob from tokens where trace_id = ? order by pos"
    table: pa.Table = store.sql(query, [trace_id]).to_arrow_table()
    return pd.Series(table["logprob"].to_numpy(zero_copy_only=False), index=table["pos"].to_numpy())
