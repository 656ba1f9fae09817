"""Where the modules have each observable point."""

from ringlens.model.points import Location

_LAYER = "model.layers.{}"
_GATE = f"{_LAYER}.mlp.gate"

LOCATIONS = {
    "embed": Location("model.embed_tokens"),
    "resid_pre": Location(_LAYER, "input"),
    "head_out": Location(f"{_LAYER}.self_attn.o_proj", "input"),
    "attn_out": Location(f"{_LAYER}.self_attn", item=0),
    "router_logits": Location(_GATE, item=0, flat=True),
    "router_weights": Location(_GATE, item=1, flat=True),
    "router_choice": Location(_GATE, item=2, flat=True),
    "expert_out": Location(f"{_LAYER}.mlp.experts", flat=True),
    "mlp_out": Location(f"{_LAYER}.mlp"),
    "resid_post": Location(_LAYER),
    "final_norm": Location("model.norm"),
    "logits": Location("lm_head"),
}
