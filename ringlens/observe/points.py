"""The observable points of a Ring model: one table, and the only place here with module names.

A point has a name of ours, the name TransformerLens users know, and a module path; all three are
accepted wherever a point is asked for.

Shape letters: B batch, T tokens, N = B·T, D hidden size, H heads, C head dimension, E experts,
k experts a token, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from ringlens.errors import ObservationError
from ringlens.model.attention import attention_kernel

if TYPE_CHECKING:
    from ringlens.model.moe import BailingMoeV2Gate

__all__ = ["POINTS", "Point", "attention_kernel", "find_point", "gate", "module_at", "unembed"]


@dataclass(frozen=True)
class Point:
    """One observable point.

    Attributes:
        name: Name used throughout ringlens.
        alias: TransformerLens name; ``{}`` stands for the layer.
        path: Module path; ``{}`` stands for the layer.
        side: "input" or "output" of the module.
        item: Which item of a tuple, None where the module gives one tensor.
        shape: Shape of the tensor, in letters.
        layers: "all", "sparse", or "none" for points outside the layers.
    """

    name: str
    alias: str
    path: str
    side: str
    item: int | None
    shape: str
    layers: str = "all"


_LAYER = "model.layers.{}"

POINTS: dict[str, Point] = {
    p.name: p
    for p in (
        Point("resid_pre", "blocks.{}.hook_resid_pre", _LAYER, "input", None, "BTD"),
        Point("attn_out", "blocks.{}.hook_attn_out", _LAYER + ".attention", "output", 0, "BTD"),
        Point(
            "head_out", "blocks.{}.attn.hook_z", _LAYER + ".attention.dense", "input", None, "BTHC"
        ),
        Point(
            "router_logits",
            "blocks.{}.mlp.gate.hook_out",
            _LAYER + ".mlp.gate",
            "output",
            0,
            "NE",
            "sparse",
        ),
        Point(
            "router_weights",
            "blocks.{}.mlp.gate.hook_weights",
            _LAYER + ".mlp.gate",
            "output",
            1,
            "Nk",
            "sparse",
        ),
        Point(
            "router_choice",
            "blocks.{}.mlp.gate.hook_indices",
            _LAYER + ".mlp.gate",
            "output",
            2,
            "Nk",
            "sparse",
        ),
        Point(
            "expert_out",
            "blocks.{}.mlp.hook_experts",
            _LAYER + ".mlp.experts",
            "output",
            None,
            "ND",
            "sparse",
        ),
        Point("mlp_out", "blocks.{}.hook_mlp_out", _LAYER + ".mlp", "output", None, "BTD"),
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
        ObservationError: No such point; the message lists them.
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
        f"no observable point {name!r}. Points: {', '.join(POINTS)}; or a TransformerLens name "
        "such as 'blocks.3.mlp.gate.hook_out', or a module path such as 'model.layers.3.mlp.gate'."
    )


def module_at(model: nn.Module, point: Point, layer: int | None = None) -> nn.Module:
    """The module that ``point`` belongs to, in layer ``layer``."""
    return model.get_submodule(point.path.format(layer))


def gate(model: nn.Module, layer: int) -> BailingMoeV2Gate:
    """The router of a sparse layer."""
    return cast("BailingMoeV2Gate", module_at(model, POINTS["router_logits"], layer))


def unembed(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The output projection [..., D] → [..., V] as a function that fires no hooks."""
    return module_at(model, POINTS["logits"]).forward
