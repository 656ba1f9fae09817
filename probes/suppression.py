"""Suppression: how a thought goes on if it cannot look back at one of its steps.

One step at a time is hidden, in all heads of all layers, from every token behind it; the tokens
stay as they are. Where the model then foretells something else, it had looked (arXiv 2506.19143).

Shape letters: B rows (the first as the model is), n tokens of a part, V vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ringlens.config import number
from ringlens.probes.chain.batches import batches
from ringlens.probes.chain.meter import NOTHING, Cost
from ringlens.probes.chain.probe import Row, Subject
from ringlens.probes.chain.thought import ThoughtStep

LOG_KL, ANSWER_LOG_KL, ANSWER_DROP = "log_kl", "answer_log_kl", "answer_drop"
"""Keys of the results."""

CELLS = 2**26
"""Logits that are held at once."""


@dataclass(frozen=True)
class Suppression:
    """How the rest of a thought changes if the model cannot look back at a step.

    Attributes:
        floor: What is added to a divergence before its logarithm is taken.
    """

    floor: float = 1e-9

    def __post_init__(self) -> None:
        number("floor", self.floor, 1e-30, 1.0)

    def cost(self, subject: Subject) -> Cost:
        """The thought once, and what is behind each step again, with a row as the model is."""
        thought = subject.thought
        T, V = len(thought.token_ids), subject.lens.sizes.vocabulary
        total = Cost(1, thought.steps[-1].end)
        for part in batches(thought.steps, max(1, subject.batch_size - 1)):
            n, B = T - part[0].end, len(part) + 1
            total += Cost(-(-n // _width(B, V)), B * n) if n > 0 else NOTHING
        return total

    def measure(self, subject: Subject) -> Iterator[Row]:
        """Measure one thought."""
        for part in batches(subject.thought.steps, max(1, subject.batch_size - 1)):
            kl_BT, drop_BT = _divergences(subject, part)
            for step, kl_T, drop_T in zip(part, kl_BT, drop_BT, strict=True):
                yield from self._rows(subject, step, kl_T, drop_T)

    def _rows(
        self,
        subject: Subject,
        hidden: ThoughtStep,
        kl_T: NDArray[np.float64],
        drop_T: NDArray[np.float64],
    ) -> Iterator[Row]:
        """What hiding one step does to each later one, and to the answer."""
        thought = subject.thought
        log_T = np.log(np.maximum(kl_T, 0) + self.floor)
        for step in thought.steps:
            if step.first >= hidden.end and step.end <= len(kl_T):
                value = float(log_T[step.first : step.end].mean())
                place = {"step": step.number, "changed_step": hidden.number}
                yield {**place, "key": LOG_KL, "value": value}
        first = thought.answer_first
        if first is not None:  # the token before the answer foretells its first
            own = slice(first - 1, len(kl_T) - 1)
            place = {"changed_step": hidden.number}
            yield {**place, "key": ANSWER_LOG_KL, "value": float(log_T[own].mean())}
            yield {**place, "key": ANSWER_DROP, "value": float(drop_T[own].sum())}


def _divergences(
    subject: Subject, hidden: Sequence[ThoughtStep]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each token foretells without some steps, one at a time.

    Returns:
        KL(as it is ‖ without) of what each token foretells [B, T], 0 before the first hidden step
        has ended; and how far the log-probability of the next token falls [B, T].
    """
    ids = list(subject.thought.token_ids)
    begin, T, B = hidden[0].end, len(ids), len(hidden) + 1
    kl_BT, drop_BT = np.zeros((B - 1, T)), np.zeros((B - 1, T))
    rows = subject.prefix.rows([begin] * B, [None, *((each.first, each.end) for each in hidden)])
    width = _width(B, subject.lens.sizes.vocabulary)
    for first in range(begin, T, width):
        end = min(first + width, T)
        logp_BnV = rows.feed([ids[first:end]] * B).log_softmax(dim=-1)
        kl_BT[:, first:end] = _kl(logp_BnV).double().cpu().numpy()
        following = torch.tensor(ids[first + 1 : end + 1], device=logp_BnV.device)
        n = len(following)
        told_Bn = logp_BnV[:, :n].gather(-1, following[None, :, None].expand(B, -1, 1))[..., 0]
        drop_BT[:, first : first + n] = (told_Bn[:1] - told_Bn[1:]).double().cpu().numpy()
    return kl_BT, drop_BT


def _kl(logp_BnV: Tensor) -> Tensor:
    """KL(first row ‖ each other row), nats [B − 1, n]."""
    base_nV = logp_BnV[0]
    p_nV = base_nV.exp()
    return torch.stack([(p_nV * (base_nV - other_nV)).sum(dim=-1) for other_nV in logp_BnV[1:]])


def _width(B: int, V: int) -> int:
    """Tokens that go through at once."""
    return max(1, CELLS // (B * V))
