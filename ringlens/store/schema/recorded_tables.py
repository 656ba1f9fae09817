"""Tables with the columns that instruments fill for each token of a capture.

Shape letters: T tokens of a trace, k experts per token, E experts, H attention heads.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pyarrow as pa

from ringlens.store.schema.table import (
    FLOATS,
    LAYER,
    LOGITS_GROUP,
    POS,
    ROUTING_GROUP,
    TRACE,
    Column,
    Table,
    Tiles,
    list_of,
    per_head,
    per_layer_and_token,
)

TOKENS = Table(
    "tokens",
    "One row per token.",
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
            "ln p(token | before); null at pos 0 and if not recorded",
            nullable=True,
            unit="nats",
            infinite=-math.inf,
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
            "turn of the conversation, 0 is the first; marks of a turn belong to it; null in "
            "stores that are older than this column",
            nullable=True,
        ),
        Column(
            "nonfinite",
            pa.bool_(),
            "true if a recorded number of the token is NaN or infinite (logprob and entropy are "
            "then null), else null",
            nullable=True,
        ),
    ),
    tiles=Tiles("none"),
    encoder="tokens",
)

MONITOR_SCORES = Table(
    "monitor_scores",
    "One row per token of a run with a monitor: what the monitor, a linear probe, said of it.",
    ("trace_id", "pos"),
    (
        TRACE,
        POS,
        Column("score", pa.float32(), "score of the token alone", unit="log-odds"),
        Column(
            "recent",
            pa.float32(),
            "mean score of the last tokens, as many as the monitor judges together; it warns where "
            "this is above its threshold; -inf where they are not all in a thought",
            unit="log-odds",
            infinite=-math.inf,
        ),
    ),
    tiles=Tiles("none"),
)

_IDS = list_of(pa.uint16())
_reason = partial(Column, nullable=True)  # imported runs do not know it

ROUTING = Table(
    "routing",
    "One row per token and sparse layer: which experts were chosen, and why. Imported runs have "
    "only the choice, in no particular order, and no rows for some tokens: the last one of a "
    "trace, and those before the offset that was requested from the server.",
    ("trace_id", "layer", "pos"),
    (
        TRACE,
        LAYER,
        POS,
        Column("expert_ids", _IDS, "the k chosen experts, heaviest first", expert_ids=True),
        _reason(
            "weights",
            FLOATS,
            "their routing weights w, fp16; this and the following columns are null in imported "
            "runs",
            unit="share × runs.routed_scaling_factor",
        ),
        _reason(
            "affinities",
            FLOATS,
            "their affinities s = sigmoid(router logit), or as `score` in runs.router says",
            unit="score",
        ),
        _reason(
            "margin",
            pa.float32(),
            "score c = s + bias of rank k minus rank k+1 inside the kept groups, the lead of the "
            "last chosen expert; inf if no other could have displaced it",
            unit="score",
            infinite=math.inf,
        ),
        _reason(
            "group_margin",
            pa.float32(),
            "score of the last kept group minus that of the first rejected one; inf if no group "
            "is rejected",
            unit="score",
            infinite=math.inf,
        ),
        _reason(
            "bias_flips",
            _IDS,
            "chosen experts that the router would not choose with a bias of zero",
            expert_ids=True,
        ),
        _reason(
            "group_flips",
            _IDS,
            "experts among the k best scores of all groups whose group was rejected",
            expert_ids=True,
        ),
        _reason("entropy", pa.float32(), "entropy of s / sum(s) over all experts", unit="nats"),
        _reason(
            "own_ids",
            _IDS,
            "the k experts that the router had chosen itself, heaviest first, where an "
            "intervention changed experts or weights; null elsewhere, and in runs without "
            "interventions. margin, group_margin, group_flips and entropy are of this choice",
            expert_ids=True,
        ),
        _reason(
            "own_weights",
            FLOATS,
            "their weights, fp16; null where own_ids is",
            unit="share × runs.routed_scaling_factor",
        ),
        _reason(
            "intervened",
            list_of(pa.uint16()),
            "entries of runs.interventions, counted from 0, that acted on the layer's router at "
            "the token; null in runs without interventions",
        ),
    ),
    tiles=Tiles("sparse", imported=False),
    row_group=ROUTING_GROUP,
    encoder="routing",
)


ROUTER_LOGITS = Table(
    "router_logits",
    "One row per token and sparse layer: the router's logits for all experts.",
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
            shape="E",
            infinite=-math.inf,
        ),
    ),
    tiles=Tiles("sparse"),
    row_group=LOGITS_GROUP,
    encoder="router_logits",
)

EXPERT_OUTPUTS = Table(
    "expert_outputs",
    "One row per token and sparse layer: what the chosen experts gave, before it was weighed.",
    ("trace_id", "layer", "pos"),
    (
        TRACE,
        LAYER,
        POS,
        Column(
            "expert_ids",
            _IDS,
            "the k experts that ran, heaviest first, as in `routing`",
            shape="k",
            expert_ids=True,
        ),
        Column(
            "norms",
            FLOATS,
            "L2 norm of the output f of each, without its routing weight",
            unit="residual stream",
            shape="k",
            label="Output norms",
        ),
        Column(
            "peaks",
            FLOATS,
            "largest magnitude among the numbers of each output, those of its down projection",
            unit="residual stream",
            shape="k",
            label="Output peaks",
        ),
        Column(
            "contribution",
            pa.float32(),
            "1 - cos(h, h + r): how far the routed experts' sum r turns the residual stream h "
            "that it is added to",
            label="Contribution",
        ),
    ),
    tiles=Tiles("sparse", imported=False),
    row_group=ROUTING_GROUP,
)

HEADS = replace(
    per_layer_and_token(
        "heads",
        "One row per token and layer: what each attention head did, as lists by head.",
        per_head(
            "entropy", "entropy of the attention row, rounded to fp16", "nats", label="Entropy"
        ),
        per_head(
            "first_weight",
            "weight on the first token of the trace, fp16",
            "probability",
            label="On first token",
        ),
        per_head(
            "previous_weight",
            "weight on the token before; 0 at pos 0, fp16",
            "probability",
            label="On previous token",
        ),
        per_head(
            "output_norm",
            "L2 norm of the head's output before the output projection",
            "residual stream",
            label="Output norm",
        ),
    ),
    encoder="heads",
)

HEAD_STATISTICS = tuple(column.name for column in HEADS.values)

HEAD_BLOCKS = Table(
    "head_blocks",
    "One row per layer and head block of 64 positions: means and maxima of `heads`, as lists by "
    "head. A block that was written by two commits has a row of each: average them with weights n.",
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
    tiles=Tiles("all", length="n"),
    encoder="head_blocks",
)

ACTIVATIONS = Table(
    "activations",
    "One row per token and recorded vector: the vector at a point of the model.",
    ("point", "layer", "head", "trace_id", "pos"),
    (
        TRACE,
        Column("point", pa.string(), "name of the point, see `ringlens.observe.points`"),
        replace(LAYER, meaning="layer; null for a point outside the layers", nullable=True),
        Column("head", pa.uint16(), "head; null for a point without heads", nullable=True),
        POS,
        Column("vector", FLOATS, "the vector, rounded to the 11 significant bits of fp16"),
    ),
    encoder="activations",
)

ATTENTION = Table(
    "attention",
    "One row per token, layer and recorded head: the positions with most attention.",
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
    encoder="attention",
)
