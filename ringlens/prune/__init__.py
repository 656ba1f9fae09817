"""Smaller models: which experts stay, what a model without the others does, and its checkpoint."""

from ringlens.prune.checkpoint import Exported, export
from ringlens.prune.criteria import CRITERIA, pruning_plan
from ringlens.prune.curve import cliffs, concentration, pruning_curve
from ringlens.prune.evaluation import Evaluation, evaluate
from ringlens.prune.masked import ablations
from ringlens.prune.merging import with_merging
from ringlens.prune.plan import PruningPlan, read_plan

__all__ = [
    "CRITERIA",
    "Evaluation",
    "Exported",
    "PruningPlan",
    "ablations",
    "cliffs",
    "concentration",
    "evaluate",
    "export",
    "pruning_curve",
    "pruning_plan",
    "read_plan",
    "with_merging",
]
