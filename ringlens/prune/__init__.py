"""Smaller models: which experts stay, what a model without the others does, and its checkpoint."""

from ringlens.prune.checkpoint import Exported, export
from ringlens.prune.criteria import CRITERIA, pruning_plan
from ringlens.prune.plan import PruningPlan, read_plan

__all__ = ["CRITERIA", "Exported", "PruningPlan", "export", "pruning_plan", "read_plan"]
