"""Models on transformers 5, family by family. Knows nothing of observing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringlens.model.ring.configuration import BailingMoeV2Config
    from ringlens.model.ring.modeling import BailingMoeV2ForCausalLM, BailingMoeV2Model

__all__ = ["BailingMoeV2Config", "BailingMoeV2ForCausalLM", "BailingMoeV2Model"]


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when a class is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "configuration" if name == "BailingMoeV2Config" else "modeling"
    return getattr(import_module(f"ringlens.model.ring.{home}"), name)
