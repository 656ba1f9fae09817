"""Attention of Ring: norms, rotary embedding, and grouped-query attention on any kernel.

Shape letters: B batch, T queries, S keys, D hidden size, H heads, G kv heads, C head dimension,
R rotated dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.cache_utils import Cache
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ringlens.model.kernels.few_rows import in_one_launch
from ringlens.model.ring.configuration import BailingMoeV2Config


class BailingMoeV2RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x."""
        if x.ndim > 2 and in_one_launch(x.shape[0] * x.shape[1], x, self.weight):
            from ringlens.model.kernels.norm_triton import rms_norm

            return rms_norm(x.flatten(0, -3), self.weight, self.eps).view(x.shape)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class BailingMoeV2RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotated part of a head (default, YaRN, …)."""

    inv_freq: Tensor

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__()
        assert config.rope_parameters is not None
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        compute = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = compute(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(
        config: BailingMoeV2Config, *_: object, **__: object
    ) -> tuple[Tensor, float]:
        """Inverse frequencies [R/2] without scaling (transformers calls it under this name)."""
        assert config.rope_parameters is not None
        exponent = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponent, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, T, R] in x's dtype for positions [B, T]."""
        frequencies = self.inv_freq.to(device=x.device, dtype=torch.float32)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate(x_BHTC: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> Tensor:
    """Rotate the first R dimensions of every head, pass the rest through."""
    cos, sin = cos_BTR.unsqueeze(1), sin_BTR.unsqueeze(1)
    turned, passed = x_BHTC.split((cos.shape[-1], x_BHTC.shape[-1] - cos.shape[-1]), dim=-1)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, passed), dim=-1)


def rotate_both(
    query_BHTC: Tensor, key_BGTC: Tensor, cos_BTR: Tensor, sin_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys."""
    B, _, T, _ = query_BHTC.shape
    if in_one_launch(B * T, query_BHTC, key_BGTC, cos_BTR, sin_BTR):
        from ringlens.model.kernels.rotation_triton import rotated

        return rotated(query_BHTC, key_BGTC, cos_BTR, sin_BTR)
    return rotate(query_BHTC, cos_BTR, sin_BTR), rotate(key_BGTC, cos_BTR, sin_BTR)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Plain attention that also returns the weights [B, H, T, S]; softmax in float32."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def flex_decode_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Flex attention without compiling it: for one query on the CPU, see attention_kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the memory it takes, which is O(n) here
        output = flex_attention(
            query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True
        )
    return output.transpose(1, 2).contiguous(), None


def attention_kernel(name: str, query: Tensor) -> Callable:
    """The function registered under ``name``, with one exception.

    torch 2.13's compiled flex attention reads unwritten memory when a single query decodes on the
    CPU: results are wrong, and differ between runs, from some cache lengths on.
    """
    if name == "flex_attention" and query.device.type == "cpu" and query.shape[2] == 1:
        return flex_decode_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)


class BailingMoeV2Attention(nn.Module):
    """Grouped-query attention with a fused projection and normalised queries and keys."""

    def __init__(self, config: BailingMoeV2Config, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None and config.num_key_value_heads is not None
        self.config = config
        self.layer_idx = layer_idx
        self.cache_slot = layer_idx  # differs in a pipeline, see sharding.number_cache
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.num_key_value_groups = self.heads // self.kv_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, width, bias=config.use_qkv_bias)
        self.dense = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=config.use_bias)
        if config.use_qk_norm:
            self.query_layernorm = BailingMoeV2RMSNorm(self.head_dim, config.rms_norm_eps)
            self.key_layernorm = BailingMoeV2RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Map [B, T, D] to [B, T, D]; the second value is the weights where the kernel has them."""
        B, T, _ = hidden_states.shape
        qkv = self.query_key_value(hidden_states).view(B, T, -1, self.head_dim)
        query, key, value = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if self.config.use_qk_norm:
            query, key = self.query_layernorm(query), self.key_layernorm(key)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        query, key = rotate_both(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, self.cache_slot)
        attend = attention_kernel(self.config._attn_implementation, query)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.dense(output.reshape(B, T, -1)), weights
