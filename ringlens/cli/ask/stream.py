"""A model's thought where the output is no terminal: the text that it writes, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from ringlens.cli.ask.meters import Meters
from ringlens.cli.console import harmless
from ringlens.observe.pipeline.step import TraceEnd, TraceStep


class Stream:
    """Writes what the model writes; of the prompt nothing.

    Args:
        out: Where it is written; None: nowhere, for all but the first of several processes.

    Attributes:
        meters: The numbers of the trace.
        end: Its end, once it has come.
    """

    def __init__(self, out: IO[str] | None) -> None:
        self.meters = Meters()
        self.end: TraceEnd | None = None
        self._out, self._last = out, "\n"

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the last line."""
        if self._out is not None and self._last != "\n":
            self._out.write("\n")
            self._out.flush()

    def take(self, steps: Sequence[TraceStep]) -> None:
        """Write what is new."""
        for step in steps:
            self.end = step.end or self.end
            for token in step.tokens:
                self.meters.add(token)
                if token.phase != "prompt" and token.text and self._out is not None:
                    self._out.write(harmless(token.text))
                    self._last = token.text[-1]
        if self._out is not None:
            self._out.flush()

    def stopping(self) -> None:
        """Nothing: there is nobody to see it."""
