"""Distillation: a smaller model learns what a larger one says of its own thoughts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringlens.distil.curve import Distilled, Row
    from ringlens.distil.settings import Distillation
    from ringlens.distil.training import distil

__all__ = ["Distillation", "Distilled", "Row", "distil"]

_HOMES = {"Distillation": "settings", "Distilled": "curve", "Row": "curve", "distil": "training"}


def __getattr__(name: str) -> Any:
    """Import what is used first: the settings are read without torch, for the command's help."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
