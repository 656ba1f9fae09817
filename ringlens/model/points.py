"""What can be observed in a model of any family, and where in its modules that is.

Shape letters: B batch, T tokens, D hidden size, H heads, C head dimension, E experts, k experts a
token, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One observable point.

    Attributes:
        name: Name used throughout ringlens.
        alias: TransformerLens name; ``{}`` stands for the layer.
        shape: Shape of the point's tensor, in letters.
        layers: "all", "sparse", or "none" for points outside the layers.
    """

    name: str
    alias: str
    shape: str
    layers: str = "all"

    def at(self, layer: int | None) -> str:
        """TransformerLens name of this point in ``layer``."""
        return self.alias.format(layer)


@dataclass(frozen=True)
class Location:
    """Where a family's modules have a point.

    Attributes:
        path: Module path; ``{}`` stands for the layer.
        side: "input" or "output" of the module.
        item: Which item of a tuple, None where the module gives one tensor.
        flat: The module itself has the tokens of all rows in one dimension.
    """

    path: str
    side: str = "output"
    item: int | None = None
    flat: bool = False


POINTS: dict[str, Point] = {
    p.name: p
    for p in (
        Point("embed", "hook_embed", "BTD", "none"),
        Point("resid_pre", "blocks.{}.hook_resid_pre", "BTD"),
        Point("head_out", "blocks.{}.attn.hook_z", "BTHC"),
        Point("attn_out", "blocks.{}.hook_attn_out", "BTD"),
        Point("router_logits", "blocks.{}.mlp.gate.hook_out", "BTE", "sparse"),
        Point("router_weights", "blocks.{}.mlp.gate.hook_weights", "BTk", "sparse"),
        Point("router_choice", "blocks.{}.mlp.gate.hook_indices", "BTk", "sparse"),
        Point("expert_out", "blocks.{}.mlp.hook_experts", "BTD", "sparse"),
        Point("mlp_out", "blocks.{}.hook_mlp_out", "BTD"),
        Point("resid_post", "blocks.{}.hook_resid_post", "BTD"),
        Point("final_norm", "ln_final.hook_normalized", "BTD", "none"),
        Point("logits", "unembed.hook_out", "BTV", "none"),
    )
}
"""Every point, in the order in which a model computes them."""
