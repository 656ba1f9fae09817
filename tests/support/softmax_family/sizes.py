"""Sizes, the router's rule, and the units of a device map."""

from ringlens.model.router_rule import RouterRule
from ringlens.model.sizes import Sizes, Units

UNITS = Units(
    embeddings="model.embed_tokens",
    layers="model.layers.",
    norm="model.norm",
    rotary="model.rotary_emb",
    head="lm_head",
    everywhere=("model.rotary_emb",),
    experts=".experts.",
    attention=".self_attn.",
)
KINDS = (
    (".mlp.experts.", "experts"),
    (".mlp.gate.", "router"),
    ("norm.", "norms"),
    (".self_attn.", "attention"),
    (".mlp.", "dense FFN"),
    ("embed_tokens", "embeddings"),
    ("lm_head", "embeddings"),
)


def router_rule(config):
    """Softmax over all experts; the k largest; shares of the chosen where that is configured."""
    return RouterRule(
        experts=config.num_experts,
        experts_per_token=config.num_experts_per_tok,
        groups=1,
        groups_kept=1,
        routed_scaling_factor=1.0,
        score="softmax",
        bias="none",
        group_score="none",
        renormalised=config.norm_topk_prob,
    )


def sizes(config):
    """Of a configuration."""
    step = config.decoder_sparse_step
    sparse = (i for i in range(config.num_hidden_layers) if (i + 1) % step == 0)
    return Sizes(
        layers=config.num_hidden_layers,
        sparse_layers=tuple(i for i in sparse if i not in config.mlp_only_layers),
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim(config),
        rotary_dim=head_dim(config),
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        dense_width=config.intermediate_size,
        expert_width=config.moe_intermediate_size,
        tied=config.tie_word_embeddings,
        router=router_rule(config),
    )


def head_dim(config):
    """Stated, or an even share of the residual stream."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def buffers(config):
    """Two sets of rotary frequencies."""
    return {UNITS.rotary: 2 * 4 * (head_dim(config) // 2)}
