"""The numbers of a running trace, as they are shown beneath its text.

Shape letters: L sparse layers, k experts a token.
"""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np

from ringlens.observe.pipeline.step import LiveToken, TokenRouting

RECENT = 400
"""Tokens of which the entropy is kept for the sparkline."""

LEVELS = "▁▂▃▄▅▆▇█"
FULL = 2.0
"""Entropy, in nats, at which the sparkline is full."""

PAUSES = 32
"""Tokens over which the speed is taken."""


class Meters:
    """Numbers of the tokens that the model writes; those of the prompt are only counted.

    Attributes:
        phase: Phase of the newest token.
        tokens: How many tokens the model has written.
        prompt: How many tokens the prompt has.
        entropy: Entropies of the newest tokens, in nats.
        routing: What the routers chose for the newest token; None where that is not known.
        unsure: The token of the greatest entropy.
    """

    def __init__(self) -> None:
        self.phase, self.tokens, self.prompt = "prompt", 0, 0
        self.entropy: deque[float] = deque(maxlen=RECENT)
        self.routing: TokenRouting | None = None
        self.unsure: LiveToken | None = None
        self._entropies, self._margins, self._flips = Mean(), Mean(), Mean()
        self._times: deque[float] = deque(maxlen=PAUSES)

    def add(self, token: LiveToken) -> None:
        """Take the next token."""
        self.phase = token.phase
        if token.phase == "prompt":
            self.prompt += 1
            return
        self.tokens += 1
        self._times.append(time.monotonic())
        if math.isfinite(token.entropy):
            self.entropy.append(token.entropy)
            self._entropies.add(token.entropy)
            if self.unsure is None or token.entropy > self.unsure.entropy:
                self.unsure = token
        self.routing = token.routing
        if token.routing is not None:
            margin_L = token.routing.margin
            self._margins.add(*margin_L[np.isfinite(margin_L)].tolist())
            self._flips.add(*token.routing.bias_flips.ravel().tolist())

    @property
    def speed(self) -> float:
        """Tokens a second of late; NaN before there are two."""
        if len(self._times) < 2 or self._times[-1] == self._times[0]:
            return math.nan
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])

    @property
    def mean_entropy(self) -> float:
        """Entropy in nats, over all tokens that the model has written; NaN where it is unknown."""
        return self._entropies.value

    @property
    def mean_margin(self) -> float:
        """What the last chosen expert won by, over all tokens and layers; NaN where unknown."""
        return self._margins.value

    @property
    def by_bias(self) -> float:
        """Share of the choices that are due to the bias; NaN where it is unknown."""
        return self._flips.value


class Mean:
    """The mean of numbers that come one by one; NaN of none."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, *values: float) -> None:
        """Take numbers."""
        self._sum += sum(values)
        self._count += len(values)

    @property
    def value(self) -> float:
        """The mean so far."""
        return self._sum / self._count if self._count else math.nan


def sparkline(values: list[float], full: float = FULL) -> str:
    """One bar a value, full at ``full``."""
    top = len(LEVELS) - 1
    return "".join(LEVELS[min(int(value / full * top + 0.5), top)] for value in values)
