"""The fields of a Ring configuration: which values they may have.

Checked before anything is computed from them, so that no list of a billion layers is built and no
comparison meets a text. The bounds are far beyond every published model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringlens.model.gate.values import (
    check_count,
    check_each,
    check_number,
    check_rope,
    check_types,
    require,
)

# Field → least and greatest whole number; of OPTIONAL ones null means "not stated".
COUNTS = {
    "vocab_size": (1, 2**24),
    "hidden_size": (1, 2**20),
    "intermediate_size": (1, 2**22),
    "num_hidden_layers": (1, 10_000),
    "num_attention_heads": (1, 2**14),
    "num_key_value_heads": (0, 2**14),
    "head_dim": (1, 2**14),
    "rotary_dim": (1, 2**14),
    "max_position_embeddings": (1, 2**31),
    "num_experts": (1, 2**16),
    "num_shared_experts": (0, 2**10),
    "num_experts_per_tok": (1, 2**16),
    "n_group": (1, 2**16),
    "topk_group": (1, 2**16),
    "moe_intermediate_size": (1, 2**22),
    "first_k_dense_replace": (0, 10_000),
    "num_nextn_predict_layers": (0, 1_000),
}
# Field → least and greatest number, the least itself excluded where it says so.
NUMBERS = {
    "initializer_range": (0.0, 1e3, False),
    "rms_norm_eps": (0.0, 1.0, True),
    "attention_dropout": (0.0, 1.0, False),
    "routed_scaling_factor": (0.0, 1e6, True),
    "rope_theta": (0.0, 1e15, True),
    "partial_rotary_factor": (0.0, 1.0, True),
}
SWITCHES = (
    "use_cache",
    "use_qkv_bias",
    "use_bias",
    "use_qk_norm",
    "output_router_logits",
    "tie_word_embeddings",
    "moe_router_enable_expert_bias",
)
OPTIONAL = {
    "num_key_value_heads",
    "head_dim",
    "rotary_dim",
    "num_shared_experts",
    "num_nextn_predict_layers",
    "rope_theta",
    "partial_rotary_factor",
    "moe_router_enable_expert_bias",
}
# What some configurations of the family state, and what alone this code computes.
FIXED: dict[str, tuple[Any, ...]] = {
    "score_function": ("sigmoid",),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "router_type": ("topN",),
    "norm_topk_prob": (True,),
    "use_rmsnorm": (True,),
    "norm_head": (False, None),
    "norm_softmax": (False, None),
    "use_sliding_window": (False, None),
    "transformers_weights": (None,),
}
ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")
# Most experts of a model, all layers together (Ring-1T: 19,456), and most numbers in a tensor.
MOST_EXPERTS, MOST_NUMBERS = 2**18, 2**40


def check_fields(values: Mapping[str, Any]) -> None:
    """Refuse a value that its field cannot have; fields that are not there are not asked for.

    Args:
        values: Fields as ``config.json`` spells them.

    Raises:
        ConfigError: The message names the field, its value and what it must be.
    """
    check_each(values, COUNTS, check_count, OPTIONAL)
    check_each(values, NUMBERS, check_number, OPTIONAL)
    for name in SWITCHES:
        if name in values and not (values[name] is None and name in OPTIONAL):
            require(isinstance(values[name], bool), name, values[name], "true or false")
    for name, allowed in FIXED.items():
        value = values.get(name, allowed[0])
        wanted = f"{allowed[0]!r}, the only one that ringlens computes, or left out"
        require(any(value is a or (value == a and type(value) is type(a)) for a in allowed),
                name, value, wanted)  # fmt: skip
    if "hidden_act" in values:
        act = values["hidden_act"]
        require(act in ACTIVATIONS, "hidden_act", act, f"one of {', '.join(ACTIVATIONS)}")
    check_types(values)
    for name in ("rope_scaling", "rope_parameters"):
        if values.get(name) is not None:
            check_rope(values[name], name)


def check_size(values: Mapping[str, int]) -> None:
    """Refuse sizes that are fine one by one and together beyond every machine."""
    experts = values["num_hidden_layers"] * values["num_experts"]
    require(
        experts <= MOST_EXPERTS,
        "num_hidden_layers * num_experts",
        experts,
        f"at most {MOST_EXPERTS:,} experts in all",
    )
    widest = max(
        values["vocab_size"],
        values["intermediate_size"],
        values["moe_intermediate_size"],
        3 * values["num_attention_heads"] * values["head_dim"],
    )
    require(
        widest * values["hidden_size"] <= MOST_NUMBERS,
        "hidden_size",
        values["hidden_size"],
        f"so small that no tensor has more than {MOST_NUMBERS:,} numbers",
    )
    for name in ("pad_token_id", "bos_token_id"):
        require(
            (values.get(name) or 0) < values["vocab_size"],
            name,
            values.get(name),
            f"below vocab_size = {values['vocab_size']}",
        )
