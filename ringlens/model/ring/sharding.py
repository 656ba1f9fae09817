"""How Ring's weights are shared out: the plans that transformers follows under torchrun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringlens.model.parallel import owned_layers, parallel_of
from ringlens.model.shared_routing import route_own_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ringlens.model.ring.configuration import BailingMoeV2Config

# Attention weights are sharded, but every rank gathers all heads: an observer at the attention
# interface sees whole queries and keys on each rank, and head statistics need no communication.
TP_PLAN = {
    "word_embeddings": "embedding_rowwise",
    "layers.*.attention.query_key_value": "colwise_gather_output",
    "layers.*.attention.dense": "rowwise_split_input",
    "layers.*.mlp.experts.gate_up_proj": "packed_colwise",
    "layers.*.mlp.experts.down_proj": "rowwise",
    "layers.*.mlp.experts": "moe_tp_experts",
    "layers.*.mlp.shared_experts.gate_proj": "colwise",
    "layers.*.mlp.shared_experts.up_proj": "colwise",
    "layers.*.mlp.shared_experts.down_proj": "rowwise",
    "layers.*.mlp.gate_proj": "colwise",
    "layers.*.mlp.up_proj": "colwise",
    "layers.*.mlp.down_proj": "rowwise",
}
# The router is in no plan: every rank gets the whole outputs of it, see share_rows.
EP_PLAN = {
    "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
    "layers.*.mlp.experts.down_proj": "grouped_gemm",
    "layers.*.mlp.experts": "ep_dispatch_experts",
}
PP_PLAN = {
    "word_embeddings": (["input_ids"], ["inputs_embeds"]),
    "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
    "norm": (["hidden_states"], ["hidden_states"]),
}
HEAD_TP_PLAN = {"lm_head": "colwise_gather_output"}


def number_cache(model: PreTrainedModel) -> None:
    """Number the cache's layers from 0 in this process's stage of a pipeline.

    transformers reads how much a cache holds from its layer 0, which on later stages would stay
    empty: padded batches would then decode under a wrong mask.
    """
    for slot, layer in enumerate(owned_layers(model)):
        model.get_decoder().layers[layer].attention.cache_slot = slot


def share_rows(model: PreTrainedModel) -> None:
    """Let the processes that share a model's layers route a part of the tokens each."""
    layout = parallel_of(model)
    if max(layout.tp_size, layout.ep_size) > 1:
        for layer in model.config.sparse_layers:
            route_own_rows(model.get_decoder().layers[layer].mlp.gate)


def split_widths(config: BailingMoeV2Config) -> dict[str, int]:
    """Widths of the dense weights that tensor parallelism splits, by name."""
    H, G, C = config.num_attention_heads, config.num_key_value_heads or 0, config.head_dim or 0
    return {
        "query_key_value": (H + 2 * G) * C,
        "dense": H * C,
        "shared experts": config.moe_intermediate_size * (config.num_shared_experts or 0),
        "dense FFN": config.intermediate_size if config.first_k_dense_replace else 0,
    }
