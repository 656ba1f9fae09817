"""Logit lens: in which layer what a token foretells is settled, along a thought.

The residual stream behind each layer is read as if it were the last: through the final norm and the
head. D is the Jensen–Shannon divergence, in bits, of what is read there and what is foretold in the
end; the settling depth is the first layer at which D has fallen to a threshold (arXiv 2602.13517).

Shape letters: n tokens of a part, V vocabulary, L layers, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ringlens.config import number
from ringlens.errors import ObservationError
from ringlens.observe.hooks import attach
from ringlens.observe.points import POINTS, module_at
from ringlens.probes.chain.meter import Cost
from ringlens.probes.chain.prefix import run
from ringlens.probes.chain.probe import Row, Subject

DIVERGENCE, DEPTH = "divergence", "depth"
"""Keys of the results."""

CELLS = 2**24
"""Logits that are held at once, of one layer."""


@dataclass(frozen=True)
class LogitLens:
    """In which layer what a token foretells is settled, along a thought.

    Attributes:
        threshold: The divergence at which it counts as settled, in bits, 0 to 1.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        number("threshold", self.threshold, 0.0, 1.0)

    def cost(self, subject: Subject) -> Cost:
        """The thought once; the head runs once for each layer beside."""
        T = subject.thought.steps[-1].end
        return Cost(-(-T // _width(subject)), T)

    def measure(self, subject: Subject) -> Iterator[Row]:
        """Measure one thought."""
        divergence_LT = _divergences(subject)
        reached_LT = divergence_LT <= self.threshold
        # Behind the last layer nothing differs, but by rounding.
        reached_LT[-1] = True
        depth_T = reached_LT.argmax(axis=0)
        for step in subject.thought.steps:
            # What a token is was foretold by the one before it.
            own = slice(max(step.first, 1) - 1, step.end - 1)
            for layer, value in enumerate(divergence_LT[:, own].mean(axis=1)):
                place = {"step": step.number, "layer": layer}
                yield {**place, "key": DIVERGENCE, "value": float(value)}
            for pos, depth in enumerate(depth_T[own].tolist(), own.start + 1):
                place = {"step": step.number, "pos": pos}
                yield {**place, "key": DEPTH, "value": float(depth)}


def _divergences(subject: Subject) -> NDArray[np.float64]:
    """Divergence of what is read behind each layer from what is foretold, bits [L, T]."""
    lens, ids = subject.lens, subject.thought.token_ids[: subject.thought.steps[-1].end]
    L, width = lens.sizes.layers, _width(subject)
    found_LT = np.zeros((L, len(ids)))
    cache = DynamicCache(config=lens.config)
    for first in range(0, len(ids), width):
        part = ids[first : first + width]
        kept: dict[int, Tensor] = {}
        hooks = [(POINTS["resid_post"], layer, partial(_keep, kept, layer)) for layer in range(L)]
        with ExitStack() as attached:
            attached.enter_context(attach(lens.model, hooks))
            final_nV = run(lens, subject.meter, [part], cache)[0]
        for layer, hidden_nD in kept.items():
            told_nV = _read(subject, hidden_nD)
            bits_n = divergence(final_nV, told_nV.to(final_nV.device))
            found_LT[layer, first : first + len(part)] = bits_n.double().cpu().numpy()
    return found_LT


def _keep(kept: dict[int, Tensor], layer: int, resid_1nD: Tensor) -> None:
    kept[layer] = resid_1nD[0].detach()


def _read(subject: Subject, hidden_nD: Tensor) -> Tensor:
    """What is foretold if a layer is the last: logits [n, V] in float32."""
    model = subject.lens.model
    head = model.get_output_embeddings()
    if head is None:
        raise ObservationError(f"{subject.lens.name} has no head that foretells tokens.")
    with torch.inference_mode():
        logits_nV: Tensor = head(module_at(model, POINTS["final_norm"])(hidden_nD)).float()
    return logits_nV


def divergence(first_nV: Tensor, second_nV: Tensor) -> Tensor:
    """Jensen–Shannon divergence of two sets of logits, bits [n]."""
    p_nV, q_nV = first_nV.softmax(dim=-1), second_nV.softmax(dim=-1)
    entropy = [torch.special.entr(each).sum(dim=-1) for each in ((p_nV + q_nV) / 2, p_nV, q_nV)]
    return ((entropy[0] - (entropy[1] + entropy[2]) / 2) / log(2)).clamp(0, 1)


def _width(subject: Subject) -> int:
    """Tokens that go through at once."""
    return max(1, CELLS // subject.lens.sizes.vocabulary)
