"""What is said of a step: its role, two flags, and how sure the source is."""

from __future__ import annotations

from typing import NamedTuple

UNKNOWN = "unknown"
"""Role of a step that says nothing."""


class Label(NamedTuple):
    """A label of a step.

    Attributes:
        role: One of `ringlens.analysis.roles.ROLES`.
        is_backtrack: Whether the step abandons an earlier attempt.
        is_hypothesis: Whether the step proposes something to try.
        confidence: Confidence in the role, 0 to 1; None if the source gives none.
    """

    role: str
    is_backtrack: bool
    is_hypothesis: bool
    confidence: float | None = None
