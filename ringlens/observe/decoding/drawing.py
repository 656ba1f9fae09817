"""The next token of each row, inside a step that is repeated.

It is what greedy ``generate`` takes with the processors of `ringlens.observe.sampling`: the same
scores, the same noise, the same tokens of a trace that is taken up again.

Shape letters: B batch, V vocabulary, S steps, W steps of noise in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ringlens.config import Sampling
from ringlens.observe.instruments.transfer import bring
from ringlens.observe.sampling import warpers


class Drawing:
    """Draws tokens.

    Args:
        sampling: How.
        noise_WBV: Noise of step t at place t modulo W; None at temperature 0.
        stored: Tokens that each row takes in its first steps, whatever is drawn.
        eos_token_ids: Tokens that end a row.
        pad_token_id: What an ended row takes.
        device: Where logits are.

    Attributes:
        live_B: Which rows have not ended.
    """

    def __init__(
        self,
        sampling: Sampling,
        noise_WBV: Tensor | None,
        stored: Sequence[Sequence[int]],
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        device: torch.device,
    ) -> None:
        self._warpers, self._noise_WBV = warpers(sampling), noise_WBV
        self._stored_SB = _stored(stored, device) if any(stored) else None
        self._eos = bring(torch.tensor(list(eos_token_ids)), device)
        self._pad = bring(torch.tensor(pad_token_id), device)
        self._at_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.live_B = torch.ones(len(stored), dtype=torch.bool, device=device)

    def draw(self, logits_BV: Tensor) -> Tensor:
        """The tokens [B, 1] of the next step; counts it."""
        scores_BV = logits_BV.to(torch.float32, copy=True)
        for warp in self._warpers:
            scores_BV = warp(None, scores_BV)
        if self._noise_WBV is not None:
            place_1 = self._at_1 % len(self._noise_WBV)
            scores_BV = scores_BV - self._noise_WBV.index_select(0, place_1)[0]
        drawn_B = scores_BV.argmax(dim=-1)
        if self._stored_SB is not None:
            place_1 = self._at_1.clamp(max=len(self._stored_SB) - 1)
            stored_B = self._stored_SB.index_select(0, place_1)[0]
            drawn_B = torch.where(stored_B >= 0, stored_B, drawn_B)
        next_B = torch.where(self.live_B, drawn_B, self._pad)
        self.live_B.logical_and_((next_B[:, None] != self._eos).all(dim=1))
        self._at_1.add_(1)
        return next_B[:, None]


def _stored(stored: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Tokens by step [S, B]; −1 where none is stored, and in the last step everywhere."""
    steps = max(map(len, stored)) + 1
    rows = [[*row, *[-1] * (steps - len(row))] for row in stored]
    return bring(torch.tensor(rows).T.contiguous(), device)
