"""Trace: one trace of a store, read from disk layer by layer on request.

Shape letters: T tokens, k experts per token, E experts, H attention heads, B head blocks; L layers,
P positions and C components of recorded vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.config import refuse_unknown
from ringlens.errors import NotInStoreError, StoreError
from ringlens.store.encode import head_blocks
from ringlens.store.encode.columns import matrix, padded, ragged
from ringlens.store.read import shown
from ringlens.store.read.selection import check_where
from ringlens.store.schema.captured import RUNNING
from ringlens.store.schema.promise import lost_rows

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

Arrays = dict[str, Any]

OF_INTERVENTIONS = ("own_ids", "own_weights", "intervened")
"""Columns of ``routing`` that say what interventions changed."""


class Vectors(NamedTuple):
    """Recorded vectors; ``torch.from_numpy(vectors.values)`` shares their memory.

    Attributes:
        pos: Positions in the trace, int32 [P].
        values: float32 [P, C]; with several heads [P, H, C]; with several layers [L, …] of these.
        heads: The H heads, None if the values have no axis for heads.
    """

    pos: NDArray[np.int32]
    values: NDArray[np.float32]
    heads: tuple[int, ...] | None = None


class Attention(NamedTuple):
    """The keys to which a head attended most.

    Attributes:
        pos: Positions of the queries, int32 [P].
        positions: Positions of the keys with the largest weights, int32 [P, k]; -1 where the query
            sees fewer than k.
        weights: Their weights, float32 [P, k]; 0 where there is no key.
    """

    pos: NDArray[np.int32]
    positions: NDArray[np.int32]
    weights: NDArray[np.float32]


class Trace:
    """One trace; created by `Store.trace`.

    A trace that is still running keeps the length that it had when this object was created.

    Attributes:
        trace_id: Id in the store.
        summary: The trace's row of ``traces``.
    """

    def __init__(self, store: Store, trace_id: int, row: dict[str, Any] | None = None) -> None:
        self._store = store
        self.trace_id = whole_number("trace id", trace_id)
        self._bound = ""
        rows = [row] if row is not None else self._rows("traces", "*").to_pylist()
        if not rows:
            raise NotInStoreError(_no_trace(store, trace_id))
        self.summary: dict[str, Any] = rows[0]
        # A running trace grows; without a bound, arrays read later would be longer than earlier.
        if self.summary["finish_reason"] == RUNNING:
            self._bound = f" and pos < {len(self)}"

    def __repr__(self) -> str:
        return shown.trace_text(self)

    def _repr_html_(self) -> str:
        return shown.trace_html(self)

    def __len__(self) -> int:
        return int(sum(self.summary[name] for name in ("n_prompt", "n_think", "n_answer")))

    @property
    def store(self) -> Store:
        """The store that it is of."""
        return self._store

    @property
    def text(self) -> str:
        """The whole text, including prompt and chat template."""
        return str(self.summary["text"])

    @cached_property
    def run(self) -> dict[str, Any]:
        """The run's row of ``runs``."""
        run_id = self.summary["run_id"]
        query = "select * from runs where run_id = ?"
        rows = self._store.sql(query, [run_id]).to_arrow_table().to_pylist()
        if not rows:
            raise StoreError(
                f"run {run_id} of trace {self.trace_id} has no row in `runs`: see what `ringlens "
                f"check` advises"
            )
        return rows[0]

    def tokens(self) -> Arrays:
        """The tokens, by column.

        Returns:
            ``pos``, ``token_id``, ``start``, ``end`` int32 [T]; ``logprob``, ``entropy`` float32
            [T] with NaN where missing; ``turn`` int32 [T] with -1 where unknown; ``nonfinite``
            bool [T], whether a recorded number of the token is NaN or infinite; ``text``,
            ``phase`` lists of T strings.
        """
        columns = (
            "* exclude (trace_id, turn, nonfinite), coalesce(turn, -1)::integer as turn, "
            "coalesce(nonfinite, false) as nonfinite"
        )
        table = self._rows("tokens", columns, "true order by pos")
        strings = ("text", "phase")
        return {
            name: table[name].to_pylist() if name in strings else table[name].to_numpy()
            for name in table.column_names
        }

    @refuse_unknown
    def routing(self, layer: int) -> Arrays:
        """Router choices of one layer.

        Returns:
            ``pos`` int32 [T]; ``expert_ids`` [T, k] heaviest first; ``weights``, ``affinities``
            float32 [T, k]; ``margin``, ``group_margin``, ``entropy`` float32 [T]; ``bias_flips``
            bool [T, k], which choices are due to the bias; ``group_flips``, a list of T arrays of
            expert ids that lost to the group limit. For an imported trace only ``pos`` and
            ``expert_ids`` are known: the others are None, and ``pos`` lists the tokens with rows.

        Raises:
            NotInStoreError: The layer has no router, or routing was not recorded.
        """
        table = self._layer("routing", layer, leave_out=OF_INTERVENTIONS)
        ids_Tk = matrix(table["expert_ids"])
        if table["weights"].null_count:
            unknown = [name for name in table.column_names if name not in ("pos", "expert_ids")]
            known = {"pos": table["pos"].to_numpy(), "expert_ids": ids_Tk}
            return {**known, **dict.fromkeys(unknown)}
        flips, flip_offsets = ragged(table["bias_flips"])
        # [T, k] flags from ragged ids: mark each (token, expert) pair, then look up the choices.
        marked_TE = np.zeros((len(ids_Tk), int(self.run["experts"])), bool)
        marked_TE[np.repeat(np.arange(len(ids_Tk)), np.diff(flip_offsets)), flips] = True
        group_flips, group_offsets = ragged(table["group_flips"])
        return {
            "pos": table["pos"].to_numpy(),
            "expert_ids": ids_Tk,
            "weights": matrix(table["weights"]),
            "affinities": matrix(table["affinities"]),
            "margin": table["margin"].to_numpy(),
            "group_margin": table["group_margin"].to_numpy(),
            "bias_flips": np.take_along_axis(marked_TE, ids_Tk.astype(np.int64), axis=1),
            "group_flips": np.split(group_flips, group_offsets[1:-1]),
            "entropy": table["entropy"].to_numpy(),
        }

    @refuse_unknown
    def own_routing(self, layer: int) -> Arrays:
        """What the router of a layer had chosen itself, in a run with interventions.

        Where nothing was changed, and in a run without interventions, that is what ran.

        Returns:
            ``pos`` int32 [T]; ``expert_ids`` [T, k] heaviest first; ``weights`` float32 [T, k];
            ``differs`` bool [T], where other experts or weights ran; ``intervened``, a list of T
            tuples: the entries of ``runs.interventions`` that acted.

        Raises:
            NotInStoreError: The layer has no router, or routing was not recorded.
        """
        columns = ", ".join(OF_INTERVENTIONS)
        where = f"layer = {whole_number('layer', layer)} order by pos"
        found = self._rows("routing", f"pos, expert_ids, weights, {columns}", where)
        if not found.num_rows:
            raise NotInStoreError(self._missing("routing", layer))
        ids_Tk, differs_T = matrix(found["expert_ids"]), found["own_ids"].is_valid().to_numpy()
        weights_Tk = None
        if not found["weights"].null_count:  # imported runs do not know them
            weights_Tk = matrix(found["weights"]).copy()
        ids_Tk = ids_Tk.copy()
        if differs_T.any():
            ids_Tk[differs_T] = matrix(found["own_ids"].drop_null())
        if differs_T.any() and weights_Tk is not None:
            weights_Tk[differs_T] = matrix(found["own_weights"].drop_null())
        numbers = [tuple(row or ()) for row in found["intervened"].to_pylist()]
        return {
            "pos": found["pos"].to_numpy(),
            "expert_ids": ids_Tk,
            "weights": weights_Tk,
            "differs": differs_T,
            "intervened": numbers,
        }

    @refuse_unknown
    def router_logits(self, layer: int) -> NDArray[np.float32]:
        """Router logits of one layer, [T, E].

        Raises:
            NotInStoreError: The layer has no router, or logits were not recorded.
        """
        return matrix(self._layer("router_logits", layer)["logits"])

    @refuse_unknown
    def heads(self, layer: int) -> dict[str, NDArray[np.float32]]:
        """Statistics of the attention heads of one layer.

        Returns:
            ``entropy``, ``first_weight``, ``previous_weight``, ``output_norm``, each [T, H].

        Raises:
            NotInStoreError: There is no such layer, or heads were not recorded.
        """
        found = self.statistics("heads", layer)
        del found["pos"]
        return found

    @refuse_unknown
    def statistics(self, table: str, layer: int | None = None) -> dict[str, NDArray]:
        """Read the columns of a table with a row per token, or per layer and token.

        Args:
            table: Name of the table.
            layer: The layer; None for a table without layers.

        Returns:
            ``pos`` int32 [T], and each column of the table: [T], or [T, H] if a row holds a number
            per head (in general, a list of fixed length).

        Raises:
            NotInStoreError: The table or layer does not exist, or was not recorded.
        """
        tables = (*self._store.tables(), *self._store.foreign_tables())
        by_token = [each.name for each in tables if each.has("pos")]
        if table not in by_token:
            raise NotInStoreError(
                f"{table!r:.60} is no table of numbers by token in this store. There are: "
                f"{', '.join(by_token)}."
            )
        found = self._layer(table, layer)
        return {
            name: matrix(found[name])
            if pa.types.is_list(found[name].type)
            else found[name].to_numpy()
            for name in found.column_names
        }

    @refuse_unknown
    def head_blocks(self, layer: int) -> Arrays:
        """Statistics of the attention heads of one layer, by blocks of 64 positions.

        Returns:
            ``pos`` int32 [B], the first position of each block, and ``n`` [B], its number of
            positions (64 except in the last); ``entropy_mean``, ``entropy_max``,
            ``first_weight_mean``, ``first_weight_max``, ``previous_weight_mean``,
            ``previous_weight_max``, ``output_norm_mean``, ``output_norm_max``, each float32 [B, H].

        Raises:
            NotInStoreError: There is no such layer, or neither heads nor their blocks were
                recorded.
        """
        where = f"layer = {whole_number('layer', layer)} order by pos"
        found = head_blocks.merged(self._rows("head_blocks", "*", where))
        if found["n"].sum() == len(self):
            return found
        if layer in self.layers("heads"):
            return head_blocks.of_tokens(self.heads(layer))  # captured before blocks were stored
        raise NotInStoreError(self._missing("head_blocks", layer))

    @refuse_unknown
    def vectors(
        self,
        point: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Vectors:
        """Read vectors that were recorded at a point of the model.

        Args:
            point: Name of the point.
            layer: The layer; None for a point outside the layers.
            head: One head; None for all recorded heads.
            layers: Several layers at once, in place of ``layer``.

        Returns:
            Positions and values, [P, C] or [P, H, C]; with ``layers`` [L, P, C] or [L, P, H, C].
            A NamedTuple: ``pos, values, heads = trace.vectors(…)``.

        Raises:
            NotInStoreError: The vectors were not recorded.
            StoreError: The layers were recorded at different positions or heads.
        """
        if layers is None:
            return self._vectors(point, layer, head)
        found = [self._vectors(point, each, head) for each in layers]
        if not found:
            raise StoreError("no layers were asked for: give at least one")
        pos, heads = found[0].pos, found[0].heads
        for each, other in zip(layers, found, strict=True):
            if not np.array_equal(other.pos, pos) or other.heads != heads:
                raise StoreError(
                    f"layers {layers[0]} and {each} were recorded at different positions or heads "
                    f"of {point!r}: ask for one layer at a time"
                )
        return Vectors(pos, np.stack([other.values for other in found]), heads)

    @refuse_unknown
    def attention(self, layer: int, head: int) -> Attention:
        """Read the keys with the largest attention weights of one head.

        Returns:
            Positions of the queries [P], positions of the keys [P, k] and weights [P, k].

        Raises:
            NotInStoreError: The head's attention was not recorded.
        """
        layer, head = whole_number("layer", layer), whole_number("head", head)
        where = "layer = ? and head = ? order by pos"
        found = self._rows("attention", "pos, positions, weights", where, [layer, head])
        if not found.num_rows:
            raise NotInStoreError(
                f"attention of layer {layer}, head {head} was not recorded for trace "
                f"{self.trace_id}: {self._recorded('attention', 'layer, head')}"
            )
        positions, weights = padded(found["positions"], -1), padded(found["weights"], 0)
        return Attention(found["pos"].to_numpy(), positions, weights)

    def _vectors(self, point: str, layer: int | None, head: int | None) -> Vectors:
        layer = None if layer is None else whole_number("layer", layer)
        head = None if head is None else whole_number("head", head)
        where = (
            "point = ? and layer is not distinct from ? and (head = ? or ? is null)"
            " order by pos, head"
        )
        params = [point, layer, head, head]
        found = self._rows("activations", "pos, head, vector", where, params)
        if not found.num_rows:
            location = "outside the layers" if layer is None else f"of layer {layer}"
            location += "" if head is None else f", head {head},"
            raise NotInStoreError(
                f"vectors at {point!r} {location} were not recorded for trace {self.trace_id}: "
                f"{self._recorded('activations', 'point, layer, head')}"
            )
        values_RC = matrix(found["vector"])
        heads = found["head"].to_numpy()
        if head is not None or found["head"].null_count:
            return Vectors(found["pos"].to_numpy(), values_RC)
        # Rows are sorted by position and head, so equal heads everywhere make a rectangle.
        pos = np.unique(found["pos"].to_numpy())
        count = len(heads) // len(pos)
        if not (heads.reshape(len(pos), -1) == heads[:count]).all():
            raise StoreError(f"heads of {point!r} were recorded at different positions: give one")
        shape = (len(pos), count, values_RC.shape[1])
        return Vectors(pos, values_RC.reshape(shape), tuple(int(i) for i in heads[:count]))

    def mean_margin(self) -> tuple[NDArray[np.int32], NDArray[np.float32], int]:
        """Mean router margin over the layers that route; infinite margins do not enter.

        Returns:
            Positions int32 [P], means float32 [P], and the number of layers. All are empty, or 0,
            where routing or its reasons were not recorded.
        """
        columns = "pos, avg(margin) as margin, count(*) as layers"
        found = self._rows("routing", columns, "isfinite(margin) group by pos order by pos")
        layers = found["layers"].to_numpy().max(initial=0)
        return found["pos"].to_numpy(), found["margin"].to_numpy().astype(np.float32), int(layers)

    def where(self, predicate: str | None) -> NDArray[np.bool_]:
        """Which tokens a predicate over ``token_context`` selects, [T]; None selects all.

        Raises:
            ConfigError: It is no predicate, or a column does not exist.
        """
        if predicate is None:
            return np.full(len(self), True)
        kept = np.full(len(self), False)
        checked = check_where(self._store, predicate)
        query = f"select pos from token_context where trace_id = ?{self._bound} and ({checked}\n)"
        kept[self._store.sql(query, [self.trace_id]).to_arrow_table()["pos"].to_numpy()] = True
        return kept

    def has(self, table: str) -> bool:
        """Whether a table has rows of this trace."""
        return bool(self._rows(table, "1", "true limit 1").num_rows)

    def layers(self, table: str) -> list[int]:
        """Layers that a table holds for this trace."""
        query = (
            f"select distinct layer from {self._source(table)} where trace_id = ? order by layer"
        )
        return [layer for (layer,) in self._store.sql(query, [self.trace_id]).fetchall()]

    def _layer(self, table: str, layer: int | None, leave_out: Sequence[str] = ()) -> pa.Table:
        known = ", ".join(("trace_id", *leave_out, *(["layer"] if layer is not None else ())))
        where = "true order by pos"
        if layer is not None:
            where = f"layer = {whole_number('layer', layer)} order by pos"
        found = self._rows(table, f"* exclude ({known})", where)
        if not found.num_rows:
            raise NotInStoreError(self._missing(table, layer))
        return found

    def _rows(
        self, table: str, columns: str, where: str = "true", params: Sequence[object] = ()
    ) -> pa.Table:
        """Rows of this trace in the order of the table's key."""
        mine = f"trace_id = ?{self._bound}"
        query = f"select {columns} from {self._source(table)} where {mine} and {where}"
        return self._store.sql(query, [self.trace_id, *params]).to_arrow_table()

    def _source(self, table: str) -> str:
        """SQL that reads only the files of a table that may hold this trace."""
        files = self._store.files(table, self.trace_id, self.trace_id)
        return self._store.scan(table, files)

    def _missing(self, table: str, layer: int | None) -> str:
        layers = [] if layer is None else self.layers(table)
        if layers:
            return (
                f"{table} has no layer {layer} in trace {self.trace_id}: it has "
                f"{', '.join(map(str, layers))}"
            )
        if {table, lost_rows(table, self.trace_id)} & set(self.run["lost"] or ()):
            return f"{table} of trace {self.trace_id} is lost, or was left out of an export"
        recorded = ", ".join(self.run["record"]) or "only tokens"
        return (
            f"{table} was not recorded for trace {self.trace_id} (its run recorded {recorded}): "
            f"replay the trace with record=[…, {table!r}]"
        )

    def _recorded(self, table: str, columns: str) -> str:
        """Describe what a table with a selection of points or heads holds for this trace."""
        rows = self._rows(table, f"distinct {columns}", f"true order by {columns}").to_pylist()
        if not rows:
            return f"its run recorded no {table}"
        shown = ["/".join(str(v) for v in row.values() if v is not None) for row in rows[:20]]
        more = f" and {len(rows) - 20} more" if len(rows) > 20 else ""
        return f"{table} has {', '.join(shown)}{more} ({columns.replace(', ', '/')})"


def whole_number(name: str, value: object) -> int:
    """Convert any integral number to int; int() alone would accept 2.7 as 2."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if -(2**63) <= number < 2**63:
            return number
    raise NotInStoreError(f"{name} {value!r:.60} is not a whole number of 64 bits")


def _no_trace(store: Store, trace_id: int) -> str:
    query = "select count(*), min(trace_id), max(trace_id) from traces"
    count, low, high = store.sql(query).fetchall()[0]
    if not count:
        return f"there is no trace {trace_id}: {store.address} holds no traces yet"
    return f"there is no trace {trace_id}: {store.address} holds {count}, from {low} to {high}"
