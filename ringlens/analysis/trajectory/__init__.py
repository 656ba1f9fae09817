"""Trajectories: the path that a thought takes from step to step."""

from ringlens.analysis.trajectory.alignment import alignment
from ringlens.analysis.trajectory.geometry import path_geometry, step_geometry
from ringlens.analysis.trajectory.signatures import Signatures, signatures
from ringlens.analysis.trajectory.step_map import step_map

__all__ = ["Signatures", "alignment", "path_geometry", "signatures", "step_geometry", "step_map"]
