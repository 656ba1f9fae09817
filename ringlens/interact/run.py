"""One forward with a cache, or with functions at points: TransformerLens' two, on plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ringlens.errors import ObservationError
from ringlens.interact.cache import ActivationCache, Name, Names, Place, locate, select
from ringlens.model.parallel import parallel_of
from ringlens.observe.given import TextOrIds
from ringlens.observe.hooks import Attachment, attach
from ringlens.observe.inputs import check_options, model_inputs
from ringlens.observe.points import POINTS, Point

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel


OWN = ("names_filter", "fwd_hooks", "device", "stop_at_layer")
"""Settings of the two doors that are no options of the model's forward, for messages."""


@dataclass(frozen=True)
class HookPoint:
    """Where a hook function is being called.

    Attributes:
        point: The observable point.
        index: Its layer, None outside the layers.
    """

    point: Point
    index: int | None

    @property
    def name(self) -> str:
        """TransformerLens name, such as "blocks.3.hook_resid_post"."""
        return self.point.at(self.index)

    def layer(self) -> int:
        """The layer.

        Raises:
            ObservationError: The point stands outside the layers.
        """
        if self.index is None:
            raise ObservationError(f"{self.point.name} stands outside the layers.")
        return self.index


class HookFunction(Protocol):
    """A function for ``run_with_hooks``: looks, changes in place, or returns a replacement."""

    def __call__(self, activation: Tensor, /, hook: HookPoint) -> Tensor | None:
        """Called with the activation at ``hook``."""


def run_with_cache(
    lens: LoadedModel,
    text_or_ids: TextOrIds,
    names_filter: Names = None,
    *,
    device: torch.device | str | None = None,
    stop_at_layer: int | None = None,
    **options: Any,
) -> tuple[Tensor, ActivationCache]:
    """See :meth:`ringlens.lens.Lens.run_with_cache`."""
    config = lens.model.config
    kept: dict[Place, Tensor] = {}

    def keep(place: Place, tensor: Tensor) -> None:
        kept[place] = tensor.detach() if device is None else tensor.detach().to(device)

    places = select(names_filter, config)
    hooks: list[Attachment] = [(*place, partial(keep, place)) for place in places]
    output = forward(lens, text_or_ids, hooks, stop_at_layer, options)
    return output, ActivationCache(kept, config)


def run_with_hooks(
    lens: LoadedModel,
    text_or_ids: TextOrIds,
    fwd_hooks: Sequence[tuple[Name | Callable[[str], bool], HookFunction]] = (),
    *,
    stop_at_layer: int | None = None,
    **options: Any,
) -> Tensor:
    """See :meth:`ringlens.lens.Lens.run_with_hooks`."""
    config = lens.model.config
    hooks: list[Attachment] = []
    for name, fn in fwd_hooks:
        places = select(name, config) if callable(name) else [locate(name, config)]
        hooks += [(*place, partial(fn, hook=HookPoint(*place))) for place in places]
    return forward(lens, text_or_ids, hooks, stop_at_layer, options)


class _Stopped(BaseException):
    """Ends a forward early; no ``except Exception`` on the way may keep it."""

    def __init__(self, resid_BTD: Tensor) -> None:
        self.resid_BTD = resid_BTD


def _stop(resid_BTD: Tensor) -> None:
    raise _Stopped(resid_BTD)


@torch.no_grad()
def forward(
    lens: LoadedModel,
    text_or_ids: TextOrIds,
    hooks: list[Attachment],
    stop_at_layer: int | None,
    options: dict[str, Any],
) -> Tensor:
    """Run the model once with functions attached.

    Returns:
        Logits [B, T, V]; or the residual stream [B, T, D] where ``stop_at_layer`` begins.

    Raises:
        ObservationError: A layer lacks a point; ``stop_at_layer`` on a pipeline.
        ConfigError: An input that the model cannot take, or an unknown option.
    """
    if stop_at_layer is not None and parallel_of(lens.model).pp_size > 1:
        raise ObservationError(
            "stop_at_layer does not work with pp_size > 1: the next stage of the pipeline would "
            "wait for ever. Let names_filter name resid_pre of that layer instead."
        )
    options = dict(options)
    check_options(lens, options, OWN)
    given = model_inputs(lens, text_or_ids, options.pop("attention_mask", None))
    inputs: dict[str, Any] = {**given, "use_cache": False, **options}
    with ExitStack() as attached:
        attached.enter_context(attach(lens.model, hooks))
        if stop_at_layer is not None:
            stop: Attachment = (POINTS["resid_pre"], stop_at_layer, _stop)
            attached.enter_context(attach(lens.model, [stop]))
        try:
            return lens.model(**inputs).logits
        except _Stopped as stopped:
            return stopped.resid_BTD
