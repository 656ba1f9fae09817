"""Loops: stretches of a thought that it has been through before."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ringlens.analysis.trajectory.chosen_steps import of_thoughts, steps_of
from ringlens.config import refuse_unknown, whole

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

DRAWS = 50
"""Random orders of each trace's steps."""

# Names are single letters; "I" before a word, and the article, are none.
_CONTENT = re.compile(
    r"\d+(?:[.,]\d+)*|[-+*/×÷^=<>]|(?<![A-Za-z'])(?!(?:I|i|A|a) [A-Za-z]{2})[A-Za-z](?![A-Za-z'])"
)


class Loop(NamedTuple):
    """States that come again.

    Attributes:
        start: Place of the first state that has been there before.
        length: How many states in a row come again.
        period: How many states before they were there.
    """

    start: int
    length: int
    period: int


@refuse_unknown
def loops(
    store: Source,
    where: str | None = None,
    *,
    least: int = 2,
    state: Callable[[str], str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Find stretches of steps that repeat earlier steps of their trace.

    The state of a step is its text, without differences of case, spaces and marks; numbers count.
    By `content_of` it is what the step handles, in whatever words. A loop is a longest run of steps
    each of which is in the state of the step so many before it.

    Args:
        store: The store, cut into steps.
        where: Which tokens, a predicate over `token_context`; thoughts only where it names no
            phase.
        least: Fewest steps in a row that come again.
        state: Gives the state of a step from its text; `state_of` by default.
        draws: Random orders of each trace's steps, for the null; 0 for none.
        seed: Seed of these.

    Returns:
        A row per loop, in order: ``trace_id``, ``problem_id``, ``correct``; ``step``, the first
        that comes again, and ``earlier``, where it was before; ``period``, steps from one to the
        other; ``length``, steps that come again in a row; ``turns`` = length / period, 1 or more if
        the thought went round and round; ``pos``, its first position; and ``text`` of its first
        step. ``attrs``: ``where``; ``traces``; ``repeated``, the share of steps whose state was
        there before; ``looped``, steps in loops; and with draws ``null``, the mean of looped if
        each trace's steps come in random order, and ``p``, the share of draws with as many, the
        data counted.

    Raises:
        ConfigError: A predicate or a setting is wrong.
        StoreError: Nothing is selected, or the traces have no steps.
    """
    least = whole("least", least, 1)
    selection = of_thoughts(store, where)
    steps = steps_of(store, selection)
    steps["state"] = steps["text"].map(state or state_of)
    rows, paths = [], []
    for _, own in steps.groupby("trace_id", sort=True):
        path = pd.factorize(own["state"])[0].tolist()
        paths.append(path)
        rows += [_row(own, loop) for loop in repeats(path, least)]
    columns = [*("trace_id", "problem_id", "correct", "step", "earlier"), "period", "length"]
    frame = pd.DataFrame(rows, columns=[*columns, "turns", "pos", "text"])
    looped, kinds = int(frame["length"].sum()), sum(len(set(path)) for path in paths)
    frame.attrs |= {
        "where": selection.where,
        "traces": len(paths),
        "repeated": 1 - kinds / len(steps),
        "looped": looped,
    }
    if draws := whole("draws", draws, 0):
        null = _looped(paths, least, draws, np.random.default_rng(seed))
        as_many = sum(each >= looped for each in null)
        frame.attrs |= {"null": float(np.mean(null)), "p": (as_many + 1) / (draws + 1)}
    return frame


def repeats(path: Sequence[Hashable], least: int = 1) -> list[Loop]:
    """Find runs of states each of which was there the same number of places before.

    From the first place on, the longest run that begins there is taken, of equal ones that of the
    shortest period; the search goes on behind it.

    Args:
        path: The states.
        least: Fewest states of a run.
    """
    earlier: dict[Hashable, list[int]] = {}
    found, at = [], 0
    for place, state in enumerate(path):
        earlier.setdefault(state, []).append(place)
    while at < len(path):
        best = Loop(at, 0, 0)
        for before in reversed([place for place in earlier[path[at]] if place < at]):
            length = 0
            while at + length < len(path) and path[at + length] == path[before + length]:
                length += 1
            if length > best.length:
                best = Loop(at, length, at - before)
        if best.length >= least:
            found.append(best)
        at += max(1, best.length if best.length >= least else 1)
    return found


def state_of(text: str) -> str:
    """A step's text without differences of case, spaces and marks at its ends."""
    return " ".join(text.split()).strip(" .,;:!?*-–—…").casefold()


def content_of(text: str) -> str:
    """Numbers, signs and names of a step in order, in whatever words; its text if there are none.

    So "Let me try 4 * 6 = 24" and "Next is 4 * 6 = 24" are one state. Names are single letters.
    """
    return " ".join(_CONTENT.findall(text)).casefold() or state_of(text)


def _row(own: pd.DataFrame, loop: Loop) -> dict[str, object]:
    first = own.iloc[loop.start]
    about = {name: first[name] for name in ("trace_id", "problem_id", "correct", "step", "pos")}
    return about | {
        "earlier": own["step"].iloc[loop.start - loop.period],
        "period": loop.period,
        "length": loop.length,
        "turns": loop.length / loop.period,
        "text": first["text"],
    }


def _looped(paths: list[list[int]], least: int, draws: int, rng: np.random.Generator) -> list[int]:
    """Steps in loops if the steps come in random order, by draw."""
    total = [0] * draws
    for path in paths:
        if len(set(path)) == len(path):
            continue  # in no order does a state come again
        for draw in range(draws):
            drawn = [path[place] for place in rng.permutation(len(path))]
            total[draw] += sum(loop.length for loop in repeats(drawn, least))
    return total
