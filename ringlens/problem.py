"""Problems with verifiable answers, and their graders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringlens.data import countdown
from ringlens.data.tasks import congruences, graphs, products
from ringlens.display import quoted
from ringlens.errors import ConfigError, ProblemError, RinglensError
from ringlens.graders import choice, latex, program
from ringlens.graders.ungraded import UNGRADED, UngradedError
from ringlens.messages import Message, checked_messages
from ringlens.plain import half_pair
from ringlens.transcript import Transcript, parse

FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((str,), "a string"),
    "task": ((str,), "a string"),
    "prompt": ((str,), "a string"),
    "answer": ((str, type(None)), "a string or null"),
    "fields": ((dict,), "an object"),
    "messages": ((list, tuple), "a list"),
}
"""Field of a problem → its types, and these in words."""

GIVEN = "math-rollouts"
"""Task of texts whose grade was given with them, and is kept."""

HUGE = 2**63 - 1
"""Largest number of a countdown problem."""


@dataclass(frozen=True, repr=False)
class Problem:
    """A prompt, and what is needed to verify an answer.

    Attributes:
        id: Unique within its set.
        task: Names the verifier; answers to unknown tasks are compared as text.
        prompt: What is asked, without a chat template.
        answer: The expected answer, or one of several right ones; None if unknown.
        fields: What the task's verifier needs.
        messages: The chat that ends with the prompt, where it is more than that.
    """

    id: str
    task: str
    prompt: str
    answer: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Message] = ()

    def __repr__(self) -> str:
        answer = "" if self.answer is None else f", answer={quoted(self.answer, 30)}"
        return f"Problem({quoted(self.id, 40)}, {quoted(self.prompt)}{answer})"


@dataclass(frozen=True)
class Grade:
    """A grade of a text.

    Attributes:
        answer: The answer found; None if there is none.
        correct: Whether it is right; None if that is unknown.
        flags: What its trace is flagged with: of an answer that a grader could not grade,
            "ungraded" and the reason (`ringlens.graders.ungraded.REASONS`).
    """

    answer: str | None
    correct: bool | None
    flags: tuple[str, ...] = ()


def check_problem(problem: Problem, place: str) -> None:
    """Check a problem before it is used.

    Args:
        problem: The problem.
        place: Where it stands, for errors.

    Raises:
        ProblemError: A field has the wrong type, holds half of a surrogate pair, or lacks what the
            task's verifier needs.
    """
    for key, (types, wanted) in FIELDS.items():
        value = getattr(problem, key)
        mapping = key == "fields" and isinstance(value, Mapping)
        if not mapping and not isinstance(value, types):
            raise ProblemError(f"{place}: {key!r} must be {wanted}, found {value!r:.60}.")
        wrong = half_pair(value) if isinstance(value, str) else None
        if wrong is not None:
            raise ProblemError(f"{place}: {key!r} holds {wrong}.")
    checked_messages(problem.messages, f"{place}: ", ProblemError)
    if problem.messages and problem.messages[-1]["content"] != problem.prompt:
        raise ProblemError(f"{place}: its prompt is not the last of its messages; make them agree.")
    if problem.task == countdown.TASK:
        _check_countdown(problem, place)
    elif problem.task in FROM_PROMPT:
        _asked(problem, place)
    elif problem.task == latex.TASK:
        latex.check(place)
    elif problem.task == choice.TASK:
        _expected_letter(problem, place)
    elif problem.task == program.TASK:
        program.check(problem.fields, place)


def check_prompt(prompt: str, place: str, error: type[RinglensError] = ConfigError) -> None:
    """Refuse a prompt that asks nothing, or that holds what is in no text.

    Raises:
        RinglensError: ``error``: it is empty or blank, or holds a NUL or half of a surrogate pair.
    """
    if (wrong := half_pair(prompt)) is not None:
        raise error(f"{place} holds {wrong}.")
    if not prompt.strip():
        raise error(f"{place} is empty; leave it out or write what is asked.")
    if "\0" in prompt:
        at = prompt.index("\0")
        raise error(f"{place} holds a NUL at character {at}, which is no text; leave it out.")


def from_row(row: Mapping[str, Any]) -> Problem:
    """The problem of a row of the store's ``traces``; it is graded like the original.

    ``fields`` are not stored: verifiers find what they need in the prompt or the expected answer.
    """
    return Problem(
        id=row["problem_id"] or "",
        task=row["task"] or "",
        prompt=row["prompt"],
        answer=row["expected"],
    )


def grade(problem: Problem, text: str | Transcript) -> Grade:
    r"""Find the answer in a text and verify it.

    The answer is the last ``\boxed{…}`` after the thought in the model's last turn, or else the
    last line of that turn that is not blank; `ringlens.transcript` says where turns and thoughts
    end. A thought that is cut off has no answer, nor has a turn that is cut off inside its last
    ``\boxed{``; no answer counts as wrong wherever an answer can be verified.

    Args:
        problem: What was asked.
        text: What the model wrote, with or without the prompt before it; or the same parsed, where
            the caller knows its marks.
    """
    transcript = text if isinstance(text, Transcript) else parse(text)
    answer = find_answer(transcript)
    try:
        if problem.task in FINDERS and transcript.answer is not None:
            answer = FINDERS[problem.task](problem, transcript.answer)
        verifier = VERIFIERS.get(problem.task, _verify_text)
        return Grade(answer, verifier(problem, answer if answer is not None else ""))
    except UngradedError as error:
        return Grade(answer, None, (UNGRADED, error.reason))


def find_answer(transcript: Transcript) -> str | None:
    """The answer in a model's last turn; None if it has none."""
    answer = transcript.answer
    if answer is None:
        return None
    if boxes := _boxes(answer):
        return _boxed(answer, boxes)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _boxes(text: str) -> dict[int, int | None]:
    """Where the content of each box begins and ends; None if its brace is never closed."""
    found: dict[int, int | None] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            begin = opened.pop() if opened else None
            if begin in found:
                found[begin] = match.start()
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(match.end())
            if match[0] != "{":
                found[match.end()] = None
    return found


def _boxed(text: str, boxes: dict[int, int | None]) -> str | None:
    """The content of the last outermost box, without boxes that hold nothing but a box."""
    last, behind = -1, -1
    for begin, end in boxes.items():
        if begin > behind:
            last, behind = begin, len(text) if end is None else end
    while (end := boxes[last]) is not None:
        inner = _BOX.match(text, last, end)
        within = boxes.get(inner.end()) if inner is not None else None
        if inner is None or within is None or text[within + 1 : end].strip():
            return text[last:end].strip()
        last = inner.end()
    return None


_BOX = re.compile(r"\s*\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def _verify_countdown(problem: Problem, answer: str) -> bool:
    stated = problem.fields
    if stated:
        return countdown.verify(tuple(stated["numbers"]), stated["target"], answer)
    parsed = countdown.parse_prompt(problem.prompt) or _solved(problem.answer)
    if parsed is None:
        raise ProblemError(
            f"problem {problem.id!r}: neither fields nor prompt nor expected answer say which "
            f"numbers make which target ({problem.prompt[:80]!r}). Give fields numbers and target."
        )
    return countdown.verify(*parsed, answer)


def _solved(answer: str | None) -> tuple[tuple[int, ...], int] | None:
    """Numbers and target of a right answer."""
    try:
        target, used = countdown.value(answer or "")
    except ValueError:
        return None
    return (tuple(used.elements()), int(target)) if target.denominator == 1 else None


def _verify_text(problem: Problem, answer: str) -> bool | None:
    return None if problem.answer is None else _normal(answer) == _normal(problem.answer)


FROM_PROMPT = {module.TASK: module for module in (graphs, congruences, products)}
"""Tasks whose prompt says everything that a verifier needs."""


def _verify_from_prompt(problem: Problem, answer: str) -> bool:
    fields = _asked(problem, f"problem {problem.id!r}")
    return FROM_PROMPT[problem.task].verify(fields, answer)


def _asked(problem: Problem, place: str) -> dict[str, Any]:
    """What a prompt of these tasks asks."""
    found = FROM_PROMPT[problem.task].parse_prompt(problem.prompt)
    if found is None:
        raise ProblemError(
            f"{place}: the prompt {problem.prompt[:80]!r} is none of the task {problem.task}, so "
            "no answer to it can be verified. Word it like the bundled problems, or leave the task "
            "out."
        )
    return found


def _graded_elsewhere(problem: Problem, answer: str) -> None:
    return None


def _find_choice(problem: Problem, answer: str) -> str:
    boxes = _boxes(answer)
    boxed = (_boxed(answer, boxes) or "") if boxes else None
    return choice.choice(answer, boxed, choice.letters(problem.prompt))


def _verify_choice(problem: Problem, answer: str) -> bool | None:
    if problem.answer is None:
        return None
    return answer == _expected_letter(problem, f"problem {problem.id!r}")


def _expected_letter(problem: Problem, place: str) -> str | None:
    """The letter of the expected answer; None where that is unknown.

    Raises:
        ProblemError: It is none of the prompt's letters.
    """
    allowed = choice.letters(problem.prompt)
    if problem.answer is None or (letter := choice.expected(problem.answer, allowed)):
        return None if problem.answer is None else letter
    raise ProblemError(
        f"{place}: the answer {problem.answer!r:.60} is none of the letters {allowed[0]} to "
        f"{allowed[-1]} that the prompt lists; give the letter of the right choice."
    )


def _verify_latex(problem: Problem, answer: str) -> bool | None:
    if problem.answer is None:
        return None
    return bool(_verify_text(problem, answer)) or latex.equal(problem.answer, answer)


def _find_program(problem: Problem, answer: str) -> str | None:
    return program.program(answer)


def _verify_program(problem: Problem, answer: str) -> bool:
    if not problem.fields:
        raise UngradedError("no_tests")
    tests = program.read(problem.fields, f"problem {problem.id!r}")
    return bool(answer) and program.passes(answer, tests)


FINDERS: dict[str, Callable[[Problem, str], str | None]] = {
    choice.TASK: _find_choice,
    program.TASK: _find_program,
}
"""Task → function that finds the answer in what the model wrote behind its thought, where that is
not the last box or line."""

VERIFIERS: dict[str, Callable[[Problem, str], bool | None]] = {
    countdown.TASK: _verify_countdown,
    **dict.fromkeys(FROM_PROMPT, _verify_from_prompt),
    GIVEN: _graded_elsewhere,
    latex.TASK: _verify_latex,
    choice.TASK: _verify_choice,
    program.TASK: _verify_program,
}
"""Task → function that says whether an answer is right; None if it cannot know."""

COMPARED = (latex.TASK,)
"""Tasks with a verifier that compares with the expected answer, and so says of any two answers
whether they are the same. So do tasks without a verifier, whose answers are compared as text."""


def _normal(text: str) -> str:
    """A text without differences of case, spacing, dollar signs and a final full stop."""
    return " ".join(text.replace("$", " ").split()).removesuffix(".").casefold()


def _check_countdown(problem: Problem, place: str) -> None:
    numbers, target = problem.fields.get("numbers"), problem.fields.get("target")
    listed = list(numbers) if isinstance(numbers, list | tuple) else []
    whole = all(type(n) is int and abs(n) <= HUGE for n in (*listed, target))
    if problem.fields and not (listed and whole):
        raise ProblemError(
            f"{place}: fields of countdown are numbers (a list of whole numbers) and target (a "
            f"whole number), found {dict(problem.fields)!r:.200}."
        )
    if not problem.fields and not (
        countdown.parse_prompt(problem.prompt) or _solved(problem.answer)
    ):
        raise ProblemError(f"{place}: countdown needs fields numbers and target.")
