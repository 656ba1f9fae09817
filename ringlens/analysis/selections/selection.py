"""Selections: which tokens an analysis is about.

A selection is a predicate in DuckDB's SQL over the view `token_context`, for example
``phase = 'think' and entropy > 1``. One that asks only for what is known of whole runs, whole
traces, phases and step roles is answered from the sums that are kept while a store is written; any
other needs a scan of the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ringlens.analysis.scans.kept import has_role_sums, has_sums, once
from ringlens.analysis.scans.parts import ALL
from ringlens.config import known_only
from ringlens.errors import ConfigError, StoreError
from ringlens.store.read.selection import check_where, columns_used
from ringlens.store.schema.views import quote
from ringlens.store.schema.views_context import TOKEN_CONTEXT_COLUMNS

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

OF_TRACES = (
    "run_id", "model", "mode", "interventions", "trace_id", "task", "problem_id", "correct",
    "finish_reason",
)  # fmt: skip
"""Columns of `token_context` that are the same for all tokens of a trace."""

SUMMED = (*OF_TRACES, "phase")
"""Columns by which the sums of a store are kept; ``role`` is one more, of traces with steps."""


@dataclass(frozen=True)
class Selection:
    """Tokens of a store, and what they are told apart by.

    Attributes:
        where: The predicate; "true" for all tokens.
        by: Columns of `token_context` that the result has a row for each value of.
        sums: Table of the sums that answer it; "" if it needs a scan.
        traces: First and last id of the traces that are scanned; None for all.
        layers: Layers that are scanned; None for all.
    """

    where: str
    by: tuple[str, ...]
    sums: str
    traces: tuple[int, int] | None = None
    layers: tuple[int, ...] | None = None

    def keys(self, *further: str) -> list[str]:
        """Grouping columns and further ones, each once."""
        return list(dict.fromkeys((*self.by, *further)))

    def listed(self, *further: str, prefix: str = "") -> str:
        """The same as part of a select list, each name behind a prefix."""
        return ", ".join(prefix + quote(name) for name in self.keys(*further))

    def cells(self, rows: str) -> str:
        """SQL, for a with-clause, that numbers the groups and layers of some rows as ``cell``."""
        keys = self.listed("layer")
        return f"""cells as (
    select {keys}, row_number() over (order by {keys}) - 1 as cell
    from (select distinct {keys} from {rows}))"""

    def part(self, traces: tuple[int, int]) -> Selection:
        """The tokens of a part of a store."""
        return self if traces == ALL else replace(self, traces=traces)

    def scanned(self) -> Selection:
        """The same tokens, for an analysis of what no sums know."""
        return replace(self, sums="")

    @property
    def of_traces(self) -> str:
        """Predicate of the traces that are scanned, for any table that has a trace."""
        return "true" if self.traces is None else "trace_id between {} and {}".format(*self.traces)

    @property
    def of_runs(self) -> str:
        """Predicate of the runs that the tokens are of, for any table that has a run."""
        return f"run_id in (select run_id from token_context where ({self.where}\n))"

    @property
    def of_layers(self) -> str:
        """Predicate of the layers that are scanned, for any table that has a layer."""
        listed = "" if self.layers is None else ", ".join(map(str, self.layers))
        return f"layer in ({listed})" if listed else "true"

    @property
    def partition(self) -> str:
        """SQL, for a window, of the groups; nothing where there is one."""
        return f"partition by {self.listed()}" if self.by else ""

    def alike(self, first: str, second: str) -> str:
        """SQL that joins two tables by the grouping columns."""
        return same(self.by, first, second) or "true"

    @property
    def source(self) -> str:
        """What answers the selection: "sums" or "scan"."""
        return "sums" if self.sums else "scan"


def read(store: Source, where: str | None = None, by: str | Iterable[str] = ()) -> Selection:
    """Read a selection, and refuse one that the store cannot answer.

    The phases of a trace route differently (arXiv 2604.09780), so they are never pooled silently:
    where neither the predicate nor the grouping names the phase, the result is grouped by it.

    Args:
        store: The store.
        where: A predicate over `token_context`; None for all tokens.
        by: Columns of `token_context` to group by.

    Raises:
        ConfigError: The predicate is no predicate, or names a column that does not exist; or it
            holds replays beside other traces, runs of several models, or runs with interventions
            beside others, without saying so.
    """
    groups = (by,) if isinstance(by, str) else tuple(by)
    known_only(groups, TOKEN_CONTEXT_COLUMNS, "column to group by")
    if len(set(groups)) < len(groups):
        raise ConfigError(f"by = {groups!r} names a column twice; name it once.")
    predicate = "true" if where is None else check_where(store, where)
    used, nested = columns_used(store, predicate)
    _refuse_pooled(store, predicate, {*used, *groups})
    if "phase" not in used and "phase" not in groups:
        groups = (*groups, "phase")
    sums = "" if nested else _sums(store, used | {*groups})
    return Selection(predicate, groups, sums)


def _sums(store: Source, columns: set[str]) -> str:
    """Table of the sums that are kept by some columns; "" where there are none, or not all."""
    if not columns - {"role"} <= set(SUMMED) or not has_sums(store):
        return ""
    if "role" not in columns:
        return "usage_traces"
    return "usage_roles" if has_role_sums(store) else ""


def same(keys: Iterable[str], first: str, second: str) -> str:
    """SQL that joins two tables by grouping columns, in which a null equals a null."""
    names = [quote(key) for key in keys]
    return " and ".join(f"{first}.{name} is not distinct from {second}.{name}" for name in names)


class Extent(NamedTuple):
    """How much a selection reaches."""

    tokens: int
    traces: int


def extent_of(store: Source, selection: Selection) -> Extent:
    """Count the tokens and traces that a selection reaches.

    Raises:
        StoreError: It reaches none.
    """
    query = f"""select count(*), count(distinct trace_id) from token_context
        where ({selection.where}\n)"""
    extent = Extent(*store.sql(query).fetchall()[0])
    if not extent.tokens:
        raise StoreError(f"no token is selected by {selection.where!r:.200}; widen the selection.")
    return extent


def traces_of(store: Source, selection: Selection) -> int:
    """Count the traces that a selection reaches.

    Raises:
        StoreError: It reaches none.
    """
    return extent_of(store, selection).traces


def _refuse_pooled(store: Source, predicate: str, named: set[str]) -> None:
    """Refuse what is not one model's, or counts tokens twice, where nothing says that it is meant.

    Args:
        store: The store.
        predicate: The predicate.
        named: Columns that the predicate or the grouping names.
    """
    if {"run_id", "trace_id"} & named or {*_REFUSED} <= named:
        return
    asked = [at for at, column in enumerate(_REFUSED) if column not in named]

    def differ(rows: list[tuple[str, ...]]) -> list[int]:
        return [at for at in asked if len({row[at] for row in rows}) > 1]

    # If all runs are alike, the tokens need not be read.
    if not differ(once(store, _kinds_of_runs)):
        return
    rows = store.sql(
        "select distinct mode, model, coalesce(interventions, '') as interventions "
        f"from token_context where ({predicate}\n)"
    ).fetchall()
    refuse = [*_REFUSED.values()]
    for at in differ(rows):
        refuse[at](sorted({row[at] for row in rows}))


def _kinds_of_runs(store: Source) -> list[tuple[str, ...]]:
    """Modes, models and interventions of all runs."""
    return store.sql(
        "select distinct mode, model, coalesce(array_to_string(interventions, ' '), '') from runs"
    ).fetchall()


def _refuse_twice(modes: list[str]) -> None:
    """Refuse replays beside live traces: the same tokens would count as two independent traces."""
    if "replay" in modes:
        raise ConfigError(
            f"the selection holds replays beside other traces (modes {', '.join(modes)}), so the "
            "same tokens may count twice; add `mode = 'live'` or `mode = 'replay'` to where, or "
            "`mode is not null` if they are of other tokens."
        )


def _refuse_models(models: list[str]) -> None:
    """Refuse runs of several models: expert 5 of one is not expert 5 of another."""
    raise ConfigError(
        f"the selection holds runs of {len(models)} models ({models[0]!r:.80}, {models[1]!r:.80}), "
        "whose experts have nothing to do with each other; name one in where, give by='model', or "
        "add `model is not null` if they are one model under several names."
    )


def _refuse_mixed(found: list[str]) -> None:
    """Refuse runs with interventions beside others: what they hold is not one model's."""
    acts = next(text for text in found if text)
    raise ConfigError(
        f"the selection holds runs under different interventions ({len(found)} kinds, such as "
        f"{acts!r:.80}), in which different models ran; add `interventions is null` to where "
        "for the plain ones, name the ones you want, or give by='interventions'."
    )


_REFUSED: dict[str, Callable[[list[str]], None]] = {
    "mode": _refuse_twice,
    "model": _refuse_models,
    "interventions": _refuse_mixed,
}
"""What refuses several values of a column of runs where nothing names it."""
