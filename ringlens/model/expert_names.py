"""How checkpoints name what belongs to routed experts: what it takes to write one with fewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from re import Pattern
from typing import Any


@dataclass(frozen=True)
class ExpertNames:
    """Names of a checkpoint's tensors that belong to routed experts.

    Attributes:
        one: Matches the name of a tensor of one expert, with the groups ``head`` (all before the
            expert's number), ``layer``, ``expert`` and ``tail``.
        rows: Matches the name of a tensor with a row for each expert, with the group ``layer``.
        unrun: Matches the names of tensors of layers that ordinary generation does not run; None
            if there are none.
        count: Key of config.json that says how many experts a layer has.
        without_unrun: Keys of config.json, and their values, once those layers are gone.
        neurons: Which dimension of an expert's weight counts its neurons, by the ``tail`` of its
            name.
    """

    one: Pattern[str]
    rows: Pattern[str]
    unrun: Pattern[str] | None
    count: str
    without_unrun: Mapping[str, Any]
    neurons: Mapping[str, int]
