"""Interventions: what is to be changed in a model while it runs, as frozen, printable objects."""

from ringlens.interventions.experts import Ablate, Boost, Force, RouteAround, Scale, Swap
from ringlens.interventions.heads import AblateHead, ScaleHead
from ringlens.interventions.intervention import Intervention
from ringlens.interventions.steer import Steer
from ringlens.interventions.text import read_intervention, read_interventions

__all__ = [
    "Ablate",
    "AblateHead",
    "Boost",
    "Force",
    "Intervention",
    "RouteAround",
    "Scale",
    "ScaleHead",
    "Steer",
    "Swap",
    "read_intervention",
    "read_interventions",
]
