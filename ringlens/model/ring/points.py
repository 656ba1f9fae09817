"""Where Ring's modules have each observable point."""

from __future__ import annotations

from ringlens.model.points import Location

_LAYER = "model.layers.{}"
_MLP = f"{_LAYER}.mlp"
_GATE = f"{_MLP}.gate"

LOCATIONS: dict[str, Location] = {
    "embed": Location("model.word_embeddings"),
    "resid_pre": Location(_LAYER, "input"),
    "head_out": Location(f"{_LAYER}.attention.dense", "input"),
    "attn_out": Location(f"{_LAYER}.attention", item=0),
    "router_logits": Location(_GATE, item=0, flat=True),
    "router_weights": Location(_GATE, item=1, flat=True),
    "router_choice": Location(_GATE, item=2, flat=True),
    "expert_out": Location(f"{_MLP}.experts", flat=True),
    "mlp_out": Location(_MLP),
    "resid_post": Location(_LAYER),
    "final_norm": Location("model.norm"),
    "logits": Location("lm_head"),
}
