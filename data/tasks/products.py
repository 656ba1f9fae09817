"""Products of two-digit numbers, by parts; slips are caught by checks and mended.

A slip is a wrong number in a line, put there on purpose. Most are context only, so that a model
learns to mend what it gets wrong and not to get it wrong. Some are never caught: their answers are
wrong, and are learnt.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping
from typing import Any

from ringlens.data.tasks.story import Story, Trace

TASK = "products"
FACTORS = range(11, 100)
HELDOUT_SHARE = 20
"""One pair of factors in so many is held out, in both orders."""
SLIP_SHARE = 0.4
"""Share of thoughts with a slip."""
UNCAUGHT_SHARE = 0.04
"""Share of thoughts with a slip that is not caught."""
LEARNT_SLIP_SHARE = 0.25
"""Share of caught slips that are learnt, so that a model slips by itself now and then."""

PROMPTS = ("What is {a} * {b}?", "Compute {a} * {b}.")
_PROMPT = re.compile(r"(?:What is|Compute) (\d{1,9}) \* (\d{1,9})[.?]")

SETUP = (
    "I need {a} times {b}.",
    "The task is to multiply {a} by {b}.",
    "We want the product of {a} and {b}.",
)
PLAN = (
    "I will split {b} into {tens} and {ones}.",
    "Plan: take {a} times {tens}, then {a} times {ones}, and add.",
    "My plan is to use {b} = {tens} + {ones}.",
)
PRODUCT = ("{a} * {b} = {c}.", "Then {a} * {b} = {c}.", "Now {a} * {b} = {c}.")
SUM = ("{a} + {b} = {c}.", "Then {a} + {b} = {c}.", "Adding, {a} + {b} = {c}.")
PART_CHECK = (
    "Check: {t} * {b} = {x} and {u} * {b} = {y}, together {c}.",
    "Let me verify: {t} * {b} = {x}, {u} * {b} = {y}, and in all {c}.",
)
AGREES = ("Good, that agrees with it.", "Yes, that is the same.")
SLIPPED = (
    "Wait, I had {wrong}, so back to {a} * {b}.",
    "Hmm, {wrong} was wrong; I go back to {a} * {b}.",
    "No, that is not {wrong}, so I take it back.",
)
MENDED = ("It should be {a} * {b} = {c}.", "Right is {a} * {b} = {c}.")
REDONE = ("Again: {a} * {b} = {c}.", "Once more, {a} * {b} = {c}.")
NINES = (
    "Recall that remainders by 9 multiply like the numbers.",
    "I know that a product and its factors must agree by 9.",
)
NINES_HOLD = (
    "Check by 9: {a} leaves {x}, {b} leaves {y}, and {c} leaves {z}, which fits.",
    "Let me verify by 9: {a} leaves {x}, {b} leaves {y}, {c} leaves {z}, and it holds.",
)
NINES_FAIL = (
    "Check by 9: {a} leaves {x}, {b} leaves {y}, but {c} leaves {z}, which does not fit.",
    "Let me verify by 9: {a} leaves {x}, {b} leaves {y}, yet {c} leaves {z}.",
)
TAKE_BACK = (
    "Wait, something is wrong, so back to the parts.",
    "Hmm, there must be a slip; I go back to the parts.",
)
DOUBT = ("Hmm, I am not sure about {a} * {b}.", "I had better look at {a} * {b} again.")
TOTAL = ("So {a} * {b} = {c}.", "That makes {a} * {b} = {c} in all.")
AGAIN = ("Let me check once more: {a} * {tens} = {x}, {a} * {ones} = {y}, the sum is {c}.",)
FINAL = ("So the answer is {c}.", "The product is {c}.")


def sample(rng: random.Random) -> dict[str, Any]:
    """A problem's fields: two factors, neither a multiple of ten."""
    while True:
        factors = [rng.choice(FACTORS), rng.choice(FACTORS)]
        if all(factor % 10 for factor in factors):
            return {"factors": factors}


def key(fields: Mapping[str, Any]) -> str:
    """The pair of factors, in either order."""
    return f"{TASK}:{sorted(fields['factors'])}"


def is_heldout(fields: Mapping[str, Any]) -> bool:
    """Whether the pair of factors is held out."""
    return zlib.crc32(key(fields).encode()) % HELDOUT_SHARE == 0


def prompt(rng: random.Random, fields: Mapping[str, Any]) -> str:
    """The text of a problem, in one of two phrasings."""
    a, b = fields["factors"]
    return rng.choice(PROMPTS).format(a=a, b=b)


def parse_prompt(text: str) -> dict[str, Any] | None:
    """Fields of a prompt that `prompt` wrote; None for any other text."""
    found = _PROMPT.fullmatch(text.strip())
    return {"factors": [int(found[1]), int(found[2])]} if found else None


