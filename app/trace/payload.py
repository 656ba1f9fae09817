"""Encodes what the trace page's script fetches, as typed arrays.

The text of a trace is sent once. Everything else is small typed arrays that the script decodes
without parsing, and that recolour or annotate the spans it made from the text.

Shape letters: T tokens (of the trace or of a block), S sparse layers, N layers, k experts a token,
H heads, R rows.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ringlens.app.shared.arrow import floats
from ringlens.app.shared.made import made
from ringlens.app.trace import neighbours, queries
from ringlens.errors import NotInStoreError
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store
from ringlens.store.encode.columns import matrix, padded
from ringlens.store.schema import instruments
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.recorded_tables import ROUTING
from ringlens.store.schema.table import Column, Table

Payload = dict[str, Any]

NO_EXPERT = 0xFFFF  # stands for the experts of a token without a routing row
ROUTING_BLOCK = 32  # tokens of one routing block: 15 kB for ring-nano, 0.3 MB for Ring-1T
ROUTING_COLUMNS = (
    *("layer", "pos", "expert_ids", "weights", "affinities", "margin", "group_margin"),
    *("bias_flips", "group_flips", "entropy"),
)
MAP_COLUMNS = 2048  # more columns than a screen has pixels would not be seen
HEADS_BUDGET = 16_384  # (layer, head, token) cells of one block of head statistics

ATTENTION_BLOCK = 2048  # tokens of one block of a head's positions: 64 kB with 4 of each


def tokens(store: Store, trace_id: int) -> Payload:
    """Encode the text, the ends of the tokens in it, and per token: id, phase, logprob, entropy."""
    text = queries.text(store, trace_id)
    if text is None:
        raise NotInStoreError(f"no trace {trace_id} in the store; open / for the traces it holds")
    table = queries.tokens(store, trace_id)
    phase_at = {name: i for i, name in enumerate(PHASES)}
    return {
        "text": text,
        "ends": encode(utf16_offsets(text, table["end"].to_numpy()), "u4"),
        "ids": encode(table["token_id"].to_numpy(), "u4"),
        "phase": encode(np.array([phase_at[x] for x in table["phase"].to_pylist()]), "u1"),
        "logprob": encode(floats(table["logprob"]), "f4"),
        "entropy": encode(floats(table["entropy"]), "f4"),
    }


def utf16_offsets(text: str, offsets: NDArray[Any]) -> NDArray[Any]:
    """Convert offsets of Python to those of JavaScript, where some characters count twice."""
    if text.isascii() or max(text) <= "\uffff":
        return offsets
    units = accumulate((2 if c > "\uffff" else 1 for c in text), initial=0)
    return np.fromiter(units, dtype=np.int64)[offsets]


def margin(store: Store, trace_id: int) -> Payload:
    """Encode the mean router margin of each token [T]; nan where all its margins are infinite."""
    table = queries.mean_margin(store, trace_id)
    return {"margin": encode(floats(table["margin"]), "f4")}


def layer(store: Store, trace_id: int, layer: int) -> Payload:
    """Encode the heaviest expert of each token at a layer [T] and its share of the weight [T]."""
    table = queries.layer_experts(store, trace_id, layer)
    query = (
        f"select pos, expert_ids[1] as expert, weights[1] / list_sum(weights) as share\n"
        f"from routing where trace_id = {trace_id} and layer = {layer} order by pos"
    )
    return {
        "expert": _experts(table),
        "share": encode(floats(table["share"]), "f4"),
        "made": made(store, query, f'found = store.sql("""{query}""").df()'),
    }


def expert_map(store: Store, trace_id: int, n_tokens: int) -> Payload:
    """Encode the heaviest expert by layer and token [S, T / stride], thinned to screen width."""
    stride = max(1, -(-n_tokens // MAP_COLUMNS))
    table = queries.expert_map(store, trace_id, stride)
    return {"stride": stride, "expert": _experts(table)}


def _experts(table: pa.Table) -> str:
    """Encode expert ids, NO_EXPERT where a token has no row of routing."""
    return encode(pc.fill_null(table["expert"].cast(pa.uint16()), NO_EXPERT).to_numpy(), "u2")


def routing(store: Store, trace_id: int, pos: int) -> Payload:
    """Encode the block of routing records that holds token ``pos``: arrays [S, T], [S, T, k].

    ``shut_out`` holds the experts that only the group limit kept out, one (layer, token) behind the
    other; ``shut_out_counts`` [S, T] says how many of each. In an imported trace some tokens have
    no row: their ids are ``NO_EXPERT``. What is not known is nan.
    """
    start = pos // ROUTING_BLOCK * ROUTING_BLOCK
    end = start + ROUTING_BLOCK
    table = neighbours.rows(store, ROUTING, trace_id, start, end, ROUTING_COLUMNS)
    layers, layer_R = np.unique(table["layer"].to_numpy(), return_inverse=True)
    pos_R = table["pos"].to_numpy()
    tokens = int(max(pos_R.max(initial=start), pos)) - start + 1
    place_R = layer_R * tokens + pos_R - start

    def whole(values_R: NDArray[Any], missing: float) -> NDArray[Any]:
        """Place values of all tokens of the block by layer and position."""
        found = np.full((len(layers) * tokens, *values_R.shape[1:]), missing, values_R.dtype)
        found[place_R] = values_R
        return found

    ids_RK = matrix(table["expert_ids"])
    shut_R = table["group_flips"].combine_chunks()
    counts_R = pc.fill_null(pc.list_value_length(shut_R), 0).to_numpy()
    return {
        "start": start,
        "tokens": tokens,
        "layers": layers.tolist(),
        "ids": encode(whole(ids_RK.astype(np.uint16), NO_EXPERT), "u2"),
        "weights": encode(whole(_lists(table["weights"], ids_RK.shape), np.nan), "f4"),
        "affinities": encode(whole(_lists(table["affinities"], ids_RK.shape), np.nan), "f4"),
        "bias_flips": encode(whole(_among(ids_RK, table["bias_flips"]), 0), "u1"),
        "margin": encode(whole(floats(table["margin"]), np.nan), "f4"),
        "group_margin": encode(whole(floats(table["group_margin"]), np.nan), "f4"),
        "entropy": encode(whole(floats(table["entropy"]), np.nan), "f4"),
        "shut_out_counts": encode(whole(counts_R.astype(np.uint16), 0), "u2"),
        "shut_out": encode(shut_R.flatten().to_numpy().astype(np.uint16), "u2"),
    }


def heads_block(layers: int, heads: int) -> int:
    """Return the tokens of one block of head statistics."""
    return max(1, min(ROUTING_BLOCK, HEADS_BUDGET // (layers * heads)))


def head_tables() -> dict[str, Table]:
    """Return the tables of instruments with numbers of each head of each token, by name."""
    return {
        table.name: table
        for table in instruments.tables()
        if table.tiles and not table.tiles.length and per_head(table)
    }


def per_head(table: Table) -> list[Column]:
    """Return the columns of a table that hold a number for each head."""
    return [column for column in table.values if column.shape == "H"]


def statistics(
    store: Store, trace_id: int, pos: int, table: Table, layers: int, heads: int
) -> Payload:
    """Encode the block of an instrument's numbers that holds token ``pos``: arrays [N, T, H]."""
    size = heads_block(layers, heads)
    start = pos // size * size
    names = ("layer", "pos", *(column.name for column in table.values))
    rows = neighbours.rows(store, table, trace_id, start, start + size, names)
    found = np.unique(rows["layer"].to_numpy())
    return {
        "start": start,
        "tokens": len(rows) // max(1, len(found)),
        "layers": found.tolist(),
        **{column.name: encode(matrix(rows[column.name]), "f4") for column in per_head(table)},
    }


