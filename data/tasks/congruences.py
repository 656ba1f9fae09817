"""The smallest number with given remainders, by supposing numbers and testing them."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping
from math import gcd, lcm, prod
from typing import Any

from ringlens.data.tasks.story import Story, Trace, and_joined

TASK = "congruences"
MODULI = range(3, 14)
LARGEST = 999
"""Largest product of the moduli, and so largest number that is tested."""
HELDOUT_SHARE = 20
"""One problem in so many is held out."""
MOST_TESTS = 18
"""Longest search that is told, in numbers tested."""

_MODS = re.compile(r"x mod ([1-9]\d{0,8}) = (\d{1,9})")
_LEAVES = re.compile(r"(\d{1,9}) divided by ([1-9]\d{0,8})")

SETUP = (
    "I need the smallest x with {clauses}.",
    "The task asks for the smallest x with {clauses}.",
    "We want a number x, as small as can be, with {clauses}.",
)
PLAN = (
    "I will go through the numbers that leave {r} divided by {m} and test each by {n}.",
    "Plan: take {r} and add {m} each time, until the remainder by {n} is right.",
    "My plan is to start at {r}, go up by {m} and test by {n}.",
)
PLAN_ON = (
    "Next I go up from {r} by {m} and test by {n}.",
    "Now I will add {m} each time and test by {n}.",
)
FACT = (
    "Recall that remainders by {a} and {b} repeat every {m}.",
    "I know that both remainders come back every {m}, which is {a} * {b}.",
)
MISS = (
    "Suppose x = {x}: {x} mod {n} = {found}, not {wanted}.",
    "Say x = {x}, then {x} mod {n} = {found} and not {wanted}.",
    "Assume x = {x}: {x} mod {n} = {found}, so no.",
)
HIT = (
    "Suppose x = {x}: {x} mod {n} = {found}, as wanted.",
    "Say x = {x}, then {x} mod {n} = {found}, which fits.",
    "Assume x = {x}: {x} mod {n} = {found}, so yes.",
)
DOUBT = (
    "Hmm, I am not sure about {x} mod {n}.",
    "Wait, is {x} mod {n} really {found}?",
)
SURE = (
    "Let me check: {q} * {n} = {below} and {x} - {below} = {found}, yes.",
    "Check it: {below} = {q} * {n}, and {x} - {below} = {found}.",
)
SO_FAR = ("So {x} fits both {a} and {b}.", "So far {x} is right for {a} and {b}.")
SO_FAR_ONE = ("So {x} stands for {n}.", "So {x} is right by {n}.")
FOUND = ("So {x} leaves every remainder that is asked.", "That means {x} fits them all.")
CHECK = ("Check: {sums}.", "Let me verify: {sums}.")
AGAIN = ("Let me check once more: {sums}.",)
FINAL = ("So the answer is {x}.", "The smallest x is {x}.")


def sample(rng: random.Random) -> dict[str, Any]:
    """A problem's fields: moduli (two or three, coprime) and remainders, not all 0."""
    while True:
        moduli = rng.sample(MODULI, rng.choice((2, 3)))
        coprime = all(gcd(a, b) == 1 for i, a in enumerate(moduli) for b in moduli[:i])
        remainders = [rng.randrange(modulus) for modulus in moduli]
        if coprime and prod(moduli) <= LARGEST and any(remainders):
            fields = {"moduli": moduli, "remainders": remainders}
            if _tests(fields) <= MOST_TESTS:
                return fields


def key(fields: Mapping[str, Any]) -> str:
    """The problem, in whatever order it is asked."""
    return f"{TASK}:{sorted(zip(fields['moduli'], fields['remainders'], strict=True))}"


def is_heldout(fields: Mapping[str, Any]) -> bool:
    """Whether the problem belongs to the held-out split."""
    return zlib.crc32(key(fields).encode()) % HELDOUT_SHARE == 0


def prompt(rng: random.Random, fields: Mapping[str, Any]) -> str:
    """The text of a problem, in one of two phrasings."""
    pairs = list(zip(fields["moduli"], fields["remainders"], strict=True))
    return _finding(pairs) if rng.random() < 0.5 else _asking(pairs)


