"""Which layout the experts get in memory: "fused" (3-D parameters) or "modules" (one an expert)."""

from __future__ import annotations

from collections.abc import Sequence

from ringlens.errors import ConfigError
from ringlens.model.quantization import MODULE_METHODS

LAYOUTS = ("fused", "modules")


def choose_layout(
    asked: str | None,
    *,
    method: str | None = None,
    keeps_fp8: bool = False,
    offloads: bool = False,
    sharded: bool = False,
    layouts: Sequence[str] = LAYOUTS,
) -> str:
    """Choose the experts layout that fits the rest; ``asked`` where it is possible.

    Args:
        asked: "fused", "modules", or None to choose.
        method: Quantisation method, as transformers names it.
        keeps_fp8: Whether the experts stay in FP8.
        offloads: Whether weights wait on the disk or in CPU memory. Experts that are modules are
            fetched one by one, when hit; fused ones by the layer, after being written out anew.
        sharded: Whether tensor or expert parallelism splits the experts.
        layouts: Layouts that the model's family has.

    Raises:
        ConfigError: The layout that was asked for cannot do what was asked for.
    """
    if asked not in (None, *LAYOUTS):
        raise ConfigError(f"experts = {asked!r}; known are {', '.join(map(repr, LAYOUTS))}.")
    needs_modules = method in MODULE_METHODS
    if sharded and needs_modules:
        raise ConfigError(
            f"{method} quantises experts that are modules, and tensor and expert parallelism split "
            "fused ones: the two do not combine. Use device_map='auto' or pp_size with it, or "
            "an FP8 checkpoint with tp_size."
        )
    if asked == "fused" and needs_modules:
        raise ConfigError(
            f"experts = 'fused' with {method}: it replaces linear modules only, and would leave "
            "the fused experts (nearly all of the model) unquantised. Leave experts out."
        )
    if asked == "modules" and (sharded or keeps_fp8):
        why = "tensor and expert parallelism split" if sharded else "FP8 kernels work on"
        raise ConfigError(f"experts = 'modules', but {why} fused experts. Leave experts out.")
    wants_modules = needs_modules or (
        "modules" in layouts and offloads and not keeps_fp8 and not sharded
    )
    chosen = asked or ("modules" if wants_modules else "fused")
    if chosen not in layouts:
        raise ConfigError(
            f"experts = {chosen!r}, but models of this family have their experts as "
            f"{' or '.join(map(repr, layouts))} only. Leave experts out."
        )
    return chosen
