"""Arrays of many traces at once: the recorded numbers of the tokens that a predicate selects.

Rows stream through Arrow into arrays that are made once, so memory is that of the result and of a
batch, and no row becomes a Python object.

Shape letters: N selected tokens, S slots per token (its heads, or one), R rows of a batch, k
experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.config import known_only
from ringlens.display import html_facts, lines, spans
from ringlens.errors import NotInStoreError, StoreError
from ringlens.store.encode.columns import matrix, padded
from ringlens.store.read.selection import (
    Selection,
    check_context,
    check_where,
    plain,
    select,
)
from ringlens.store.read.token_rows import RoutingRows, TokenRows
from ringlens.store.read.trace import whole_number
from ringlens.store.schema.table import Table

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

BATCH_ROWS = 16_384
FEW_TRACES = 1_000
"""Traces that a query names one by one; of more, it names the range."""

TOKENS = ("token_id", "text", "turn", "logprob", "entropy")

Arrays = Mapping[str, NDArray]


@dataclass(frozen=True)
class TableRows:
    """Rows of a table that are read.

    Attributes:
        table: The table.
        name: What the rows are, for messages.
        columns: SQL of the columns beside trace, position and head.
        condition: SQL of which rows.
        params: Its parameters.
        heads: Heads that have rows of their own; None where a token has one row.
        convert: Makes arrays [R, …] of a batch.
    """

    table: Table
    name: str
    columns: str
    condition: str
    params: tuple[object, ...]
    convert: Callable[[pa.Table], Arrays]
    heads: tuple[int, ...] | None = None


def tokens(store: Store, where: str | None, context: Sequence[str]) -> TokenRows:
    """Read the tokens themselves; see `Store.tokens`."""
    selection = select(store, where, ("phase", *check_context(context), *TOKENS))
    name = f"tokens{selection.words}"
    return TokenRows(name, selection.trace_id, selection.pos, selection.context, TOKENS)


def statistics(
    store: Store, table: str, layer: int | None, where: str | None, context: Sequence[str]
) -> TokenRows:
    """Read all columns of a table with a row per token; see `Store.statistics`."""
    found = _table(store, table)
    columns = ", ".join(column.name for column in found.values)
    return _read(store, _of_layer(found, layer, columns, _as_arrays), where, context)


def routing(store: Store, layer: int, where: str | None, context: Sequence[str]) -> RoutingRows:
    """Read router choices of one layer; see `Store.routing`."""
    columns = "expert_ids, weights, affinities, margin, group_margin, entropy, bias_flips"
    wanted = _of_layer(_table(store, "routing"), layer, columns, _as_routing)
    rows = _read(store, wanted, where, context)
    ids = ", ".join(map(str, np.unique(rows.trace_id)[:FEW_TRACES]))
    query = f"select max(experts) from runs join traces using (run_id) where trace_id in ({ids})"
    return RoutingRows(**vars(rows), experts=store.sql(query).fetchall()[0][0])


def vectors(
    store: Store,
    point: str,
    layer: int | None,
    head: int | None,
    where: str | None,
    context: Sequence[str],
) -> TokenRows:
    """Read vectors recorded at a point of the model; see `Store.vectors`."""
    table = next(table for table in store.tables() if table.name == "activations")
    layer = None if layer is None else whole_number("layer", layer)
    name = f"vectors at {point!r:.60}" + ("" if layer is None else f" of layer {layer}")
    condition, params = "point = ? and layer is not distinct from ?", (point, layer)
    heads = None
    if head is not None:
        condition, params = f"{condition} and head = {whole_number('head', head)}", params
        name += f", head {head}"
    else:
        query = f"select distinct head from activations where {condition} order by head"
        heads = tuple(each for (each,) in store.sql(query, params).fetchall() if each is not None)
    wanted = TableRows(table, name, "vector", condition, params, _as_arrays, heads or None)
    return _read(store, wanted, where, context)


def _table(store: Store, name: str) -> Table:
    """Find a table with a row per token, or per layer and token."""
    tables = (*store.tables(), *store.foreign_tables())
    by_token = {table.name: table for table in tables if _is_by_token(table)}
    known_only([name], by_token, "table of numbers by token")
    return by_token[name]


def _is_by_token(table: Table) -> bool:
    blocks = table.tiles is not None and table.tiles.length
    return {*table.key} - {"layer"} == {"trace_id", "pos"} and not blocks


def _of_layer(
    table: Table, layer: int | None, columns: str, convert: Callable[[pa.Table], Arrays]
) -> TableRows:
    if table.has("layer") == (layer is None):
        wanted = "has layers: name one" if layer is None else f"has no layers; leave out {layer!r}"
        raise NotInStoreError(f"{table.name} {wanted}")
    if layer is None:
        return TableRows(table, table.name, columns, "true", (), convert)
    layer = whole_number("layer", layer)
    return TableRows(
        table, f"{table.name} of layer {layer}", columns, "layer = ?", (layer,), convert
    )


def _read(store: Store, wanted: TableRows, where: str | None, context: Sequence[str]) -> TokenRows:
    """Read the rows of the selected tokens into arrays."""
    selection = select(store, where, ("phase", *check_context(context)))
    slots = len(wanted.heads or (0,))
    found_NS = np.zeros((len(selection), slots), bool)
    arrays: dict[str, NDArray] = {}
    rows = 0
    for batch in _batches(store, wanted, selection):
        place_R = selection.places(batch["trace_id"].to_numpy(), batch["pos"].to_numpy())
        mine_R = place_R >= 0
        if not mine_R.any():
            continue
        slot_R = _slots(batch, wanted.heads)[mine_R]
        at = place_R[mine_R], slot_R
        for name, values in wanted.convert(batch).items():
            shape = (*found_NS.shape, *values.shape[1:])
            if name not in arrays:
                arrays[name] = np.empty(shape, values.dtype)
            if arrays[name].shape != shape:
                sizes = arrays[name].shape[2:], shape[2:]
                raise StoreError(_two_shapes(wanted, *sizes, selection))
            arrays[name][at] = values[mine_R]
        found_NS[at], rows = True, rows + len(slot_R)
    if rows > found_NS.sum():
        raise StoreError(f"{wanted.name} has several rows for a token: read it with sql()")
    kept = _complete(store, wanted, selection, found_NS)
    shown = {name: array if wanted.heads else array[:, 0] for name, array in arrays.items()}
    keep_N = found_NS[:, 0]
    return TokenRows(
        f"{wanted.name}{selection.words}",
        kept.trace_id,
        kept.pos,
        kept.context | {n: a if keep_N.all() else a[keep_N] for n, a in shown.items()},
        tuple(shown),
        len(selection) - len(kept),
        wanted.heads,
    )


def _batches(store: Store, wanted: TableRows, selection: Selection) -> Iterator[pa.Table]:
    """Stream the rows of the selected traces."""
    traces = np.unique(selection.trace_id)
    files = [
        file
        for file in store.snapshot().get(wanted.table.name, ())
        if np.searchsorted(traces, file.first_trace)
        < np.searchsorted(traces, file.last_trace, side="right")
    ]
    which = (
        f"trace_id in ({', '.join(map(str, traces))})"
        if len(traces) <= FEW_TRACES
        else f"trace_id between {traces[0]} and {traces[-1]}"
    )
    head = ", head" if wanted.heads else ""
    query = f"""
        select trace_id, pos{head}, {wanted.columns} from {store.scan(wanted.table.name, files)}
        where {wanted.condition} and {which}"""
    for batch in store.sql(query, wanted.params).to_arrow_reader(BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _slots(batch: pa.Table, heads: tuple[int, ...] | None) -> NDArray[np.int64]:
    if heads is None:
        return np.zeros(batch.num_rows, np.int64)
    return np.searchsorted(np.array(heads), batch["head"].to_numpy())


def _as_arrays(batch: pa.Table) -> Arrays:
    """Make an array of every column that is no key."""
    return {
        name: matrix(batch[name]) if pa.types.is_list(batch[name].type) else plain(batch[name])
        for name in batch.column_names
        if name not in ("trace_id", "pos", "head")
    }


def _as_routing(batch: pa.Table) -> Arrays:
    """Make arrays of router choices; NaN and False for what imported runs do not know."""
    ids_Rk = matrix(batch["expert_ids"])
    known_R = batch["weights"].is_valid().to_numpy()
    found: dict[str, Any] = {"expert_ids": ids_Rk}
    for name in ("weights", "affinities"):
        found[name] = np.full(ids_Rk.shape, np.nan, np.float32)
        if known_R.any():
            found[name][known_R] = matrix(batch[name].drop_null())
    for name in ("margin", "group_margin", "entropy"):
        found[name] = batch[name].to_numpy().astype(np.float32)
    flips_Rm = padded(batch["bias_flips"].cast(pa.list_(pa.int32())), -1)
    found["bias_flips"] = (ids_Rk[:, :, None] == flips_Rm[:, None, :]).any(axis=2)
    return found


def _complete(
    store: Store, wanted: TableRows, selection: Selection, found_NS: NDArray[np.bool_]
) -> Selection:
    """The selected tokens that have rows.

    Raises:
        NotInStoreError: A run has none.
        StoreError: Rows are missing in a table that has a row for every token, or a token has rows
            of some heads only.
    """
    found_N = found_NS[:, 0]
    if (found_NS != found_N[:, None]).any():
        raise StoreError(f"{wanted.name}: heads were recorded at different positions; name one")
    if found_N.all():
        return selection
    with_rows = set(selection.run[found_N].tolist())
    bare = [run for i, run in enumerate(selection.runs) if i not in with_rows]
    if bare:
        raise NotInStoreError(_not_recorded(store, wanted, bare, len(selection.runs)))
    tiles = wanted.table.tiles
    if tiles is not None:
        query = "select run_id from runs where mode = 'imported'"
        imported = {run for (run,) in store.sql(query).fetchall()} if not tiles.imported else set()
        whole_N = np.array([run not in imported for run in selection.runs])[selection.run]
        if (whole_N & ~found_N).any():
            raise StoreError(_holes(wanted, selection, whole_N & ~found_N))
    return selection.kept(found_N)


def _not_recorded(store: Store, wanted: TableRows, bare: list[str], runs: int) -> str:
    """Say which run has no rows, what it recorded, and what may be done."""
    rows = store.sql("select record from runs where run_id = ?", bare[:1]).fetchall()
    recorded = ", ".join(rows[0][0]) if rows and rows[0][0] else "only tokens"
    more = f" (nor of {len(bare) - 1} other runs)" if len(bare) > 1 else ""
    held = _layers(store, wanted, bare[0]) if wanted.table.has("layer") else []
    layers = f"; its layers in {wanted.table.name} are {', '.join(held)}" if held else ""
    other = f"; where=\"run_id <> '{bare[0]}'\" leaves the run out" if len(bare) < runs else ""
    return (
        f"{wanted.name} was not recorded for the selected tokens of run {bare[0]}{more}, which "
        f"recorded {recorded}{layers}: replay its traces with it in record=[…]{other}"
    )


def _layers(store: Store, wanted: TableRows, run: str) -> list[str]:
    """Layers that a table holds for a run."""
    files = [file for file in store.snapshot().get(wanted.table.name, ()) if file.run_id == run]
    rows = store.scan(wanted.table.name, files)
    found = store.sql(f"select distinct layer from {rows} order by layer").fetchall()
    return [str(layer) for (layer,) in found if layer is not None]


def _holes(wanted: TableRows, selection: Selection, missing_N: NDArray[np.bool_]) -> str:
    first = int(np.flatnonzero(missing_N)[0])
    trace_id, pos = selection.trace_id[first], selection.pos[first]
    return (
        f"{wanted.name} is missing for {int(missing_N.sum()):,} selected tokens, the first in "
        f"trace {trace_id} at position {pos}: `ringlens check` says why; "
        f'where="trace_id <> {trace_id}" leaves the trace out'
    )


def _two_shapes(wanted: TableRows, one: tuple, other: tuple, selection: Selection) -> str:
    sizes = f"{'×'.join(map(str, one))} and {'×'.join(map(str, other))}"
    return (
        f"{wanted.name}: the selected tokens come from models of different sizes ({sizes} numbers "
        f"a token). Take one run, with where=\"run_id = '{selection.runs[0]}'\""
    )


@dataclass(frozen=True, repr=False)
class Routing:
    """Router choices of every layer. ``routing[5]`` reads those of a layer.

    Attributes:
        store: The store.
        where: Which tokens, as a predicate over ``token_context``; None for all.
        context: Further columns to have beside.
    """

    store: Store
    where: str | None = None
    context: Sequence[str] = ()

    @cached_property
    def layers(self) -> list[int]:
        """Layers whose routing is recorded of any selected token."""
        selected = "" if self.where is None else f"where {check_where(self.store, self.where)}\n"
        query = (
            f"select distinct layer from routing semi join (select trace_id, pos from "
            f"token_context {selected}) using (trace_id, pos) order by layer"
        )
        return [layer for (layer,) in self.store.sql(query).fetchall()]

    def __getitem__(self, layer: int) -> RoutingRows:
        """Read a layer, as :meth:`ringlens.Store.routing` does."""
        return self.store.routing(layer, self.where, context=self.context)

    def __iter__(self) -> Iterator[RoutingRows]:
        return (self[layer] for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return lines("Routing", *(f"{name}: {value}" for name, value in self._facts().items()))

    def _repr_html_(self) -> str:
        return html_facts("Routing of all layers", self._facts())

    def _facts(self) -> dict[str, str]:
        return {
            "store": self.store.address,
            "layers": spans(self.layers) or "none was recorded",
            "tokens": self.where or "all",
        }
