"""The kinds of problems that ring-nano learns, how often, and endless traces of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ringlens.data.tasks import congruences, graphs, numbers, products
from ringlens.data.tasks.story import Trace

PATIENCE = 100_000
"""After so many draws without a new problem there are no more."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        name: What it is called in reports.
        task: Name of its verifier.
        share: Its share of training traces.
        sample: Draws a problem's fields.
        is_heldout: Whether fields belong to the held-out split.
        may_train: Whether a trace of a training problem keeps clear of held-out ones.
        prompt: Text of a problem.
        tell: A trace of a problem.
        solution: A right answer.
        key: The same for problems that count as one; the order of countdown's numbers is nothing.
        verify: Whether an answer is right.
    """

    name: str
    task: str
    share: float
    sample: Callable[[random.Random], dict[str, Any]]
    is_heldout: Callable[[Mapping[str, Any]], bool]
    may_train: Callable[[Mapping[str, Any]], bool]
    prompt: Callable[[random.Random, Mapping[str, Any]], str]
    tell: Callable[[random.Random, Mapping[str, Any]], Trace]
    solution: Callable[[Mapping[str, Any]], str]
    key: Callable[[Mapping[str, Any]], str]
    verify: Callable[[Mapping[str, Any], str], bool]


def _kind(name: str, share: float, module: Any, sample: Any = None) -> Kind:
    heldout = module.is_heldout
    passes = getattr(module, "passes_heldout", lambda fields: False)
    return Kind(
        name=name,
        task=module.TASK,
        share=share,
        sample=sample or module.sample,
        is_heldout=heldout,
        may_train=lambda fields: not heldout(fields) and not passes(fields),
        prompt=module.prompt,
        tell=module.tell,
        solution=module.solution,
        key=numbers.key if module is numbers else repr,
        verify=module.verify,
    )


KINDS: tuple[Kind, ...] = (
    _kind("three numbers", 0.10, numbers, numbers.sample_three),
    _kind("four numbers", 0.50, numbers, numbers.sample_four),
    _kind("graphs", 0.12, graphs),
    _kind("congruences", 0.12, congruences),
    _kind("products", 0.16, products),
)


def kind_of(name: str) -> Kind:
    """The kind of that name."""
    return next(kind for kind in KINDS if kind.name == name)


def training_problem(rng: random.Random, kind: Kind) -> dict[str, Any]:
    """Fields of a problem that may be learnt from."""
    while True:
        fields = kind.sample(rng)
        if kind.may_train(fields):
            return fields


def distinct_problems(kind: Kind, *, heldout: bool, seed: str) -> Iterator[dict[str, Any]]:
    """Distinct problems' fields of a split, while so many draws find a new one."""
    rng = random.Random(f"{kind.name} {seed}")
    seen: set[str] = set()
    misses = 0
    while misses < PATIENCE:
        fields = kind.sample(rng)
        key = kind.key(fields)
        if key in seen or kind.is_heldout(fields) != heldout:
            misses += 1
            continue
        misses = 0
        seen.add(key)
        yield fields


def traces(seed: int) -> Iterator[Trace]:
    """Endless training traces; none is of a held-out problem."""
    rng = random.Random(seed)
    shares = [kind.share for kind in KINDS]
    while True:
        (kind,) = rng.choices(KINDS, shares)
        yield kind.tell(rng, training_problem(rng, kind))
