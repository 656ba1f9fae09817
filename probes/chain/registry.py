"""The table of probes: one row each; the command line and `rl.probe` are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ringlens.config import known_only

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from ringlens.probes.chain.probe import FromStore, Probe


@dataclass(frozen=True)
class Entry:
    """A probe.

    Attributes:
        name: Its name, on the command line and in the table ``probes``.
        summary: What it measures, in one sentence.
        probe: Module and name of its class.
        table: Module and name of the function that reads its results: of a store, and a run
            if only its are wanted, a frame. Its ``attrs["said"]`` says in a sentence what is in it.
        tables: Tables beside `probes` that it writes.
    """

    name: str
    summary: str
    probe: str
    table: str
    tables: tuple[str, ...] = ()

    def kind(self) -> Callable[..., Probe | FromStore]:
        """Import its class."""
        kind: Callable[..., Probe | FromStore] = _named(self.probe)
        return kind

    def reader(self) -> Callable[..., pd.DataFrame]:
        """Import the function that reads its results."""
        reader: Callable[..., pd.DataFrame] = _named(self.table)
        return reader


PROBES: tuple[Entry, ...] = (
    Entry(
        "belief",
        "What the model would answer if it had to, after each step of its thought.",
        "ringlens.probes.belief:Belief",
        "ringlens.analysis.importance.convergence:convergence",
    ),
    Entry(
        "logit_lens",
        "In which layer what a token foretells is settled, along a thought.",
        "ringlens.probes.logit_lens:LogitLens",
        "ringlens.analysis.importance.settling:settling",
    ),
    Entry(
        "receivers",
        "Which heads look back at single steps, beside chance and recency.",
        "ringlens.probes.heads.receivers:Receivers",
        "ringlens.analysis.importance.receiver_heads:receiver_heads",
        ("head_steps",),
    ),
    Entry(
        "resampling",
        "What becomes of a thought if its steps are written anew.",
        "ringlens.probes.resampling:Resampling",
        "ringlens.analysis.importance.resampling:resampling",
    ),
    Entry(
        "steering",
        "What a direction in the residual stream does to thoughts, beside random ones.",
        "ringlens.probes.steering:Steering",
        "ringlens.analysis.importance.steering:steering",
    ),
    Entry(
        "suppression",
        "How the rest of a thought changes if the model cannot look back at a step.",
        "ringlens.probes.suppression:Suppression",
        "ringlens.analysis.importance.suppression:suppression",
    ),
)


def entry(name: str) -> Entry:
    """Find a probe by name.

    Raises:
        ConfigError: There is none of that name.
    """
    known_only([name], [each.name for each in PROBES], "probe")
    return next(each for each in PROBES if each.name == name)


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