def attention(
    store: Store, trace_id: int, layer: int, head: int, pos: int, n_tokens: int
) -> Payload:
    """Encode the block of a head's heaviest positions that holds token ``pos``: arrays [T, k].

    Weights are nan where a token has fewer positions, or none that were recorded.
    """
    start = pos // ATTENTION_BLOCK * ATTENTION_BLOCK
    size = min(ATTENTION_BLOCK, n_tokens - start)
    found = queries.attention_block(store, trace_id, layer, head, start, start + size)
    positions_Rk = padded(found["positions"], -1)
    weights_Rk = np.where(positions_Rk < 0, np.nan, padded(found["weights"], 0))
    place_R = found["pos"].to_numpy() - start
    k = weights_Rk.shape[1]
    positions_Tk, weights_Tk = np.zeros((size, k), np.uint32), np.full((size, k), np.nan)
    positions_Tk[place_R], weights_Tk[place_R] = positions_Rk.clip(min=0), weights_Rk
    return {
        "start": start,
        "tokens": size,
        "layers": [layer],
        "k": k,
        "positions": encode(positions_Tk, "u4"),
        "weights": encode(weights_Tk, "f4"),
    }


def _lists(column: pa.ChunkedArray, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Convert a column of lists of floats to ``shape``; all nan if one is not known."""
    if column.null_count:
        return np.full(shape, np.nan, np.float32)
    return matrix(column).astype(np.float32).reshape(shape)


def _among(ids_RK: NDArray[Any], column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Mark which of each row's ids its list in ``column`` names [R, k]."""
    lists = column.combine_chunks()
    row_of = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    named = np.zeros(ids_RK.shape, dtype=bool)
    hit = ids_RK[row_of] == lists.flatten().to_numpy()[:, None]
    np.logical_or.at(named, row_of, hit)
    return named
