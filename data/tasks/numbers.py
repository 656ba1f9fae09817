"""Countdown told in steps: the search of `ringlens.data.countdown`, in varied sentences.

Choices that lead into a dead end are context only. Some searches are given up, which is learnt:
their problems have a solution, and the answer "none" is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ringlens.data import countdown
from ringlens.data.countdown import Move, Search, State
from ringlens.data.tasks.story import Story, Trace

TASK = countdown.TASK
GIVES_UP = 0.25
"""Share of searches with many dead ends that are given up."""
MANY_DEAD_ENDS = 6

SETUP = (
    "I need {target} from {numbers}, two numbers at a time.",
    "The task is to make {target} from {numbers}.",
    "We have {numbers} and want {target}.",
)
PLAN = (
    "I will try one move after another and go back from dead ends.",
    "Plan: combine two numbers, see what is left, and turn back if it fails.",
    "My plan is to search, two numbers at a time.",
)
FACT = ("Recall that {target} is {a} * {b}.", "I know that {a} * {b} = {target}.")
TRY = (
    "Let me try {move}, leaving {left}.",
    "Try {move}, which leaves {left}.",
    "Next is {move}, leaving {left}.",
    "Maybe {move}, leaving {left}.",
)
GIVE_MISS = (
    "They give {found}: {target} is not there.",
    "From these come {found}, but no {target}.",
)
GIVE_HIT = ("They give {found}: {target} is there.", "From these come {found}, with {target}.")
BACK = (
    "Wait, that is a dead end, so back to {numbers}.",
    "Hmm, that leads nowhere; I go back to {numbers}.",
    "No luck there, so back to {numbers}.",
)
DOUBT = ("Hmm, I am not sure that this leads there.", "I doubt that this is the way.")
FOUND = ("So the moves are {moves}.", "That makes {moves} in all.")
CHECK = ("Check: {sums}, as wanted.", "Let me verify: {sums}, and that is {target}.")
AGAIN = ("Let me check once more: {sums}.",)
FINAL = ("So the answer is {answer}.", "The expression is {answer}.")
STUCK = ("I cannot find a way to {target}, so I give up.", "Hmm, I see no way to {target}.")
NONE = ("So my answer is none.", "I have no answer here.")


def sample(rng: random.Random, size: int) -> dict[str, Any]:
    """A problem's fields: numbers and target, and the moves that made it under ``path``."""
    numbers, target, path = countdown.sample(rng, size)
    shuffled = rng.sample(numbers, size)
    return {"numbers": shuffled, "target": target, "path": path}


def sample_three(rng: random.Random) -> dict[str, Any]:
    """A problem of three numbers."""
    return sample(rng, 3)


def sample_four(rng: random.Random) -> dict[str, Any]:
    """A problem of four numbers."""
    return sample(rng, 4)


def key(fields: Mapping[str, Any]) -> str:
    """Numbers and target, in whatever order the numbers are given."""
    return f"{sorted(fields['numbers'])}:{fields['target']}"


def is_heldout(fields: Mapping[str, Any]) -> bool:
    """Whether the problem belongs to the held-out split."""
    numbers, target = tuple(fields["numbers"]), fields["target"]
    return countdown.is_heldout(numbers, target)


def passes_heldout(fields: Mapping[str, Any]) -> bool:
    """Whether the first of four numbers' moves leaves a held-out problem of three."""
    numbers = tuple(sorted(fields["numbers"], reverse=True))
    if len(numbers) == 3:
        return False
    return countdown.is_heldout(countdown.after(numbers, fields["path"][0]), fields["target"])


def prompt(rng: random.Random, fields: Mapping[str, Any]) -> str:
    """The text of a problem."""
    return countdown.prompt(tuple(fields["numbers"]), fields["target"])


def solution(fields: Mapping[str, Any]) -> str:
    """A right answer."""
    numbers = tuple(sorted(fields["numbers"], reverse=True))
    return countdown.compose(numbers, fields["path"])


