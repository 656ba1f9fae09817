"""Timestamps in the form that a store writes."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """Current time in UTC, ISO 8601."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """Format a time for the manifest; stamps sort like the times they stand for."""
    # Always with microseconds: isoformat drops a fraction of zero, which would break the order.
    return moment.isoformat(timespec="microseconds")
