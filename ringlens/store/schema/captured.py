"""Tables of the store: every column with its Arrow type, unit and meaning.

The writer builds Parquet files from them, the reader builds views, and the documentation is printed
from them. This file defines the tables of runs and traces; `recorded_tables` and `instruments`
those about tokens, `usage_tables` sums, `analysis_tables` what analyses write, and `annotation`
what people say.
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
from ringlens.store.schema.annotation.table import ANNOTATIONS
from ringlens.store.schema.table import LAYER, RUN, TRACE, Column, Table, list_of

FORMAT_VERSION = 2

PHASES = ("prompt", "think", "answer")

RUNNING = "running"
"""``finish_reason`` of a running trace, whose rows are still added to."""

MONITORED = "monitor"
"""``finish_reason`` of a trace that a monitor stopped."""

MONITOR = "monitor"
"""``probe`` of the rows that say which monitor a run had."""


RUNS = runs.RUNS

TRUNCATED = "truncated_prompt"
"""Flag of a trace that was resumed inside its prompt, as versions before 2026-12 did."""

NONFINITE = "nonfinite"
"""Flag of a trace with recorded numbers that are NaN or infinite."""

WARNED = "warned"
"""Flag of a trace that a monitor warned of."""

EXPERTS = Table(
    "experts",
    "One row per run, sparse layer and expert: the expert's group and selection bias.",
    ("run_id", "layer", "expert"),
    (
        RUN,
        LAYER,
        Column("expert", pa.uint16(), "expert id"),
        Column("group", pa.uint16(), "group of the expert"),
        Column(
            "bias",
            pa.float32(),
            "expert_bias, added to the affinity only for the selection; null in imported runs and "
            "if the router has none",
            nullable=True,
            unit="score",
        ),
    ),
)

TRACES = Table(
    "traces",
    "One row per trace: a prompt and the model's text for it.",
    ("trace_id",),
    (
        TRACE,
        RUN,
        Column("problem_id", pa.string(), "problem, unique in its set", nullable=True),
        Column("task", pa.string(), "task of the problem, for example 'countdown'", nullable=True),
        Column("prompt", pa.string(), "the prompt, without the chat template"),
        Column("text", pa.string(), "the whole text, including prompt and template"),
        Column("answer", pa.string(), "the answer found in the text", nullable=True),
        Column("expected", pa.string(), "the expected answer", nullable=True),
        Column("correct", pa.bool_(), "whether the answer passes the verifier", nullable=True),
        Column("n_prompt", pa.int32(), "tokens of the prompt", unit="tokens"),
        Column("n_think", pa.int32(), "tokens of the thinking phase", unit="tokens"),
        Column("n_answer", pa.int32(), "tokens of the answer", unit="tokens"),
        Column(
            "finish_reason",
            pa.string(),
            "'stop', 'length', 'interrupted' (by the caller), 'monitor' (a monitor stopped it), "
            "'replay', or a server's own word; "
            "'running' while the trace grows",
        ),
        Column("seed", pa.int64(), "seed of this trace's sampler"),
        Column("source_trace_id", pa.int64(), "trace this one replays", nullable=True),
        Column("item", pa.int32(), "index in the run's list of problems or texts", nullable=True),
        Column(
            "resumed_at",
            list_of(pa.int32()),
            "positions at which generation resumed after an interruption",
            nullable=True,
            unit="tokens",
        ),
        Column(
            "flags",
            list_of(pa.string()),
            f"known faults of the trace: '{TRUNCATED}' (resumed inside its prompt by an early "
            f"version), '{NONFINITE}' (some recorded numbers are NaN or infinite; "
            "`tokens.nonfinite` marks the tokens), 'ungraded' with a reason such as 'ambiguous' "
            f"(the answer could not be graded, so `correct` is null), '{WARNED}' (a monitor warned "
            "of it, which is no fault of the record); null without any",
            nullable=True,
        ),
        Column(
            "sample",
            pa.int32(),
            "number among the samples of its problem in the run, from 0; null in imports, replays "
            "of texts without a problem, and runs of older versions",
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
        *usage_tables.ALL,
        *analysis_tables.TABLES,
        ANNOTATIONS,
    )
