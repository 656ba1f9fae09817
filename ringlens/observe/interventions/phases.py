"""The phase of a token, as the text up to it reads.

A capture stores phases as its whole text reads. An intervention has to decide at the token, so here
a mark counts as soon as it is complete: a closing mark that a later quotation mark turns out to
quote has ended the thought all the same. While nothing but white space or the beginning of
``<think>`` stands in a turn of the model, it counts as thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringlens.interventions.place import PHASES
from ringlens.observe.interventions.automaton import Automaton, explored, merged
from ringlens.observe.interventions.symbols import BYTES, SPACES, symbols_in
from ringlens.observe.turns import Markup
from ringlens.transcript import ASSISTANT, END_THINK, THINK

RAW, OTHER, OPENED, BEGUN, HEAD, STARTED, THINKING, TEXT, CLOSED = range(9)
"""Where the text is: before any turn; in the turn of another; right behind the opening of a turn of
the model; with white space behind it; within what the template begins an answer with; right behind
that; in a thought; in an answer that no thought came before; behind a thought."""

THOUGHT = (STARTED, THINKING)
NEWLINE = 10

PROMPT, THINK_PHASE, ANSWER = range(len(PHASES))


class State(NamedTuple):
    """A state of the text.

    Attributes:
        mode: Where it is.
        match: Symbols of the longest beginning of a mark that the text ends with.
        fresh: Whether its last line holds only white space and that beginning.
        rest: Symbols of what the template begins an answer with that were seen behind ``<think>``.
    """

    mode: int
    match: tuple[int, ...] = ()
    fresh: bool = True
    rest: int = 0


class PhaseReader:
    """Describes how a checkpoint's text is read, symbol by symbol.

    Args:
        markup: How the checkpoint writes turns.
    """

    def __init__(self, markup: Markup) -> None:
        self.atoms: Sequence[str] = sorted(markup.atoms)
        marks = markup.marks
        self._kinds: dict[tuple[int, ...], str] = {
            symbols_in(mark, self.atoms): role for mark, role in marks.openings.items()
        }
        self._think = symbols_in(THINK, self.atoms)
        self._end = symbols_in(END_THINK, self.atoms)
        self._starts = {
            mark[:n]
            for mark in (*self._kinds, self._think, self._end)
            for n in range(len(mark) + 1)
        }
        _, opens, rest = marks.begin.partition(THINK)
        self._head = symbols_in(rest, self.atoms) if opens else None

    def automaton(self) -> Automaton[State]:
        """Its states, those that read alike merged."""
        found = explored(State(RAW), self.step, BYTES + len(self.atoms))
        return merged(found, lambda state: state.mode)

    def step(self, state: State, symbol: int) -> State:
        """The state behind another symbol."""
        match = (*state.match, symbol)
        while match not in self._starts:
            match = match[1:]
        space = symbol in SPACES
        opening = match == self._think[: len(match)] and bool(match)
        fresh = symbol == NEWLINE or (state.fresh and (space or opening))
        mode, rest = self._mode(state, symbol, match, space, opening)
        return State(mode, match, fresh, rest)

    def _mode(
        self, state: State, symbol: int, match: tuple[int, ...], space: bool, opening: bool
    ) -> tuple[int, int]:
        mode = state.mode
        if match in self._kinds:
            return (OPENED if self._kinds[match] == ASSISTANT else OTHER), 0
        if match == self._think:
            return self._opened(state), 0
        if match == self._end and mode in (*THOUGHT, HEAD):
            return CLOSED, 0
        if mode in (OPENED, BEGUN) and not opening:
            return (BEGUN if space else TEXT), 0
        if mode == HEAD:
            return self._headed(state.rest, symbol)
        return (THINKING if mode == STARTED else mode), 0

    def _opened(self, state: State) -> int:
        """Behind ``<think>``."""
        if state.mode == OPENED and self._head is not None:
            return HEAD if self._head else STARTED
        at_line = state.mode == TEXT and state.fresh
        return THINKING if state.mode in (RAW, OPENED, BEGUN) or at_line else state.mode

    def _headed(self, seen: int, symbol: int) -> tuple[int, int]:
        """Within what the template puts behind ``<think>``."""
        assert self._head is not None
        if symbol != self._head[seen]:
            return THINKING, 0
        return (STARTED, 0) if seen + 1 == len(self._head) else (HEAD, seen + 1)


def phase_tables(automaton: Automaton[State]) -> NDArray[np.uint8]:
    """Phase of a token by the states before and behind it, as indices of `PHASES`, [2, S, S].

    The first table is for what a model writes, which is never prompt; the second for texts that
    may hold the turns of others.
    """
    modes = [state.mode for state in automaton.states]
    found = [[[_phase(a, b, written) for b in modes] for a in modes] for written in (True, False)]
    return np.array(found, np.uint8)


def _phase(before: int, behind: int, written: bool) -> int:
    if not written:
        if behind == HEAD or (before == HEAD and behind == STARTED):
            return PROMPT
        if behind in (OPENED, OTHER) or (before in (RAW, OTHER) and behind == before):
            return PROMPT
    reaches = before in (*THOUGHT, HEAD) or behind in (*THOUGHT, HEAD)
    waits = behind in (OPENED, BEGUN)
    return THINK_PHASE if reaches or waits else ANSWER
