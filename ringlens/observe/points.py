"""The observable points of a Ring model: one table, and the only place here with module names.

A point has a name of ours, the name TransformerLens users know, and a module path; all three are
accepted wherever a point is asked for.

Shape letters: B batch, T tokens, D hidden size, H heads, C head dimension, E experts, k experts a
token, V vocabulary.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from accelerate.utils import align_module_device
from torch import Tensor, nn

from ringlens.errors import ObservationError
from ringlens.model.parallel import lives_here
from ringlens.model.ring.attention import attention_kernel

if TYPE_CHECKING:
    from ringlens.model.ring.configuration import BailingMoeV2Config
    from ringlens.model.ring.moe import BailingMoeV2Gate

__all__ = [
    "POINTS",
    "Point",
    "attention_kernel",
    "expert_bias",
    "find_point",
    "gate",
    "in_this_process",
    "layer_of",
    "layers_with",
    "module_at",
    "tokens_module",
    "unembed",
]


@dataclass(frozen=True)
class Point:
    """One observable point.

    Attributes:
        name: Name used throughout ringlens.
        alias: TransformerLens name; ``{}`` stands for the layer.
        path: Module path; ``{}`` stands for the layer.
        side: "input" or "output" of the module.
        item: Which item of a tuple, None where the module gives one tensor.
        shape: Shape of the point's tensor, in letters.
        layers: "all", "sparse", or "none" for points outside the layers.
        flat: The module itself has the tokens of all rows in one dimension.
    """

    name: str
    alias: str
    path: str
    side: str
    item: int | None
    shape: str
    layers: str = "all"
    flat: bool = False

    def at(self, layer: int | None) -> str:
        """TransformerLens name of this point in ``layer``."""
        return self.alias.format(layer)


_LAYER = "model.layers.{}"
_GATE, _MLP = _LAYER + ".mlp.gate", _LAYER + ".mlp"


def _routed(name: str, alias: str, path: str, item: int | None, shape: str) -> Point:
    return Point(name, alias, path, "output", item, shape, layers="sparse", flat=True)


POINTS: dict[str, Point] = {
    p.name: p
    for p in (
        Point("embed", "hook_embed", "model.word_embeddings", "output", None, "BTD", "none"),
        Point("resid_pre", "blocks.{}.hook_resid_pre", _LAYER, "input", None, "BTD"),
        Point(
            "head_out", "blocks.{}.attn.hook_z", _LAYER + ".attention.dense", "input", None, "BTHC"
        ),
        Point("attn_out", "blocks.{}.hook_attn_out", _LAYER + ".attention", "output", 0, "BTD"),
        _routed("router_logits", "blocks.{}.mlp.gate.hook_out", _GATE, 0, "BTE"),
        _routed("router_weights", "blocks.{}.mlp.gate.hook_weights", _GATE, 1, "BTk"),
        _routed("router_choice", "blocks.{}.mlp.gate.hook_indices", _GATE, 2, "BTk"),
        _routed("expert_out", "blocks.{}.mlp.hook_experts", _MLP + ".experts", None, "BTD"),
        Point("mlp_out", "blocks.{}.hook_mlp_out", _MLP, "output", None, "BTD"),
        Point("resid_post", "blocks.{}.hook_resid_post", _LAYER, "output", None, "BTD"),
        Point(
            "final_norm", "ln_final.hook_normalized", "model.norm", "output", None, "BTD", "none"
        ),
        Point("logits", "unembed.hook_out", "lm_head", "output", None, "BTV", "none"),
    )
}


def find_point(name: str) -> tuple[Point, int | None]:
    """Look up a point by our name, its TransformerLens name or its module path.

    Returns:
        The point and the layer named in ``name``, None where ``name`` names no layer. A module
        path that several points share gives the first of them on the module's output.

    Raises:
        ObservationError: No such point; the message gives the nearest and lists all.
    """
    if name in POINTS:
        return POINTS[name], None
    candidates = sorted(POINTS.values(), key=lambda point: point.side != "output")
    for pattern in (lambda p: p.alias, lambda p: p.path):
        for point in candidates:
            found = re.fullmatch(re.escape(pattern(point)).replace(r"\{\}", r"(\d+)"), name)
            if found:
                return point, int(found[1]) if found.groups() else None
    raise ObservationError(
        f"no observable point {name!r}. Nearest: {', '.join(_nearest(name))}. "
        f"Points: {', '.join(POINTS)}; each also by its TransformerLens name, such as "
        "'blocks.3.mlp.gate.hook_out', or its module path, such as 'model.layers.3.mlp.gate'."
    )


def _nearest(name: str) -> list[str]:
    """Names of points most like ``name``, in its own layer."""
    digits = re.search(r"\d+", name)
    pattern = name if digits is None else name.replace(digits[0], "{}", 1)
    known = [spelling for p in POINTS.values() for spelling in (p.name, p.alias, p.path)]
    close = difflib.get_close_matches(pattern, dict.fromkeys(known), n=3, cutoff=0.0)
    return [spelling.format(digits[0] if digits else 0) for spelling in close]


def layers_with(point: Point, config: BailingMoeV2Config) -> tuple[int, ...]:
    """Layers that have ``point``, ascending; empty for a point outside the layers."""
    if point.layers == "none":
        return ()
    if point.layers == "sparse":
        return tuple(config.sparse_layers)
    return tuple(range(config.num_hidden_layers))


def layer_of(point: Point, layer: int | None, config: BailingMoeV2Config) -> int | None:
    """Check the layer asked for; negative ones count from the model's last layer.

    Raises:
        ObservationError: The layer lacks this point, or is missing, or the point has no layers.
    """
    if point.layers == "none":
        if layer is None:
            return None
        raise ObservationError(f"{point.name} stands outside the layers; ask for it without one.")
    possible = layers_with(point, config)
    where = f"{point.name} exists in layers {_ranges(possible)}"
    if layer is None:
        raise ObservationError(f"{where}; say which one.")
    counted = layer + config.num_hidden_layers if layer < 0 else layer
    if counted not in possible:
        kind = "dense, without a router" if 0 <= counted < config.num_hidden_layers else "not there"
        raise ObservationError(f"layer {layer} is {kind}: {where}.")
    return counted


def _ranges(layers: tuple[int, ...]) -> str:
    """1, 2, 3, 5 as "1-3, 5"."""
    starts = [x for x in layers if x - 1 not in layers]
    stops = [x for x in layers if x + 1 not in layers]
    pairs = zip(starts, stops, strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs) or "none"


def in_this_process(model: nn.Module, point: Point, layer: int | None) -> bool:
    """Whether the module of ``point`` lives here: another pipeline stage may hold it."""
    home = point.path if point.layers == "none" else _LAYER
    return lives_here(model.get_submodule(home.format(layer)))


def module_at(model: nn.Module, point: Point, layer: int | None = None) -> nn.Module:
    """The module that ``point`` belongs to, in layer ``layer``."""
    return model.get_submodule(point.path.format(layer))


def tokens_module(model: nn.Module, layer: int) -> nn.Module:
    """The module of a layer whose first input [B, T, D] says how a flat point is to be divided."""
    return module_at(model, POINTS["mlp_out"], layer)


def gate(model: nn.Module, layer: int) -> BailingMoeV2Gate:
    """The router of a sparse layer."""
    return cast("BailingMoeV2Gate", module_at(model, POINTS["router_logits"], layer))


def expert_bias(model: nn.Module, layer: int) -> Tensor:
    """A copy on the CPU of a router's expert bias, float32 [E], wherever it lives."""
    module = gate(model, layer)
    with align_module_device(module):  # offloaded weights are away outside of a forward
        return module.expert_bias.detach().float().cpu().clone()


def unembed(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The output projection [..., D] → [..., V] as a function that fires no hooks."""
    return module_at(model, POINTS["logits"]).forward
