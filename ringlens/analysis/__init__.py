"""Frames in, frames out: what a store says of experts, and whether it is real.

Reads the store, never the model. Every function takes a store and a selection of tokens, and gives
a pandas frame whose columns its docstring names; ``frame.attrs`` says what the frame is about, and
the SQL of the same numbers.
"""

from ringlens.analysis.differences.agreement import agreement
from ringlens.analysis.differences.association import association
from ringlens.analysis.differences.changed_experts import changed_experts
from ringlens.analysis.differences.contrast import contrast
from ringlens.analysis.differences.routing_shift import routing_shift, shift_along
from ringlens.analysis.differences.saturation import Checkpoint, saturation
from ringlens.analysis.experts.expert_card import expert_card
from ringlens.analysis.experts.token_experts import token_experts
from ringlens.analysis.load.bias_audit import bias_audit, expert_bias
from ringlens.analysis.load.expert_importance import expert_importance
from ringlens.analysis.load.expert_load import expert_load, layer_balance
from ringlens.analysis.load.router_entropy import router_entropy
from ringlens.analysis.load.selection_causes import group_displacements, selection_causes
from ringlens.analysis.selections.shuffled import Shuffled
from ringlens.analysis.structure.coactivation import coactivation, transitions
from ringlens.analysis.structure.committees import committees
from ringlens.analysis.structure.path_clusters import path_clusters
from ringlens.analysis.structure.predictability import predictability
from ringlens.analysis.structure.routing_path import routing_path
from ringlens.analysis.trajectory.alignment import alignment
from ringlens.analysis.trajectory.reflections import reflections
from ringlens.analysis.trajectory.step_map import step_map

__all__ = [
    "Checkpoint",
    "Shuffled",
    "agreement",
    "alignment",
    "association",
    "bias_audit",
    "changed_experts",
    "coactivation",
    "committees",
    "contrast",
    "expert_bias",
    "expert_card",
    "expert_importance",
    "expert_load",
    "group_displacements",
    "layer_balance",
    "path_clusters",
    "predictability",
    "reflections",
    "router_entropy",
    "routing_path",
    "routing_shift",
    "saturation",
    "selection_causes",
    "shift_along",
    "step_map",
    "token_experts",
    "transitions",
]
