"""A thought told in steps, each with what is true of it: role, parent, errors, ways back."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

Role = Literal[
    "problem_setup",
    "plan_generation",
    "fact_retrieval",
    "active_computation",
    "uncertainty_management",
    "result_consolidation",
    "self_checking",
    "final_answer_emission",
    "unknown",
]
ROLES: tuple[str, ...] = get_args(Role)

OPENED, CLOSED = "<think>\n", "</think>\n"
_UNLEARNT = re.compile(r"\[([^\[\]]*)\]")

TENTATIVE = ("Maybe", "Let me try", "Try ")
"""How phrases begin that propose something to try."""

FILLERS = (
    "Okay, let us see here.",
    "Right, on we go now.",
    "Well, here it comes then.",
    "Good, now for the rest.",
)
FILLER_SHARE = 0.08
"""Share of thoughts that hold a sentence that does nothing."""
RECHECK_SHARE = 0.1
"""Share of thoughts that check again after they have said the answer."""


@dataclass(frozen=True)
class Step:
    """One sentence of a trace, or its answer, and what is true of it.

    Attributes:
        start: Where it begins in the completion, in characters.
        end: Where the next begins; spans of steps tile the completion.
        role: What it does.
        parent: Index of the step that it goes on from; -1 for the first.
        on_path: Whether the answer goes on from it, over any number of steps.
        is_backtrack: Whether it gives up a line of thought, or takes a result back.
        is_hypothesis: Whether it supposes something in order to test it.
        has_error: Whether it states something false on purpose.
    """

    start: int
    end: int
    role: Role
    parent: int
    on_path: bool
    is_backtrack: bool = False
    is_hypothesis: bool = False
    has_error: bool = False


class Phrases(NamedTuple):
    """The phrase of a step, with braces, and the ones that say the same.

    Attributes:
        chosen: The phrase.
        among: All of them.
    """

    chosen: str
    among: tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """A problem and one way of thinking about it.

    Attributes:
        task: Name of the problem's kind.
        prompt: What is asked.
        fields: What a verifier needs.
        completion: Thought and answer: ``<think>``, sentences, ``</think>``, answer.
        answer: The answer alone.
        correct: Whether it is right.
        steps: The steps of the completion, in order.
        unlearnt: Spans of the completion, in characters, that are context only: mistakes that a
            model learns to mend, and not to make.
        phrases: What each step was said by: its phrase, and all that it was drawn from; none of
            the answer.
    """

    task: str
    prompt: str
    fields: Mapping[str, Any]
    completion: str
    answer: str
    correct: bool
    steps: tuple[Step, ...]
    unlearnt: tuple[tuple[int, int], ...] = ()
    phrases: tuple[Phrases, ...] = ()

    def text_of(self, step: Step) -> str:
        """The words of a step, without the marks and white space around them."""
        text = self.completion[step.start : step.end]
        return text.removeprefix(OPENED).removeprefix(CLOSED).strip()

    def row(self, name: str) -> dict[str, Any]:
        """The trace as a line of JSON, with the text of every step."""
        steps = [{"text": self.text_of(step), **asdict(step)} for step in self.steps]
        return {
            "id": name,
            "task": self.task,
            "prompt": self.prompt,
            "fields": dict(self.fields),
            "completion": self.completion,
            "answer": self.answer,
            "correct": self.correct,
            "steps": steps,
        }


@dataclass
class _Said:
    text: str
    role: Role
    parent: int
    flags: dict[str, bool]
    phrases: Phrases | None = None
    unlearnt: list[tuple[int, int]] = field(default_factory=list)


class Story:
    """Writes a trace sentence by sentence.

    Text between [ and ] is said, but is context only: no loss is taken on it.

    Args:
        rng: Source of the phrasing.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._said: list[_Said] = []

    @property
    def last(self) -> int:
        """Index of the last step."""
        return len(self._said) - 1

    def say(
        self,
        role: Role,
        phrases: str | Iterable[str],
        *,
        parent: int | None = None,
        backtrack: bool = False,
        hypothesis: bool = False,
        error: bool = False,
        **values: object,
    ) -> int:
        """Say one of some phrases as the next step.

        Args:
            role: What the step does.
            phrases: The sentence, or several that say the same, of which one is drawn.
            parent: The step that it goes on from; None for the last.
            backtrack: Whether it gives something up.
            hypothesis: Whether it supposes something; a phrase that begins as `TENTATIVE` does too.
            error: Whether it is false on purpose.
            values: What stands in the phrase's braces.

        Returns:
            The index of the step.
        """
        among = (phrases,) if isinstance(phrases, str) else tuple(phrases)
        phrase = phrases if isinstance(phrases, str) else self.rng.choice(among)
        tentative = hypothesis or phrase.startswith(TENTATIVE)
        flags = {"is_backtrack": backtrack, "is_hypothesis": tentative, "has_error": error}
        goes_on_from = self.last if parent is None else parent
        said = _Said("", role, goes_on_from, flags, Phrases(phrase, among))
        for at, part in enumerate(_UNLEARNT.split(phrase.format(**values))):
            if at % 2:
                said.unlearnt.append((len(said.text), len(said.text) + len(part)))
            said.text += part
        self._said.append(said)
        return self.last

    def drift(self) -> None:
        """Now and then, say something that does nothing; what follows goes on from before it."""
        if self.rng.random() < FILLER_SHARE and self.last >= 0:
            self.say("unknown", FILLERS)

    def wants_recheck(self) -> bool:
        """Whether this thought checks again after its answer."""
        return self.rng.random() < RECHECK_SHARE

    def end(
        self,
        task: str,
        prompt: str,
        fields: Mapping[str, Any],
        answer: str,
        *,
        correct: bool,
        parent: int,
    ) -> Trace:
        """Close the thought and give the answer, which goes on from the step ``parent``."""
        said = _Said(answer, "final_answer_emission", parent, {"has_error": not correct})
        everything = [*self._said, said]
        path = _ancestors(everything)
        text, steps, unlearnt = OPENED, [], []
        for index, each in enumerate(everything):
            start = len(text) if index else 0
            if each is said:
                text += CLOSED
            unlearnt += [(len(text) + begin, len(text) + end) for begin, end in each.unlearnt]
            text += each.text + ("" if each is said else "\n")
            on_path = index in path
            steps.append(Step(start, len(text), each.role, each.parent, on_path, **each.flags))
        return Trace(
            task,
            prompt,
            dict(fields),
            text,
            answer,
            correct,
            tuple(steps),
            tuple(unlearnt),
            tuple(each.phrases for each in self._said if each.phrases is not None),
        )


def and_joined(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "A, B and C"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _ancestors(said: list[_Said]) -> set[int]:
    """The last step and all that it goes on from."""
    found, at = set(), len(said) - 1
    while at >= 0:
        found.add(at)
        at = said[at].parent
    return found
