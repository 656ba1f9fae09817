"""Where chosen heads look most: the positions with the largest weights.

Shape letters: B batch, T tokens of a forward, t positions of a block, H heads, h chosen heads, G kv
heads, S keys, C head dimension, P positions, k keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ringlens.config import TopAttention
from ringlens.observe.instruments.attention import AttentionInstrument, causal
from ringlens.observe.instruments.base import Asked, Instrument, Kind, TraceRows, Watched
from ringlens.observe.instruments.transfer import Tensors
from ringlens.observe.instruments.window import Window
from ringlens.observe.kernels.attention_segments import top_positions
from ringlens.store.schema.records import AttentionArrays


def _make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
    for wanted in asked:
        assert isinstance(wanted, TopAttention)
        layers = tuple(layer for layer in wanted.layers if layer in watched.layers)
        compute = partial(top_fields, wanted.k, wanted.heads or ())
        window = Window(wanted.span, watched.pads)
        yield wanted.observed_as, AttentionInstrument(watched, layers, compute, window=window)


def _to_record(rows: TraceRows, asked: Asked) -> Mapping[str, Any]:
    (wanted,) = asked
    assert isinstance(wanted, TopAttention)
    if not rows.has("attention", "weights"):
        return {}
    first, weights = rows.take("attention", "weights")
    _, keys = rows.take("attention", "positions")
    pos = np.arange(first, first + weights.shape[1], dtype=np.int32)
    if not len(pos):
        return {}
    keys = np.where(keys >= 0, keys - rows.pad, -1)
    layers, heads = rows.layers("attention", "weights"), wanted.heads or ()
    return {"attention": AttentionArrays(layers, heads, pos, keys, weights)}


def top_fields(
    k: int, heads: tuple[int, ...], scaling: float, key_BGSC: Tensor, first_B: Tensor, *seen: Tensor
) -> Tensors:
    """The k positions that each token looks at most, padding counted, and their weights.

    Both are [B, t, h, k] for the h chosen heads; position −1 where fewer than k are visible. Other
    arguments as `Compute` says.
    """
    query_BHtC = torch.cat(seen[0::2], dim=2)
    mask = causal(first_B)
    positions, weights = top_positions(query_BHtC, key_BGSC, mask, scaling, k, heads)
    return {"positions": positions.to(torch.int32), "weights": weights.float()}


KIND = Kind(_make, _to_record)
