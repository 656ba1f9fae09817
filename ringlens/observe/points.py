"""The observable points of a model: looked up by any of their names, found in its modules.

A point has a name of ours, the name TransformerLens users know, and a module path, which depends on
the family of the model; all three are accepted wherever a point is asked for.

Shape letters: E experts, D hidden size, V vocabulary.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from ringlens.errors import ObservationError
from ringlens.model.family import family_of, sizes_of
from ringlens.model.parallel import lives_here
from ringlens.model.points import POINTS, Location, Point

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "POINTS",
    "Point",
    "find_point",
    "gate",
    "in_this_process",
    "layer_of",
    "layers_with",
    "location",
    "module_at",
    "ranges",
    "router_weight",
    "selection_bias",
    "tokens_module",
    "unembed",
]


def find_point(name: str, config: PreTrainedConfig | None = None) -> tuple[Point, int | None]:
    """Look up a point by our name, its TransformerLens name or its module path.

    Args:
        name: The name.
        config: Configuration of the model that module paths belong to; None takes no paths.

    Returns:
        The point and the layer named in ``name``, None where ``name`` names no layer. A module
        path that several points share gives the first of them on the module's output.

    Raises:
        ObservationError: No such point; the message gives the nearest and lists all.
    """
    if name in POINTS:
        return POINTS[name], None
    known = {} if config is None else family_of(config).locations
    paths = sorted(known.items(), key=lambda item: item[1].side != "output")
    patterns = [(point.alias, point) for point in POINTS.values()]
    for pattern, point in patterns + [(place.path, POINTS[name]) for name, place in paths]:
        found = re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(\d+)"), name)
        if found:
            return point, int(found[1]) if found.groups() else None
    example = POINTS["router_logits"]
    named = f"its TransformerLens name, such as {example.at(3)!r}"
    if example.name in known:
        named += f", or its module path, such as {known[example.name].path.format(3)!r}"
    raise ObservationError(
        f"no observable point {name!r}. Nearest: {', '.join(_nearest(name, known))}. "
        f"Points: {', '.join(POINTS)}; each also by {named}."
    )


def _nearest(name: str, known: Mapping[str, Location]) -> list[str]:
    """Names of points most like ``name``, in its own layer."""
    digits = re.search(r"\d+", name)
    pattern = name if digits is None else name.replace(digits[0], "{}", 1)
    spellings = [spelling for p in POINTS.values() for spelling in (p.name, p.alias)]
    spellings += [place.path for place in known.values()]
    close = difflib.get_close_matches(pattern, dict.fromkeys(spellings), n=3, cutoff=0.0)
    return [spelling.format(digits[0] if digits else 0) for spelling in close]


def location(point: Point, config: PreTrainedConfig) -> Location:
    """Where models of this configuration have a point.

    Raises:
        ObservationError: They do not have it.
    """
    found = family_of(config).locations.get(point.name)
    if found is None:
        raise ObservationError(
            f"models of type {config.model_type!r} have no point {point.name}; ask for another."
        )
    return found


def layers_with(point: Point, config: PreTrainedConfig) -> tuple[int, ...]:
    """Layers that have ``point``, ascending; empty for a point outside the layers."""
    if point.layers == "none":
        return ()
    if point.layers == "sparse":
        return sizes_of(config).sparse_layers
    return tuple(range(sizes_of(config).layers))


def layer_of(point: Point, layer: int | None, config: PreTrainedConfig) -> int | None:
    """Check the layer asked for; negative ones count from the model's last layer.

    Raises:
        ObservationError: The layer lacks this point, or is missing, or the point has no layers.
    """
    if point.layers == "none":
        if layer is None:
            return None
        raise ObservationError(f"{point.name} stands outside the layers; ask for it without one.")
    possible = layers_with(point, config)
    where = f"{point.name} exists in layers {ranges(possible)}"
    if layer is None:
        raise ObservationError(f"{where}; say which one.")
    layers = sizes_of(config).layers
    counted = layer + layers if layer < 0 else layer
    if counted not in possible:
        kind = "dense, without a router" if 0 <= counted < layers else "not there"
        raise ObservationError(f"layer {layer} is {kind}: {where}.")
    return counted


def ranges(layers: tuple[int, ...]) -> str:
    """Say layers in short: 1, 2, 3, 5 as "1-3, 5"."""
    starts = [x for x in layers if x - 1 not in layers]
    stops = [x for x in layers if x + 1 not in layers]
    pairs = zip(starts, stops, strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs) or "none"


def in_this_process(model: PreTrainedModel, point: Point, layer: int | None) -> bool:
    """Whether the module of ``point`` lives here: another pipeline stage may hold it."""
    outside = point.layers == "none"
    home = location(point if outside else POINTS["resid_post"], model.config)
    return lives_here(model.get_submodule(home.path.format(layer)))


def module_at(model: PreTrainedModel, point: Point, layer: int | None = None) -> nn.Module:
    """The module that ``point`` belongs to, in layer ``layer``."""
    return model.get_submodule(location(point, model.config).path.format(layer))


def tokens_module(model: PreTrainedModel, layer: int) -> nn.Module:
    """The module of a layer whose first input [B, T, D] says how a flat point is to be divided."""
    return module_at(model, POINTS["mlp_out"], layer)


def gate(model: PreTrainedModel, layer: int) -> nn.Module:
    """The router of a sparse layer."""
    return module_at(model, POINTS["router_logits"], layer)


def selection_bias(model: PreTrainedModel, layer: int) -> Tensor | None:
    """A copy on the CPU of a router's selection bias, float32 [E], wherever it lives.

    None where the model's routers have none.
    """
    module, family = gate(model, layer), family_of(model.config)
    with align_module_device(module):  # offloaded weights are away outside of a forward
        bias_E = family.selection_bias(module)
        return None if bias_E is None else bias_E.detach().float().cpu().clone()


def live_selection_bias(model: PreTrainedModel, layer: int) -> Tensor:
    """A router's selection bias [E] where it is: to fetch it would wait for the device.

    A copy if it is offloaded; zeros where the model's routers have none.
    """
    found_E = family_of(model.config).selection_bias(gate(model, layer))
    if found_E is not None and found_E.is_meta:
        found_E = selection_bias(model, layer)
    return torch.zeros(sizes_of(model.config).router.experts) if found_E is None else found_E


def router_items(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Where a router's output has its logits, weights and choice."""
    logits, weights, choice = (
        location(POINTS[name], config).item or 0
        for name in ("router_logits", "router_weights", "router_choice")
    )
    return logits, weights, choice


def router_weight(model: PreTrainedModel, layer: int) -> Tensor:
    """A copy on the CPU of a router's weight, float64 [E, D], wherever it lives."""
    module, family = gate(model, layer), family_of(model.config)
    with align_module_device(module):
        return family.router_weight(module).detach().double().cpu().clone()


def unembed(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The output projection [..., D] → [..., V] as a function that fires no hooks."""
    return module_at(model, POINTS["logits"]).forward
