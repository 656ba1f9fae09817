"""Exports a part of a store: as a smaller store, as JSON lines, or as safetensors.

Shape letters: T tokens, S sparse layers, N layers, k experts per token, E experts, H heads.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringlens.errors import NotInStoreError, StoreError
from ringlens.store.maintain import copying
from ringlens.store.read.store import Store
from ringlens.store.read.trace import Trace
from ringlens.store.schema import instruments
from ringlens.store.schema.captured import PHASES, TOKENS
from ringlens.store.schema.views import literal
from ringlens.store.storage.failure import store_errors
from ringlens.store.write.writer import StoreWriter

LINES = ("tokens", "routing")
"""Tables that can be exported as JSON lines."""

PREFIXES = {"router_logits": "router_", "heads": "head_"}
"""Prefixes of array names in safetensors; other tables use their own name."""

ATTEMPTS = 5
"""Attempts to create a folder and lock it before another export removes it."""

Progress = Callable[[int, int], None]


def select(
    store: Store,
    where: str = "true",
    run_ids: Sequence[str] = (),
    trace_ids: Sequence[int] = (),
) -> list[int]:
    """Select the traces that meet all conditions.

    Args:
        store: The store.
        where: SQL condition on the columns of ``traces``.
        run_ids: Runs to choose from; all if empty.
        trace_ids: Traces to choose from; all if empty.

    Returns:
        Ids of the traces, ascending.

    Raises:
        NotInStoreError: No trace meets the conditions, or a run or trace does not exist.
        StoreError: The SQL condition is wrong.
    """
    for trace_id in trace_ids:
        store.trace(trace_id)
    known = {row["run_id"] for row in copying.run_rows(store)}
    for run_id in set(run_ids) - known:
        raise NotInStoreError(f"there is no run {run_id} in {store.folder}")
    conditions = [f"({where})"]
    if run_ids:
        conditions.append(f"run_id in ({', '.join(map(literal, run_ids))})")
    if trace_ids:
        conditions.append(f"trace_id in ({', '.join(str(int(i)) for i in trace_ids)})")
    query = f"select trace_id from traces where {' and '.join(conditions)} order by trace_id"
    found = [trace_id for (trace_id,) in store.sql(query).fetchall()]
    if not found:
        raise NotInStoreError(f"no trace of {store.folder} matches the selection")
    return found


def to_store(
    store: Store,
    trace_ids: Collection[int],
    out: Path,
    tables: Collection[str] | None,
    on_progress: Progress,
) -> None:
    """Export traces as a new store in which they keep their ids.

    Args:
        store: The store.
        trace_ids: The traces.
        out: Folder of the new store.
        tables: Names of the tables to export in addition to ``runs``, ``experts`` and ``traces``;
            all if None.
        on_progress: Called with the number of traces done and in total.

    Raises:
        StoreError: ``out`` is not empty, a table does not exist, or the store could not be
            written; then nothing is left of it.
    """
    _exportable(tables, [table.name for table in (*store.tables(), *store.foreign_tables())])
    ids: dict[int, int] = {}
    with whole(out) as folder, StoreWriter(folder) as writer:
        for run in copying.run_rows(store):
            mine = sorted(set(copying.trace_ids_of(store, run["run_id"])) & set(trace_ids))
            if mine:
                copy = copying.Copy(run, run["run_id"], mine, tables)
                ids |= copying.copy_run(store, writer.rewriter(), copy, ids, keep_ids=True)
                on_progress(len(ids), len(trace_ids))


def to_lines(
    store: Store,
    trace_ids: Sequence[int],
    out: Path,
    tables: Collection[str] | None,
    on_progress: Progress,
) -> None:
    """Export traces as JSON, one line per trace.

    A line has the columns of ``traces``, ``run`` (its row of ``runs``), ``tokens`` (one list per
    column) and ``routing`` (by layer: positions, chosen experts and weights). Unknown values are
    null.

    Raises:
        StoreError: A table cannot be exported as JSON lines, or the file could not be written;
            then nothing is left of it.
    """
    wanted = _exportable(tables, LINES)
    failed = f"{out} was not written"
    with whole(out) as path, store_errors(store.folder, failed), open(path, "wb") as file:
        for done, trace_id in enumerate(trace_ids, start=1):
            line = _line(store.trace(trace_id), wanted)
            text = json.dumps(line, ensure_ascii=False, allow_nan=False, default=str)
            file.write(text.encode() + b"\n")
            on_progress(done, len(trace_ids))


def to_safetensors(
    store: Store,
    trace_ids: Sequence[int],
    out: Path,
    tables: Collection[str] | None,
    on_progress: Progress,
) -> None:
    """Export each trace as a file of safetensors, ``trace-00000001.safetensors`` and so on.

    `arrays_of` describes the arrays. The metadata are strings of JSON: the columns of ``traces``,
    the layers of the arrays, and the names of the phases.

    Raises:
        StoreError: A table cannot be exported as safetensors, ``out`` is not empty, or it could
            not be written; then nothing is left of it.
    """
    from safetensors.numpy import save_file

    wanted = _exportable(tables, array_tables())
    with whole(out) as folder, store_errors(store.folder, f"{out} was not written"):
        folder.mkdir()
        for done, trace_id in enumerate(trace_ids, start=1):
            arrays, metadata = arrays_of(store.trace(trace_id), wanted)
            save_file(arrays, folder / f"trace-{trace_id:08d}.safetensors", metadata)
            on_progress(done, len(trace_ids))


def array_tables() -> tuple[str, ...]:
    """Tables that safetensors hold: all with a row for each token, or layer and token."""
    rows = (
        table for table in (TOKENS, *instruments.tables()) if table.tiles and not table.tiles.length
    )
    return tuple(table.name for table in rows)


def arrays_of(
    trace: Trace, tables: Collection[str] | None = None
) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Read a trace as arrays with metadata.

    Returns:
        ``token_id`` int32, ``phase`` uint8 (index into the metadata's list), ``logprob``,
        ``entropy`` float32, all [T]; ``expert_ids``, ``weights``, ``affinities`` [S, T, k];
        ``margin``, ``group_margin``, ``router_entropy`` [S, T]; ``routing_pos`` [T];
        ``router_logits`` [S, T, E]; ``head_entropy``, ``head_first_weight``,
        ``head_previous_weight``, ``head_output_norm`` [N, T, H]; ``TABLE_COLUMN`` for other
        instruments. What was not recorded is left out.
    """
    wanted = array_tables() if tables is None else tables
    arrays: dict[str, NDArray] = {}
    metadata = {
        "trace": json.dumps(trace.summary, ensure_ascii=False, default=str),
        "model": str(trace.run["model"]),
        "phases": json.dumps(PHASES),
    }
    if "tokens" in wanted:
        tokens = trace.tokens()
        arrays |= {name: tokens[name] for name in ("token_id", "logprob", "entropy")}
        arrays["phase"] = np.array([PHASES.index(p) for p in tokens["phase"]], np.uint8)
    for table in instruments.tables():
        if table.name not in wanted or not trace.has(table.name):
            continue
        layers = trace.layers(table.name) if table.has("layer") else [None]
        if table.has("layer"):
            metadata[f"{table.name}_layers"] = json.dumps(layers)
        read = _routing if table.name == "routing" else partial(_statistics, table.name)
        found = [read(trace, layer) for layer in layers]
        arrays |= {name: np.stack([each[name] for each in found]) for name in found[0]}
    if "routing_pos" in arrays:
        arrays["routing_pos"] = arrays["routing_pos"][0]
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata


