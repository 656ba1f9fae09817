"""What the heads of one layer pay to the steps of a trace, summed while the trace passes through.

M_ij is the attention weight of a token of step i on all tokens of step j, mean over the tokens of
step i. A trace of thousands of steps has too many of them to hold for all heads, so sums are kept,
chunk by chunk: nothing here grows with the square of the trace but matrices that are asked for.

Shape letters: H heads, G kv heads, T queries of a chunk, K keys, C head dimension, S steps, J the
prompt and the S steps, I steps of a chunk, g gaps, P permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ringlens.observe.kernels.attention import Causal, wide
from ringlens.observe.kernels.attention_segments import segment_mass

LEFT_OUT = 4
"""Steps at the end whose received attention is left out: few steps follow them."""

LEAST = 8
"""Fewest steps that a kurtosis is computed of."""


@dataclass(frozen=True)
class Steps:
    """Where the steps of a trace are.

    Attributes:
        first: Position of the first token of each step, ascending, [S].
        end: Position after its last token, [S]; tokens between steps belong to none.
    """

    first: tuple[int, ...]
    end: tuple[int, ...]

    def __len__(self) -> int:
        """S."""
        return len(self.first)

    def spans(self) -> Tensor:
        """Start and stop of the prompt and of each step, [J, 2]."""
        return torch.tensor([(0, self.first[0]), *zip(self.first, self.end, strict=True)])


@dataclass(frozen=True)
class Chunk:
    """Consecutive queries of a trace, the first of them within a step.

    Attributes:
        start: Position of the first query.
        first: Its step.
        last: Step of the last query.
        row_T: Step of each query, counted from ``first``, [T].
        share_T: What each query adds to the mean of its step, [T]; 0 of one between steps.
        order_gPIS: For each gap, permutation and step of the chunk, which earlier step each earlier
            step's attention comes from; steps nearer than the gap stay where they are.
    """

    start: int
    first: int
    last: int
    row_T: Tensor
    share_T: Tensor
    order_gPIS: Tensor


def chunk_of(
    steps: Steps,
    start: int,
    stop: int,
    gaps: Sequence[int],
    permutations: int,
    seed: int,
    device: torch.device | None = None,
) -> Chunk:
    """Describe the queries from position ``start``, which lies within a step, to ``stop``.

    All layers share it, so that it lies where they are, and its orders are sorted there.
    """
    own_T = torch.arange(start, stop)
    first_S, end_S = torch.tensor(steps.first), torch.tensor(steps.end)
    step_T = torch.bucketize(own_T, first_S, right=True) - 1
    share_T = (own_T < end_S[step_T]).double() / (end_S - first_S)[step_T]
    first, last = int(step_T[0]), int(step_T[-1])
    orders_gPIS = _orders(range(first, last + 1), len(steps), gaps, permutations, seed, device)
    row_T, share_T = (step_T - first).to(device), share_T.to(device)
    return Chunk(start, first, last, row_T, share_T, orders_gPIS)


def _orders(
    chunk: range,
    steps: int,
    gaps: Sequence[int],
    permutations: int,
    seed: int,
    device: torch.device | None,
) -> Tensor:
    """Orders [g, P, I, S] of the rows of steps; the same however the trace is cut into chunks."""
    drawn = []
    for step in chunk:
        rng = torch.Generator().manual_seed(seed * 2**20 + step)
        drawn.append(torch.rand(permutations, steps, generator=rng))
    keys_PIS = torch.stack(drawn, dim=1).to(device)
    place_S = torch.arange(steps, device=device)
    step_I1 = torch.tensor(chunk, device=device)[:, None]
    # What is near sorts behind all that is drawn, in its own order.
    near_S = (1.0 + place_S).to(keys_PIS.dtype)
    return torch.stack(
        [torch.where(place_S <= step_I1 - gap, keys_PIS, near_S).argsort(dim=-1) for gap in gaps]
    )


@dataclass(frozen=True)
class StepScores:
    """What the heads of one layer pay to the steps of a trace.

    Attributes:
        received_gHS: v_j of each gap: mean of M_ij over the steps i ≥ j + gap, NaN where there is
            none.
        kurtosis_gH: Excess kurtosis of v over the steps; NaN of fewer than `LEAST` steps.
        null_gPH: The same after what each step pays was dealt anew among the steps it may look at.
        beyond_recency_gH: Excess kurtosis of v_j over what v_j were if weight depended on distance
            alone.
        recency_H: Share of the attention on steps that stays within a step: own and previous.
        prompt_H: Mean attention of a step on the prompt.
        matrices: M of the heads that were kept, [S, S] each; rows attend, columns are attended to.
    """

    received_gHS: Tensor
    kurtosis_gH: Tensor
    null_gPH: Tensor
    beyond_recency_gH: Tensor
    recency_H: Tensor
    prompt_H: Tensor
    matrices: tuple[Tensor, ...]


class StepSums:
    """Sums over the rows of M for the heads of one layer.

    Args:
        steps: Where the steps are.
        gaps: Fewest steps between one that attends and one that is attended to.
        permutations: Draws of the null.
        query_1HTC: Some queries: what is computed has their heads, device and precision, float32 at
            least.
        keep: Heads whose M is kept whole; None stands for the mean over heads.
    """

    def __init__(
        self,
        steps: Steps,
        gaps: Sequence[int],
        permutations: int,
        query_1HTC: Tensor,
        keep: Sequence[int | None] = (),
    ) -> None:
        self.steps, self.gaps, self.keep = steps, tuple(gaps), tuple(keep)
        S, H = len(steps), query_1HTC.shape[1]
        self._like = wide(query_1HTC[:0])
        self._received_gHS = self._like.new_zeros(len(self.gaps), H, S)
        self._null_gPHS = self._like.new_zeros(len(self.gaps), permutations, H, S)
        self._by_distance_HS = self._like.new_zeros(H, S)
        self._prompt_H = self._like.new_zeros(H)
        self._kept = [self._like.new_zeros(S, S) for _ in self.keep]

    def add(self, query_1HTC: Tensor, key_1GKC: Tensor, scaling: float, chunk: Chunk) -> None:
        """Add the rows of a chunk; the keys end with the chunk's own."""
        rows_HIJ = self._rows(query_1HTC, key_1GKC, scaling, chunk)
        rows_HIS = rows_HIJ[:, :, 1:]
        self._prompt_H += rows_HIJ[:, :, 0].sum(dim=1)
        step_I = torch.arange(chunk.first, chunk.last + 1, device=rows_HIS.device)
        # Of a step it is the distance, of a distance the step: the sums of both use one table.
        distance_IS = step_I[:, None] - torch.arange(len(self.steps), device=rows_HIS.device)
        at_distance_HIS = rows_HIS.gather(2, distance_IS.clamp(min=0).expand_as(rows_HIS))
        self._by_distance_HS += (at_distance_HIS * (distance_IS >= 0)).sum(dim=1)
        for g, gap in enumerate(self.gaps):
            apart_HIS = rows_HIS * (distance_IS >= gap)
            self._received_gHS[g] += apart_HIS.sum(dim=1)
            for p, order_IS in enumerate(chunk.order_gPIS[g].to(rows_HIS.device)):
                dealt_HIS = apart_HIS.gather(2, order_IS.expand_as(apart_HIS))
                self._null_gPHS[g, p] += dealt_HIS.sum(dim=1)
        for kept_SS, head in zip(self._kept, self.keep, strict=True):
            row_IS = rows_HIS.mean(dim=0) if head is None else rows_HIS[head]
            kept_SS[chunk.first : chunk.last + 1] += row_IS

    def scores(self) -> StepScores:
        """What the sums say, once all chunks are added."""
        S, scores = len(self.steps), []
        place_S = torch.arange(S, device=self._like.device)
        rows_S = (S - place_S).to(self._like.dtype)
        mean_HS = self._by_distance_HS / rows_S  # of a distance
        for g, gap in enumerate(self.gaps):
            later_S = (rows_S - gap).masked_fill(rows_S <= gap, torch.nan)
            received_HS = self._received_gHS[g] / later_S
            expected_HS = _from_distance(mean_HS, gap) / later_S
            counted = slice(max(0, S - max(gap, LEFT_OUT)))
            scores.append(
                (
                    received_HS,
                    _kurtosis(received_HS[:, counted]),
                    _kurtosis((self._null_gPHS[g] / later_S)[..., counted]),
                    _kurtosis((received_HS / expected_HS)[:, counted]),
                )
            )
        received_gHS, kurtosis_gH, null_gPH, beyond_gH = map(torch.stack, zip(*scores, strict=True))
        near_H = self._by_distance_HS[:, :2].sum(dim=1)
        return StepScores(
            received_gHS.cpu(),
            kurtosis_gH.cpu(),
            null_gPH.cpu(),
            beyond_gH.cpu(),
            (near_H / self._by_distance_HS.sum(dim=1)).cpu(),
            (self._prompt_H / S).cpu(),
            tuple(kept_SS.cpu() for kept_SS in self._kept),
        )

    def _rows(self, query_1HTC: Tensor, key_1GKC: Tensor, scaling: float, chunk: Chunk) -> Tensor:
        """Rows of M in the steps of a chunk, [H, I, J]: a part of the mean where a step is cut."""
        H, T, C = query_1HTC.shape[1:]
        steps, device = chunk.last - chunk.first + 1, query_1HTC.device
        spans = self.steps.spans()
        rows_IHJ = self._like.new_zeros(steps, H, len(spans))
        row_T, share_T = chunk.row_T.to(device), chunk.share_T.to(device, rows_IHJ.dtype)
        seen = int((spans[:, 0] < chunk.start + T).sum())
        for at in range(0, seen, C):
            part = slice(at, min(at + C, seen))
            mass_THj = segment_mass(query_1HTC, key_1GKC, Causal(), scaling, spans[part])[0]
            weighted = mass_THj.to(rows_IHJ.dtype) * share_T[:, None, None]
            rows_IHJ[:, :, part].index_add_(0, row_T, weighted)
        return rows_IHJ.transpose(0, 1)


def _from_distance(mean_HS: Tensor, gap: int) -> Tensor:
    """Sum over i ≥ j + gap of the mean weight at the distance i − j, for each step j, [H, S]."""
    S = mean_HS.shape[1]
    up_to_HS = mean_HS.cumsum(dim=1)  # distances 0 … d
    far_HS = up_to_HS.flip(1)  # of step j the largest distance is S − 1 − j
    near_H1 = up_to_HS[:, min(gap, S) - 1 : min(gap, S)] if gap else torch.zeros_like(far_HS[:, :1])
    return far_HS - near_H1


def _kurtosis(values_xS: Tensor) -> Tensor:
    """Excess kurtosis over the last dimension, m₄ / m₂² − 3; NaN of few or equal values."""
    if values_xS.shape[-1] < LEAST:
        return values_xS.new_full(values_xS.shape[:-1], torch.nan)
    from_mean_xS = values_xS - values_xS.mean(dim=-1, keepdim=True)
    squared_x = from_mean_xS.square().mean(dim=-1)
    found_x = from_mean_xS.pow(4).mean(dim=-1) / squared_x.square() - 3.0
    return found_x.masked_fill(squared_x == 0, torch.nan)
