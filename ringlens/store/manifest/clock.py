"""The time as the store writes it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """The time in UTC, ISO 8601."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """A time as the manifest writes it; stamps sort as their times do."""
    return moment.isoformat(timespec="microseconds")
