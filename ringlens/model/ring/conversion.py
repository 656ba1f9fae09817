"""Checkpoint names: what a published Ring checkpoint must hold, and how it maps to the model.

A checkpoint stores each expert on its own (``mlp.experts.M.gate_proj.weight``); the fused layout
holds a layer's experts in two 3-D parameters. transformers' weight converters translate both ways,
so saving writes the published names again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ringlens.model.expert_names import ExpertNames
from ringlens.model.sizes import CheckpointTensors, Shape

if TYPE_CHECKING:
    from transformers.core_model_loading import WeightConverter

    from ringlens.model.ring.configuration import BailingMoeV2Config

# What is published in FP8: linear layers. Everything else has no scales that anyone would apply.
LINEAR = ("_proj.weight", ".attention.query_key_value.weight", ".attention.dense.weight")

# Checkpoints that were saved from the bare base model lack the "model.".
_LAYER = r"(?:model\.)?layers\.(?P<layer>\d+)\.mlp"
ONE_EXPERT = re.compile(rf"(?P<head>{_LAYER}\.experts\.)(?P<expert>\d+)(?P<tail>\..+)")
EXPERT_ROWS = re.compile(rf"{_LAYER}\.gate\.(?:weight|expert_bias)")


def fused_experts_converters() -> list[WeightConverter]:
    """Converters between one-tensor-an-expert checkpoints and the fused layout."""
    from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

    return [
        WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(
            "mlp.experts.*.down_proj.weight",
            "mlp.experts.down_proj",
            operations=[MergeModulelist(dim=0)],
        ),
    ]


def checkpoint_tensors(config: BailingMoeV2Config) -> CheckpointTensors:
    """What a checkpoint of this configuration must hold.

    Expert biases are there in all layers, or in none: in some, the checkpoint is damaged.
    """
    biases = {
        f"model.layers.{layer}.mlp.gate.expert_bias": (config.num_experts,)
        for layer in config.sparse_layers
    }
    return CheckpointTensors(expected_tensors(config), biases, LINEAR, ("expert_bias",))


def expected_tensors(config: BailingMoeV2Config) -> dict[str, Shape]:
    """Names and shapes of the tensors that a checkpoint of this configuration must hold.

    Left out, because published checkpoints may do without them: ``lm_head`` where it is tied,
    ``expert_bias`` where the configuration does not insist on it.
    """
    hidden = config.hidden_size
    tensors = {
        "model.word_embeddings.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        for name, shape in _layer_tensors(config, layer):
            tensors[f"model.layers.{layer}.{name}"] = shape
    return tensors


def _layer_tensors(config: BailingMoeV2Config, layer: int) -> Iterator[tuple[str, Shape]]:
    hidden, head_dim = config.hidden_size, config.head_dim or 0
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or 0
    qkv = (heads + 2 * kv_heads) * head_dim
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    yield "attention.query_key_value.weight", (qkv, hidden)
    yield "attention.dense.weight", (hidden, heads * head_dim)
    if config.use_qkv_bias:
        yield "attention.query_key_value.bias", (qkv,)
    if config.use_bias:
        yield "attention.dense.bias", (hidden,)
    if config.use_qk_norm:
        yield "attention.query_layernorm.weight", (head_dim,)
        yield "attention.key_layernorm.weight", (head_dim,)
    if layer < config.first_k_dense_replace:
        yield from _ffn_tensors("mlp", hidden, config.intermediate_size)
        return
    yield "mlp.gate.weight", (config.num_experts, hidden)
    if config.moe_router_enable_expert_bias:
        yield "mlp.gate.expert_bias", (config.num_experts,)
    for expert in range(config.num_experts):
        yield from _ffn_tensors(f"mlp.experts.{expert}", hidden, config.moe_intermediate_size)
    if config.num_shared_experts:
        shared = config.moe_intermediate_size * config.num_shared_experts
        yield from _ffn_tensors("mlp.shared_experts", hidden, shared)


def _ffn_tensors(prefix: str, hidden: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (width, hidden)
    yield f"{prefix}.up_proj.weight", (width, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, width)


def prediction_layer_pattern(config: BailingMoeV2Config) -> str | None:
    """Pattern of the tensors of multi-token-prediction layers; None without such layers."""
    if not config.num_nextn_predict_layers:
        return None
    first = config.num_hidden_layers
    layers = "|".join(str(first + i) for i in range(config.num_nextn_predict_layers))
    return rf"(^|\.)layers\.({layers})\."


def expert_names(config: BailingMoeV2Config) -> ExpertNames:
    """How a checkpoint of this configuration names what belongs to routed experts."""
    pattern = prediction_layer_pattern(config)
    return ExpertNames(
        one=ONE_EXPERT,
        rows=EXPERT_ROWS,
        unrun=None if pattern is None else re.compile(pattern),
        count="num_experts",
        without_unrun={} if pattern is None else {"num_nextn_predict_layers": 0},
        neurons={".gate_proj.weight": 0, ".up_proj.weight": 0, ".down_proj.weight": 1},
    )