def verify(fields: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer uses each number once and equals the target."""
    return countdown.verify(tuple(fields["numbers"]), fields["target"], answer)


def tell(rng: random.Random, fields: Mapping[str, Any]) -> Trace:
    """Tell the search, through dead ends to the path, or until it is given up."""
    numbers = tuple(sorted(fields["numbers"], reverse=True))
    target, path = fields["target"], fields["path"]
    teller = _Teller(Story(rng), numbers, target)
    teller.open()
    found = countdown.search(rng, numbers, target, path)
    dead = sum(len(each.dead_leaves) for each in found.dead_branches) + len(found.dead_leaves)
    gives_up = dead >= MANY_DEAD_ENDS and rng.random() < GIVES_UP
    teller.search(found, path, gives_up=gives_up)
    answer, last = teller.give_up() if gives_up else teller.close(path)
    asked = prompt(rng, fields)
    kept = {"numbers": list(fields["numbers"]), "target": target}
    return teller.story.end(TASK, asked, kept, answer, correct=not gives_up, parent=last)


class _Teller:
    """Tells one search; keeps the step that each state was reached by."""

    def __init__(self, story: Story, numbers: State, target: int) -> None:
        self.story, self.numbers, self.target = story, numbers, target
        self.start = 0

    def open(self) -> None:
        """Say what is asked, and how it will be searched for."""
        story, target = self.story, self.target
        listed = countdown.listed(self.numbers)
        story.say("problem_setup", SETUP, target=target, numbers=listed)
        factors = [a for a in range(2, 11) if target % a == 0 and target // a >= a]
        if factors and story.rng.random() < 0.3:
            a = story.rng.choice(factors)
            story.say("fact_retrieval", FACT, target=target, a=a, b=target // a)
        story.say("plan_generation", PLAN)
        self.start = story.last
        story.drift()

    def search(self, found: Search, path: list[Move], *, gives_up: bool) -> None:
        """Say the dead branches, then the last one."""
        for move, left, leaves in found.dead_branches:
            at = self.branch(move, left, self.start, led_on=False)
            if self.story.rng.random() < 0.08:
                self.story.say("uncertainty_management", DOUBT)
            self.dead_leaves(leaves, left, at, last_back=self.numbers)
        at = self.start
        if len(self.numbers) == 4:
            at = self.branch(path[0], found.last, at, led_on=True)
        self.dead_leaves(found.dead_leaves, found.last, at, last_back=found.last)
        if not gives_up:
            self.leaf(path[-2], countdown.after(found.last, path[-2]), at, led_on=True)

    def branch(self, move: Move, left: State, parent: int, *, led_on: bool) -> int:
        """Say a move; give its step."""
        shown = str(move) if led_on else f"[{move.x} {move.op} {move.y}] = {move.result}"
        values: dict[str, Any] = {"move": shown, "left": countdown.listed(left)}
        return self.story.say("active_computation", TRY, parent=parent, **values)

    def leaf(self, move: Move, left: State, parent: int, *, led_on: bool) -> None:
        """Say a move to two numbers, and what these give."""
        self.branch(move, left, parent, led_on=led_on)
        results = tuple(last.result for last in countdown.moves(*left))
        phrases = GIVE_HIT if self.target in results else GIVE_MISS
        values: dict[str, Any] = {"found": countdown.listed(results), "target": self.target}
        self.story.say("active_computation", phrases, **values)

    def dead_leaves(
        self, leaves: list[tuple[Move, State]], state: State, parent: int, *, last_back: State
    ) -> None:
        """Say moves that fail, each with the way back; after the last, back to ``last_back``."""
        for place, (move, left) in enumerate(leaves, 1):
            self.leaf(move, left, parent, led_on=False)
            back = countdown.listed(last_back if place == len(leaves) else state)
            self.story.say("uncertainty_management", BACK, backtrack=True, numbers=back)

    def close(self, path: list[Move]) -> tuple[str, int]:
        """Say the moves, check them, and give the answer with the step that says it."""
        story, target = self.story, self.target
        answer = countdown.compose(self.numbers, path)
        sums = ", ".join(map(str, path))
        found = story.say("result_consolidation", FOUND, moves=sums)
        story.say("self_checking", CHECK, sums=sums, target=target)
        last = story.say("final_answer_emission", FINAL, parent=found, answer=answer)
        if story.wants_recheck():
            story.say("self_checking", AGAIN, sums=sums)
        return answer, last

    def give_up(self) -> tuple[str, int]:
        """Say that no way was found; give the answer "none" with the step that says it."""
        stuck: dict[str, Any] = {"parent": self.start, "target": self.target}
        self.story.say("uncertainty_management", STUCK, backtrack=True, **stuck)
        return "none", self.story.say("final_answer_emission", NONE, error=True)
