"""Trajectories: the path that a thought takes from step to step."""

from ringlens.analysis.trajectory.alignment import alignment
from ringlens.analysis.trajectory.backtracks import backtrack_bursts
from ringlens.analysis.trajectory.candidates import stated_answers
from ringlens.analysis.trajectory.changed_measures import changed_measures
from ringlens.analysis.trajectory.confidence import confidence_windows
from ringlens.analysis.trajectory.fork_tokens import fork_tokens
from ringlens.analysis.trajectory.geometry import path_geometry, step_geometry
from ringlens.analysis.trajectory.loops import loops
from ringlens.analysis.trajectory.outcomes import correct_against_wrong, trace_measures
from ringlens.analysis.trajectory.reflections import reflections
from ringlens.analysis.trajectory.signatures import Signatures, signatures
from ringlens.analysis.trajectory.step_map import step_map

__all__ = [
    "Signatures",
    "alignment",
    "backtrack_bursts",
    "changed_measures",
    "confidence_windows",
    "correct_against_wrong",
    "fork_tokens",
    "loops",
    "path_geometry",
    "reflections",
    "signatures",
    "stated_answers",
    "step_geometry",
    "step_map",
    "trace_measures",
]
