"""Figures of what mattered in thoughts: belief along them, what hiding steps did, heads."""

from ringlens.plot.importance.ablation_figure import ablation_effects
from ringlens.plot.importance.agreement_figure import importance_agreement
from ringlens.plot.importance.belief_figure import belief
from ringlens.plot.importance.foresight_figure import foresight
from ringlens.plot.importance.matrix_figure import suppression_matrix
from ringlens.plot.importance.receiver_figure import receiver_heads
from ringlens.plot.importance.steering_figure import steering

__all__ = [
    "ablation_effects",
    "belief",
    "foresight",
    "importance_agreement",
    "receiver_heads",
    "steering",
    "suppression_matrix",
]
