"""Annotates a store: finds what an annotation is about, and adds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringlens.config import whole
from ringlens.errors import ConfigError, NotInStoreError
from ringlens.store.annotations.adding import add
from ringlens.store.annotations.annotation import Annotation, Target, system_user

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

MOST = 2**63 - 1


def say(
    store: Store,
    target: Target,
    label: str | None,
    note: str | None,
    author: str | None = None,
    supersedes: str | None = None,
) -> str:
    """Add an annotation.

    Args:
        store: The store.
        target: What it is about, as :func:`find_target` found it.
        label: Short name; None without one.
        note: Free text; None without one.
        author: Who says it; the system's user if None.
        supersedes: Annotation that this one corrects.

    Returns:
        Id of the annotation.

    Raises:
        ConfigError: It says nothing, or a text does not fit.
        StoreError: The store cannot be written.
    """
    author = system_user() if author is None else author
    said = Annotation(target, author, label, note, supersedes=supersedes)
    add(store.folder, [said])
    return said.annotation_id


def retract(store: Store, annotation_id: str, author: str | None = None) -> str:
    """Retract an annotation that stands; see `Store.retract`."""
    target = target_of(store, annotation_id)
    author = system_user() if author is None else author
    said = Annotation(target, author, supersedes=annotation_id, is_retraction=True)
    add(store.folder, [said])
    return said.annotation_id


def find_target(
    store: Store,
    trace_id: int | None = None,
    step: int | None = None,
    expert: tuple[int, int] | None = None,
    run_id: str | None = None,
    supersedes: str | None = None,
) -> Target:
    """Find what an annotation is about; see `Store.annotate`.

    Raises:
        ConfigError: It is not clear what it is about.
        NotInStoreError: There is no such trace, step, expert, run or annotation.
    """
    given = [each is not None for each in (trace_id, expert, supersedes)]
    if sum(given) != 1:
        raise ConfigError(
            "an annotation is about one thing: give a trace_id, an expert as (layer, expert), or "
            "the annotation that it supersedes"
        )
    if step is not None and trace_id is None:
        raise ConfigError(f"step {step!r:.40} is of no trace: give its trace_id")
    if supersedes is not None:
        return target_of(store, supersedes)
    if expert is not None:
        return _expert(store, expert, run_id)
    return _trace(store, trace_id, step)


def target_of(store: Store, annotation_id: str) -> Target:
    """What an annotation that stands is about.

    Raises:
        NotInStoreError: There is no such annotation, or it was corrected or retracted.
    """
    found = _row(store, "from annotations where annotation_id = $id", id=annotation_id)
    if found is None or found["is_retraction"]:
        raise NotInStoreError(
            f"there is no annotation {annotation_id!r:.40} in {store.folder}: "
            f"`store.annotations()` lists them"
        )
    later = _row(
        store, "from annotations where supersedes = $id order by created desc", id=annotation_id
    )
    if later is not None:
        how = "retracted" if later["is_retraction"] else f"corrected, as {later['annotation_id']},"
        raise NotInStoreError(f"annotation {annotation_id} was {how} by {later['author']} already")
    return Target(**{name: found[name] for name in Target.__dataclass_fields__})


def _trace(store: Store, trace_id: object, step: object) -> Target:
    number = whole("trace_id", trace_id, 0, MOST)
    trace = _row(store, "select run_id from traces where trace_id = $id", id=number)
    if trace is None:
        raise NotInStoreError(f"there is no trace {trace_id} in {store.folder}")
    target = Target(trace["run_id"], number)
    if step is None:
        return target
    wanted = whole("step", step, 0, MOST)
    query = "select step, token_start, token_end from steps where trace_id = $id and step = $step"
    found = _row(store, query, id=number, step=wanted)
    if found is None:
        raise NotInStoreError(
            f"trace {trace_id} has no step {step}: `ringlens steps` cuts it into steps"
        )
    if found["token_start"] >= found["token_end"]:
        raise ConfigError(f"step {step} of trace {trace_id} has no token: annotate the one beside")
    return Target(target.run_id, target.trace_id, **found)


def _expert(store: Store, expert: object, run_id: str | None) -> Target:
    if not isinstance(expert, tuple | list) or len(expert) != 2:
        raise ConfigError(f"an expert is given as (layer, expert), not as {expert!r:.40}")
    layer, number = whole("layer", expert[0], 0, MOST), whole("expert", expert[1], 0, MOST)
    run = run_id if run_id is not None else _only_run(store)
    query = """select layer from experts
        where run_id = $run and layer = $layer and expert = $expert"""
    if _row(store, query, run=run, layer=layer, expert=number) is None:
        raise NotInStoreError(f"run {run!r:.40} has no expert {number} on layer {layer}")
    return Target(str(run), layer=layer, expert=number)


def _only_run(store: Store) -> str:
    """The latest run, if all are of one model: what is said of its experts then holds for all."""
    rows = store.sql("select max_by(run_id, started) from runs group by model, revision").fetchall()
    if len(rows) != 1:
        raise ConfigError(f"the store has runs of {len(rows)} models: give the run_id of one")
    return str(rows[0][0])


def _row(store: Store, query: str, **values: object) -> dict[str, Any] | None:
    rows = store.sql(query, values).limit(1).to_arrow_table().to_pylist()
    return rows[0] if rows else None
