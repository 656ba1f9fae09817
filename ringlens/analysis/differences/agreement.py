"""Do two captures of the same tokens agree: live against replay, engine against engine.

Shape letters: L layers, T tokens of a trace, k experts per token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.scans.parts import each_of
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.encode.columns import matrix
from ringlens.store.maintain.engine import LOCAL, Engine

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
def agreement(store: Source, other: Source, *, engine: Engine = LOCAL) -> pd.DataFrame:
    """Compare the routing of the same tokens in two captures, layer by layer.

    Traces of the second that replay those of the first are paired with these if their token ids are
    equal; if there are none, traces are paired by equal token ids, in their order. Only layers and
    positions that both captures recorded are compared.

    Args:
        store: The first capture, a.
        other: The second one, b; may be the same store, where it holds a run and its replay.
        engine: Scans both, in this process or on a cluster.

    Returns:
        A row per layer: ``tokens`` compared; ``mismatch``, the mean of 1 − |A ∩ B| / k (R3, arXiv
        2510.11370); ``tokens_differ``, the share of tokens with other experts; ``order_differs``,
        the share with the same experts in another order of weights; and ``weight_error``, the
        largest difference of a weight of an expert that both chose. The last two are NaN where a
        capture was imported. ``attrs`` holds ``traces`` and ``unpaired`` (traces of a and b without
        a partner); ``any_layer``, the share of tokens that differ on at least one layer; and
        ``logprob_error`` and ``logprob_error_differ``, the mean absolute difference of their
        log-probabilities, of all tokens and of those; and ``sql``, which gives all columns where
        both captures lie in one store, else None.

    Raises:
        StoreError: No trace of one is a capture of the same tokens as one of the other.
    """
    pairs, unpaired = paired(store, other)
    found = each_of((store, other), _compared, pairs, engine)
    rows, of_token = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    sums = rows.groupby("layer", as_index=False).sum()
    tokens, known = sums["tokens"], sums["known"].where(sums["known"] > 0)
    frame = pd.DataFrame(
        {
            "layer": sums["layer"],
            "tokens": tokens,
            "mismatch": sums["missing"] / sums["choices"],
            "tokens_differ": sums["differs"] / tokens,
            "order_differs": sums["order_differs"] / known,
            "weight_error": rows.groupby("layer")["weight_error"].max().to_numpy(),
        }
    )
    frame.attrs |= {
        "traces": len(pairs),
        "unpaired": unpaired,
        "any_layer": float(of_token["differs"].mean()),
        "logprob_error": float(of_token["logprob_error"].mean()),
        "logprob_error_differ": float(of_token["logprob_error"][of_token["differs"]].mean()),
        "sql": _sql(pairs) if store.address == other.address else None,
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
    """Compare one trace: sums by layer, and what is known of each token."""
    a, b = _routing(store, pair.a), _routing(other, pair.b)
    key_a, key_b = (r.layer_R * 2**32 + r.pos_R for r in (a, b))
    key_R, in_a, in_b = np.intersect1d(key_a, key_b, assume_unique=True, return_indices=True)
    a_Rk, b_Rk = a.expert_Rk[in_a], b.expert_Rk[in_b]
    if a_Rk.shape[1] != b_Rk.shape[1]:
        raise StoreError(
            f"a has {a_Rk.shape[1]} experts per token and b {b_Rk.shape[1]}; compare captures of "
            "one model."
        )
    a_w, b_w = a.weight_Rk[in_a], b.weight_Rk[in_b]
    common_R = np.zeros(len(key_R), np.int64)
    error_R = np.zeros(len(key_R))
    for i in range(a_Rk.shape[1]):  # a table of k × k experts would be k times the memory
        for j in range(b_Rk.shape[1]):
            both_R = a_Rk[:, i] == b_Rk[:, j]
            common_R += both_R
            np.maximum(error_R, np.abs(a_w[:, i] - b_w[:, j]), out=error_R, where=both_R)
    known_R = ~(np.isnan(a_w).any(axis=1) | np.isnan(b_w).any(axis=1))
    differs_R = common_R < a_Rk.shape[1]
    order_R = ~differs_R & (a_Rk != b_Rk).any(axis=1)
    layers = pd.DataFrame(
        {
            "layer": key_R >> 32,
            "tokens": 1,
            "missing": a_Rk.shape[1] - common_R,
            "differs": differs_R,
            "order_differs": order_R & known_R,
            "known": known_R,
            "weight_error": np.where(known_R, error_R, np.nan),
        }
    ).groupby("layer", as_index=False)
    sums = layers[["tokens", "missing", "differs", "order_differs", "known"]].sum()
    sums["weight_error"] = layers["weight_error"].max()["weight_error"]
    sums["choices"] = a_Rk.shape[1] * sums["tokens"]
    by_pos = pd.Series(differs_R).groupby(key_R & (2**32 - 1)).any()
    error = _logprobs(other, pair.b).sub(_logprobs(store, pair.a)).abs()
    tokens = pd.DataFrame({"differs": by_pos, "logprob_error": error.reindex(by_pos.index)})
    return sums, tokens


def _sql(pairs: list[Pair]) -> str:
    """SQL of the table, for captures in one store."""
    listed = ", ".join(f"({a}, {b})" for a, b in pairs)
    return f"""with pairs(a, b) as (values {listed}),
compared as (
    select a.layer, a.expert_ids as ids_a, b.expert_ids as ids_b, a.weights as weights_a,
           b.weights as weights_b, len(list_intersect(ids_a, ids_b)) as common, len(ids_a) as k,
           common < k as differs,
           a.weights is not null and b.weights is not null as known
    from pairs join routing as a on a.trace_id = pairs.a
    join routing as b on b.trace_id = pairs.b and b.layer = a.layer and b.pos = a.pos)
select layer, count(*) as tokens, sum(k - common) / sum(k) as mismatch,
       avg(differs::int) as tokens_differ,
       avg((not differs and ids_a <> ids_b)::int) filter (known) as order_differs,
       max(list_max(list_transform(list_intersect(ids_a, ids_b), lambda expert: abs(
           weights_a[list_position(ids_a, expert)]
           - weights_b[list_position(ids_b, expert)])))) filter (known) as weight_error
from compared group by layer order by layer"""


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
