"""Ring models at their published sizes with random weights, made on the device.

Shapes are those of the published configs; weights are drawn so that activations keep their size.
Nothing passes through the CPU's memory.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoTokenizer

from ringlens.data import path as bundled
from ringlens.lens import Lens
from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM
from ringlens.model.kernels.experts import IN_PLACE, read_experts_in_place
from ringlens.model.ring.attention import BailingMoeV2RotaryEmbedding

FAMILY = {
    "vocab_size": 157184,
    "head_dim": 128,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "partial_rotary_factor": 0.5,
    "rope_theta": 600000.0,
    "moe_router_enable_expert_bias": True,
    "max_position_embeddings": 65536,
    "first_k_dense_replace": 1,
}
SIZES = {
    # One dense and three sparse layers of Ring-1T: a sparse layer is 26 GB.
    "ring-1t-slice": {
        "hidden_size": 8192,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "ring-mini": {
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 20,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    # For trying the benchmarks without a GPU.
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 32,
        "vocab_size": 4096,
    },
}


def random_lens(
    size: str, device: str, dtype: torch.dtype = torch.bfloat16, experts: str = IN_PLACE
) -> Lens:
    """A model of SIZES with random weights, and ring-nano's tokenizer.

    Args:
        size: A key of SIZES.
        device: Where the weights are made.
        dtype: Their dtype.
        experts: Implementation of fused experts; ringlens' own is the grouped one on the CPU.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(bundled("ring-nano")))
    config = BailingMoeV2Config(
        **(FAMILY | SIZES[size]), pad_token_id=tokenizer.pad_token_id, dtype=dtype
    )
    config._attn_implementation = "sdpa"
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = BailingMoeV2ForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.to_empty(device=device)
    model.model.rotary_emb = BailingMoeV2RotaryEmbedding(config).to(device)
    generator = torch.Generator(device).manual_seed(0)
    draw(model, generator)
    model.set_experts_implementation("grouped_mm" if experts == IN_PLACE else experts)
    if experts == IN_PLACE:
        read_experts_in_place(model)
    # No text may end early: an id that hardly any step draws ends it.
    model.generation_config.eos_token_id = [config.vocab_size - 1]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return Lens(model.eval().requires_grad_(False), tokenizer, size)


@torch.no_grad()
def draw(model: nn.Module, generator: torch.Generator) -> None:
    """Fill parameters: norms with 1, all else so that a unit input gives a unit output."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        std = 1.0 if "embeddings" in name else parameter.shape[-1] ** -0.5
        for part in parameter.unbind(0) if parameter.ndim == 3 else [parameter]:
            part.normal_(0.0, std, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("expert_bias"):
            buffer.normal_(0.0, 0.01, generator=generator)


def size_line(lens: Lens) -> str:
    """Parameters and bytes of a model, and how it computes."""
    parameters = sum(p.numel() for p in lens.model.parameters())
    size = sum(p.numel() * p.element_size() for p in lens.model.parameters())
    return (
        f"{lens.name}: {parameters / 1e9:.2f}B parameters, {size / 2**30:.1f} GiB, "
        f"{lens.config.num_hidden_layers} layers, experts {lens.config._experts_implementation}"
    )