def parse_prompt(text: str) -> dict[str, Any] | None:
    """Fields of a prompt that `prompt` wrote; None for any other text."""
    text = text.strip()
    mods = [(int(m), int(r)) for m, r in _MODS.findall(text)]
    leaves = [(int(m), int(r)) for r, m in _LEAVES.findall(text)]
    for pairs, written in ((mods, _finding), (leaves, _asking)):
        if pairs and written(pairs) == text:
            return {"moduli": [m for m, _ in pairs], "remainders": [r for _, r in pairs]}
    return None


def verify(fields: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer such as ``17`` or ``x = 17`` is the smallest number asked for."""
    found = re.fullmatch(r"(?:x\s*=\s*)?(\d{1,18})\.?", answer.strip().replace(",", ""))
    if found is None:
        return False
    x, moduli = int(found[1]), fields["moduli"]
    fits = all(x % m == r for m, r in zip(moduli, fields["remainders"], strict=True))
    return fits and x < lcm(*moduli)  # solutions lie that far apart


def solution(fields: Mapping[str, Any]) -> str:
    """The right answer."""
    x, step = 0, 1
    for modulus, remainder in zip(fields["moduli"], fields["remainders"], strict=True):
        while x % modulus != remainder:
            x += step
        step *= modulus
    return str(x)


def tell(rng: random.Random, fields: Mapping[str, Any]) -> Trace:
    """Tell the search for a number: each is supposed, and tested by the next modulus."""
    story = Story(rng)
    pairs = list(zip(fields["moduli"], fields["remainders"], strict=True))
    story.say("problem_setup", SETUP, clauses=_clauses(pairs))
    story.drift()
    (step, x), *others = _order(pairs)
    fitting = [step]
    for place, (modulus, wanted) in enumerate(others):
        if place:
            a, b = fitting
            story.say("result_consolidation", SO_FAR, x=x, a=a, b=b)
            story.say("fact_retrieval", FACT, a=a, b=b, m=step)
        plan = story.say("plan_generation", PLAN_ON if place else PLAN, r=x, m=step, n=modulus)
        x = _test(story, x, step, modulus, wanted, plan)
        step *= modulus
        fitting.append(modulus)
    found = story.say("result_consolidation", FOUND, x=x)
    sums = and_joined([f"{x} = {x // m} * {m} + {r}" for m, r in pairs])
    story.say("self_checking", CHECK, sums=sums)
    last = story.say("final_answer_emission", FINAL, parent=found, x=x)
    if story.wants_recheck():
        story.say("self_checking", AGAIN, sums=sums)
    asked = prompt(rng, fields)
    return story.end(TASK, asked, fields, str(x), correct=True, parent=last)


def _test(story: Story, x: int, step: int, modulus: int, wanted: int, plan: int) -> int:
    """Suppose x, x + step, … until the remainder is right; every one goes on from the plan."""
    while True:
        found = x % modulus
        values: dict[str, Any] = {"x": x, "n": modulus, "found": found, "wanted": wanted}
        phrases = HIT if found == wanted else MISS
        tested = story.say("active_computation", phrases, parent=plan, hypothesis=True, **values)
        if story.rng.random() < 0.04:
            story.say("uncertainty_management", DOUBT, **values)
            below = x - found
            story.say("self_checking", SURE, q=below // modulus, below=below, **values)
        if found == wanted:
            if story.last != tested:
                story.say("result_consolidation", SO_FAR_ONE, parent=tested, x=x, n=modulus)
            return x
        x += step


def _order(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Larger moduli first: fewer numbers to test."""
    return sorted(pairs, reverse=True)


def _tests(fields: Mapping[str, Any]) -> int:
    """How many numbers a search tests."""
    (step, x), *others = _order(list(zip(fields["moduli"], fields["remainders"], strict=True)))
    tests = 0
    for modulus, wanted in others:
        tests += 1
        while x % modulus != wanted:
            x += step
            tests += 1
        step *= modulus
    return tests


def _finding(pairs: list[tuple[int, int]]) -> str:
    return f"Find the smallest x with {_clauses(pairs)}."


def _asking(pairs: list[tuple[int, int]]) -> str:
    leaves = and_joined([f"{r} divided by {m}" for m, r in pairs])
    return f"Which is the smallest number that leaves {leaves}?"


def _clauses(pairs: list[tuple[int, int]]) -> str:
    return and_joined([f"x mod {m} = {r}" for m, r in pairs])
