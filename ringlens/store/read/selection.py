"""Selection: the tokens that a predicate over ``token_context`` picks, of any traces.

Shape letters: N selected tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.config import known_only
from ringlens.errors import ConfigError, NotInStoreError, StoreError
from ringlens.store.schema.views import quote
from ringlens.store.schema.views_context import TOKEN_CONTEXT_COLUMNS

if TYPE_CHECKING:
    from ringlens.store.read.relation import Relation
    from ringlens.store.read.store import Parameters, Store


class Source(Protocol):
    """What predicates are asked of: a store, or what answers as one."""

    @property
    def address(self) -> str:
        """Where it lies."""

    def sql(self, query: str, params: Parameters | None = None) -> Relation:
        """Query it, as `Store.sql` does."""


@runtime_checkable
class Proxy(Protocol):
    """A source that has a store's queries run elsewhere, on the rows of that store."""

    @property
    def store(self) -> Store:
        """The store."""


_NO_COLUMN = re.compile(r'Referenced column "(.*?)" (?:not found|was not found)')

DRAWN = ("random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "nextval")
"""Functions that give another value each time."""

_SHIFT = 32
"""Positions have at most so many bits."""


@dataclass(frozen=True)
class Selection:
    """Tokens in order of trace and position.

    Attributes:
        where: The predicate; None for all tokens.
        trace_id: int64 [N].
        pos: int32 [N].
        run: Places in ``runs`` [N].
        runs: Ids of their runs.
        context: Other columns of ``token_context`` that were asked for, each [N].
    """

    where: str | None
    trace_id: NDArray[np.int64]
    pos: NDArray[np.int32]
    run: NDArray[np.int32]
    runs: tuple[str, ...]
    context: dict[str, NDArray]

    def __len__(self) -> int:
        return len(self.pos)

    @property
    def words(self) -> str:
        """The predicate for messages."""
        return "" if self.where is None else f" where {self.where:.200}"

    def places(self, trace_id: NDArray[np.int64], pos: NDArray[np.int32]) -> NDArray[np.int64]:
        """Find tokens among those selected.

        Returns:
            The place of each; -1 for a token that is not selected.
        """
        mine, asked = self._keys, _keys(trace_id, pos)
        at = np.minimum(np.searchsorted(mine, asked), len(mine) - 1)
        return np.where(mine[at] == asked, at, -1)

    def kept(self, keep: NDArray[np.bool_]) -> Selection:
        """The selection without the tokens that are False in ``keep`` [N]."""
        if keep.all():
            return self
        return Selection(
            self.where,
            self.trace_id[keep],
            self.pos[keep],
            self.run[keep],
            self.runs,
            {name: column[keep] for name, column in self.context.items()},
        )

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        return _keys(self.trace_id, self.pos)


def select(store: Store, where: str | None = None, context: Sequence[str] = ()) -> Selection:
    """Select tokens of any traces.

    Args:
        store: The store.
        where: A predicate in DuckDB's SQL over the columns of ``token_context``, such as
            ``phase = 'think' and entropy > 1``; None for all tokens.
        context: Columns of ``token_context`` to read as well.

    Raises:
        ConfigError: ``where`` is no predicate, or a column does not exist; the message names the
            nearest.
        NotInStoreError: No token is selected.
    """
    columns = dict.fromkeys(("trace_id", "pos", "run_id", *context))
    predicate = "true" if where is None else check_where(store, where)
    names = ", ".join(map(quote, columns))
    # A comment at the end of the predicate must not take the bracket with it.
    query = f"select {names} from token_context where ({predicate}\n) order by trace_id, pos"
    found = store.sql(query).to_arrow_table()
    if not found.num_rows:
        raise NotInStoreError(_nothing(store, where))
    run = found["run_id"].combine_chunks().dictionary_encode()
    return Selection(
        where,
        found["trace_id"].to_numpy(),
        found["pos"].to_numpy(),
        run.indices.to_numpy(),
        tuple(run.dictionary.to_pylist()),
        {name: plain(found[name]) for name in dict.fromkeys(context)},
    )


def check_context(context: Sequence[str]) -> tuple[str, ...]:
    """Check names of columns of ``token_context``.

    Raises:
        ConfigError: There is no such column.
    """
    if isinstance(context, str):
        raise ConfigError(
            f"context = {context!r:.60}; it must be a list of columns: [{context!r:.60}]."
        )
    known_only(context, TOKEN_CONTEXT_COLUMNS, "column of token_context")
    return tuple(context)


def check_where(store: Source, where: str) -> str:
    """Check a predicate over ``token_context`` without reading rows.

    Raises:
        ConfigError: It is no predicate, a column does not exist, or it draws at random.
    """
    if not isinstance(where, str) or not where.strip():
        raise ConfigError(
            f"where = {where!r:.60}; it must be a predicate such as \"phase = 'think'\"."
        )
    _refuse_drawn(where, tree(store, where))
    try:
        # A value must not be an aggregate of all rows, which a select list alone would take.
        kinds = store.sql(f"select ({where}\n) from token_context where ({where}\n)").types
    except StoreError as error:
        raise _wrong(where, error) from error
    if kinds != ["BOOLEAN"]:
        raise ConfigError(f"where = {where!r:.200} is {kinds[0]}; it must be true or false.")
    return where


def columns_used(store: Source, where: str) -> tuple[set[str], bool]:
    """Names that a predicate uses, and whether it holds a query of its own.

    Raises:
        ConfigError: It is no predicate.
    """
    nodes = list(_nodes(tree(store, where)))
    names = {
        part
        for node in nodes
        if node.get("class") == "COLUMN_REF"
        for part in node["column_names"]
        if part != "token_context"
    }
    return names, any(node.get("class") == "SUBQUERY" for node in nodes)


def tree(store: Source, where: str) -> Any:
    """Parse a predicate, alone as well as in brackets.

    So ``a) or (b`` is none, which would mean something else beside other predicates, and neither is
    ``a order by b``.

    Raises:
        ConfigError: It is no predicate.
    """
    parsed: Any = None
    texts = [f"select 1 from token_context where {text}" for text in (where, f"({where}\n)")]
    query = "select json_serialize_sql(?), json_serialize_sql(?)"
    for parsed in map(json.loads, store.sql(query, texts).fetchall()[0]):
        if parsed.get("error") or len(parsed["statements"]) != 1:
            reason = parsed.get("error_message", "more than one statement").splitlines()[0]
            raise ConfigError(
                f"where = {where!r:.200} is no predicate ({reason}); write one such as "
                "\"phase = 'think' and entropy > 1\"."
            )
    return parsed["statements"][0]["node"]["where_clause"]


def _refuse_drawn(where: str, parsed: Any) -> None:
    """Refuse what draws at random: each query of an analysis would be about other tokens."""
    named = {str(node.get("function_name")).lower() for node in _nodes(parsed)}
    if drawn := sorted(named & set(DRAWN)):
        raise ConfigError(
            f"where = {where!r:.200}: {drawn[0]}() selects other tokens each time it is asked; for "
            "a sample that stays, write hash(trace_id, pos) % 10 = 0."
        )


def _nodes(parsed: Any) -> Iterator[dict[str, Any]]:
    """All objects of a parsed predicate."""
    if isinstance(parsed, dict):
        yield parsed
        parsed = list(parsed.values())
    for value in parsed if isinstance(parsed, list) else ():
        yield from _nodes(value)


def _wrong(where: str, error: StoreError) -> StoreError | ConfigError:
    """Say what is wrong with a predicate."""
    if not isinstance(error.__cause__, duckdb.Error):
        return error
    reason = str(error.__cause__)
    if name := _NO_COLUMN.search(reason):
        try:
            known_only([name[1]], TOKEN_CONTEXT_COLUMNS, "column")
        except ConfigError as unknown:
            text = f'"{name[1]}"' in where
            hint = f" A text has single quotes: '{name[1]}'." if text else ""
            return ConfigError(f"where = {where!r:.200}: {unknown}{hint}")
    return ConfigError(
        f"where = {where!r:.200} is no predicate over the columns of token_context: "
        f"{reason.splitlines()[0]}"
    )


def _nothing(store: Store, where: str | None) -> str:
    count = sum(file.rows for file in store.snapshot().get("tokens", ()))
    if not count:
        return f"{store.address} holds no tokens yet"
    phases = "phases are 'prompt', 'think' and 'answer'"
    return (
        f"none of the {count:,} tokens of {store.address} is selected by {where!r:.200}; {phases}"
    )


def plain(column: pa.ChunkedArray) -> NDArray:
    """Convert a column to numpy; equal texts share one Python object, however many rows there are.

    Nulls become NaN among numbers, and None among texts and booleans.
    """
    if not pa.types.is_string(column.type):
        return column.to_numpy()
    encoded = column.combine_chunks().dictionary_encode()
    texts = np.array([*encoded.dictionary.to_pylist(), None], object)
    return texts[encoded.indices.fill_null(-1).to_numpy()]


def _keys(trace_id: NDArray[np.int64], pos: NDArray[np.int32]) -> NDArray[np.int64]:
    return (trace_id << _SHIFT) + pos
