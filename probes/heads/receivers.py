"""Which heads look back at a few steps of a thought, and whether it is more than recency.

Shape letters: H heads, T tokens of a chunk, S steps, g gaps, P permutations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor
from transformers.cache_utils import DynamicCache

from ringlens.config import whole
from ringlens.errors import ConfigError
from ringlens.observe.instruments.attention import watched_attention
from ringlens.probes.chain.meter import Cost
from ringlens.probes.chain.prefix import run
from ringlens.probes.chain.probe import Row, Subject
from ringlens.probes.heads.step_sums import Chunk, Steps, StepScores, StepSums, chunk_of

if TYPE_CHECKING:
    from ringlens.observe.kernels.attention import HeadStatistics

KURTOSIS, BEYOND, RECENCY, PROMPT = "kurtosis", "beyond_recency", "recency", "prompt"
"""Keys of the results; those of a gap end with it, as "kurtosis:4"."""

FEWEST = 19
"""Permutations that are drawn in any case: the least p-value is then 0.05."""

HELD = 2**28
"""Numbers that the sums of the null may hold, all layers together: 1 GiB of float32."""


@dataclass(frozen=True)
class Receivers:
    """How much attention each head pays to each step of the thought.

    Attributes:
        gaps: Fewest steps between one that attends and one that is attended to. The published
            score takes 4 (Thought Anchors, arXiv 2506.19143).
        permutations: Draws of the null at most; fewer where a long thought would hold too many
            numbers, and 19 at least.
        chunk: Positions that a forward takes at most.
        pairs: Pairs of steps that are kept of a thought in the table head_steps at most: those of
            all heads, of the mean over heads, or none.
        seed: Seed of the null.
    """

    gaps: tuple[int, ...] = (1, 4, 8, 16)
    permutations: int = 199
    chunk: int = 2048
    pairs: int = 500_000
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gaps", tuple(whole("gaps", gap, 1) for gap in self.gaps))
        if not self.gaps or len(set(self.gaps)) < len(self.gaps):
            raise ConfigError(f"gaps = {self.gaps}: give different ones, such as (1, 4, 8, 16).")
        whole("permutations", self.permutations, FEWEST)
        whole("chunk", self.chunk, 1)
        whole("pairs", self.pairs, 0)
        whole("seed", self.seed, 0)

    def cost(self, subject: Subject) -> Cost:
        """The thought once, in chunks."""
        end = subject.thought.steps[-1].end
        return Cost(len(self._parts(subject)), end)

    def measure(self, subject: Subject) -> Iterator[Row]:
        """Measure one thought."""
        numbers = [step.number for step in subject.thought.steps]
        keep = self._keep(subject)
        for layer, sums in sorted(self.sums(subject).items()):
            scores = sums.scores()
            yield from self._rows(layer, scores)
            for head, matrix_SS in zip(keep, scores.matrices, strict=True):
                yield from _pairs(layer, head, matrix_SS, numbers)

    def sums(self, subject: Subject) -> dict[int, StepSums]:
        """Run the thought, and sum what the heads of each layer pay to its steps."""
        lens, thought = subject.lens, subject.thought
        steps = Steps(
            tuple(step.first for step in thought.steps), tuple(step.end for step in thought.steps)
        )
        permutations = self._draws(subject)
        keep = self._keep(subject)
        found: dict[int, StepSums] = {}
        cache = DynamicCache(config=lens.config)
        for start, stop in self._parts(subject):
            with ExitStack() as watched:
                if start >= steps.first[0]:
                    chunk = chunk_of(
                        steps, start, stop, self.gaps, permutations, self.seed, lens.device
                    )
                    for layer in range(lens.sizes.layers):
                        make = partial(StepSums, steps, self.gaps, permutations)
                        see = partial(_see, found, layer, partial(make, keep=keep), chunk)
                        watched.enter_context(watched_attention(lens.model, layer, see))
                ids = [thought.token_ids[start:stop]]
                run(lens, subject.meter, ids, cache, logits_to_keep=1)
        return found

    def _parts(self, subject: Subject) -> list[tuple[int, int]]:
        """Parts of the thought that a forward takes; one ends where the first step begins."""
        first, end = subject.thought.steps[0].first, subject.thought.steps[-1].end
        edges = [*range(0, first, self.chunk), *range(first, end, self.chunk), end]
        return list(pairwise(edges))

    def _draws(self, subject: Subject) -> int:
        """Permutations that the sums have room for."""
        sizes = subject.lens.sizes
        one = sizes.layers * sizes.heads * len(self.gaps) * len(subject.thought.steps)
        return min(self.permutations, max(FEWEST, HELD // one))

    def _keep(self, subject: Subject) -> Sequence[int | None]:
        """Heads of which all pairs of steps are kept; None stands for the mean over heads."""
        sizes, S = subject.lens.sizes, len(subject.thought.steps)
        each = sizes.layers * S * (S + 1) // 2
        if each * (1 + sizes.heads) <= self.pairs:
            return (None, *range(sizes.heads))
        return (None,) if each <= self.pairs else ()

    def _rows(self, layer: int, scores: StepScores) -> Iterator[Row]:
        for head in range(len(scores.recency_H)):
            place = {"layer": layer, "unit": head}
            yield {**place, "key": RECENCY, "value": float(scores.recency_H[head])}
            yield {**place, "key": PROMPT, "value": float(scores.prompt_H[head])}
            for g, gap in enumerate(self.gaps):
                null_P = scores.null_gPH[g, :, head]
                score = scores.kurtosis_gH[g, head]
                dealt = json.dumps([round(x, 4) for x in null_P.tolist()])
                counted = {"value": float(score), "json": dealt} if score.isfinite() else {}
                yield {**place, "key": f"{KURTOSIS}:{gap}", **counted}
                beyond = scores.beyond_recency_gH[g, head]
                told = {"value": float(beyond)} if beyond.isfinite() else {}
                yield {**place, "key": f"{BEYOND}:{gap}", **told}


def _see(
    found: dict[int, StepSums],
    layer: int,
    make: Callable[[Tensor], StepSums],
    chunk: Chunk,
    query_1HTC: Tensor,
    key_1GKC: Tensor,
    _: Tensor,
    scaling: float,
    __: HeadStatistics | None,
) -> None:
    """Add a chunk to the sums of a layer, which are made when it is seen first."""
    if layer not in found:
        found[layer] = make(query_1HTC)
    found[layer].add(query_1HTC, key_1GKC, scaling, chunk)


def _pairs(
    layer: int, head: int | None, matrix_SS: Tensor, numbers: Sequence[int]
) -> Iterator[Row]:
    """Rows of ``head_steps``: what each step pays to itself and to each earlier one."""
    place = {"table": "head_steps", "layer": layer, "head": head}
    for i, paid_S in enumerate(matrix_SS.tolist()):
        for j in range(i + 1):
            pair = {"step_from": numbers[i], "step_to": numbers[j]}
            yield {**place, **pair, "mass": paid_S[j]}
