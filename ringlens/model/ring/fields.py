"""The fields of a Ring configuration: which values they may have.

Checked before anything is computed from them, so that no list of a billion layers is built and no
comparison meets a text. The bounds are far beyond every published model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ringlens.errors import ConfigError

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
    "pad_token_id": (-1, 2**24),
    "bos_token_id": (0, 2**24),
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
    "pad_token_id",
    "bos_token_id",
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
DTYPES = ("bfloat16", "float16", "float32", "float64")
# Names of kernels; one with a slash would be fetched from the hub and run.
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
# Most experts of a model, all layers together (Ring-1T: 19,456), and most numbers in a tensor.
MOST_EXPERTS, MOST_NUMBERS = 2**18, 2**40

# Scaled rotary embeddings: what each kind must state.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
    "longrope": ("short_factor", "long_factor"),
}
_ROPE_NUMBERS = {
    "rope_theta": (0.0, 1e15, True),
    "partial_rotary_factor": (0.0, 1.0, True),
    "factor": (1.0, 1e6, False),
    "attention_factor": (0.0, 1e6, True),
    "beta_fast": (0.0, 1e6, True),
    "beta_slow": (0.0, 1e6, True),
    "mscale": (0.0, 1e6, False),
    "mscale_all_dim": (0.0, 1e6, False),
    "low_freq_factor": (0.0, 1e6, True),
    "high_freq_factor": (0.0, 1e6, True),
    "original_max_position_embeddings": (1.0, 2.0**31, False),
}


def check_fields(values: Mapping[str, Any]) -> None:
    """Refuse a value that its field cannot have; fields that are not there are not asked for.

    Args:
        values: Fields as ``config.json`` spells them.

    Raises:
        ConfigError: The message names the field, its value and what it must be.
    """
    _check_each(values, COUNTS, _count)
    _check_each(values, NUMBERS, _number)
    for name in SWITCHES:
        if name in values and not (values[name] is None and name in OPTIONAL):
            require(isinstance(values[name], bool), name, values[name], "true or false")
    for name, allowed in FIXED.items():
        value = values.get(name, allowed[0])
        wanted = f"{allowed[0]!r}, the only one that ringlens computes, or left out"
        require(any(value is a or (value == a and type(value) is type(a)) for a in allowed),
                name, value, wanted)  # fmt: skip
    _check_names(values)
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


def check_rope(rope: Any, name: str = "rope_scaling") -> None:
    """Refuse settings of scaled rotary embeddings that are malformed or of a kind unknown here."""
    require(isinstance(rope, Mapping), name, rope, "an object, or null")
    kinds = [rope[key] for key in ("rope_type", "type") if rope.get(key) is not None]
    require(
        all(isinstance(kind, str) and kind in ROPE_TYPES for kind in kinds),
        f"{name}.rope_type",
        kinds[0] if len(kinds) == 1 else kinds,
        f"one of {', '.join(ROPE_TYPES)}",
    )
    require(len(set(kinds)) < 2, f"{name}.rope_type and .type", kinds, "the same, or one of them")
    _check_each({f"{name}.{k}": v for k, v in rope.items() if v is not None},
                {f"{name}.{k}": v for k, v in _ROPE_NUMBERS.items()}, _number)  # fmt: skip
    for key in ("short_factor", "long_factor"):
        factors = rope.get(key, [1.0])
        require(
            isinstance(factors, list)
            and 0 < len(factors) <= 2**14
            and all(_is_number(x) and 0 < x < 1e6 for x in factors),
            f"{name}.{key}",
            factors,
            "a list of positive numbers",
        )
    for wanted in ROPE_TYPES[kinds[0] if kinds else "default"]:
        require(rope.get(wanted) is not None, f"{name}.{wanted}", None, "stated for this rope_type")


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Refuse a value of a configuration unless ``holds``.

    Raises:
        ConfigError: It does not.
    """
    if not holds:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        raise ConfigError(f"{name} = {shown} in the model's config.json; it must be {wanted}.")


def _check_each(
    values: Mapping[str, Any], bounds: Mapping[str, Any], check: Callable[[str, Any, Any], None]
) -> None:
    for name, bound in bounds.items():
        if name in values and not (values[name] is None and name in OPTIONAL):
            check(name, values[name], bound)


def _count(name: str, value: Any, bound: tuple[int, int]) -> None:
    low, high = bound
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and low <= value <= high, name, value, f"a whole number, {low} to {high:,}")


def _number(name: str, value: Any, bound: tuple[float, float, bool]) -> None:
    low, high, above = bound
    fits = _is_number(value) and (low < value if above else low <= value) and value <= high
    require(fits, name, value, f"a number {'above' if above else 'from'} {low:g} up to {high:g}")


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (isinstance(value, float) and math.isfinite(value))


def _check_names(values: Mapping[str, Any]) -> None:
    """Texts: the activation, dtypes, kernels, architectures; and token ids, one or several."""
    if "hidden_act" in values:
        act = values["hidden_act"]
        require(act in ACTIVATIONS, "hidden_act", act, f"one of {', '.join(ACTIVATIONS)}")
    for name in ("dtype", "torch_dtype"):
        dtype = values.get(name)
        known = dtype is None or str(dtype).removeprefix("torch.") in DTYPES
        require(known, name, dtype, f"one of {', '.join(DTYPES)}")
    for name in KERNELS:
        kernel = values.get(name)
        local = kernel is None or (isinstance(kernel, str) and "/" not in kernel)
        require(local, name, kernel, "the name of a kernel that is installed")
    names = values.get("architectures")
    listed = names is None or (isinstance(names, list) and all(isinstance(n, str) for n in names))
    require(listed, "architectures", names, "a list of names")
    eos = values.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    good = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**24 for i in ids)
    require(good and len(ids) <= 1000, "eos_token_id", eos, "a token id, or a list of them")