def verify(fields: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer such as ``1,692`` or ``1692`` is the product."""
    a, b = fields["factors"]
    text = answer.strip().rstrip(".").rpartition("=")[2].strip()
    found = re.fullmatch(r"\d{1,3}(?:,\d{3})+|\d{1,18}", text)
    return found is not None and int(text.replace(",", "")) == a * b


def solution(fields: Mapping[str, Any]) -> str:
    """The right answer."""
    a, b = fields["factors"]
    return f"{a * b:,}"


def tell(rng: random.Random, fields: Mapping[str, Any]) -> Trace:
    """Tell the product by parts, with or without a slip, caught or not."""
    story = Story(rng)
    chance = rng.random()
    fails = chance < UNCAUGHT_SHARE
    teller = _Teller(story, *fields["factors"], slips=chance < SLIP_SHARE, fails=fails)
    total, last = teller.tell()
    a, b = fields["factors"]
    asked = prompt(rng, fields)
    correct = total == a * b
    return story.end(TASK, asked, fields, f"{total:,}", correct=correct, parent=last)


class _Teller:
    """Tells one product. Numbers with four digits have a comma."""

    def __init__(self, story: Story, a: int, b: int, *, slips: bool, fails: bool) -> None:
        self.story, self.a, self.b, self.fails = story, a, b, fails
        self.tens, self.ones = b - b % 10, b % 10
        self.slips = slips
        self.slip_at = story.rng.choice((self.tens, self.ones)) if slips else 0
        self.late = slips and not fails and story.rng.random() < 0.5
        self.plan = 0
        self.learnt = fails or story.rng.random() < LEARNT_SLIP_SHARE

    def tell(self) -> tuple[int, int]:
        """Say everything; give the total and the step that says the answer."""
        story, a, b = self.story, self.a, self.b
        story.say("problem_setup", SETUP, a=a, b=b)
        self.plan = story.say("plan_generation", PLAN, a=a, b=b, tens=self.tens, ones=self.ones)
        story.drift()
        x, y = self.part(self.tens), self.part(self.ones)
        total = self.add(x, y)
        if self.late or (not self.fails and story.rng.random() < 0.5):
            x, y, total = self.by_nine(x, y, total)
        wrong = total != a * b
        last = story.say("result_consolidation", TOTAL, a=a, b=b, c=f"{total:,}", error=wrong)
        last = story.say("final_answer_emission", FINAL, c=f"{total:,}", error=wrong)
        if story.wants_recheck() and not wrong:
            values: dict[str, Any] = {"a": a, "tens": self.tens, "ones": self.ones}
            story.say("self_checking", AGAIN, x=f"{x:,}", y=f"{y:,}", c=f"{total:,}", **values)
        return total, last

    def part(self, factor: int) -> int:
        """Say a part of the product; catch a slip in it at once, if that is the way."""
        story, right = self.story, self.a * factor
        said = self.slipped(right) if factor == self.slip_at else right
        shown = f"{said:,}" if said == right or self.learnt else f"[{said:,}]"
        values: dict[str, Any] = {"a": self.a, "b": factor}
        start = story.last
        story.say("active_computation", PRODUCT, c=shown, error=said != right, **values)
        caught = said != right and not self.late and not self.fails
        if caught or (said == right and story.rng.random() < 0.25):
            if said == right and story.rng.random() < 0.3:
                story.say("uncertainty_management", DOUBT, **values)
            self.check_part(factor)
            if not caught:
                story.say("self_checking", AGREES)
                return right
            story.say(
                "uncertainty_management", SLIPPED, backtrack=True, wrong=f"{said:,}", **values
            )
            story.say("active_computation", MENDED, parent=start, c=f"{right:,}", **values)
            return right
        return said

    def check_part(self, factor: int) -> None:
        """Work a part out again, by the tens and ones of the first factor."""
        t, u = self.a - self.a % 10, self.a % 10
        x, y = t * factor, u * factor
        values: dict[str, Any] = {"x": f"{x:,}", "y": f"{y:,}", "c": f"{x + y:,}"}
        self.story.say("self_checking", PART_CHECK, t=t, u=u, b=factor, **values)

    def add(self, x: int, y: int) -> int:
        """Say the sum of the parts: hundreds first, then tens, then ones."""
        for high in (y - y % 100, y % 100 - y % 10, y % 10):
            if high:
                values: dict[str, Any] = {"a": f"{x:,}", "b": high, "c": f"{x + high:,}"}
                self.story.say("active_computation", SUM, **values)
                x += high
        return x

    def by_nine(self, x: int, y: int, total: int) -> tuple[int, int, int]:
        """Cast out nines; where that fails, check both parts and add again."""
        story, a, b = self.story, self.a, self.b
        if story.rng.random() < 0.4:
            story.say("fact_retrieval", NINES)
        values: dict[str, Any] = {
            "a": a,
            "b": b,
            "c": f"{total:,}",
            "x": a % 9,
            "y": b % 9,
            "z": total % 9,
        }
        holds = (a * b - total) % 9 == 0
        story.say("self_checking", NINES_HOLD if holds else NINES_FAIL, **values)
        if holds:
            return x, y, total
        story.say("uncertainty_management", TAKE_BACK, backtrack=True)
        x, y = a * self.tens, a * self.ones
        values = {"a": a, "b": self.tens, "c": f"{x:,}"}
        story.say("active_computation", REDONE, parent=self.plan, **values)
        story.say("active_computation", REDONE, a=a, b=self.ones, c=f"{y:,}")
        return x, y, self.add(x, y)

    def slipped(self, right: int) -> int:
        """A wrong number near the right one, which casting out nines would notice."""
        while True:
            wrong = right + self.story.rng.choice((-100, -20, -10, -2, -1, 1, 2, 10, 20, 100))
            if wrong > 0:
                return wrong
