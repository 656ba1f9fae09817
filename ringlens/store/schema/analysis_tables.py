"""Tables that analyses and experiments write about traces of the store.

Their rows are found later than those of a capture, and may be found anew: all rows of one scope
(the columns in `Table.scope`) are replaced together.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from ringlens.store.schema.table import LAYER, RUN, TRACE, Column, Table

STEPS = Table(
    "steps",
    "One row a step of a trace's thought: a sentence, as the segmentation cuts it.",
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
            "what the step does, for example 'plan_generation' or 'self_checking'; null without "
            "a label",
            nullable=True,
        ),
        Column(
            "is_backtrack",
            pa.bool_(),
            "whether it turns back from what was tried; null without a label",
            nullable=True,
        ),
        Column(
            "is_hypothesis",
            pa.bool_(),
            "whether it proposes something to be tried; null without a label",
            nullable=True,
        ),
        Column(
            "parent",
            pa.int32(),
            "step that this one goes on from; null where none is known",
            nullable=True,
            unit="steps",
        ),
        Column(
            "label_source",
            pa.string(),
            "what gave the labels: a set of rules, a classifier, a file; null without a label",
            nullable=True,
        ),
        Column(
            "confidence",
            pa.float32(),
            "how sure the source is of the role, 0 to 1; null where it does not say",
            nullable=True,
        ),
        Column("text", pa.string(), "its text: the trace's text from start to end"),
    ),
    scope=("trace_id",),
)

HEAD_STEPS = Table(
    "head_steps",
    "One row a pair of steps, layer and head: how much attention one step pays to another.",
    ("trace_id", "layer", "head", "step_from", "step_to"),
    (
        TRACE,
        LAYER,
        Column(
            "head", pa.uint16(), "attention head; null for the mean over all heads", nullable=True
        ),
        Column("step_from", pa.int32(), "step whose tokens attend", unit="steps"),
        Column("step_to", pa.int32(), "step that they attend to", unit="steps"),
        Column(
            "mass",
            pa.float32(),
            "attention weight that a token of step_from puts on all of step_to, mean over its "
            "tokens",
            unit="probability",
        ),
    ),
    scope=("trace_id",),
)

PROBES = Table(
    "probes",
    "One row a result of an experiment: a value, or more as JSON.",
    ("probe", "run_id", "trace_id", "layer", "unit", "key"),
    (
        Column("probe", pa.string(), "name of the experiment, for example 'logit_lens'"),
        replace(RUN, meaning="run that the result is about"),
        replace(TRACE, meaning="trace that it is about; null for the whole run", nullable=True),
        replace(LAYER, meaning="layer; null where there is none", nullable=True),
        Column(
            "unit",
            pa.int32(),
            "part of the layer: expert, head or direction, as the experiment counts; null for all",
            nullable=True,
        ),
        Column("key", pa.string(), "what was measured, for example 'accuracy' or 'kl'"),
        Column(
            "value",
            pa.float64(),
            "the measure, in the unit that the experiment gives; null where it is not a number",
            nullable=True,
        ),
        Column("json", pa.string(), "JSON: all else of the result", nullable=True),
    ),
    scope=("probe", "run_id", "trace_id"),
)

TABLES = (STEPS, HEAD_STEPS, PROBES)
