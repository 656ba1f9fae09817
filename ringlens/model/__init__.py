"""Ring on transformers 5. Knows nothing of observing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringlens.model.configuration import BailingMoeV2Config
    from ringlens.model.modeling import BailingMoeV2ForCausalLM, BailingMoeV2Model

__all__ = ["BailingMoeV2Config", "BailingMoeV2ForCausalLM", "BailingMoeV2Model"]


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when a class is asked for."""
    if name == "BailingMoeV2Config":
        from ringlens.model import configuration

        return configuration.BailingMoeV2Config
    if name in __all__:
        # First: its import hook (registration.py) imports modeling, which imports from it.
        import transformers.models.auto.modeling_auto  # noqa: F401

        from ringlens.model import modeling

        return getattr(modeling, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
