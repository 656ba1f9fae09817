"""Interventions, checked against a model: every layer is named, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ringlens.errors import ConfigError
from ringlens.interventions import Intervention, RouteAround, Steer, read_interventions
from ringlens.interventions.experts import OnExperts
from ringlens.interventions.heads import OnHeads
from ringlens.observe.interventions.choosable import check_choosable
from ringlens.observe.points import POINTS, Point, layer_of, layers_with

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

Given = Intervention | str | Iterable[Intervention | str]
"""An intervention or several, as objects or in their text form."""


def resolve(loaded: LoadedModel, given: Given) -> tuple[Intervention, ...]:
    """Check interventions against a model.

    Args:
        loaded: The model.
        given: The interventions.

    Returns:
        The same with every layer named.

    Raises:
        ConfigError: Something else than interventions, a number that the model does not have, or
            routers that could not choose k experts any more.
        ObservationError: A layer that is not there, or is dense.
    """
    found = tuple(_resolved(loaded, each) for each in read_interventions(given))
    check_choosable(found, loaded.router)
    return found


def resolve_rows(
    loaded: LoadedModel, rows: Sequence[Given]
) -> tuple[tuple[Intervention, ...], ...]:
    """`resolve` the interventions of each row of a batch."""
    return tuple(resolve(loaded, row) for row in rows)


def point_of(intervention: Intervention) -> Point:
    """The point of the model that an intervention changes."""
    if isinstance(intervention, Steer):
        return POINTS[intervention.point]
    return POINTS["head_out" if isinstance(intervention, OnHeads) else "router_logits"]


def _resolved(loaded: LoadedModel, each: Intervention) -> Intervention:
    point, config = point_of(each), loaded.config
    known = layers_with(point, config)
    if not known:
        raise ConfigError(f"{each!r}: {loaded.name} has no layer with {point.name}.")
    if each.layers is None:
        layers = set(known)
    else:
        layers = {layer_of(point, layer, config) or 0 for layer in each.layers}
    sizes = loaded.sizes
    if isinstance(each, OnExperts | RouteAround):
        _check(each, "expert", each.ids, sizes.router.experts)
    elif isinstance(each, OnHeads):
        _check(each, "head", each.ids, sizes.heads)
    elif isinstance(each, Steer) and len(each.vector) != sizes.hidden_size:
        raise ConfigError(
            f"{each!r}: the residual stream of {loaded.name} has {sizes.hidden_size} dimensions, "
            f"and the direction {len(each.vector)}."
        )
    return replace(each, layer=tuple(layers))


def _check(each: Intervention, kind: str, ids: tuple[int, ...], count: int) -> None:
    if ids[-1] >= count:
        raise ConfigError(
            f"{each!r}: {kind} {ids[-1]} is not there; they go from 0 to {count - 1}."
        )
