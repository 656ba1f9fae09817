"""Selections: which tokens an analysis is about.

A selection is a predicate in DuckDB's SQL over the view `token_context`, for example
``phase = 'think' and entropy > 1``. One that asks only for what is known of whole runs, whole
traces and phases is answered from the sums that are kept while a store is written; any other needs
a scan of the choices.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ringlens.errors import ConfigError, StoreError
from ringlens.store.schema.views import quote

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

OF_TRACES = (
    "run_id", "model", "mode", "trace_id", "task", "problem_id", "correct", "finish_reason",
)  # fmt: skip
"""Columns of `token_context` that are the same for all tokens of a trace."""

SUMMED = (*OF_TRACES, "phase")
"""Columns by which the sums of a store are kept."""

SEVERAL = 5
"""Most names that a message lists without being asked."""


@dataclass(frozen=True)
class Selection:
    """Tokens of a store, and what they are told apart by.

    Attributes:
        where: The predicate; "true" for all tokens.
        by: Columns of `token_context` that the result has a row for each value of.
        columns: Columns that the predicate uses.
        summed: Whether sums answer it.
    """

    where: str
    by: tuple[str, ...]
    columns: frozenset[str]
    summed: bool

    @property
    def phases_apart(self) -> bool:
        """Whether the predicate or the grouping says what is meant by phases."""
        return "phase" in self.columns or "phase" in self.by

    def keys(self, *further: str) -> list[str]:
        """Grouping columns and further ones, each once."""
        return list(dict.fromkeys((*self.by, *further)))

    def listed(self, *further: str, prefix: str = "") -> str:
        """The same as part of a select list, each name behind a prefix."""
        return ", ".join(prefix + quote(name) for name in self.keys(*further))

    @property
    def source(self) -> str:
        """What answers the selection: "sums" or "scan"."""
        return "sums" if self.summed else "scan"


def read(store: Store, where: str | None = None, by: str | Iterable[str] = ()) -> Selection:
    """Read a selection, and refuse one that the store cannot answer.

    The phases of a trace route differently (arXiv 2604.09780), so they are never pooled silently:
    where neither the predicate nor the grouping names the phase, the result is grouped by it.

    Args:
        store: The store.
        where: A predicate over `token_context`; None for all tokens.
        by: Columns of `token_context` to group by.

    Raises:
        ConfigError: The predicate is no predicate, or names a column that does not exist.
    """
    known = columns_of(store)
    groups = (by,) if isinstance(by, str) else tuple(by)
    for name in groups:
        if name not in known:
            raise ConfigError(f"cannot group by {name!r:.60}: {_unknown(name, known)}")
    if len(set(groups)) < len(groups):
        raise ConfigError(f"by = {groups!r} names a column twice; name it once.")
    predicate = "true" if where is None else where
    used, nested = _columns_used(store, predicate)
    _bind(store, predicate, known)
    if "phase" not in used and "phase" not in groups:
        groups = (*groups, "phase")
    summed = not nested and used <= set(SUMMED) and set(groups) <= set(SUMMED)
    return Selection(predicate, groups, frozenset(used & set(known)), summed)


def columns_of(store: Store) -> list[str]:
    """Names of the columns of `token_context`."""
    return list(store.sql("from token_context limit 0").columns)


def _columns_used(store: Store, predicate: str) -> tuple[set[str], bool]:
    """Names in a predicate, and whether it holds a query of its own."""
    if not isinstance(predicate, str):
        raise ConfigError(
            f"where = {predicate!r:.60} is no text; write a predicate such as \"phase = 'think'\"."
        )
    tree: Any = None
    # Alone as well as in brackets: `a) or (b` is none, and neither is `a order by b`.
    for text in (predicate, f"({predicate}\n)"):
        query = f"select 1 from token_context where {text}"
        (serialized,) = store.sql("select json_serialize_sql(?)", [query]).fetchall()[0]
        tree = json.loads(serialized)
        if tree.get("error") or len(tree["statements"]) != 1:
            reason = tree.get("error_message", "more than one statement")
            raise ConfigError(
                f"where = {predicate!r:.200} is no predicate ({reason.splitlines()[0]}); write one "
                f"such as \"phase = 'think' and entropy > 1\"."
            )
    nodes = list(_nodes(tree["statements"][0]["node"]["where_clause"]))
    names = {
        part
        for node in nodes
        if node.get("class") == "COLUMN_REF"
        for part in node["column_names"]
        if part != "token_context"
    }
    return names, any(node.get("class") == "SUBQUERY" for node in nodes)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a parsed statement."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    for value in tree if isinstance(tree, list) else ():
        yield from _nodes(value)


def _bind(store: Store, predicate: str, known: list[str]) -> None:
    """Refuse a predicate that DuckDB cannot bind, in words about columns where it is one."""
    try:
        # An aggregate or a window in it is refused here as well.
        store.sql(f"select 1 from token_context where ({predicate}\n) limit 0").fetchall()
    except StoreError as error:
        names, _ = _columns_used(store, predicate)
        wrong = sorted(name for name in names if name not in known)
        reason = _unknown(wrong[0], known) if wrong else str(error).splitlines()[0]
        raise ConfigError(f"where = {predicate!r:.200} cannot be answered: {reason}") from error


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"do you mean {near[0]!r}? " if near else ""
    return f"there is no column {name!r:.60}; {hint}There are: {', '.join(known)}."


def same(keys: Iterable[str], first: str, second: str) -> str:
    """SQL that joins two tables by grouping columns, in which a null equals a null."""
    names = [quote(key) for key in keys]
    return " and ".join(f"{first}.{name} is not distinct from {second}.{name}" for name in names)


def traces_of(store: Store, selection: Selection) -> int:
    """Number of traces that a selection reaches.

    Raises:
        StoreError: It reaches none.
    """
    query = f"select count(distinct trace_id) from token_context where ({selection.where}\n)"
    (traces,) = store.sql(query).fetchall()[0]
    if not traces:
        raise StoreError(f"no token is selected by {selection.where!r:.200}; widen the selection.")
    return int(traces)
