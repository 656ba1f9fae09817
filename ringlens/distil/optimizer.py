"""AdamW on float32 copies of weights, so that a step smaller than a bfloat16 digit is not lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Copies:
    """Float32 copies of live weights, and their optimizer.

    Live weights that are float32 already are the copies.

    Args:
        live: The weights that learn.
        learning_rate: Peak of the learning rate.
        weight_decay: Of matrices; vectors have none.
        fused: Whether the optimizer takes its step in one kernel.
    """

    def __init__(
        self,
        live: Sequence[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
        fused: bool | None = None,
    ) -> None:
        self.live = list(live)
        self.tensors = [each.detach().float() for each in live]
        for copy in self.tensors:
            copy.grad = torch.zeros_like(copy)
        matrices = [copy for copy in self.tensors if copy.dim() > 1]
        vectors = [copy for copy in self.tensors if copy.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=learning_rate,
            betas=(0.9, 0.95),
            fused=fused,
        )

    @torch.no_grad()
    def step(self, rate: float, summed: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        """Take one step with the gradients of the live weights, and clear them.

        Args:
            rate: The learning rate.
            summed: Sums a gradient over the processes that learn together.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for copy, live in zip(self.tensors, self.live, strict=True):
            copy.grad = summed(torch.zeros_like(copy) if live.grad is None else live.grad.float())
            live.grad = None
        nn.utils.clip_grad_norm_(self.tensors, 1.0)
        self.optimizer.step()
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Give the live weights what the copies hold."""
        live: list[Tensor] = list(self.live)
        torch._foreach_copy_(live, self.tensors)


def rate_at(peak: float, warmup_steps: int, step: int, share: float) -> float:
    """Half a cosine to 0 over the share of the work from 0 to 1, warmed up over the first steps."""
    warmth = min(1.0, (step + 1) / max(1, warmup_steps))
    return peak * warmth * 0.5 * (1 + math.cos(math.pi * share))
