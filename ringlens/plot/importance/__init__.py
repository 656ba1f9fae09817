"""Figures of what mattered in thoughts: belief along them, what hiding steps did, agreement."""

from ringlens.plot.importance.agreement_figure import importance_agreement
from ringlens.plot.importance.belief_figure import belief
from ringlens.plot.importance.matrix_figure import suppression_matrix

__all__ = ["belief", "importance_agreement", "suppression_matrix"]
