"""The table of runs: model, settings, and what was recorded."""

from __future__ import annotations

import pyarrow as pa

from ringlens.store.schema.table import RUN, Column, Table, list_of

ROUTER_WORDS = {
    "score": ("sigmoid", "softmax", "softmax_chosen", "sqrt_softplus"),
    "bias": ("none", "scores", "logits"),
    "group_score": ("none", "sum_of_two", "maximum"),
}
"""What ``runs.router`` may say; the words of `ringlens.model.router_rule`."""

RUNS = Table(
    "runs",
    "One row per run: the model, how it was run, and what was recorded.",
    ("run_id",),
    (
        RUN,
        Column(
            "mode",
            pa.string(),
            "'live' (during decoding), 'replay' (teacher-forced) or 'imported' (from a server)",
        ),
        Column("model", pa.string(), "name or folder the model was loaded from"),
        Column("revision", pa.string(), "revision of the model, if known", nullable=True),
        Column("layers", pa.int32(), "decoder layers"),
        Column("sparse_layers", list_of(pa.int32()), "layers that route to experts"),
        Column("experts", pa.int32(), "routed experts per sparse layer, E"),
        Column("experts_per_token", pa.int32(), "experts chosen for a token, k"),
        Column("groups", pa.int32(), "expert groups"),
        Column("groups_kept", pa.int32(), "groups that survive the group limit"),
        Column("routed_scaling_factor", pa.float64(), "factor on the normalised routing weights"),
        Column(
            "router",
            pa.string(),
            "JSON: how the routers choose. `score`: affinity of a logit ('sigmoid', 'softmax', "
            "'softmax_chosen': logits are compared, 'sqrt_softplus'); `bias`: what the selection "
            "bias is added to ('scores', 'logits', 'none'); `group_score`: what ranks groups "
            "('sum_of_two' best scores, 'maximum', 'none'); `renormalised`: whether weights are "
            "divided by their sum; `shared_experts`: their number. Null in runs of older versions, "
            "which were all Ring's: sigmoid, scores, sum_of_two",
            nullable=True,
        ),
        Column("heads", pa.int32(), "attention heads per layer, H"),
        Column("kv_heads", pa.int32(), "key/value heads per layer"),
        Column("head_dim", pa.int32(), "dimensions of a head"),
        Column("hidden_size", pa.int32(), "dimensions of the residual stream"),
        Column("dtype", pa.string(), "dtype of the weights; 'unknown' if a server had them"),
        Column("quantization", pa.string(), "quantisation method", nullable=True),
        Column("attention", pa.string(), "attention kernel, or 'unknown'"),
        Column("experts_layout", pa.string(), "'fused', 'modules' or 'unknown'"),
        Column(
            "tokenizer",
            pa.string(),
            "digest of how token ids become text; null in runs of older versions",
            nullable=True,
        ),
        Column(
            "parallel", pa.string(), "JSON: parallel layout (processes, tensor, expert, pipeline)"
        ),
        Column("versions", pa.string(), "JSON: library versions"),
        Column("sampling", pa.string(), "JSON: sampling parameters"),
        Column("seed", pa.int64(), "seed of the run"),
        Column(
            "record",
            list_of(pa.string()),
            "what was recorded; 'routing@2+3' is the routing of these layers alone",
        ),
        Column(
            "interventions",
            list_of(pa.string()),
            "what was changed in the model while it ran, as 'ablate:5/3+7@think'; null for nothing",
            nullable=True,
        ),
        Column(
            "lost",
            list_of(pa.string()),
            "tables that were recorded and are missing: lost, as noted by a repair, or left out of "
            "an export; 'heads/3' for the rows of trace 3 only",
            nullable=True,
        ),
        Column(
            "planned",
            pa.int32(),
            "traces that the run is to have; null in imports and in runs of older versions",
            nullable=True,
            unit="traces",
        ),
        Column("started", pa.timestamp("us", tz="UTC"), "start of the run", unit="UTC"),
        Column(
            "finished",
            pa.timestamp("us", tz="UTC"),
            "end; null while it runs",
            nullable=True,
            unit="UTC",
        ),
    ),
)
