"""Belief: what a model would answer if it had to, after each step of its thought.

At the end of each step the thought is ended for the model, and it answers: greedily, and some times
drawn at temperature 1. Its answers at all places, the one that it gave in the end and the expected
one are the candidates. At each place every candidate then has its exact probability: that the
model, made to answer there, writes it and nothing more. What is left of 1 is the probability of all
other answers. The entropy is that of the whole answer, by the chain rule over the drawn ones.

Shape letters: K places, C candidates, n tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringlens.analysis.importance.same_answer import grouped, is_right
from ringlens.config import Sampling, whole
from ringlens.observe.sampling import trace_seed
from ringlens.probes.chain.answer_form import AnswerForm, answer_form
from ringlens.probes.chain.batches import batches
from ringlens.probes.chain.meter import Cost
from ringlens.probes.chain.probe import Row, Subject
from ringlens.probes.chain.writing import write

CANDIDATE, P, OTHER, ENTROPY, GREEDY = "candidate", "p", "other", "entropy", "greedy"
"""Keys of the results."""


@dataclass(frozen=True)
class Belief:
    r"""What the model would answer if it had to, after each step of its thought.

    Attributes:
        every: Steps from one place to the next; the last step is one in any case.
        opening: Text that makes the model answer, such as "</think>\n"; None takes it from a
            thought of the run that ended.
        boxed: Whether the answer ends with the brace that closes a box; None for whether the
            opening opens one.
        candidates: Most candidate answers, the final and the expected one among them.
        samples: Answers drawn at each place, for the entropy; 0 for none.
        max_answer_tokens: Most tokens of an answer, its end included.
        seed: Seed of the draws.
    """

    every: int = 1
    opening: str | None = None
    boxed: bool | None = None
    candidates: int = 16
    samples: int = 4
    max_answer_tokens: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        whole("every", self.every, 1)
        whole("candidates", self.candidates, 2)
        whole("samples", self.samples, 0)
        whole("max_answer_tokens", self.max_answer_tokens, 1)
        whole("seed", self.seed, 0)

    def cost(self, subject: Subject) -> Cost:
        """The thought once, an answer at each place, and each candidate at each place."""
        form = self._form(subject)
        places = self._places(subject, form)
        known = [
            len(form.ids_of(subject.lens, answer))
            for answer in (subject.thought.answer, subject.thought.problem.answer)
            if answer is not None
        ]
        opening, longest = max(len(each.opening) for each in places), self.max_answer_tokens
        longest = max(longest, *known) if known else longest
        written, scored = len(places) * (1 + self.samples), len(places) * self.candidates
        batch = subject.batch_size
        groups = 2 + -(-written // batch)  # openings of two lengths are run apart
        return Cost(
            1 + groups * (longest + 1) + -(-scored // batch),
            subject.thought.steps[-1].end + (written + scored) * (opening + longest),
        )

    def measure(self, subject: Subject) -> Iterator[Row]:
        """Measure one thought."""
        form = self._form(subject)
        places = self._places(subject, form)
        greedy = _answers(subject, form, places, Sampling(self.max_answer_tokens), [0])
        drawing = Sampling(self.max_answer_tokens, temperature=1.0)
        seeds = [
            trace_seed(self.seed, subject.thought.trace_id * self.samples + number)
            for number in range(self.samples)
        ]
        drawn = _answers(subject, form, places, drawing, seeds)
        candidates = self._candidates(subject, form, [*greedy, *drawn])
        logp_KC = _log_probabilities(subject, places, [each.ids for each in candidates])
        yield from _candidate_rows(subject, candidates)
        yield from _place_rows(places, greedy, candidates, logp_KC)
        yield from _entropy_rows(places, drawn, self.samples)

    def _form(self, subject: Subject) -> AnswerForm:
        return answer_form(subject.thought, subject.model_thought, self.opening, self.boxed)

    def _places(self, subject: Subject, form: AnswerForm) -> list[_Place]:
        ends = subject.thought.ends
        chosen = sorted({*range(0, len(ends), self.every), len(ends) - 1})
        found = []
        for number, end in (ends[each] for each in chosen):
            before = subject.thought.text_of(max(0, end - 1), end)
            found.append(_Place(number, end, tuple(form.opening_ids(subject.lens, before))))
        return found

    def _candidates(
        self, subject: Subject, form: AnswerForm, answers: Sequence[_Answer]
    ) -> list[_Candidate]:
        """Candidates: the final answer, the expected one, then those given at most places."""
        thought, lens = subject.thought, subject.lens
        told: list[tuple[str, tuple[int, ...]]] = []
        for answer in (thought.answer, thought.problem.answer):
            if answer is not None:
                told.append((answer, tuple(form.ids_of(lens, answer))))
        counts = Counter((each.text, each.ids) for each in answers if each.text is not None)
        told += [(text, ids) for (text, ids), _ in counts.most_common() if text is not None]
        told = list(dict.fromkeys(told))
        numbers = grouped(thought.problem, [text for text, _ in told])
        return [
            _Candidate(number, text, ids)
            for number, (text, ids) in zip(numbers, told, strict=True)
            if number < self.candidates
        ]


class _Place(NamedTuple):
    """A place of a thought: the step before it, the tokens up to it, and what ends the thought."""

    step: int
    end: int
    opening: tuple[int, ...]


class _Answer(NamedTuple):
    """An answer as it was written; without a text if it did not end."""

    text: str | None
    ids: tuple[int, ...]
    entropy: float


class _Candidate(NamedTuple):
    """A way to write a candidate answer; those of one number are the same answer."""

    number: int
    text: str
    ids: tuple[int, ...]


def _answers(
    subject: Subject,
    form: AnswerForm,
    places: Sequence[_Place],
    settings: Sampling,
    seeds: Sequence[int],
) -> list[_Answer]:
    """Answers at each place, one of each seed: by place, and by seed within a place."""
    lens, found = subject.lens, {}
    wanted = [(place, seed) for place in places for seed in seeds]
    for part in _alike(wanted, subject.batch_size):
        rows = subject.prefix.rows([place.end for place, _ in part])
        openings = [place.opening for place, _ in part]
        own = [seed for _, seed in part]
        texts = write(rows, openings, settings, own, lambda ids: form.has_ended(lens, ids))
        for (place, seed), text in zip(part, texts, strict=True):
            answer = form.answer_of(lens, text.ids)
            found[place.step, seed] = _Answer(answer, text.ids, text.entropy)
    return [found[place.step, seed] for place, seed in wanted]


def _alike(wanted: Sequence[tuple[_Place, int]], size: int) -> Iterator[list[tuple[_Place, int]]]:
    """Batches of places whose openings are equally long."""
    by_length: dict[int, list[tuple[_Place, int]]] = {}
    for place, seed in wanted:
        by_length.setdefault(len(place.opening), []).append((place, seed))
    for own in by_length.values():
        yield from batches(own, size)


def _log_probabilities(
    subject: Subject, places: Sequence[_Place], answers: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Log-probability of each answer, its end included, at each place [K, C]."""
    logp_KC = np.full((len(places), len(answers)), -np.inf)
    pairs = [(k, c) for k in range(len(places)) for c in range(len(answers))]
    pad = subject.lens.pad_token_id
    for part in batches(pairs, subject.batch_size):
        texts = [[*places[k].opening, *answers[c]] for k, c in part]
        longest = max(map(len, texts))
        rows = subject.prefix.rows([places[k].end for k, _ in part])
        logits_BnV = rows.feed([text + [pad] * (longest - len(text)) for text in texts])
        for row, (k, c) in enumerate(part):
            first, n = len(places[k].opening), len(answers[c])
            told_nV = logits_BnV[row, first - 1 : first - 1 + n].log_softmax(dim=-1)
            ids = told_nV.new_tensor(answers[c]).long()
            logp_KC[k, c] = float(told_nV.gather(1, ids[:, None]).double().sum())
    return logp_KC


