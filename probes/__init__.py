"""Experiments on a lens and a store."""

from ringlens.probes.control_content import control_content
from ringlens.probes.expert_norms import expert_norms
from ringlens.probes.router_geometry import direction_parts, gate_cosines, gate_spectrum

__all__ = [
    "control_content",
    "direction_parts",
    "expert_norms",
    "gate_cosines",
    "gate_spectrum",
]
