"""Figures of what is recorded, for notebooks and for the dashboard."""

from ringlens.plot.head_figure import heads
from ringlens.plot.trace_figure import trace
from ringlens.plot.usage_figure import usage

__all__ = ["heads", "trace", "usage"]


def __dir__() -> list[str]:
    return __all__
