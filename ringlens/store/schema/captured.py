"""Tables of the store: every column with its Arrow type, its unit and its meaning.

The writer builds Parquet from them, the reader builds views from them, and the documentation is
printed from them. Here are those of runs and traces. What is recorded of tokens is in
`recorded_tables` and `instruments`, tables that sum others up in `usage_tables`, those that
analyses write in `analysis_tables`.
"""

from __future__ import annotations

import pyarrow as pa

from ringlens.store.schema import (
    analysis_tables,
    instruments,
    recorded_tables,
    runs,
    usage_tables,
)
from ringlens.store.schema.table import LAYER, RUN, TRACE, Column, Table, list_of

FORMAT_VERSION = 2

PHASES = ("prompt", "think", "answer")

RUNNING = "running"
"""``finish_reason`` of a trace that goes on: its row and its rows in other tables still grow."""


RUNS = runs.RUNS

TRUNCATED = "truncated_prompt"
"""Flag of a trace that was resumed from a part of its prompt, as versions before 2026-12 did."""

NONFINITE = "nonfinite"
"""Flag of a trace that was recorded though some of its numbers are NaN or infinite."""

FLAGS = (TRUNCATED, NONFINITE)

EXPERTS = Table(
    "experts",
    "One row an expert of a run's model: its group and its selection bias.",
    ("run_id", "layer", "expert"),
    (
        RUN,
        LAYER,
        Column("expert", pa.uint16(), "expert id"),
        Column("group", pa.uint16(), "group of the expert"),
        Column(
            "bias",
            pa.float32(),
            "expert_bias: added to the affinity for selection only; null in imported runs, and "
            "where the router has none",
            nullable=True,
            unit="score",
        ),
    ),
)

TRACES = Table(
    "traces",
    "One row a trace: a prompt and what the model made of it.",
    ("trace_id",),
    (
        TRACE,
        RUN,
        Column("problem_id", pa.string(), "problem, unique in its set", nullable=True),
        Column("task", pa.string(), "task of the problem, for example 'countdown'", nullable=True),
        Column("prompt", pa.string(), "what was asked, without the chat template"),
        Column("text", pa.string(), "the whole text, prompt and template included"),
        Column("answer", pa.string(), "the answer found in the text", nullable=True),
        Column("expected", pa.string(), "the expected answer", nullable=True),
        Column("correct", pa.bool_(), "whether the answer passes the verifier", nullable=True),
        Column("n_prompt", pa.int32(), "tokens of the prompt", unit="tokens"),
        Column("n_think", pa.int32(), "tokens of the thinking phase", unit="tokens"),
        Column("n_answer", pa.int32(), "tokens of the answer", unit="tokens"),
        Column(
            "finish_reason",
            pa.string(),
            "'stop', 'length', 'replay', or a server's own word; 'running' while the trace goes on",
        ),
        Column("seed", pa.int64(), "seed of this trace's sampler"),
        Column("source_trace_id", pa.int64(), "trace this one replays", nullable=True),
        Column("item", pa.int32(), "place in the run's list of problems or texts", nullable=True),
        Column(
            "resumed_at",
            list_of(pa.int32()),
            "positions at which generation was taken up again after an interruption",
            nullable=True,
            unit="tokens",
        ),
        Column(
            "flags",
            list_of(pa.string()),
            f"what is known to be wrong with the trace: '{TRUNCATED}' (resumed from a part of its "
            f"prompt, by an early version), '{NONFINITE}' (recorded though numbers of its are NaN "
            "or infinite: `tokens.nonfinite` says of which tokens); null where nothing is",
            nullable=True,
        ),
    ),
)

TOKENS = recorded_tables.TOKENS


def tables(experts: int = 256) -> tuple[Table, ...]:
    """All tables, for a model with ``experts`` experts."""
    return (
        RUNS,
        EXPERTS,
        TRACES,
        TOKENS,
        *(table.sized(experts) for table in instruments.tables()),
        *usage_tables.TABLES,
        *analysis_tables.TABLES,
    )
