"""Frames in, frames out: what a store says of experts, and whether it is real.

Reads the store, never the model. Every function takes a store and a selection of tokens, and gives
a pandas frame whose columns its docstring names; ``frame.attrs`` says what the frame is about, and
the SQL of the same numbers.
"""

from ringlens.analysis.contrast import contrast
from ringlens.analysis.expert_load import expert_load, layer_balance

__all__ = ["contrast", "expert_load", "layer_balance"]
