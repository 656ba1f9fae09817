"""The forward of ring-nano as few large matrix products: for training and sampling on one GPU.

All experts run on all tokens in one product, and the router's weights, 0 for those not chosen,
pick among them. For experts as narrow as ring-nano's that takes a tenth of the time of sorting
tokens by expert. The result is the model's own, up to rounding.

Shape letters: N tokens, B traces, T tokens of the longest, D hidden size, H heads, G kv heads,
C head dimension, R rotated dimensions, E experts, F width of an expert, L sparse layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringlens.model import BailingMoeV2ForCausalLM

Weights = tuple[Tensor, ...]


class Forward:
    """Runs the live weights of a model; only the cast to bfloat16 must come before.

    Args:
        model: A ring-nano; its configuration's query and key norms and shared expert are assumed.
        compiled: Whether to compile the parts of a layer.
    """

    def __init__(self, model: BailingMoeV2ForCausalLM, *, compiled: bool) -> None:
        self.model = model
        self.config: Any = model.config
        compile_: Callable[[Any], Any] = (
            (lambda part: torch.compile(part, dynamic=True)) if compiled else (lambda part: part)
        )
        self.project, self.mix, self.feed = map(compile_, (_project, _mix, _feed))
        self.norm = compile_(_norm)

    def hidden(self, input_ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Final hidden states of whole traces, causal, padded on the right.

        Returns:
            Normed hidden states [B, T, D], and the ids [L, N, k] of the experts chosen.
        """
        B, T = input_ids_BT.shape
        decoder = self.model.model
        x_ND = decoder.word_embeddings(input_ids_BT).flatten(0, 1)
        cos_NR, sin_NR = self.rotary(torch.arange(T, device=x_ND.device).repeat(B), x_ND)
        chosen = []
        for layer in decoder.layers:
            q, k, v = self.project(x_ND, self.attention_weights(layer), cos_NR, sin_NR, self.shape)
            q, k, v = (each.view(B, T, -1, each.shape[-1]).transpose(1, 2) for each in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x_ND, ids = self.after(layer, x_ND, attended.transpose(1, 2).reshape(B * T, -1))
            chosen += [] if ids is None else [ids]
        return self.norm(x_ND, decoder.norm.weight, self.eps).view(B, T, -1), torch.stack(chosen)

    def after(self, layer: nn.Module, x_ND: Tensor, attended: Tensor) -> tuple[Tensor, Any]:
        """What follows attention in a layer: residual stream [N, D], expert ids or None."""
        mlp: Any = layer.mlp
        own: Any = layer
        out, norm = own.attention.dense.weight, own.post_attention_layernorm.weight
        if not hasattr(mlp, "gate"):
            weights = (out, norm, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
            return self.feed(x_ND, attended, weights, self.eps), None
        shared, experts = mlp.shared_experts, mlp.experts
        routed = mlp.gate.weight, experts.gate_up_proj, experts.down_proj
        always = shared.gate_proj.weight, shared.up_proj.weight, shared.down_proj.weight
        return self.mix(
            x_ND,
            attended,
            (out, norm, *routed, *always),
            mlp.gate.expert_bias,
            self.routing,
            self.eps,
        )

    def attention_weights(self, layer: Any) -> Weights:
        """The weights of a layer that queries, keys and values are made with."""
        attention = layer.attention
        norms = attention.query_layernorm.weight, attention.key_layernorm.weight
        return layer.input_layernorm.weight, attention.query_key_value.weight, *norms

    def rotary(self, positions_N: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, R] of positions."""
        cos, sin = self.model.model.rotary_emb(like, positions_N[None])
        return cos[0], sin[0]

    @property
    def shape(self) -> tuple[int, int, int, float]:
        """Heads, kv heads, head dimension, epsilon."""
        config = self.config
        return (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, self.eps
        )  # fmt: skip

    @property
    def routing(self) -> tuple[int, int, int, float]:
        """Experts of a token, groups, groups kept, factor."""
        config = self.config
        groups = config.n_group, config.topk_group
        return config.num_experts_per_tok, *groups, config.routed_scaling_factor

    @property
    def eps(self) -> float:
        """Epsilon of the norms."""
        return self.config.rms_norm_eps


def loads(chosen_LNk: Tensor, inside_N: Tensor, experts: int) -> Tensor:
    """How many tokens [L, E] chose each expert, of those inside."""
    counted = F.one_hot(chosen_LNk.masked_fill(~inside_N[:, None], experts), experts + 1)
    return counted.sum(dim=(1, 2))[:, :experts].float()


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def _rotate(x_NHC: Tensor, cos_NR: Tensor, sin_NR: Tensor) -> Tensor:
    R = cos_NR.shape[-1]
    turned, passed = x_NHC[..., :R], x_NHC[..., R:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos_NR[:, None] + torch.cat((-second, first), dim=-1) * sin_NR[:, None]
    return torch.cat((turned, passed), dim=-1)


def _project(
    x_ND: Tensor,
    weights: Weights,
    cos_NR: Tensor,
    sin_NR: Tensor,
    shape: tuple[int, int, int, float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [N, H, C], keys and values [N, G, C]."""
    norm, qkv, query_norm, key_norm = weights
    heads, kv_heads, size, eps = shape
    projected = F.linear(_norm(x_ND, norm, eps), qkv).view(-1, heads + 2 * kv_heads, size)
    q, k, v = projected.split((heads, kv_heads, kv_heads), dim=1)
    q, k = _norm(q, query_norm, eps), _norm(k, key_norm, eps)
    return _rotate(q, cos_NR, sin_NR), _rotate(k, cos_NR, sin_NR), v.contiguous()


def _feed(x_ND: Tensor, attended: Tensor, weights: Weights, eps: float) -> Tensor:
    """Add attention and a dense feed-forward block."""
    out, norm, gate, up, down = weights
    x_ND = x_ND + F.linear(attended, out)
    y_ND = _norm(x_ND, norm, eps)
    return x_ND + F.linear(F.silu(F.linear(y_ND, gate)) * F.linear(y_ND, up), down)


def _mix(
    x_ND: Tensor,
    attended: Tensor,
    weights: Weights,
    bias_E: Tensor,
    routing: tuple[int, int, int, float],
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Add attention, the chosen experts and the shared one; and say which were chosen [N, k]."""
    out, norm, router, gate_up, down, shared_gate, shared_up, shared_down = weights
    x_ND = x_ND + F.linear(attended, out)
    y_ND = _norm(x_ND, norm, eps)
    w_NE, ids_Nk = _route(F.linear(y_ND.float(), router.float()), bias_E, routing)
    E, wide, D = gate_up.shape
    gate, up = F.linear(y_ND, gate_up.view(E * wide, D)).view(-1, E, wide).chunk(2, dim=-1)
    active_NEF = F.silu(gate) * up * w_NE[..., None].to(y_ND.dtype)
    mixed_ND = active_NEF.flatten(1) @ down.transpose(1, 2).reshape(E * wide // 2, D)
    shared = F.silu(F.linear(y_ND, shared_gate)) * F.linear(y_ND, shared_up)
    return x_ND + mixed_ND + F.linear(shared, shared_down), ids_Nk


def _route(
    logits_NE: Tensor, bias_E: Tensor, routing: tuple[int, int, int, float]
) -> tuple[Tensor, Tensor]:
    """Weights [N, E] of all experts, 0 for those not chosen, and the ids [N, k] of the others."""
    k, groups, kept, factor = routing
    s_NE = logits_NE.sigmoid()
    N, E = s_NE.shape
    c_NGe = (s_NE + bias_E).detach().view(N, groups, E // groups)
    best_NG = c_NGe.topk(2, dim=-1).values.sum(dim=-1)
    last_N1 = best_NG.topk(kept, dim=-1).values[:, -1:]
    c_NE = c_NGe.masked_fill((best_NG < last_N1)[..., None], -torch.inf).view(N, E)
    ids_Nk = c_NE.topk(k, dim=-1).indices
    chosen_Nk = s_NE.gather(1, ids_Nk)
    chosen_Nk = chosen_Nk / (chosen_Nk.sum(dim=-1, keepdim=True) + 1e-20) * factor
    return torch.zeros_like(s_NE).scatter(1, ids_Nk, chosen_Nk), ids_Nk
