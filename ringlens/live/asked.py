"""What a person asks a model to think about, checked before the model hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ringlens.errors import ConfigError, RequestError
from ringlens.interventions.text import read_interventions
from ringlens.live.sets import ProblemSets
from ringlens.plain import half_pair
from ringlens.problem import Problem

FIELDS = ("prompt", "problem", "interventions", "beside", "max_new_tokens", "temperature", "seed")


@dataclass(frozen=True)
class Limits:
    """What one request and the queue may hold.

    Attributes:
        characters: Of a prompt.
        tokens: New tokens of a thought.
        interventions: Of a thought.
        waiting: Thoughts in the queue.
        kept: Thoughts that the page still shows; all of them stay in the store.
    """

    characters: int = 20_000
    tokens: int = 4096
    interventions: int = 16
    waiting: int = 8
    kept: int = 24


@dataclass(frozen=True)
class Asked:
    """One thought that is asked for.

    Attributes:
        prompt: What is asked.
        interventions: What is changed in the model, in its text form; none for a plain run.
        max_new_tokens: Most tokens that it may add to the prompt.
        temperature: 0 takes the most likely token.
        seed: Seed of the run.
        problem: The problem that the prompt is of, by which the answer is graded; None for a prompt
            that was typed.
    """

    prompt: str
    interventions: tuple[str, ...] = ()
    max_new_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    problem: Problem | None = None

    @property
    def plain(self) -> Asked:
        """The same without interventions."""
        return replace(self, interventions=())

    def row(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "interventions": list(self.interventions)}


def asked_in(body: Mapping[str, Any], limits: Limits, sets: ProblemSets) -> tuple[Asked, ...]:
    """Read the thoughts that a request asks for: the plain one first, where one is asked for.

    Args:
        body: The request: a value for each of `FIELDS`; all but the prompt may be left out, and the
            prompt where there is a problem: the name of its ``set`` and its ``id`` there.
        limits: What it may hold.
        sets: Sets that problems may be of.

    Raises:
        RequestError: A value of the wrong kind, or beyond a limit.
        NotInStoreError: There is no such problem.
        ProblemError: Its set cannot be read.
    """
    if unknown := sorted(set(body) - set(FIELDS)):
        raise RequestError(f"a thought has no {unknown[0]!r:.40}; it has {', '.join(FIELDS)}")
    problem = None if body.get("problem") is None else _problem(body, sets)
    asked = Asked(
        _prompt(body.get("prompt") if problem is None else problem.prompt, limits.characters),
        _interventions(body.get("interventions", []), limits.interventions),
        _whole(body, "max_new_tokens", Asked.max_new_tokens, 1, limits.tokens),
        _temperature(body.get("temperature", Asked.temperature)),
        _whole(body, "seed", Asked.seed, 0, 2**31 - 1),
        problem,
    )
    beside = body.get("beside", True)
    if not isinstance(beside, bool):
        raise RequestError("'beside' says whether a plain run stands beside: give true or false")
    return (asked.plain, asked) if asked.interventions and beside else (asked,)


def _problem(body: Mapping[str, Any], sets: ProblemSets) -> Problem:
    named = body["problem"]
    if not isinstance(named, dict) or {*map(type, named.values())} - {str}:
        raise RequestError("'problem' must be an object with the name of a set and an id in it")
    if set(named) != {"set", "id"} or body.get("prompt") is not None:
        raise RequestError("a problem is named by its set and its id alone, without a prompt")
    return sets.find(named["set"], named["id"])


def _prompt(value: Any, most: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RequestError("the prompt is empty: write what the model should think about")
    if len(value) > most:
        raise RequestError(
            f"the prompt has {len(value):,} characters, and {most:,} are the most here: shorten "
            f"it, or use `ringlens capture`"
        )
    if "\0" in value or half_pair(value) is not None:
        raise RequestError("the prompt holds a character that is in no text: take it out")
    return value


def _interventions(value: Any, most: int) -> tuple[str, ...]:
    """Read text forms, and write each as the store will have it."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise RequestError("interventions must be a list of texts, such as 'ablate:5/3+7@think'")
    if len(value) > most:
        raise RequestError(f"{len(value)} interventions, and {most} are the most here")
    for each in value:
        if len(each) > 100_000:
            raise RequestError("an intervention has more than 100,000 characters")
        # A page must not be able to ask which files this machine has.
        if each.partition("@")[0].rstrip().endswith(".npy"):
            raise RequestError(
                "a direction cannot be read from a file here: use `ringlens capture --intervene`"
            )
    try:
        return tuple(str(each) for each in read_interventions(value))
    except ConfigError as error:
        raise RequestError(str(error)) from error


def _whole(body: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RequestError(f"{name} is {value!r:.40}; give a whole number, {least} to {most}")
    return value


def _temperature(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise RequestError(f"temperature is {value!r:.40}; give a number from 0 to 100")
    return float(value)
