"""Steering: a direction that is added to the residual stream."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ringlens.config import known_only
from ringlens.errors import ConfigError
from ringlens.interventions.intervention import Intervention, finite

POINTS = ("resid_pre", "attn_out", "mlp_out", "resid_post")
"""Points whose tensors are the residual stream, or are added to it."""


@dataclass(frozen=True, repr=False)
class Steer(Intervention):
    """Add a direction to the residual stream: x ← x + by · direction.

    Args:
        layer: As in :class:`Intervention`, like ``phase``, ``span``, ``words`` and ``reach``.
        direction: The direction, one number a dimension of the residual stream; kept in float32.
        by: What it is multiplied by.
        point: "resid_post", the stream behind the layer; "resid_pre", before it; or "attn_out" or
            "mlp_out", what attention or the feed-forward block adds to it.
    """

    direction: Iterable[float]
    by: float = field(default=1.0, kw_only=True)
    point: str = field(default="resid_post", kw_only=True)
    kind: ClassVar[str] = "steer"
    target: ClassVar[str] = "point"
    strength: ClassVar[str] = "by"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fix("direction", _direction(self.direction))
        self._fix("by", finite("by", self.by))
        if self.by == 0:
            raise ConfigError("by = 0 adds nothing; give another factor.")
        known_only([self.point], POINTS, "point to steer at")

    @property
    def vector(self) -> NDArray[np.float32]:
        """What is added, float32 [D]."""
        return np.array(self.direction, np.float32) * np.float32(self.by)

    def _target(self) -> str:
        return self.point

    def _strength(self) -> str:
        """Factor and direction; float32, so that nothing of it is lost."""
        numbers = np.array(self.direction, "<f4").tobytes()
        return f"{self.by!r}*{b64encode(numbers).decode()}"

    def __repr__(self) -> str:
        size, length = len(tuple(self.direction)), float(np.linalg.norm(self.vector))
        place = f", place={str(self.place)!r}" if not self.place.is_everywhere else ""
        return (
            f"Steer(layer={self.layer}, {self.point} + {size} numbers of length {length:.4g}"
            f"{place})"
        )


def _direction(given: object) -> tuple[float, ...]:
    try:
        found: NDArray[Any] = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"direction is {type(given).__name__}; give one number a dimension."
        ) from error
    if found.ndim != 1 or not found.size or not np.isfinite(found).all() or not found.any():
        raise ConfigError(
            f"direction has shape {found.shape}; give one finite number a dimension of the "
            "residual stream, not all of them zero."
        )
    return tuple(found.tolist())
