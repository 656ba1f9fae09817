"""The positions of a batch that a span of the traces' positions can lie at."""

from __future__ import annotations


class Window:
    """Padded positions that a span of the traces' positions can lie at.

    Args:
        span: Positions of the traces, start and stop; stop None for the end.
        pads: Padded positions before each row; empty for none.
    """

    def __init__(self, span: tuple[int, int | None], pads: tuple[int, ...]) -> None:
        start, stop = span
        self.start = start + min(pads, default=0)
        self.stop = float("inf") if stop is None else stop + max(pads, default=0)

    def cut(self, begin: int, T: int) -> slice:
        """The part of T positions from ``begin`` on that lies inside; may be empty."""
        first = min(max(self.start - begin, 0), T)
        return slice(first, int(min(max(self.stop - begin, first), T)))