def _routing(trace: Trace, layer: int | None) -> dict[str, NDArray]:
    assert layer is not None
    found = trace.routing(layer)
    names = {"pos": "routing_pos", "entropy": "router_entropy"}
    wanted = ("pos", "expert_ids", "weights", "affinities", "margin", "group_margin", "entropy")
    return {names.get(n, n): found[n] for n in wanted if found[n] is not None}


def _statistics(table: str, trace: Trace, layer: int | None) -> dict[str, NDArray]:
    prefix = PREFIXES.get(table, f"{table}_")
    found = trace.statistics(table, layer)
    return {f"{prefix}{name}": array for name, array in found.items() if name != "pos"}


def _line(trace: Trace, tables: Collection[str]) -> dict[str, Any]:
    """Convert a trace to values that JSON can hold."""
    line: dict[str, Any] = dict(trace.summary) | {"run": trace.run}
    if "tokens" in tables:
        line["tokens"] = {name: _plain(values) for name, values in trace.tokens().items()}
    if "routing" in tables and (layers := trace.layers("routing")):
        line["routing"] = {}
        for layer in layers:
            found = trace.routing(layer)
            names = ("pos", "expert_ids", "weights")
            line["routing"][str(layer)] = {name: _plain(found[name]) for name in names}
    return line


def _plain(values: Any) -> Any:
    """Convert arrays to lists, with null for NaN and infinities."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return [None if not math.isfinite(value) else value for value in values.tolist()]
    return values.tolist()


def _exportable(tables: Collection[str] | None, possible: Sequence[str]) -> Collection[str]:
    """Check the requested tables; all possible ones if None."""
    for name in set(tables or ()) - set(possible):
        raise StoreError(f"{name} cannot be exported here: choose from {', '.join(possible)}")
    return possible if tables is None else tables


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Write a file or folder under a temporary path that is renamed to ``out`` on success.

    On failure it is removed. Leftovers of killed exports to the same ``out`` are removed first.
    """
    if "\0" in str(out):
        raise StoreError(f"{str(out)!r:.200} is not a path: no name can hold a null character")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} already exists: give a new name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _beside(out) as folder:
        temporary = folder / "whole"
        yield temporary
        if out.is_dir():  # empty; a folder cannot be renamed onto a file's path, nor a file here
            out.rmdir()
        os.replace(temporary, out)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Create a temporary folder next to ``out``, locked while in use and removed afterwards."""
    prefix = f".{out.name}.ringlens-"
    for left in out.parent.glob(f"{escape(prefix)}*"):
        with suppress(OSError), _locked(left):  # a folder that cannot be locked is in use
            shutil.rmtree(left)
    with ExitStack() as held:
        # On a file system without locks, the last attempt is used unlocked.
        for _ in range(ATTEMPTS):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            # Before the lock, another export may take the folder for a leftover and remove it.
            with suppress(OSError):
                held.enter_context(_locked(folder))
                if folder.exists():
                    break
            folder.mkdir(exist_ok=True)
        yield folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder; OSError if another process holds the lock, or if it is a link."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
