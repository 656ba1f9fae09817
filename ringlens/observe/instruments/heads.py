"""What each attention head does at each token: entropy, weights on two tokens, output norm.

Shape letters: B batch, T tokens of a forward, t positions of a block, H heads, G kv heads, S keys,
C head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ringlens.observe.instruments.attention import AttentionInstrument, causal
from ringlens.observe.instruments.base import Asked, Instrument, Kind, TraceRows, Watched
from ringlens.observe.instruments.transfer import Tensors
from ringlens.observe.kernels.attention import HeadStatistics, head_statistics
from ringlens.store.schema.instruments import layers_asked
from ringlens.store.schema.recorded_tables import HEAD_STATISTICS
from ringlens.store.schema.records import HeadArrays, LayerArrays


def _make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
    if watched.layers:
        yield "heads", AttentionInstrument(watched, watched.layers, head_fields, known_fields)


def _to_record(rows: TraceRows, asked: Asked) -> Mapping[str, Any]:
    """Statistics of each token, or those of which blocks alone are stored."""
    if not rows.has("heads", HEAD_STATISTICS[0]):
        return {}
    columns = {name: rows.take("heads", name)[1] for name in HEAD_STATISTICS}
    arrays = LayerArrays(rows.layers("heads", HEAD_STATISTICS[0]), columns)
    by_token = layers_asked("heads", asked, arrays.layers)
    found = {"heads": _head_arrays(arrays.only(by_token))} if by_token else {}
    # Heads bring their blocks: those of fewer layers than heads there are not.
    return found if by_token == arrays.layers else found | {"head_blocks": _head_arrays(arrays)}


def _head_arrays(arrays: LayerArrays) -> HeadArrays:
    return HeadArrays(arrays.layers, **arrays.columns)


def head_fields(scaling: float, key_BGSC: Tensor, first_B: Tensor, *seen: Tensor) -> Tensors:
    """Head statistics of a block, each field [B, t, H]; all but the norm rounded to fp16.

    Args:
        scaling: Factor on the scores.
        key_BGSC: Keys up to the block's last position.
        first_B: First position of each row that is no padding; empty: position 0.
        *seen: Queries [B, H, T, C] and outputs [B, T, H, C] of each forward in turn.
    """
    query_BHtC, output_BtHC = torch.cat(seen[0::2], dim=2), torch.cat(seen[1::2], dim=1)
    found = head_statistics(query_BHtC, key_BGSC, causal(first_B), scaling)
    return _fields(found, output_BtHC)


def known_fields(*known: Tensor) -> Tensors:
    """The same where the model's kernel has given the statistics: their fields, then the output."""
    *statistics, output_BTHC = known
    return _fields(HeadStatistics(*statistics), output_BTHC)


def _fields(found: HeadStatistics, output_BtHC: Tensor) -> Tensors:
    return {
        "entropy": found.entropy.half(),
        "first_weight": found.first_weight.half(),
        "previous_weight": found.previous_weight.half(),
        "output_norm": torch.linalg.vector_norm(output_BtHC, dim=-1, dtype=torch.float32),
    }


KIND = Kind(_make, _to_record)
