"""Ringlens: see which experts a Ring model chose, why, and what its heads looked at.

Importing this package costs milliseconds: torch, transformers and the store load when they are
first used. It also lets transformers' Auto classes open Ring checkpoints, once those load.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ringlens.errors import RinglensError
from ringlens.model.family import register_families
from ringlens.versions import __version__ as __version__  # public under this name

if TYPE_CHECKING:
    from ringlens import plot
    from ringlens.app.notebook.door import widget
    from ringlens.interventions import (
        Ablate,
        AblateHead,
        Boost,
        Force,
        RouteAround,
        Scale,
        ScaleHead,
        Steer,
        Swap,
    )
    from ringlens.lens import Lens, load
    from ringlens.observe.session import capture, replay
    from ringlens.probes.chain.runner import probe
    from ringlens.prompts.problems import problems
    from ringlens.store import Store

__all__ = [
    "Ablate",
    "AblateHead",
    "Boost",
    "Force",
    "Lens",
    "RinglensError",
    "RouteAround",
    "Scale",
    "ScaleHead",
    "Steer",
    "Store",
    "Swap",
    "capture",
    "load",
    "plot",
    "probe",
    "problems",
    "replay",
    "widget",
]

_HOMES = {
    **dict.fromkeys(
        ("Ablate", "AblateHead", "Boost", "Force", "RouteAround", "Scale", "ScaleHead", "Steer"),
        "ringlens.interventions",
    ),
    "Swap": "ringlens.interventions",
    "Lens": "ringlens.lens",
    "Store": "ringlens.store",
    "capture": "ringlens.observe.session",
    "load": "ringlens.lens",
    "plot": "ringlens.plot",
    "probe": "ringlens.probes.chain.runner",
    "problems": "ringlens.prompts.problems",
    "replay": "ringlens.observe.session",
    "widget": "ringlens.app.notebook.door",
}

register_families()


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOMES:
        # With name and obj, Python's traceback goes on: Did you mean …?
        message = f"module 'ringlens' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    home = import_module(_HOMES[name])
    return home if home.__name__ == f"ringlens.{name}" else getattr(home, name)


def load_ipython_extension(ipython: Any) -> None:
    """Show traces and routing as widgets in a notebook: ``%load_ext ringlens``."""
    import_module("ringlens.app.notebook.door").register(ipython)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
