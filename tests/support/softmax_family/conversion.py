"""What a checkpoint holds."""

import re

from ringlens.model.expert_names import ExpertNames
from ringlens.model.sizes import CheckpointTensors
from softmax_family.sizes import head_dim, sizes

LINEAR = ("_proj.weight",)


def checkpoint_tensors(config):
    """Names and shapes of all tensors."""
    D, V = config.hidden_size, config.vocab_size
    tensors = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (V, D)
    for layer in range(config.num_hidden_layers):
        for name, shape in _layer(config, layer):
            tensors[f"model.layers.{layer}.{name}.weight"] = shape
    return CheckpointTensors(tensors, linear=LINEAR)


def _layer(config, layer):
    D, C = config.hidden_size, head_dim(config)
    H, G = config.num_attention_heads, config.num_key_value_heads
    yield from (("input_layernorm", (D,)), ("post_attention_layernorm", (D,)))
    yield from (("self_attn.q_proj", (H * C, D)), ("self_attn.o_proj", (D, H * C)))
    yield from (("self_attn.k_proj", (G * C, D)), ("self_attn.v_proj", (G * C, D)))
    yield from (("self_attn.q_norm", (C,)), ("self_attn.k_norm", (C,)))
    if layer not in sizes(config).sparse_layers:
        yield from _block("mlp", D, config.intermediate_size)
        return
    yield "mlp.gate", (config.num_experts, D)
    for expert in range(config.num_experts):
        yield from _block(f"mlp.experts.{expert}", D, config.moe_intermediate_size)


def _block(prefix, D, width):
    yield from ((f"{prefix}.gate_proj", (width, D)), (f"{prefix}.up_proj", (width, D)))
    yield f"{prefix}.down_proj", (D, width)


def expert_names(config):
    """What belongs to experts."""
    layer = r"model\.layers\.(?P<layer>\d+)\.mlp"
    return ExpertNames(
        one=re.compile(rf"(?P<head>{layer}\.experts\.)(?P<expert>\d+)(?P<tail>\..+)"),
        rows=re.compile(rf"{layer}\.gate\.weight"),
        unrun=None,
        count="num_experts",
        without_unrun={},
        neurons={".gate_proj.weight": 0, ".up_proj.weight": 0, ".down_proj.weight": 1},
    )
