"""Figures of thoughts' paths: the map of a problem, two traces side by side, the ledger."""

from ringlens.plot.trajectory.alignment_figure import alignment
from ringlens.plot.trajectory.ledger_figure import reflections
from ringlens.plot.trajectory.map_figure import step_map

__all__ = ["alignment", "reflections", "step_map"]
