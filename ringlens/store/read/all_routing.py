"""Routing of all layers, for tokens of any traces: what is read from it is read layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ringlens.display import html_facts, lines, spans
from ringlens.store.read.selection import check_where

if TYPE_CHECKING:
    from ringlens.store.read.store import Store
    from ringlens.store.read.whole_run import RoutingRows


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
