"""What a table looks like if nothing is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ringlens.config import whole
from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.store.read.relation import Relation
    from ringlens.store.read.selection import Source
    from ringlens.store.read.store import Parameters

_WITH = re.compile(r"\s*with\b", re.IGNORECASE)

# The order of a layer's rows in a trace is drawn anew; a hash is the same in every query.
_ROUTING = """
routing as (
    select places.trace_id, places.layer, places.pos, rows.* exclude (trace_id, layer, pos, number)
    from (select trace_id, layer, pos,
              row_number() over (partition by trace_id, layer order by pos) as number
          from routing) as places
    join (select *, row_number() over (
              partition by trace_id, layer order by hash(pos, layer, trace_id, {seed})) as number
          from routing) as rows using (trace_id, layer, number))"""


class Shuffled:
    """A store whose choices have changed places within each layer of each trace.

    Give it to an analysis in place of its store. How often a trace chose an expert is as it was;
    what the choice had to do with the token, its phase or its step is gone. So what the table still
    shows is what it shows of nothing.

    Args:
        store: The store; nothing in it is changed.
        seed: Seed of the order.
    """

    def __init__(self, store: Source, seed: int = 0) -> None:
        self._store = store
        self._routing = _ROUTING.format(seed=whole("seed", seed, 0))

    @property
    def address(self) -> str:
        """Where the store lies."""
        return self._store.address

    def sql(self, query: str, params: Parameters | None = None) -> Relation:
        """Query the store with ``routing`` shuffled; views over it, and sums, are not."""
        begins = _WITH.match(query)
        rest = f", {query[begins.end() :]}" if begins else f" {query}"
        return self._store.sql(f"with {self._routing}{rest}", params)


def refuse_shuffled(store: Source, table: str) -> None:
    """Refuse what is no null of a table of pairs.

    Raises:
        ConfigError: The store is shuffled.
    """
    if isinstance(store, Shuffled):
        raise ConfigError(
            "Shuffled moves the choices of whole tokens, and keeps the experts of a token "
            f"together: it is no null of {table}. Compare n with expected in committees instead."
        )
