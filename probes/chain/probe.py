"""What a probe is: settings, a cost, and rows of results for one thought after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ringlens.probes.chain.meter import Cost, Meter
from ringlens.probes.chain.prefix import Prefix
from ringlens.probes.chain.thought import Thought

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.store import Store

Row = Mapping[str, object]
"""A row of ``probes``, without ``probe``, ``run_id`` and ``trace_id``.

One of another table that experiments write names it as ``table``.
"""


@dataclass(frozen=True)
class Subject:
    """A thought under a probe.

    Attributes:
        lens: The model.
        thought: The thought.
        model_thought: A thought of the same run that ended by itself, the first; it shows how the
            model ends thoughts and gives answers. None if none did.
        batch_size: Rows side by side at most.
        meter: Counts what is run.
    """

    lens: LoadedModel
    thought: Thought
    model_thought: Thought | None
    batch_size: int
    meter: Meter

    @cached_property
    def prefix(self) -> Prefix:
        """The thought, run once."""
        return Prefix(self.lens, self.thought.token_ids[: self.thought.steps[-1].end], self.meter)


class Probe(Protocol):
    """An experiment on the thoughts of a store, one after another.

    It is a frozen dataclass, whose fields are its settings: whatever its results depend on, beside
    model and thought. They are stored with the results.
    """

    def cost(self, subject: Subject) -> Cost:
        """What it takes at most on one thought. Runs nothing."""

    def measure(self, subject: Subject) -> Iterable[Row]:
        """Measure one thought."""


@dataclass(frozen=True)
class Prepared:
    """A probe that has read what it needs of the store.

    Attributes:
        probe: The probe.
        trace_ids: The traces that it measures, of those that were asked for.
        facts: What its results depend on, beside its settings.
    """

    probe: Probe
    trace_ids: frozenset[int]
    facts: Mapping[str, object]


@runtime_checkable
class FromStore(Protocol):
    """Settings of a probe that reads the whole store before it measures a thought."""

    def prepared(self, lens: LoadedModel, store: Store, trace_ids: Sequence[int]) -> Prepared:
        """Read what it needs, and refuse what cannot be; all processes call this alike."""
