"""Interventions on routers: which experts run, and with which weights.

z router logits, s affinities, b selection bias, c = s + b selection scores, w routing weights. A
router keeps the best groups of experts by c, chooses the k largest c in them, and weighs the chosen
by their s. Those that edit c act first and all at once; those that act after the selection follow,
in the order in which they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ringlens.config import whole
from ringlens.errors import ConfigError
from ringlens.interventions.intervention import Intervention, Numbers, finite, wholes


@dataclass(frozen=True, repr=False)
class OnExperts(Intervention):
    """An intervention on experts of a layer.

    Args:
        experts: An expert or several.
    """

    experts: Numbers
    target: ClassVar[str] = "experts"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fix("experts", wholes("experts", self.experts))

    @property
    def ids(self) -> tuple[int, ...]:
        """The experts, ascending."""
        ids: Any = self.experts
        return ids


@dataclass(frozen=True, repr=False)
class Ablate(OnExperts):
    """Take experts away, as if the model were without them: c_e = −∞.

    Groups are ranked by the experts that are left, the next best experts run, and the weights are
    those of the router for the experts that run. A checkpoint without these experts computes the
    same.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        experts: An expert or several.
    """

    kind: ClassVar[str] = "ablate"


@dataclass(frozen=True, repr=False)
class RouteAround(Intervention):
    """Send the tokens of one expert to the next best of the groups that the router keeps.

    c_e = −∞ behind the group limit: unlike :class:`Ablate` it leaves the groups as they are, so
    that the one expert is all that changes. The weights are those of the router for the experts
    that run: they are renormalised.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        expert: The expert.
    """

    expert: int
    kind: ClassVar[str] = "route-around"
    target: ClassVar[str] = "expert"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fix("expert", whole("expert", self.expert, 0))

    @property
    def ids(self) -> tuple[int, ...]:
        """The one expert."""
        return (self.expert,)

    def _target(self) -> str:
        return str(self.expert)


@dataclass(frozen=True, repr=False)
class Boost(OnExperts):
    """Raise the selection score of experts: c_e + by, and their groups are kept.

    Without the groups the edit would often be masked by the group limit. The weights follow the
    affinities, which stay.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        experts: An expert or several.
        by: What is added, above 0. Affinities lie between 0 and 1.
    """

    by: float
    kind: ClassVar[str] = "boost"
    strength: ClassVar[str] = "by"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fix("by", finite("by", self.by))
        if self.by <= 0:
            raise ConfigError(
                f"by = {self.by}; a boost is above 0. Ablate keeps experts out, and Scale lessens "
                "their weights."
            )


@dataclass(frozen=True, repr=False)
class Force(OnExperts):
    """Have experts chosen whatever their scores; their groups are kept.

    The other places go to the best of the kept groups. The weights follow the affinities.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        experts: An expert or several, k at most.
    """

    kind: ClassVar[str] = "force"


@dataclass(frozen=True, repr=False)
class Swap(OnExperts):
    """Exchange two experts behind the selection: each runs in the other's place, with its weight.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        experts: The two.
    """

    kind: ClassVar[str] = "swap"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.ids) != 2:
            raise ConfigError(f"experts = {self.experts}; a swap is of two different experts.")


@dataclass(frozen=True, repr=False)
class Scale(OnExperts):
    """Multiply the weights of experts behind the selection: w_e ← factor · w_e.

    The other weights stay as they are: nothing is renormalised (RICE, arXiv 2505.14681).

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        experts: An expert or several.
        factor: What their weights are multiplied by; 0 silences them.
    """

    factor: float
    kind: ClassVar[str] = "scale"
    strength: ClassVar[str] = "factor"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fix("factor", finite("factor", self.factor))


EditsScores = Ablate | RouteAround | Boost | Force
"""Those that edit which experts are chosen."""

ActsBehind = Swap | Scale
"""Those that act behind the selection."""

OnRouter = EditsScores | ActsBehind
"""Those that act on a router."""