def _candidate_rows(subject: Subject, candidates: Sequence[_Candidate]) -> Iterator[Row]:
    """The candidates, each with one way to write it."""
    thought = subject.thought
    first = {each.number: each.text for each in reversed(candidates)}
    for number, text in sorted(first.items()):
        final = thought.answer is not None and number == 0
        said = {"answer": text, "correct": is_right(thought.problem, text), "final": final}
        yield {"unit": number, "key": CANDIDATE, "json": json.dumps(said)}


def _place_rows(
    places: Sequence[_Place],
    greedy: Sequence[_Answer],
    candidates: Sequence[_Candidate],
    logp_KC: NDArray[np.float64],
) -> Iterator[Row]:
    """At each place the probability of each candidate and of all others, and the greedy answer."""
    numbers_C = np.array([each.number for each in candidates])
    number_of = {each.ids: each.number for each in candidates}
    for place, answer, logp_C in zip(places, greedy, logp_KC, strict=True):
        p_N = np.bincount(numbers_C, np.exp(logp_C))
        for number, p in enumerate(p_N):
            yield {"step": place.step, "unit": number, "key": P, "value": float(p)}
        other = max(0.0, 1.0 - float(p_N.sum()))
        yield {"step": place.step, "key": OTHER, "value": other}
        given = number_of.get(answer.ids) if answer.text is not None else None
        said = json.dumps({"answer": answer.text})
        yield {"step": place.step, "unit": given, "key": GREEDY, "json": said}


def _entropy_rows(
    places: Sequence[_Place], drawn: Sequence[_Answer], samples: int
) -> Iterator[Row]:
    """The entropy of the answer at each place: the mean over drawn answers."""
    if not samples:
        return
    for place, own in zip(places, batches(drawn, samples), strict=True):
        value = float(np.mean([each.entropy for each in own]))
        yield {"step": place.step, "key": ENTROPY, "value": value}
