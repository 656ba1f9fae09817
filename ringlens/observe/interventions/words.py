"""Words that interventions wait for: the token that completes one.

A word is complete where it stands on its own as far as is known: no ASCII letter or digit before
it, and none behind it in the same token. The case of letters does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringlens.observe.interventions.automaton import Lifted, Table, explored, lifted
from ringlens.observe.interventions.symbols import ALNUM, BYTES

NOTHING, IF_ALONE, COMPLETE = range(3)
"""What a symbol has completed: nothing; a word, if no letter or digit follows; a word."""


class State(NamedTuple):
    """A state of the text.

    Attributes:
        begun: Words of which a beginning stands at its end, with the bytes of these beginnings.
        in_word: Whether its last byte is an ASCII letter or digit.
        done: What its last symbol has completed.
    """

    begun: frozenset[tuple[bytes, int]] = frozenset()
    in_word: bool = False
    done: int = NOTHING


def word_automaton(
    words: Iterable[str], tokens: Sequence[Sequence[int]], symbols: int = BYTES
) -> Lifted:
    """An automaton over tokens that hits where one of the words is complete.

    Args:
        words: The words.
        tokens: The symbols of each token.
        symbols: How many symbols there are.
    """
    spellings = {form.encode() for word in words for form in _cases(word)}
    patterns = sorted({_folded(spelling) for spelling in spellings})

    def step(state: State, symbol: int) -> State:
        return _step(patterns, state, symbol)

    def settle(state: State) -> State:
        return state._replace(done=NOTHING)  # what a token completes is told at that token

    found = explored(State(), step, symbols, settle)
    numbers = {state: number for number, state in enumerate(found.states)}
    settled_S: Table = np.array([numbers[settle(state)] for state in found.states], np.int16)
    done_S = np.array([state.done for state in found.states])
    alone_S: NDArray[np.bool_] = done_S == IF_ALONE
    letter_X = np.array([symbol in ALNUM for symbol in range(symbols)])

    def hits(before: NDArray, symbol: NDArray) -> NDArray[np.bool_]:
        ends = alone_S[before] & ~letter_X[symbol]
        whole: NDArray[np.bool_] = ends | (done_S[found.next_SX[before, symbol]] == COMPLETE)
        return whole

    return lifted(found, tokens, hits, alone_S, settled_S)


def _step(patterns: Sequence[bytes], state: State, symbol: int) -> State:
    byte = symbol + 32 if ord("A") <= symbol <= ord("Z") else symbol
    starts = {(p, 0) for p in patterns if not (state.in_word and p[0] in ALNUM)}
    moved = {(p, n + 1) for p, n in state.begun | starts if p[n] == byte}
    ended = [p for p, n in moved if n == len(p)]
    done = NOTHING
    if ended:
        done = COMPLETE if any(p[-1] not in ALNUM for p in ended) else IF_ALONE
    begun = frozenset((p, n) for p, n in moved if n < len(p))
    return State(begun, symbol in ALNUM, done)


def _folded(spelling: bytes) -> bytes:
    """ASCII letters in lower case, other bytes as they are."""
    return bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in spelling)


def _cases(word: str) -> tuple[str, ...]:
    """A word in the cases that its letters beyond ASCII may have."""
    return word.lower(), word.upper(), word.capitalize()
