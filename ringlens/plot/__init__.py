"""Figures of what is recorded and of what analyses say of it, for notebooks and the dashboard.

For each function of `ringlens.analysis` there is one of the same name here, which draws its table;
`pruning_curve` and `evaluation` draw those of `ringlens.prune`.
"""

from ringlens.plot.differences.agreement_figure import agreement
from ringlens.plot.differences.changed_figure import changed_experts
from ringlens.plot.differences.contrast_figure import association, contrast
from ringlens.plot.differences.saturation_figure import saturation
from ringlens.plot.differences.shift_figure import routing_shift, shift_along
from ringlens.plot.experts.card_figure import expert_card
from ringlens.plot.experts.words_figure import token_experts
from ringlens.plot.head_figure import heads
from ringlens.plot.load.balance_figure import layer_balance, router_entropy
from ringlens.plot.load.bias_figure import bias_audit, expert_bias
from ringlens.plot.load.causes_figure import group_displacements, selection_causes
from ringlens.plot.load.importance_figure import expert_importance
from ringlens.plot.load.load_figure import expert_load
from ringlens.plot.pruning_figure import evaluation, pruning_curve
from ringlens.plot.structure.committee_figure import committees
from ringlens.plot.structure.pair_figure import coactivation, transitions
from ringlens.plot.structure.path_figure import path_clusters, routing_path
from ringlens.plot.structure.predictability_figure import predictability
from ringlens.plot.trace_figure import trace
from ringlens.plot.trajectory import alignment, reflections, step_map
from ringlens.plot.usage_figure import usage

__all__ = [
    "agreement",
    "alignment",
    "association",
    "bias_audit",
    "changed_experts",
    "coactivation",
    "committees",
    "contrast",
    "evaluation",
    "expert_bias",
    "expert_card",
    "expert_importance",
    "expert_load",
    "group_displacements",
    "heads",
    "layer_balance",
    "path_clusters",
    "predictability",
    "pruning_curve",
    "reflections",
    "router_entropy",
    "routing_path",
    "routing_shift",
    "saturation",
    "selection_causes",
    "shift_along",
    "step_map",
    "token_experts",
    "trace",
    "transitions",
    "usage",
]


def __dir__() -> list[str]:
    return __all__
