"""Tables of the store: every column with its Arrow type, its unit and its meaning.

The writer builds Parquet from them, the reader builds views from them, and the documentation is
printed from them. Tables that sum others up are in `schema_usage`, those that analyses write in
`schema_analysis`.

Shape letters: T tokens of a trace, k experts a token, E experts, H attention heads.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pyarrow as pa

from ringlens.store.schema import analysis_tables, runs, usage_tables
from ringlens.store.schema.table import FLOATS, LAYER, POS, RUN, TRACE, Column, Table, list_of

FORMAT_VERSION = 2

PHASES = ("prompt", "think", "answer")

RUNNING = "running"
"""``finish_reason`` of a trace that goes on: its row and its rows in other tables still grow."""


def expert_type(experts: int) -> pa.DataType:
    """The smallest unsigned type that holds the expert ids of a model with ``experts`` experts."""
    return pa.uint8() if experts <= 256 else pa.uint16()


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

TOKENS = Table(
    "tokens",
    "One row a token.",
    ("trace_id", "pos"),
    (
        TRACE,
        POS,
        Column("token_id", pa.int32(), "id in the model's vocabulary"),
        Column("text", pa.string(), "its text; empty inside a split multi-byte character"),
        Column("start", pa.int32(), "first character in the trace's text", unit="characters"),
        Column(
            "end",
            pa.int32(),
            "character after the last; the spans tile the text",
            unit="characters",
        ),
        Column("phase", pa.string(), "'prompt', 'think' or 'answer'"),
        Column(
            "logprob",
            pa.float32(),
            "ln p(token | before); null at pos 0 and where it was not recorded",
            nullable=True,
            unit="nats",
        ),
        Column(
            "entropy",
            pa.float32(),
            "entropy of the distribution the token was drawn from, over the whole vocabulary at "
            "temperature 1; null where logprob is",
            nullable=True,
            unit="nats",
        ),
        Column(
            "turn",
            pa.int32(),
            "turn of the conversation, 0 is the first; its marks belong to it; null in stores that "
            "were written before there was this column",
            nullable=True,
        ),
        Column(
            "nonfinite",
            pa.bool_(),
            "true where a number recorded of the token is NaN or infinite (logprob and entropy are "
            "then null); null elsewhere",
            nullable=True,
        ),
    ),
)


def routing_table(experts: int) -> Table:
    """The ``routing`` table for a model with ``experts`` experts."""
    ids = list_of(expert_type(experts))
    return Table(
        "routing",
        "One row a token and sparse layer: which experts were chosen, and why. In imported runs "
        "only the choice is known, its order means nothing, and some tokens have no row: the last "
        "one of a trace, and those before the offset that the server was asked for.",
        ("trace_id", "layer", "pos"),
        (
            TRACE,
            LAYER,
            POS,
            Column("expert_ids", ids, "the k chosen experts, heaviest first"),
            *_reasons(ids),
        ),
    )


def _reasons(ids: pa.DataType) -> tuple[Column, ...]:
    """Columns of ``routing`` that imported runs do not know: why the experts were chosen."""
    reason = partial(Column, nullable=True)
    return (
        reason(
            "weights",
            FLOATS,
            "their routing weights w, fp16; this and what follows is null in imported runs",
            unit="share × runs.routed_scaling_factor",
        ),
        reason(
            "affinities",
            FLOATS,
            "their affinities s = sigmoid(router logit), or as `score` in runs.router says",
            unit="score",
        ),
        reason(
            "margin",
            pa.float32(),
            "score c = s + bias of rank k minus rank k+1 inside the kept groups: what the last "
            "chosen expert won by; inf when nothing could have displaced it",
            unit="score",
        ),
        reason(
            "group_margin",
            pa.float32(),
            "score of the last kept group minus that of the first rejected one; inf when no "
            "group is rejected",
            unit="score",
        ),
        reason("bias_flips", ids, "chosen experts that would not be chosen with a bias of zero"),
        reason(
            "group_flips",
            ids,
            "experts among the k best scores of all groups whose group was rejected",
        ),
        reason("entropy", pa.float32(), "entropy of s / sum(s) over all experts", unit="nats"),
    )


ROUTER_LOGITS = Table(
    "router_logits",
    "One row a token and sparse layer: the router's logits for all experts.",
    ("trace_id", "layer", "pos"),
    (
        TRACE,
        LAYER,
        POS,
        Column(
            "logits",
            FLOATS,
            "router logits by expert id, rounded to fp16 unless that would change the choice",
            unit="logits",
        ),
    ),
)

HEADS = Table(
    "heads",
    "One row a token and layer: what each attention head did, as lists by head.",
    ("trace_id", "layer", "pos"),
    (
        TRACE,
        LAYER,
        POS,
        Column("entropy", FLOATS, "entropy of the attention row, rounded to fp16", unit="nats"),
        Column(
            "first_weight",
            FLOATS,
            "weight on the first token of the trace, fp16",
            unit="probability",
        ),
        Column(
            "previous_weight",
            FLOATS,
            "weight on the token before; 0 at pos 0, fp16",
            unit="probability",
        ),
        Column(
            "output_norm",
            FLOATS,
            "L2 norm of the head's output before the output projection",
            unit="residual stream",
        ),
    ),
)


HEAD_STATISTICS = ("entropy", "first_weight", "previous_weight", "output_norm")

HEAD_BLOCKS = Table(
    "head_blocks",
    "One row a layer and block of 64 positions: means and maxima of `heads`, as lists by head. A "
    "block that two commits cut has a row of each: add them up with weights n.",
    ("trace_id", "layer", "pos"),
    (
        TRACE,
        LAYER,
        replace(POS, meaning="first position that the row covers; its block is pos // 64"),
        Column("n", pa.uint8(), "positions that the row covers, up to 64", unit="tokens"),
        Column("entropy_mean", FLOATS, "mean entropy of the attention rows", unit="nats"),
        Column("entropy_max", FLOATS, "largest entropy", unit="nats"),
        Column(
            "first_weight_mean",
            FLOATS,
            "mean weight on the first token of the trace",
            unit="probability",
        ),
        Column("first_weight_max", FLOATS, "largest weight on the first token", unit="probability"),
        Column(
            "previous_weight_mean", FLOATS, "mean weight on the token before", unit="probability"
        ),
        Column(
            "previous_weight_max", FLOATS, "largest weight on the token before", unit="probability"
        ),
        Column(
            "output_norm_mean", FLOATS, "mean L2 norm of the head's output", unit="residual stream"
        ),
        Column(
            "output_norm_max",
            FLOATS,
            "largest L2 norm of the head's output",
            unit="residual stream",
        ),
    ),
)

ACTIVATIONS = Table(
    "activations",
    "One row a token and recorded vector: the vector at a point of the model.",
    ("point", "layer", "head", "trace_id", "pos"),
    (
        TRACE,
        Column("point", pa.string(), "name of the point, as `ringlens.observe.points` has it"),
        replace(LAYER, meaning="layer; null for a point outside the layers", nullable=True),
        Column("head", pa.uint16(), "head; null for a point without heads", nullable=True),
        POS,
        Column("vector", FLOATS, "the vector, rounded to the 11 significant bits of fp16"),
    ),
)

ATTENTION = Table(
    "attention",
    "One row a token, layer and recorded head: where its attention went.",
    ("layer", "head", "trace_id", "pos"),
    (
        TRACE,
        LAYER,
        Column("head", pa.uint16(), "attention head"),
        POS,
        Column(
            "positions",
            list_of(pa.int32()),
            "positions with the largest weights",
            unit="tokens",
        ),
        Column(
            "weights",
            FLOATS,
            "their weights, rounded to the 11 significant bits of fp16",
            unit="probability",
        ),
    ),
)


def tables(experts: int = 256) -> tuple[Table, ...]:
    """All tables, for a model with ``experts`` experts."""
    return (
        RUNS,
        EXPERTS,
        TRACES,
        TOKENS,
        routing_table(experts),
        ROUTER_LOGITS,
        HEADS,
        HEAD_BLOCKS,
        ACTIVATIONS,
        ATTENTION,
        *usage_tables.TABLES,
        *analysis_tables.TABLES,
    )
