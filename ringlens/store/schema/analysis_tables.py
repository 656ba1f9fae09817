"""Tables that analyses and experiments write about traces of the store.

Their rows come later than those of a capture, and can be written again: all rows of one scope (the
columns in `Table.scope`) are replaced together.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from ringlens.store.schema.table import LAYER, POS, RUN, TRACE, Column, Table

STEPS = Table(
    "steps",
    "One row per step of what the model wrote in a trace, thoughts and answers: a sentence, as the "
    "segmentation cuts it.",
    ("trace_id", "step"),
    (
        TRACE,
        Column("step", pa.int32(), "number of the step in the trace, 0 is the first", unit="steps"),
        Column("start", pa.int32(), "first character in the trace's text", unit="characters"),
        Column("end", pa.int32(), "character after the last", unit="characters"),
        Column("token_start", pa.int32(), "position of its first token", unit="tokens"),
        Column("token_end", pa.int32(), "position after its last token", unit="tokens"),
        Column(
            "role",
            pa.string(),
            "function of the step, for example 'plan_generation' or 'self_checking'; null without "
            "a label",
            nullable=True,
        ),
        Column(
            "is_backtrack",
            pa.bool_(),
            "whether the step abandons an earlier attempt; null without a label",
            nullable=True,
        ),
        Column(
            "is_hypothesis",
            pa.bool_(),
            "whether the step proposes something to try; null without a label",
            nullable=True,
        ),
        Column(
            "parent",
            pa.int32(),
            "step that this one continues; null if unknown",
            nullable=True,
            unit="steps",
        ),
        Column(
            "label_source",
            pa.string(),
            "source of the labels: a set of rules, a classifier, a file; null without a label",
            nullable=True,
        ),
        Column(
            "confidence",
            pa.float32(),
            "confidence of the source in the role, 0 to 1; null if it gives none",
            nullable=True,
        ),
        Column("text", pa.string(), "text of the step: the trace's text from start to end"),
    ),
    scope=("trace_id",),
)

HEAD_STEPS = Table(
    "head_steps",
    "One row per pair of steps, layer and head: how much attention one step pays to another.",
    ("trace_id", "layer", "head", "step_from", "step_to"),
    (
        TRACE,
        LAYER,
        Column(
            "head", pa.uint16(), "attention head; null for the mean over all heads", nullable=True
        ),
        Column("step_from", pa.int32(), "step whose tokens attend", unit="steps"),
        Column("step_to", pa.int32(), "step that is attended to", unit="steps"),
        Column(
            "mass",
            pa.float32(),
            "attention weight of a token of step_from on all tokens of step_to, mean over the "
            "tokens of step_from",
            unit="probability",
        ),
    ),
    scope=("trace_id",),
)

PROBES = Table(
    "probes",
    "One row per result of an experiment: a value, or more as JSON.",
    ("probe", "run_id", "trace_id", "step", "changed_step", "pos", "layer", "unit", "key"),
    (
        Column("probe", pa.string(), "name of the experiment, for example 'logit_lens'"),
        replace(RUN, meaning="run that the result is about"),
        replace(TRACE, meaning="trace that the result is about; null for the run", nullable=True),
        Column(
            "step",
            pa.int32(),
            "step that the result is about, or that it was measured behind; -1 stands for the "
            "place before the first step; null if it is about none",
            nullable=True,
            unit="steps",
        ),
        Column(
            "changed_step",
            pa.int32(),
            "step that the experiment changed to measure the result on another; null if it changed "
            "none",
            nullable=True,
            unit="steps",
        ),
        replace(
            POS, meaning="token that the result is about; null if it is about none", nullable=True
        ),
        replace(LAYER, meaning="layer; null if the result is about none", nullable=True),
        Column(
            "unit",
            pa.int32(),
            "part of the layer: expert, head or direction, depending on the experiment; null for "
            "all",
            nullable=True,
        ),
        Column("key", pa.string(), "what was measured, for example 'accuracy' or 'kl'"),
        Column(
            "value",
            pa.float64(),
            "the measured value, in a unit of the experiment; null if it is not a number",
            nullable=True,
        ),
        Column("json", pa.string(), "JSON: the rest of the result", nullable=True),
    ),
    scope=("probe", "run_id", "trace_id"),
)

TABLES = (STEPS, HEAD_STEPS, PROBES)
