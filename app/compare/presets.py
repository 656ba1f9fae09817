"""Comparisons that a store invites: pairs of predicates, made from what its runs are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ringlens.app.shared import queries
from ringlens.app.shared.sources import Sources
from ringlens.store.schema.promise import recorded_layers
from ringlens.store.schema.views import literal

Row = dict[str, Any]

THINK = "phase = 'think'"
DOUBT, COMPUTE = "uncertainty_management", "active_computation"


@dataclass(frozen=True)
class Preset:
    """Two selections.

    Attributes:
        name: What is compared.
        a: The first predicate; "" where the store has nothing to compare so.
        b: The second.
        lacks: What the store would need.
    """

    name: str
    a: str = ""
    b: str = ""
    lacks: str = ""


def presets(sources: Sources) -> list[Row]:
    """List the comparisons, those that this store cannot make with the reason."""
    routed = [
        run
        for run in queries.runs(sources.catalogue)
        if run["traces"] and recorded_layers(run, "routing")
    ]
    return [asdict(each) for each in _of(sources, routed)] if routed else []


def _of(sources: Sources, routed: list[Row]) -> Iterator[Preset]:
    """Make each comparison for the newest run that fits it."""
    run = next((each for each in routed if not each["interventions"]), routed[0])
    own = f"run_id = {literal(run['run_id'])}"
    yield Preset("Think against answer", f"{own} and {THINK}", f"{own} and phase = 'answer'")
    judged = next((each for each in routed if 0 < each["correct"] < each["judged"]), None)
    yield _pair(
        "Correct against wrong",
        _thoughts(judged, " and correct"),
        _thoughts(judged, " and not correct"),
        "a run with right and wrong answers",
    )
    with_roles = run if _has_roles(sources, run) else None
    yield _pair(
        "Doubt against computation",
        _thoughts(with_roles, f" and role = {literal(DOUBT)}"),
        _thoughts(with_roles, f" and role = {literal(COMPUTE)}"),
        "steps with these roles (ringlens steps)",
    )
    yield _runs("Run against run", run, routed, _alike, "another run of this model")
    acted = next((each for each in routed if each["interventions"]), None)
    plain = [each for each in routed if not each["interventions"] and _same_model(each, acted)]
    yield _pair(
        "Intervened against plain",
        _thoughts(acted),
        _thoughts(plain[0] if plain else None),
        "a run under an intervention (capture … --intervene) beside a plain one",
    )
    lacks = "a run of another checkpoint with as many experts"
    yield _runs("Checkpoint against checkpoint", run, routed, _same_shape, lacks)


def _pair(name: str, a: str | None, b: str | None, lacks: str) -> Preset:
    """Make a comparison, or say what it lacks where one of its sides is None."""
    if a is None or b is None:
        return Preset(name, lacks=f"The store would need {lacks}.")
    return Preset(name, a, b)


def _thoughts(run: Row | None, more: str = "") -> str | None:
    """Write the predicate of a run's thoughts, or of some of them; None without a run."""
    return None if run is None else f"run_id = {literal(run['run_id'])} and {THINK}{more}"


def _runs(
    name: str, run: Row, routed: list[Row], fits: Callable[[Row, Row], bool], lacks: str
) -> Preset:
    """Compare the thoughts of a run with those of the newest other one that fits."""
    other = next((each for each in routed if each is not run and fits(each, run)), None)
    return _pair(name, _thoughts(run), _thoughts(other), lacks)


def _has_roles(sources: Sources, run: Row) -> bool:
    """Return whether steps of a run doubt, and others compute."""
    query = """
        select count(distinct role) as n from steps
        where role in ($doubt, $compute)
              and trace_id in (select trace_id from traces where run_id = $run)"""
    wanted = {"doubt": DOUBT, "compute": COMPUTE, "run": run["run_id"]}
    return bool(queries.rows(sources.store, query, wanted)[0]["n"] == 2)


def _same_model(one: Row, other: Row | None) -> bool:
    return other is not None and bool(one["model"] == other["model"])


def _alike(one: Row, other: Row) -> bool:
    """Return whether two runs are of one model, under the same interventions."""
    return _same_model(one, other) and one["interventions"] == other["interventions"]


def _same_shape(one: Row, other: Row) -> bool:
    """Return whether two runs are of two models whose experts can be set beside one another."""
    shape = ("layers", "experts", "experts_per_token")
    return not _same_model(one, other) and all(one[name] == other[name] for name in shape)
