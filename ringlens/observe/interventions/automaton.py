"""Finite automata over tokens: what a text reads as, one table look-up a token.

An automaton is described symbol by symbol; a symbol is a byte of the text, or an added token that a
mark is made of. It is then lifted to tokens, each of which is a sequence of symbols, so that a
device follows it without the text.

Shape letters: S states, X symbols, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Q = TypeVar("Q", bound=Hashable)

Table = NDArray[np.int16]


@dataclass(frozen=True)
class Automaton(Generic[Q]):
    """States and what each symbol makes of them.

    Attributes:
        states: What each state stands for.
        next_SX: Number of the state behind each symbol; state 0 is that before the text.
    """

    states: tuple[Q, ...]
    next_SX: Table


def explored(
    start: Q,
    step: Callable[[Q, int], Q],
    symbols: int,
    settle: Callable[[Q], Q] = lambda state: state,
) -> Automaton[Q]:
    """Find every state that can be reached.

    Args:
        start: The state before the text.
        step: The state behind a symbol.
        symbols: How many symbols there are.
        settle: The state in which the next token begins, for one that a token ends in.
    """
    todo, rows = [start], []
    numbers: dict[Q, int] = {start: 0}
    for state in todo:  # grows
        after = [step(state, symbol) for symbol in range(symbols)]
        for found in (*after, settle(state)):
            if found not in numbers:
                numbers[found] = len(numbers)
                todo.append(found)
        rows.append([numbers[found] for found in after])
    return Automaton(tuple(numbers), np.array(rows, np.int16))


def merged(automaton: Automaton[Q], label: Callable[[Q], Hashable]) -> Automaton[Q]:
    """Merge states that no text tells apart by the labels of the states it leads to (Moore)."""
    labels: dict[Hashable, int] = {}
    class_S = np.array([labels.setdefault(label(q), len(labels)) for q in automaton.states])
    while True:
        rows = np.concatenate((class_S[:, None], class_S[automaton.next_SX]), axis=1)
        _, first, finer_S = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        finer_S = finer_S.reshape(-1)
        if len(first) == class_S.max() + 1:
            break
        class_S = finer_S
    order = np.argsort(first)  # the class of state 0 comes first
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    kept = first[order]
    states = tuple(automaton.states[int(i)] for i in kept)
    return Automaton(states, place[finer_S][automaton.next_SX[kept]].astype(np.int16))


@dataclass(frozen=True)
class Lifted:
    """An automaton over tokens.

    Attributes:
        next_SV: Number of the state behind each token.
        hit_SV: Whether a token that is read in a state completes something.
    """

    next_SV: Table
    hit_SV: NDArray[np.bool_]


def lifted(
    automaton: Automaton[Q],
    tokens: Sequence[Sequence[int]],
    hits: Callable[[NDArray, NDArray], NDArray[np.bool_]] | None = None,
    at_end: NDArray[np.bool_] | None = None,
    settled_S: Table | None = None,
) -> Lifted:
    """Lift an automaton to tokens.

    Args:
        automaton: The automaton.
        tokens: The symbols of each token.
        hits: Given states and the symbols that they read: whether that completes something.
        at_end: By state: whether a token that ends in it completes something.
        settled_S: By state: that in which the next token begins; None: the same.
    """
    count, V = len(automaton.states), len(tokens)
    length_V = np.array([len(token) for token in tokens])
    flat = np.concatenate([np.array(token, np.int64) for token in tokens] or [np.zeros(0, int)])
    begin_V = np.cumsum(length_V) - length_V
    now_SV = np.repeat(np.arange(count, dtype=np.int16)[:, None], V, axis=1)
    hit_SV = np.zeros((count, V), bool)
    for place in range(int(length_V.max(initial=0))):
        at = np.flatnonzero(length_V > place)
        symbol_v = flat[begin_V[at] + place]
        before = now_SV[:, at]
        now_SV[:, at] = automaton.next_SX[before, symbol_v[None]]
        if hits is not None:
            hit_SV[:, at] |= hits(before, symbol_v[None])
    if at_end is not None:
        hit_SV |= at_end[now_SV] & (length_V > 0)
    if settled_S is not None:
        now_SV = settled_S[now_SV]
    return Lifted(now_SV, hit_SV)
