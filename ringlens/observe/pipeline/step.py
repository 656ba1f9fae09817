"""What those who follow a running session are told: the tokens of each trace, as they are decided.

Shape letters: L sparse layers of this process, k experts a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenRouting:
    """What the routers chose for one token; the arrays are views of a larger block.

    Attributes:
        layers: The L layers, ascending.
        expert_ids: Chosen experts, heaviest first, integers [L, k].
        weights: Their weights, float32 [L, k].
        margin: What the last chosen expert won by, float32 [L].
        bias_flips: Which choices are due to the bias, bool [L, k].
    """

    layers: tuple[int, ...]
    expert_ids: NDArray[np.integer]
    weights: NDArray[np.float32]
    margin: NDArray[np.float32]
    bias_flips: NDArray[np.bool_]


@dataclass(frozen=True)
class LiveToken:
    """One token of a running trace.

    Attributes:
        pos: Its position in the trace.
        token_id: Its id.
        text: Its text, exactly as ``tokens.text`` of the store has it: the texts of a trace's
            tokens join to the trace's text. Empty inside a character of several tokens, whose last
            token has it.
        phase: "prompt", "think" or "answer", as the text reads so far.
        entropy: Entropy of the distribution that it was drawn from, in nats; NaN where
            log-probabilities are not recorded.
        routing: What the routers chose; None where routing is not recorded, and for tokens that an
            interrupted call had stored.
    """

    pos: int
    token_id: int
    text: str
    phase: str
    entropy: float
    routing: TokenRouting | None = None


@dataclass(frozen=True)
class TraceEnd:
    """The end of a trace, all of which is in the store.

    Attributes:
        trace_id: Its id there.
        finish_reason: "stop", "length", "replay" or "interrupted".
    """

    trace_id: int
    finish_reason: str


@dataclass(frozen=True)
class TraceStep:
    """What is new of one trace.

    Attributes:
        item: Place of the trace in the run, from 0; samples of a problem stand side by side.
        tokens: The tokens that follow those of the step before. A token is told when its text and
            phase can be: not within a character, nor within what may become ``</think>``.
        reread: By position the phase of earlier tokens that what follows has changed, as where a
            thought that opened out of sight is closed.
        end: The end of the trace, in its last step.
        trace_id: Its id in the store, once a part of it is there.
    """

    item: int
    tokens: tuple[LiveToken, ...] = ()
    reread: Mapping[int, str] = field(default_factory=dict)
    end: TraceEnd | None = None
    trace_id: int | None = None

    @property
    def text(self) -> str:
        """The text of its tokens."""
        return "".join(token.text for token in self.tokens)


class OnTokens(Protocol):
    """Follows a session: is called with what is new since the last call, and may take its time.

    It is called in the thread that called :func:`ringlens.capture`, which goes on when it returns.
    What it raises ends the session as an error does.
    """

    def __call__(self, steps: Sequence[TraceStep], /) -> object:
        """Take the steps, in the order in which they came about; there is at least one."""
