"""Feed-forward blocks of Ring: router, experts in two layouts, shared expert.

Shape letters: B batch, T tokens, N = B·T, D hidden size, E experts, k experts a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation

from ringlens.model.expert_outputs import Show, shown_by_kernel, watcher_of
from ringlens.model.kernels.experts import are_few
from ringlens.model.kernels.few_rows import MOST_READ_AGAIN, in_one_launch
from ringlens.model.kernels.nf4 import forget, mixed_in_4_bits, packed_of
from ringlens.model.ring.configuration import BailingMoeV2Config


class BailingMoeV2MLP(nn.Module):
    """Gated feed-forward block: a dense layer, a shared expert, or one expert."""

    def __init__(self, config: BailingMoeV2Config, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class BailingMoeV2Gate(nn.Module):
    """The router: sigmoid affinities, selection by affinity + bias within the best groups."""

    expert_bias: Tensor

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__()
        self.top_k, self.n_group = config.num_experts_per_tok, config.n_group
        self.topk_group, self.scaling = config.topk_group, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts, dtype=torch.float32))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route [..., D] tokens.

        Returns:
            Router logits [N, E] and weights [N, k], both float32, and expert ids [N, k], in the
            order of transformers' routers (the published gate returns ids, weights, logits).
        """
        hidden_ND = hidden_states.reshape(-1, hidden_states.shape[-1])
        return self.route(self.logits(hidden_ND))

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Router logits [N, E] of hidden states, float32."""
        N = len(hidden_ND)
        if N <= MOST_READ_AGAIN and in_one_launch(N, hidden_ND, self.weight):
            from ringlens.model.kernels.logits_triton import router_logits

            return router_logits(hidden_ND, self.weight)
        return F.linear(hidden_ND.float(), self.weight.float())

    def route(self, logits_NE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`forward` returns where these [N, E] are the logits."""
        bias_E = self.expert_bias
        if logits_NE.dtype == torch.float32 and in_one_launch(len(logits_NE), logits_NE, bias_E):
            from ringlens.model.kernels.choice_triton import choose

            groups = self.n_group, self.topk_group
            return logits_NE, *choose(logits_NE, bias_E, groups, self.top_k, self.scaling)
        affinity_NE = logits_NE.sigmoid()
        ids_Nk = self.select(affinity_NE + self.expert_bias.float())
        return logits_NE, self.weigh(affinity_NE, ids_Nk), ids_Nk

    def weigh(self, affinity_NE: Tensor, ids_Nk: Tensor) -> Tensor:
        """Weights [N, k] of chosen experts."""
        weights_Nk = affinity_NE.gather(1, ids_Nk)
        if self.top_k > 1:
            weights_Nk = weights_Nk / (weights_Nk.sum(dim=-1, keepdim=True) + 1e-20)
        return weights_Nk * self.scaling

    def select(self, scores_NE: Tensor) -> Tensor:
        """The k best experts [N, k] inside the groups whose two best scores sum highest."""
        N, E = scores_NE.shape
        grouped = scores_NE.view(N, self.n_group, E // self.n_group)
        group_scores = grouped.topk(2, dim=-1).values.sum(dim=-1)
        kept = group_scores.topk(self.topk_group, dim=-1, sorted=False).indices
        rejected = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
        limited = grouped.masked_fill(rejected.unsqueeze(-1), -torch.inf).view(N, E)
        return limited.topk(self.top_k, dim=-1).indices


@use_experts_implementation
class _FusedExperts(nn.Module):
    """The experts of a layer in two 3-D parameters, run by one of transformers' kernels."""

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__()
        E, D, F_ = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.num_experts = E
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * F_, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F_))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        """Sum of w·expert(h) over the chosen experts, [N, D] (the "eager" implementation)."""

        def run(expert: int, x: Tensor) -> Tensor:
            gate, up = F.linear(x, self.gate_up_proj[expert]).chunk(2, dim=-1)
            return F.linear(self.act_fn(gate) * up, self.down_proj[expert])

        show = watcher_of(self)
        return mix_experts(run, self.num_experts, hidden_ND, ids_Nk, weights_Nk, show)


class BailingMoeV2Experts(_FusedExperts):
    """All experts of a layer in two 3-D parameters ("fused"): fast, and shardable by expert."""

    shows_outputs = True

    def forward(self, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        """Sum of w·expert(h) over the chosen experts, [N, D]."""
        given = (hidden_ND, ids_Nk, weights_Nk, self.num_experts)
        return shown_by_kernel(self, super().forward, *given)


class BailingMoeV2ExpertModules(nn.ModuleList):
    """All experts of a layer as modules ("modules"): for quantisers and offloading."""

    shows_outputs = True
    reads_packed = True  # in 4 bits, where they are few: see kernels/nf4.py

    def __init__(self, config: BailingMoeV2Config) -> None:
        width = config.moe_intermediate_size
        super().__init__(BailingMoeV2MLP(config, width) for _ in range(config.num_experts))

    def forward(self, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        """Sum of w·expert(h) over the chosen experts, [N, D]."""
        packed = packed_of(self) if are_few(ids_Nk) else None
        if packed is not None and packed.dtype == hidden_ND.dtype:
            return mixed_in_4_bits(packed, hidden_ND, ids_Nk, weights_Nk, watcher_of(self))
        run = lambda expert, x: self[expert](x)  # noqa: E731
        return mix_experts(run, len(self), hidden_ND, ids_Nk, weights_Nk, watcher_of(self))

    def _apply(self, *given: Any, **more: Any) -> nn.Module:
        """Move or convert the experts; nn.Module calls it for every way to do so."""
        forget(self)
        return super()._apply(*given, **more)


def mix_experts(
    run: Callable[[int, Tensor], Tensor],
    experts: int,
    hidden_ND: Tensor,
    ids_Nk: Tensor,
    weights_Nk: Tensor,
    show: Show | None = None,
) -> Tensor:
    """Run each hit expert once on its tokens; weigh and add in the weights' dtype (float32).

    Where somebody watches, ``show`` sees the outputs before they are weighed.
    """
    mixed_ND = torch.zeros_like(hidden_ND, dtype=weights_Nk.dtype)
    for expert in ids_Nk.unique().tolist():
        if expert >= experts:  # expert parallelism marks experts of other ranks this way
            continue
        token, rank = torch.where(ids_Nk == expert)
        output = run(expert, hidden_ND[token])
        if show is not None:
            show(output, token * ids_Nk.shape[1] + rank)
        mixed_ND.index_add_(0, token, output.to(mixed_ND.dtype) * weights_Nk[token, rank, None])
    return mixed_ND.to(hidden_ND.dtype)


class BailingMoeV2SparseMoeBlock(nn.Module):
    """Router, routed experts and shared expert of one sparse layer."""

    def __init__(self, config: BailingMoeV2Config, experts: type[nn.Module]) -> None:
        super().__init__()
        self.gate = BailingMoeV2Gate(config)
        self.experts = experts(config)
        self.shared_experts = None
        if config.num_shared_experts:
            width = config.moe_intermediate_size * config.num_shared_experts
            self.shared_experts = BailingMoeV2MLP(config, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        _, weights_Nk, ids_Nk = self.gate(hidden_states)
        hidden_ND = hidden_states.reshape(-1, hidden_states.shape[-1])
        output = self.experts(hidden_ND, ids_Nk, weights_Nk).view_as(hidden_states)
        if self.shared_experts is not None:
            output = output + self.shared_experts(hidden_states)
        return output
