"""Runs a probe on the thoughts of a store, and keeps what it finds there."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

from ringlens.analysis.importance.results import SETTINGS
from ringlens.analysis.roles.labelling import label_stored
from ringlens.config import known_only, whole
from ringlens.errors import ConfigError, ObservationError, StoreError
from ringlens.model.parallel import parallel_of
from ringlens.observe.pipeline.ranks import rank_role
from ringlens.observe.same_tokenizer import check_same_tokenizer
from ringlens.observe.session import one_thread_if_tiny
from ringlens.probes.chain.meter import NOTHING, Cost, Meter, ProbeProgress
from ringlens.probes.chain.probe import FromStore, Prepared, Probe, Subject
from ringlens.probes.chain.registry import Entry, entry
from ringlens.probes.chain.thought import Thought, read_thought
from ringlens.store import Store, StoreWriter

if TYPE_CHECKING:
    import pandas as pd

    from ringlens.model.loaded import LoadedModel
    from ringlens.store.write.peers import Peers

_TRACES = """
select run_id, trace_id, model, interventions is null as plain from traces join runs using (run_id)
where source_trace_id is null and mode <> 'imported' and finish_reason <> 'running'
  and n_think > 0 order by trace_id
"""
_ENDED = """
select min(trace_id) from traces join steps using (trace_id)
where run_id = ? and finish_reason in ('stop', 'replay') and n_think > 0 and n_answer > 0
"""


@dataclass(frozen=True)
class Plan:
    """What a call is about to do.

    Attributes:
        traces: Traces that all processes together have to do.
        kept: Traces whose results are in the store already.
        processes: Processes that share them out.
        steps: Steps of the traces of this process.
        cost: What these take at most.
    """

    traces: int
    kept: int
    processes: int
    steps: int = 0
    cost: Cost = NOTHING


def probe(
    name: str,
    lens: LoadedModel,
    store: Store,
    *,
    traces: Iterable[int] | None = None,
    batch_size: int = 16,
    again: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: Callable[[ProbeProgress], None] | None = None,
    **settings: object,
) -> pd.DataFrame:
    """Run a probe on thoughts of a store, and keep its results in the table ``probes``.

    Results are committed trace by trace. What is there is not measured again, so that an
    interrupted call goes on where it was. Traces without steps are cut into them first, by rules.
    Under torchrun or ``accelerate launch`` the processes share the traces out.

    Args:
        name: Name of the probe: "belief", "logit_lens", "receivers", "resampling", "steering" or
            "suppression"; `ringlens probe --help` lists them.
        lens: The model that thought.
        store: The store, in a folder that can be written.
        traces: Ids of traces; None for all that this model thought, without interventions.
        batch_size: Rows side by side at most.
        again: Whether results with other settings are replaced.
        on_plan: Called before the start with what is to be done and what it costs.
        on_progress: Called after each forward.
        **settings: Settings of the probe, the fields of its class.

    Returns:
        The table of the probe's results.

    Raises:
        ConfigError: An unknown probe or setting; traces of another tokenizer; or results of other
            settings are there, and ``again`` is not given.
        ObservationError: The model is divided over processes.
        StoreError: There are no such traces, or the store cannot be written.
    """
    chosen = entry(name)
    experiment = _made(chosen, settings)
    rows = whole("batch_size", batch_size, 1)
    if parallel_of(lens.model).world_size > 1:
        raise ObservationError(
            "probes run in one process for each copy of the model; load it with device_map='auto', "
            "or whole in each process, which then share the traces out."
        )
    check_same_tokenizer(lens, store)
    role = rank_role(lens)
    with one_thread_if_tiny(lens), StoreWriter(store.address) as writer:
        ids = role.everyone.broadcast(
            _prepared(store, writer, lens, traces) if role.everyone.rank == 0 else []
        )
        with Store(store.address) as labelled:
            ready = _ready(experiment, lens, labelled, [i for _, i in ids])
            facts = _facts(experiment, lens, ready)
            ids = [(run, i) for run, i in ids if i in ready.trace_ids]
            left = _left(labelled, chosen, ids, facts, again)
            role.everyone.gather(None)  # nobody writes before all have seen what is there
            mine = left[role.share[0] :: role.share[1]]
            work = _Work(chosen, ready.probe, facts, lens, labelled, rows)
            meter = Meter(on_progress, total=len(mine))
            plan = Plan(len(left), len(ids) - len(left), role.share[1])
            work.run(writer, mine, meter, on_plan, plan)
        _wait(role.everyone)
    with Store(store.address) as after:
        return chosen.reader()(after)


@dataclass(frozen=True)
class _Work:
    """A probe at work on the traces of this process."""

    entry: Entry
    probe: Probe
    facts: str
    lens: LoadedModel
    store: Store
    batch_size: int

    def run(
        self,
        writer: StoreWriter,
        mine: Sequence[tuple[str, int]],
        meter: Meter,
        on_plan: Callable[[Plan], None] | None,
        plan: Plan,
    ) -> None:
        subjects = list(self._subjects(mine, meter))
        costs = [self.probe.cost(each) for each in subjects]
        meter.most = sum(costs, NOTHING)
        if on_plan is not None:
            steps = sum(len(each.thought.steps) for each in subjects)
            on_plan(replace(plan, steps=steps, cost=meter.most))
        for subject, cost in zip(subjects, costs, strict=True):
            before = meter.done
            self._commit(writer, replace(subject))  # a copy, so that its cache goes with it
            meter.trace_done(cost, before)

    def _subjects(self, mine: Sequence[tuple[str, int]], meter: Meter) -> Iterator[Subject]:
        models: dict[str, Thought | None] = {}
        for run_id, trace_id in mine:
            if run_id not in models:
                models[run_id] = _ended(self.store, run_id)
            thought = read_thought(self.store, trace_id)
            yield Subject(self.lens, thought, models[run_id], self.batch_size, meter)

    def _commit(self, writer: StoreWriter, subject: Subject) -> None:
        """Measure one trace and store what was found, or nothing of it."""
        own = {"trace_id": subject.thought.trace_id}
        place = {"probe": self.entry.name, **own}
        found: list[dict[str, object]] = [{**place, "key": SETTINGS, "json": self.facts}]
        others: dict[str, list[dict[str, object]]] = defaultdict(list)
        for row in self.probe.measure(subject):
            rest = {name: value for name, value in row.items() if name != "table"}
            if "table" in row:
                others[str(row["table"])].append(own | rest)
            else:
                found.append(place | rest)
        for table in self.entry.tables:
            writer.replace_rows(subject.thought.run_id, table, others[table], [own])
        # Last, as they say that the trace is done.
        writer.replace_rows(subject.thought.run_id, "probes", found)


def _made(chosen: Entry, settings: dict[str, object]) -> Probe | FromStore:
    """The probe with its settings."""
    kind = chosen.kind()
    fields = cast(Any, kind).__dataclass_fields__
    own = [p.name for p in signature(probe).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known_only(settings, (*fields, *own))
    lost = [name for name, field in fields.items() if field.default is MISSING]
    if lost := [name for name in lost if name not in settings]:
        raise ConfigError(f"{chosen.name} needs {', '.join(lost)}; give each of them.")
    return kind(**settings)


def _ready(
    experiment: Probe | FromStore, lens: LoadedModel, store: Store, trace_ids: Sequence[int]
) -> Prepared:
    """The probe, and which traces it measures."""
    if isinstance(experiment, FromStore):
        return experiment.prepared(lens, store, trace_ids)
    return Prepared(experiment, frozenset(trace_ids), {})


def _facts(experiment: Probe | FromStore, lens: LoadedModel, ready: Prepared) -> str:
    """What results depend on, as it is stored with them."""
    named = {"model": lens.name, "revision": lens.revision}
    settings = asdict(cast(Any, experiment))
    return json.dumps({**named, **settings, **ready.facts}, sort_keys=True)


def _prepared(
    store: Store, writer: StoreWriter, lens: LoadedModel, traces: Iterable[int] | None
) -> list[tuple[str, int]]:
    """Runs and traces to be probed, all with steps; this process may write to the runs."""
    chosen = _chosen(store, lens, traces)
    for run_id in dict.fromkeys(run_id for run_id, _ in chosen):
        if not writer.owns(run_id):
            raise StoreError(f"another process writes to run {run_id}: wait for it, or stop it.")
        own = [trace_id for run, trace_id in chosen if run == run_id]
        cut = _ids(store, "select distinct trace_id from steps join traces using (trace_id) "
                          "where run_id = ?", [run_id])  # fmt: skip
        if bare := [trace_id for trace_id in own if trace_id not in cut]:
            label_stored(writer, run_id, bare)
    return chosen


def _chosen(store: Store, lens: LoadedModel, traces: Iterable[int] | None) -> list[tuple[str, int]]:
    rows = store.sql(_TRACES).fetchall()
    if traces is None:
        found = [(run, i) for run, i, model, plain in rows if model == lens.name and plain]
        if not found:
            raise StoreError(
                f"{store.address} holds no finished thoughts of {lens.name} without interventions: "
                "capture some, or name traces."
            )
        return found
    asked = dict.fromkeys(whole("traces", each, 1) for each in traces)
    found = [(run, i) for run, i, _, _ in rows if i in asked]
    lost = [each for each in asked if each not in {i for _, i in found}]
    if lost or not asked:
        raise StoreError(
            f"traces {lost or 'that are named'}: there are no finished thoughts of these ids."
        )
    return found


def _left(
    store: Store, chosen: Entry, ids: Sequence[tuple[str, int]], facts: str, again: bool
) -> list[tuple[str, int]]:
    """Traces that have no results with these settings yet.

    Raises:
        ConfigError: One has results with others, and they are not to be replaced.
    """
    rows = store.sql(
        f"select trace_id, json from probes where probe = ? and key = '{SETTINGS}'", [chosen.name]
    ).fetchall()
    known = dict(rows)
    other = [i for _, i in ids if i in known and json.loads(known[i]) != json.loads(facts)]
    if other and not again:
        was, now = json.loads(known[other[0]]), json.loads(facts)
        differs = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        raise ConfigError(
            f"trace {other[0]} has results of {chosen.name} with {differs[0]} = "
            f"{was.get(differs[0])!r:.60} in place of {now.get(differs[0])!r:.60}: give again=True "
            "(--again) to measure it anew, or the same settings."
        )
    return [(run, i) for run, i in ids if i not in known or i in other]


def _ended(store: Store, run_id: str) -> Thought | None:
    """The first thought of a run that ended by itself with an answer."""
    found = _ids(store, _ENDED, [run_id])
    return next((read_thought(store, i) for i in found), None)


def _ids(store: Store, query: str, values: list[object]) -> set[int]:
    return {i for (i,) in store.sql(query, values).fetchall() if i is not None}


def _wait(everyone: Peers) -> None:
    """Wait for the other processes, so that all read the whole table."""
    everyone.gather(None)
