"""Roles of steps: what each does for the thought."""

from ringlens.analysis.roles.cues import ROLES
from ringlens.analysis.roles.label import Label
from ringlens.analysis.roles.rules import label

__all__ = ["ROLES", "Label", "label"]
