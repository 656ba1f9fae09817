"""Choices of a selection's tokens, layer by layer, each with the group of its token.

A pass over layers reads the tokens once and the routing once for a block of layers, however many
groups there are. A layer is counted whole in one place, so that parts on a cluster give the same
numbers, bit for bit.

Shape letters: N selected tokens, R tokens with a choice on a layer, k experts per token, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Choices, Shape, Tokens, blocks, layers_of
from ringlens.analysis.scans.parts import each
from ringlens.analysis.selections.expert_counts import values_of
from ringlens.analysis.selections.selection import Selection, same
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.schema.views import quote

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

R = TypeVar("R")

_GROUP = "number of the group"
"""Column of the tokens; no column of `token_context` is called so."""


@dataclass(frozen=True)
class GroupedTokens:
    """Selected tokens and their groups.

    Attributes:
        tokens: Where they stand.
        groups: A row per group, as `groups_of` gives.
        group_N: Row of each token's group.
        table: Further columns that were asked for, [N].
    """

    tokens: Tokens
    groups: pd.DataFrame
    group_N: NDArray[np.int64]
    table: pa.Table

    def keys(self) -> list[tuple[Any, ...]]:
        """Values of each group, with None for a null."""
        if self.groups.columns.empty:
            return [()]
        return [values_of(row) for row in self.groups.itertuples(index=False, name=None)]


class OnLayer(NamedTuple):
    """Choices on one layer.

    Attributes:
        layer: The layer.
        ids_kR: Chosen experts, heaviest first.
        at_R: Places of their tokens among those selected.
        group_R: Groups of their tokens.
    """

    layer: int
    ids_kR: NDArray[np.unsignedinteger]
    at_R: NDArray[np.int64]
    group_R: NDArray[np.int64]


def grouped_tokens(store: Source, selection: Selection, *columns: str) -> GroupedTokens:
    """Read the tokens of a selection, and further columns of `token_context`."""
    names = "".join(f", {quote(name)}" for name in dict.fromkeys((*selection.by, *columns)))
    groups, keys = groups_of(store, selection), selection.listed()
    number, join = f"0 as {quote(_GROUP)}", ""
    if selection.by:
        number = f"numbered.{quote(_GROUP)}"
        join = f"""join (
    select {keys}, row_number() over (order by {keys}) - 1 as {quote(_GROUP)}
    from (select distinct {keys} from asked)) as numbered
on {same(selection.by, "asked", "numbered")}"""
    table = store.sql(
        f"""with asked as (
    select trace_id, pos{names} from token_context where ({selection.where}\n))
select asked.*, {number} from asked {join} order by asked.trace_id, asked.pos"""
    ).to_arrow_table()
    return GroupedTokens(Tokens.of(table), groups, table[_GROUP].to_numpy().astype(np.int64), table)


def groups_of(store: Source, selection: Selection) -> pd.DataFrame:
    """Values of the grouping columns, a row per group in order; one without columns if none."""
    if not selection.by:
        return pd.DataFrame(index=[0])
    keys = selection.listed()
    return store.sql(
        f"select distinct {keys} from token_context where ({selection.where}\n) order by {keys}"
    ).df()


def by_layers(
    store: Source,
    selection: Selection,
    shape: Shape,
    function: Callable[[Source, tuple[int, ...]], list[R]],
    tokens: int,
    engine: Engine = LOCAL,
) -> list[R]:
    """Apply a function to blocks of a selection's layers, and chain what it gives.

    Args:
        store: The store.
        selection: The tokens.
        shape: Experts of a layer, and experts per token.
        function: Gives a list for some layers; must be picklable for a cluster.
        tokens: Number of the tokens.
        engine: Runs the function.
    """
    layers = selection.layers or layers_of(store, selection.where)
    parts = each(store, function, blocks(layers, tokens, shape, engine), engine)
    return [found for part in parts for found in part]


def on_layers(
    store: Source, grouped: GroupedTokens, layers: tuple[int, ...], shape: Shape
) -> Iterator[OnLayer]:
    """Read the choices of some layers; those without one are left out."""
    choices = Choices.read(store, grouped.tokens, layers, shape)
    for place, layer in enumerate(layers):
        ids_kR, there_N = choices.of(place)
        at_R = np.flatnonzero(there_N)
        if len(at_R):
            yield OnLayer(layer, ids_kR, at_R, grouped.group_N[at_R])


def loads(
    ids_kR: NDArray[np.unsignedinteger], group_R: NDArray[np.int64], groups: int, experts: int
) -> NDArray[np.int64]:
    """Count how often each expert was chosen, [G, E]."""
    n_GE = np.zeros(groups * experts, np.int64)
    for ids_R in ids_kR:
        n_GE += np.bincount(group_R * experts + ids_R, minlength=len(n_GE))
    return n_GE.reshape(groups, experts)
