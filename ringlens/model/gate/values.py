"""Values of a config.json that mean the same in every family, and how bounds of values are checked.

Families check their own fields with these before anything is computed from them, so that no list of
a billion layers is built and no comparison meets a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

from ringlens.errors import ConfigError

DTYPES = ("bfloat16", "float16", "float32", "float64")
# Names of kernels; one with a slash would be fetched from the hub and run.
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
TOKEN_IDS = {"pad_token_id": (-1, 2**24), "bos_token_id": (0, 2**24)}

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


def check_types(values: Mapping[str, Any]) -> None:
    """Refuse what no model of any family has in its fields of transformers' own.

    These are dtypes, kernels, architectures, and token ids.

    Raises:
        ConfigError: The message names the field, its value and what it must be.
    """
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
    check_token_ids(values)


def check_token_ids(values: Mapping[str, Any]) -> None:
    """Refuse special tokens that are no token ids.

    Raises:
        ConfigError: The message names the field, its value and what it must be.
    """
    for name, bound in TOKEN_IDS.items():
        if values.get(name) is not None:
            check_count(name, values[name], bound)
    eos = values.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    good = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**24 for i in ids)
    require(good and len(ids) <= 1000, "eos_token_id", eos, "a token id, or a list of them")


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
    check_each({f"{name}.{k}": v for k, v in rope.items() if v is not None},
                {f"{name}.{k}": v for k, v in _ROPE_NUMBERS.items()}, check_number)  # fmt: skip
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


def check_each(
    values: Mapping[str, Any],
    bounds: Mapping[str, Any],
    check: Callable[[str, Any, Any], None],
    optional: Container[str] = (),
) -> None:
    """Check the fields that are there; of optional ones null means "not stated"."""
    for name, bound in bounds.items():
        if name in values and not (values[name] is None and name in optional):
            check(name, values[name], bound)


def check_count(name: str, value: Any, bound: tuple[int, int]) -> None:
    """Refuse all but a whole number within its bounds."""
    low, high = bound
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and low <= value <= high, name, value, f"a whole number, {low} to {high:,}")


def check_number(name: str, value: Any, bound: tuple[float, float, bool]) -> None:
    """Refuse all but a number within its bounds, the least itself excluded where they say so."""
    low, high, above = bound
    fits = _is_number(value) and (low < value if above else low <= value) and value <= high
    require(fits, name, value, f"a number {'above' if above else 'from'} {low:g} up to {high:g}")


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (isinstance(value, float) and math.isfinite(value))
