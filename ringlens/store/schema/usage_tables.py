"""Tables that sum the routing up while it is written, so that nobody has to count it again.

Shape letter: E experts.
"""

from __future__ import annotations

import pyarrow as pa

from ringlens.store.schema.table import FLOATS, LAYER, RUN, TRACE, Column, Table, list_of

USAGE_BLOCK = 256
"""Positions of a block of ``usage_blocks``."""

_COUNTS = list_of(pa.uint32())
_SMALL = list_of(pa.uint16())
_TOKENS = Column("tokens", pa.int32(), "tokens that the row sums over", unit="tokens")
_WEIGHT = Column(
    "weight",
    FLOATS,
    "sum of the expert's routing weights, by expert id; summed in float64, kept in float32; this "
    "and what follows is null in imported runs, which know the choice alone",
    nullable=True,
    unit="share × runs.routed_scaling_factor",
)
_CHOSEN = "times the expert was chosen, by expert id"
_FLIPS = "times it was chosen only because of its selection bias, by expert id"

USAGE_TRACES = Table(
    "usage_traces",
    "One row a trace, sparse layer and phase: how often each expert was chosen. A trace that was "
    "written in parts has rows of each part: sum them.",
    ("trace_id", "layer", "phase"),
    (
        RUN,
        TRACE,
        LAYER,
        Column("phase", pa.string(), "'prompt', 'think' or 'answer'"),
        _TOKENS,
        Column("n", _COUNTS, _CHOSEN, unit="tokens"),
        _WEIGHT,
        Column("bias_flips", _COUNTS, _FLIPS, nullable=True, unit="tokens"),
        Column(
            "group_flips",
            _COUNTS,
            "times it was among the k best scores of all groups, but its group was rejected",
            nullable=True,
            unit="tokens",
        ),
    ),
)

USAGE_BLOCKS = Table(
    "usage_blocks",
    f"One row a trace, sparse layer and block of {USAGE_BLOCK} positions: how often each expert "
    "was chosen. A block that was written in parts has rows of each part: sum them.",
    ("trace_id", "layer", "block"),
    (
        RUN,
        TRACE,
        LAYER,
        Column("block", pa.int32(), f"block of positions: pos // {USAGE_BLOCK}"),
        _TOKENS,
        Column("n", _SMALL, _CHOSEN, unit="tokens"),
        _WEIGHT,
        Column("bias_flips", _SMALL, _FLIPS, nullable=True, unit="tokens"),
    ),
)

TABLES = (USAGE_TRACES, USAGE_BLOCKS)
