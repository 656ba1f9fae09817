"""What an address asks of the list of traces, and how it is written there.

``?search=…&verdict=wrong&kind=originals&sort=-n_think,entropy&filter={…}``: the same on the page of
the list and on that of a trace, which so knows its neighbours. ``filter`` is AG Grid's own model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ringlens.app.listing.conditions import (
    COLUMNS,
    KINDS,
    VERDICTS,
    Condition,
    condition,
    order_sql,
)
from ringlens.app.web import untrusted

Row = dict[str, Any]

NAMES = ("search", "verdict", "kind", "sort", "filter")
"""Parameters of an address that are the list's."""


@dataclass(frozen=True)
class Wanted:
    """Which traces, in which order.

    Attributes:
        search: Words of the search box.
        verdict: Key of `VERDICTS`.
        kind: Key of `KINDS`.
        sort: Columns to sort by as AG Grid's sort model; by id if it is empty.
        filters: Filters of the columns as AG Grid's filter model.
    """

    search: str
    verdict: str
    kind: str
    sort: list[Row]
    filters: Row

    @property
    def condition(self) -> Condition:
        """The condition on rows, as SQL with parameters."""
        return condition(self.filters, self.verdict, self.search, self.kind)

    @property
    def order(self) -> str:
        """The ``order by`` list."""
        return order_sql(self.sort)

    @property
    def is_everything(self) -> bool:
        """Whether all traces are wanted, in whatever order."""
        return not (self.search.split() or self.filters) and self.verdict == self.kind == "all"

    @property
    def address(self) -> str:
        """The query of an address that asks for the same; "" if it asks for nothing."""
        given = {
            "search": self.search,
            "verdict": "" if self.verdict == "all" else self.verdict,
            "kind": "" if self.kind == "all" else self.kind,
            "sort": ",".join(
                ("-" if by["sort"] == "desc" else "") + by["colId"] for by in self.sort
            ),
            "filter": json.dumps(self.filters, separators=(",", ":")) if self.filters else "",
        }
        found = urlencode({name: value for name, value in given.items() if value})
        return f"?{found}" if found else ""


def wanted(query: Mapping[str, str]) -> Wanted:
    """Read what an address asks for.

    Raises:
        RequestError: It asks for a verdict, kind, column or filter that there is not.
    """
    return Wanted(
        search=untrusted.text(query.get("search"), "search"),
        verdict=untrusted.one_of(query.get("verdict", "all"), VERDICTS, "verdict"),
        kind=untrusted.one_of(query.get("kind", "all"), KINDS, "kind"),
        sort=[_sorted_by(part) for part in query.get("sort", "").split(",") if part],
        filters=_filters(query.get("filter", "")),
    )


def _sorted_by(part: str) -> Row:
    column = untrusted.one_of(part.removeprefix("-"), COLUMNS, "a column of the order")
    return {"colId": column, "sort": "desc" if part.startswith("-") else "asc"}


def _filters(text: str) -> Row:
    if not text:
        return {}
    found = untrusted.mapping(untrusted.parsed(text.encode()), "the filter of the address")
    for column in found:
        untrusted.one_of(column, COLUMNS, "a column of the filter")
    condition(found, "all", None)  # raises for a filter that is none
    return found
