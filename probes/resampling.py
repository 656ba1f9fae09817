"""Resampling: what becomes of a thought if a step is written anew.

Before each step, and behind the last, thoughts are written on to their answers, some times over. A
step matters by how the answers from behind it differ from those from before it; what the step said
matters by how they differ from the answers of those thoughts that put another step in its place
(counterfactual importance, arXiv 2506.19143). A place gets more samples until the share of its most
frequent answer is known well enough.

Shape letter: K places.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ringlens.analysis.importance.same_answer import grouped
from ringlens.analysis.roles import rules
from ringlens.analysis.statistics.share import wilson
from ringlens.analysis.steps import segment
from ringlens.config import Sampling, number, whole
from ringlens.errors import ConfigError
from ringlens.observe.sampling import trace_seed
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup
from ringlens.probes.chain.batches import batches
from ringlens.probes.chain.meter import Cost
from ringlens.probes.chain.probe import Row, Subject
from ringlens.probes.chain.writing import write
from ringlens.problem import grade

ROLLOUT = "rollout"
"""Key of the results."""

_STRIDE = 1_000_003
"""Seeds of places are so far apart."""


@dataclass(frozen=True)
class Resampling:
    """What becomes of a thought if its steps are written anew.

    Attributes:
        every: Steps from one place to the next.
        least: Samples of a place at first, and how many it gets more at a time.
        most: Samples of a place at most.
        precision: A place has enough samples when the 95% interval of the share of its most
            frequent answer is this much to either side, or less.
        temperature: Temperature of the draws.
        top_p: Draw among the most likely tokens that together have this probability.
        max_new_tokens: Most tokens of a sample.
        seed: Seed of the draws.
    """

    every: int = 1
    least: int = 8
    most: int = 32
    precision: float = 0.17
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        whole("every", self.every, 1)
        whole("least", self.least, 2)
        whole("most", self.most, self.least)
        number("precision", self.precision, 0.0, 1.0)
        whole("seed", self.seed, 0)
        if not self._sampling.temperature:
            raise ConfigError("temperature = 0 writes the same again and again; give it above 0.")

    @property
    def _sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, 0, self.top_p, self.seed)

    def cost(self, subject: Subject) -> Cost:
        """The thought once, and the most samples of each place in their full length."""
        samples = len(self._places(subject)) * self.most
        groups = -(-samples // subject.batch_size) + self.most // self.least
        end = subject.thought.steps[-1].end
        return Cost(1 + groups * self.max_new_tokens, end + samples * self.max_new_tokens)

    def measure(self, subject: Subject) -> Iterator[Row]:
        """Measure one thought."""
        samples: dict[_Place, list[_Sample]] = {place: [] for place in self._places(subject)}
        while open_ := [place for place, own in samples.items() if self._wants(subject, own)]:
            wanted = [
                (place, number)
                for place in open_
                for number in range(len(samples[place]), min(self.most, self._next(samples[place])))
            ]
            for part in batches(wanted, subject.batch_size):
                for (place, _), sample in zip(part, self._written(subject, part), strict=True):
                    samples[place].append(sample)
        for place, own in samples.items():
            for number_, sample in enumerate(own):
                said = json.dumps(sample._asdict())
                value = None if sample.correct is None else float(sample.correct)
                yield {
                    "step": place.step,
                    "unit": number_,
                    "key": ROLLOUT,
                    "value": value,
                    "json": said,
                }

    def _places(self, subject: Subject) -> list[_Place]:
        """Ends of every so many steps; the place before the first is one in any case."""
        return [_Place(*each) for each in subject.thought.ends[:: self.every]]

    def _next(self, own: Sequence[_Sample]) -> int:
        return len(own) + self.least

    def _wants(self, subject: Subject, own: Sequence[_Sample]) -> bool:
        """Whether a place needs more samples."""
        if len(own) < self.least:
            return True
        if len(own) >= self.most:
            return False
        counts = Counter(_numbered(subject, own))
        return half_width(max(counts.values()), len(own)) > self.precision

    def _written(self, subject: Subject, part: Sequence[tuple[_Place, int]]) -> Iterator[_Sample]:
        lens, thought = subject.lens, subject.thought
        ends = [place.end for place, _ in part]
        # The last token is read again: the cache holds its keys, and not what it foretells.
        rows = subject.prefix.rows([end - 1 for end in ends])
        seeds = [
            trace_seed(self.seed, thought.trace_id * _STRIDE + (place.step + 1) * self.most + n)
            for place, n in part
        ]
        given = [[thought.token_ids[end - 1]] for end in ends]
        eos = lens.eos_token_ids
        texts = write(rows, given, self._sampling, seeds, lambda ids: ids[-1] in eos)
        for (place, _), text in zip(part, texts, strict=True):
            yield _sample(subject, place, text.ids)


class _Place(NamedTuple):
    """A place of a thought: the step before it, and the tokens up to it."""

    step: int
    end: int


class _Sample(NamedTuple):
    """A thought that was written on.

    Attributes:
        answer: Its answer; None if it has none.
        correct: Whether this is right; None if it cannot be known.
        text: The first step that was written.
        role: What this step does.
        is_backtrack: Whether it goes back.
        tokens: Tokens that were written.
    """

    answer: str | None
    correct: bool | None
    text: str
    role: str
    is_backtrack: bool
    tokens: int


def half_width(successes: int, n: int) -> float:
    """Half of the 95% interval of a share (Wilson 1927)."""
    low, high = wilson(successes, n)
    return (high - low) / 2


def _numbered(subject: Subject, samples: Sequence[_Sample]) -> list[int]:
    """A number for each answer; -1 for none."""
    known = iter(grouped(subject.thought.problem, [s.answer for s in samples if s.answer]))
    return [next(known) if sample.answer else -1 for sample in samples]


def _sample(subject: Subject, place: _Place, written: Sequence[int]) -> _Sample:
    """Read what was written: its answer, and its first step."""
    thought, tokenizer = subject.thought, subject.lens.tokenizer
    ids = [*thought.token_ids[: place.end], *written]
    text = token_text(tokenizer, ids)
    question = thought.problem.prompt
    reading = markup(tokenizer).read(text, thought.n_prompt, written=True, question=question)
    graded = grade(thought.problem, reading.transcript)
    more = "".join(
        piece
        for piece, phase in zip(text.pieces[place.end :], reading.phase[place.end :], strict=True)
        if phase == "think"
    )
    first = next((more[s.start : s.end].strip() for s in segment(more)), "")
    before = [step.text for step in thought.steps if step.end <= place.end]
    label = rules.label([*before, first], thought.problem.prompt)[-1]
    return _Sample(
        graded.answer, graded.correct, first, label.role, bool(label.is_backtrack), len(written)
    )
