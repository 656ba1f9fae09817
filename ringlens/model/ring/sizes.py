"""Sizes of a Ring model, the rule of its routers, and the units that a device map places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringlens.model.router_rule import RouterRule
from ringlens.model.sizes import Sizes, Units

if TYPE_CHECKING:
    from ringlens.model.ring.configuration import BailingMoeV2Config

UNITS = Units(
    embeddings="model.word_embeddings",
    layers="model.layers.",
    norm="model.norm",
    rotary="model.rotary_emb",
    head="lm_head",
    # In a pipeline transformers looks for another name of the embeddings when it hands them out.
    everywhere=("model.word_embeddings", "model.rotary_emb"),
    experts=".experts.",
    attention=".attention.",
)
KINDS = (
    (".mlp.experts.", "experts"),
    (".mlp.shared_experts.", "shared experts"),
    (".mlp.gate.", "router"),
    ("_layernorm.", "norms"),
    (".norm.", "norms"),
    (".attention.", "attention"),
    (".mlp.", "dense FFN"),
    ("word_embeddings", "embeddings"),
    ("lm_head", "embeddings"),
)


def router_rule(config: BailingMoeV2Config) -> RouterRule:
    """How Ring's routers choose: see docs/ring.md."""
    return RouterRule(
        experts=config.num_experts,
        experts_per_token=config.num_experts_per_tok,
        groups=config.n_group,
        groups_kept=config.topk_group,
        routed_scaling_factor=config.routed_scaling_factor,
        score="sigmoid",
        bias="scores",
        group_score="sum_of_two",
        renormalised=config.num_experts_per_tok > 1,
        shared_experts=config.num_shared_experts or 0,
    )


def sizes(config: BailingMoeV2Config) -> Sizes:
    """Sizes of a Ring model."""
    return Sizes(
        layers=config.num_hidden_layers,
        sparse_layers=config.sparse_layers,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim or 0,
        rotary_dim=config.rotary_dim,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        dense_width=config.intermediate_size,
        expert_width=config.moe_intermediate_size,
        tied=config.tie_word_embeddings,
        router=router_rule(config),
    )


def buffers(config: BailingMoeV2Config) -> dict[str, int]:
    """Bytes of buffers, float32 whatever the dtype: expert biases, and two sets of frequencies."""
    biases = {f"{UNITS.layers}{layer}": 4 * config.num_experts for layer in config.sparse_layers}
    return {**biases, UNITS.rotary: 2 * 4 * (config.rotary_dim // 2)}
