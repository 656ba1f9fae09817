"""Tables that sum up the routing while it is written, so that queries need not count it.

Shape letter: E experts.
"""

from __future__ import annotations

import pyarrow as pa

from ringlens.store.schema.table import FLOATS, LAYER, RUN, TRACE, Column, Table, list_of

USAGE_BLOCK = 256
"""Positions per usage block."""

_COUNTS = list_of(pa.uint32())
_SMALL = list_of(pa.uint16())
_PHASE = Column("phase", pa.string(), "'prompt', 'think' or 'answer'")
_TOKENS = Column("tokens", pa.int32(), "tokens that the row sums over", unit="tokens")
_WEIGHT = Column(
    "weight",
    FLOATS,
    "sum of the expert's routing weights, by expert id; summed in float64, stored in float32; this "
    "and the following columns are null in imported runs, which know only the choice",
    nullable=True,
    unit="share × runs.routed_scaling_factor",
)
_CHOSEN = "number of times the expert was chosen, by expert id"
_FLIPS = "number of times it was chosen only because of its selection bias, by expert id"

_SUMS = (
    Column("n", _COUNTS, _CHOSEN, unit="tokens"),
    _WEIGHT,
    Column("bias_flips", _COUNTS, _FLIPS, nullable=True, unit="tokens"),
    Column(
        "group_flips",
        _COUNTS,
        "number of times it was among the k best of all groups, but its group was rejected",
        nullable=True,
        unit="tokens",
    ),
)

USAGE_TRACES = Table(
    "usage_traces",
    "One row per trace, sparse layer and phase: how often each expert was chosen. A trace that was "
    "written in parts has rows of each part: sum them.",
    ("trace_id", "layer", "phase"),
    (
        RUN,
        TRACE,
        LAYER,
        _PHASE,
        _TOKENS,
        *_SUMS,
    ),
)

USAGE_BLOCKS = Table(
    "usage_blocks",
    f"One row per trace, sparse layer and usage block of {USAGE_BLOCK} positions: how often each "
    "expert was chosen. A block that was written in parts has rows of each part: sum them.",
    ("trace_id", "layer", "block"),
    (
        RUN,
        TRACE,
        LAYER,
        Column("block", pa.int32(), f"usage block: pos // {USAGE_BLOCK}"),
        _TOKENS,
        Column("n", _SMALL, _CHOSEN, unit="tokens"),
        _WEIGHT,
        Column("bias_flips", _SMALL, _FLIPS, nullable=True, unit="tokens"),
    ),
)

USAGE_ROLES = Table(
    "usage_roles",
    "One row per trace whose steps have roles, sparse layer, phase and role: how often each expert "
    "was chosen. Written with the steps. It sums up a trace as it is now only if its steps have "
    "the same digest and its tokens are those of usage_traces.",
    ("trace_id", "layer", "phase", "role"),
    (
        RUN,
        TRACE,
        LAYER,
        _PHASE,
        Column(
            "role",
            pa.string(),
            "role of the step; null for tokens outside steps, and in steps without a role",
            nullable=True,
        ),
        Column(
            "steps_digest",
            pa.uint64(),
            "digest of the trace's steps: XOR over the steps that have a role and tokens of "
            "md5_number_lower('START END ROLE'), of their token spans",
        ),
        _TOKENS,
        *_SUMS,
    ),
)

TABLES = (USAGE_TRACES, USAGE_BLOCKS)
"""Tables that are written with the routing."""

ALL = (*TABLES, USAGE_ROLES)
"""Tables that can be counted from the routing."""
