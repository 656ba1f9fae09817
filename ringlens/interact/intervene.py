"""Interventions for people: a block in which a loaded model is changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ringlens.errors import ConfigError
from ringlens.interventions import Intervention, read_interventions
from ringlens.observe.interventions.attached import Attached
from ringlens.observe.interventions.effect import Effect, of_shards
from ringlens.observe.interventions.resolve import Given, resolve, resolve_rows
from ringlens.observe.interventions.together import attached
from ringlens.observe.pipeline.ranks import sharers

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel


def intervene(
    loaded: LoadedModel, interventions: Sequence[Given]
) -> AbstractContextManager[Effect]:
    """See :meth:`ringlens.lens.Lens.intervene`."""
    flat = [act for given in interventions for act in read_interventions(given)]
    if not flat:
        raise ConfigError("no intervention is given; give one, such as Ablate(layer=5, experts=3).")
    return _attached(loaded, Attached(loaded, [resolve(loaded, flat)]))


def intervene_by_row(loaded: LoadedModel, rows: Sequence[Given]) -> AbstractContextManager[Effect]:
    """See :meth:`ringlens.lens.Lens.intervene_by_row`."""
    if isinstance(rows, Intervention | str) or not rows:
        raise ConfigError("rows must be a list with the interventions of each row of the batch.")
    return _attached(loaded, Attached(loaded, resolve_rows(loaded, rows), by_row=True))


def _attached(loaded: LoadedModel, acting: Attached) -> AbstractContextManager[Effect]:
    """Attached in all processes that the model is divided over."""
    return attached(acting, sharers(loaded), of_shards)
