"""Interventions on attention heads: on what a head passes to the output projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ringlens.interventions.intervention import Intervention, Numbers, finite, wholes


@dataclass(frozen=True, repr=False)
class OnHeads(Intervention):
    """An intervention on heads of a layer.

    Args:
        heads: A head or several.
    """

    heads: Numbers
    target: ClassVar[str] = "heads"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fix("heads", wholes("heads", self.heads))

    @property
    def ids(self) -> tuple[int, ...]:
        """The heads, ascending."""
        ids: Any = self.heads
        return ids

    @property
    def multiplier(self) -> float:
        """What the heads' outputs are multiplied by."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class AblateHead(OnHeads):
    """Silence attention heads: their outputs are zero.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        heads: A head or several.
    """

    kind: ClassVar[str] = "ablate-head"

    @property
    def multiplier(self) -> float:
        """Zero."""
        return 0.0


@dataclass(frozen=True, repr=False)
class ScaleHead(OnHeads):
    """Multiply the outputs of attention heads.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        heads: A head or several.
        factor: The factor.
    """

    factor: float
    kind: ClassVar[str] = "scale-head"
    strength: ClassVar[str] = "factor"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fix("factor", finite("factor", self.factor))

    @property
    def multiplier(self) -> float:
        """The factor."""
        return self.factor
