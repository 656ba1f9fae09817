"""Steering: what a direction in the residual stream does to thoughts and answers.

The direction leads from the mean vector of one selection of tokens to that of another, and is added
to the stream of a layer at every token behind the prompt (arXiv 2308.10248, 2312.06681). Each
problem is steered by the direction of all others, so that no problem has made its own. Random
directions of the same length stand beside it: what they do as well is no effect of the direction.

Shape letter: D dimensions of the residual stream.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringlens.analysis.importance.results import problems_of
from ringlens.analysis.roles import rules
from ringlens.analysis.roles.labelling import token_span, written_steps
from ringlens.config import number, whole
from ringlens.errors import ConfigError
from ringlens.interventions import Steer
from ringlens.observe.interventions.resolve import resolve
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup
from ringlens.probes.chain.intervened import written_under
from ringlens.probes.chain.meter import Cost
from ringlens.probes.chain.probe import Prepared, Row, Subject
from ringlens.probes.direction import POINT, Direction, difference_of_means, named
from ringlens.problem import grade

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.probes.chain.thought import Thought
    from ringlens.store import Store


@dataclass(frozen=True)
class Steering:
    """What a direction in the residual stream does to thoughts and answers, beside random ones.

    Attributes:
        a: Tokens that the direction leads to, a predicate over token_context such as
            "is_backtrack"; thoughts only where it names no phase.
        b: Tokens that it leads away from.
        layer: The layer behind which it was read, and is added.
        strengths: What it is multiplied by; 1 moves the mean of b onto that of a.
        randoms: Random directions of the same length, each at every strength.
        max_new_tokens: Most tokens of a text.
        seed: Seed of the random directions.
    """

    a: str
    b: str
    layer: int
    strengths: tuple[float, ...] = (-2.0, -1.0, 1.0, 2.0)
    randoms: int = 4
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        whole("layer", self.layer, 0)
        whole("randoms", self.randoms, 1)
        whole("max_new_tokens", self.max_new_tokens, 1)
        whole("seed", self.seed, 0)
        given = (self.strengths,) if isinstance(self.strengths, int | float) else self.strengths
        found = tuple(number("strengths", each, -1e6, 1e6) for each in given)
        if not found or 0.0 in found or len(set(found)) < len(found):
            raise ConfigError(
                f"strengths = {given!r:.60}; give different ones that are not 0: the model as it "
                "is stands beside them in any case."
            )
        object.__setattr__(self, "strengths", found)

    def prepared(self, lens: LoadedModel, store: Store, trace_ids: Sequence[int]) -> Prepared:
        """Compute the direction; each problem is asked once, by its first trace."""
        direction = difference_of_means(store, self.a, self.b, layer=self.layer)
        resolve(lens, Steer(self.layer, direction.vector))  # refused before anything is written
        first: dict[str, int] = {}
        for trace_id, problem in problems_of(store, trace_ids).items():
            first.setdefault(named(trace_id, problem.id or None), trace_id)
        facts = {"direction": direction.digest}
        return Prepared(_Steered(self, direction), frozenset(first.values()), facts)


class _Variant(NamedTuple):
    """What is added to the stream: a direction by its number, 0 the one in question; None: none."""

    number: int | None
    strength: float
    acts: tuple[Steer, ...]


@dataclass(frozen=True)
class _Steered:
    """Steering by a direction that is known."""

    settings: Steering
    direction: Direction

    def cost(self, subject: Subject) -> Cost:
        """The prompt once, and each text in its full length."""
        asked = self.settings
        texts = 1 + len(asked.strengths) * (1 + asked.randoms)
        groups = -(-texts // subject.batch_size)
        return Cost(
            1 + groups * asked.max_new_tokens,
            subject.thought.n_prompt + texts * asked.max_new_tokens,
        )

    def measure(self, subject: Subject) -> Iterator[Row]:
        """Let the model think about one problem, as it is and steered."""
        thought = subject.thought
        prompt_ids = thought.token_ids[: thought.n_prompt]
        variants = list(self._variants(thought))
        texts = written_under(
            subject.lens,
            prompt_ids,
            [each.acts for each in variants],
            self.settings.max_new_tokens,
            subject.batch_size,
            subject.meter.add,
        )
        for variant, ids in zip(variants, texts, strict=True):
            correct, said = _read(subject, ids)
            yield {
                "layer": self.settings.layer,
                "unit": variant.number,
                "key": f"written:{variant.strength!r}",
                "value": None if correct is None else float(correct),
                "json": json.dumps({"strength": variant.strength, **said}),
            }

    def _variants(self, thought: Thought) -> Iterator[_Variant]:
        """The model as it is, then the direction and random ones at each strength."""
        layer, span = self.settings.layer, (thought.n_prompt, None)
        own_D = self.direction.without(named(thought.trace_id, thought.problem.id or None))
        yield _Variant(None, 0.0, ())
        for number_, vector_D in enumerate((own_D, *self._random(own_D))):
            for strength in self.settings.strengths:
                act = Steer(layer, vector_D, by=strength, point=POINT, span=span)
                yield _Variant(number_, strength, (act,))

    def _random(self, own_D: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Directions drawn evenly over the sphere, as long as the one in question."""
        length = float(np.linalg.norm(own_D))
        for number_ in range(self.settings.randoms):
            drawn_D = np.random.default_rng([self.settings.seed, number_]).normal(size=len(own_D))
            yield (drawn_D / np.linalg.norm(drawn_D) * length).astype(np.float32)


def _read(subject: Subject, ids: list[int]) -> tuple[bool | None, dict[str, object]]:
    """Whether the answer of a text is right, and what its thought is made of."""
    lens, thought = subject.lens, subject.thought
    text = token_text(lens.tokenizer, ids)
    question = thought.problem.prompt
    reading = markup(lens.tokenizer).read(text, thought.n_prompt, question=question)
    graded = grade(thought.problem, reading.transcript)
    start_T = np.array(text.starts)
    steps = list(written_steps(text.text, start_T, reading.phase))
    last = len(ids) - 1
    thinks = [reading.phase[min(token_span(step, start_T)[0], last)] == "think" for step in steps]
    labels = rules.label([text.text[step.start : step.end] for step in steps], question)
    own = [label for label, inside in zip(labels, thinks, strict=True) if inside]
    return graded.correct, {
        "steps": len(own),
        "roles": dict(Counter(str(label.role) for label in own)),
        "backtracks": sum(bool(label.is_backtrack) for label in own),
        "thought": reading.phase.count("think"),
        "stopped": ids[-1] in lens.eos_token_ids,
    }
