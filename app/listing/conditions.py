"""Translates what the traces grid asks for (AG Grid's sort and filter models) to SQL.

The browser names columns and operators; both are looked up in tables here, and every value becomes
a parameter, so nothing it sends is ever part of the SQL text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ringlens.app.web import untrusted
from ringlens.errors import RequestError

COLUMNS = (
    "trace_id",
    "correct",
    "task",
    "prompt",
    "answer",
    "tokens",
    "n_think",
    "entropy",
    "finish_reason",
    "run_id",
    "source_trace_id",
    "labels",
)
VERDICTS = {
    "all": "true",
    "correct": "correct",
    "wrong": "not correct",
    "unjudged": "correct is null",
}
WORDS = 32
"""Words of a search, and tests of a filter, at most."""

KINDS = {
    "all": "true",
    "originals": "source_trace_id is null",
    "replays": "source_trace_id is not null",
}
_NUMBER = {
    "equals": "{c} = {v}",
    "notEqual": "{c} <> {v}",
    "lessThan": "{c} < {v}",
    "lessThanOrEqual": "{c} <= {v}",
    "greaterThan": "{c} > {v}",
    "greaterThanOrEqual": "{c} >= {v}",
}
_TEXT = {
    "contains": "contains(lower({c}), lower({v}))",
    "notContains": "not contains(lower({c}), lower({v}))",
    "equals": "lower({c}) = lower({v})",
    "notEqual": "lower({c}) <> lower({v})",
    "startsWith": "starts_with(lower({c}), lower({v}))",
    "endsWith": "ends_with(lower({c}), lower({v}))",
}
_EMPTY = {"blank": "({c} is null)", "notBlank": "({c} is not null)"}
_TYPES = {"number": (_NUMBER, float), "text": (_TEXT, str)}


@dataclass
class Condition:
    """A condition under construction: SQL text with the parameters it names."""

    parts: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """Return all parts, joined by ``and``; true if there are none."""
        return " and ".join(self.parts) or "true"

    def add(self, value: Any) -> str:
        """Keep a value as a parameter and return its placeholder."""
        name = f"p{len(self.params)}"
        self.params[name] = value
        return f"${name}"


def order_sql(sort_model: list[dict[str, Any]] | None) -> str:
    """Write the ``order by`` list of a sort model; by id if it is empty."""
    if not isinstance(sort_model, list | None):
        raise RequestError(
            f"the order of the rows must be a list, not {untrusted.shown(sort_model)}"
        )
    items = [untrusted.mapping(item, "an order of the rows") for item in sort_model or []]
    wanted = [
        f"{item['colId']} {'desc' if item.get('sort') == 'desc' else 'asc'} nulls last"
        for item in items
        if isinstance(item.get("colId"), str) and item["colId"] in COLUMNS
    ]
    return ", ".join([*wanted, "trace_id asc"])


def condition(
    filter_model: dict[str, Any] | None, verdict: str, search: str | None, kind: str = "all"
) -> Condition:
    """Join what the filters of the grid, its switches and the search box ask for.

    Unknown columns, operators, verdicts and kinds are ignored; :mod:`ringlens.app.listing.wanted`
    refuses those of an address.
    """
    result = Condition([VERDICTS.get(verdict, "true") if isinstance(verdict, str) else "true"])
    result.parts.append(KINDS.get(kind, "true") if isinstance(kind, str) else "true")
    for word in (search or "").split()[:WORDS]:
        value = result.add(word)
        # One word may stand in the prompt, the task, the answer, a label, or be the id.
        result.parts.append(
            f"(contains(lower(prompt), lower({value})) or contains(lower(task), lower({value}))"
            f" or contains(lower(answer), lower({value}))"
            f" or contains(lower(labels), lower({value}))"
            f" or trace_id::varchar = ltrim({value}, '#'))"
        )
    for column, model in untrusted.mapping(filter_model or {}, "a filter of the rows").items():
        if column in COLUMNS:
            result.parts.append(_filter_sql(result, column, model))
    return result


def _filter_sql(result: Condition, column: str, model: dict[str, Any]) -> str:
    """Write one column's filter: one test, or several joined by ``and`` or ``or``."""
    model = untrusted.mapping(model, f"the filter of {column}")
    conditions = model.get("conditions")
    if conditions:
        if not isinstance(conditions, list) or len(conditions) > WORDS:
            raise RequestError(f"the filter of {column} must have a list of at most {WORDS} tests")
        joiner = " or " if model.get("operator") == "OR" else " and "
        parts = [_filter_sql(result, column, each) for each in conditions]
        return "(" + joiner.join(parts) + ")"
    operator = untrusted.text(model.get("type"), "a filter's type")
    if operator in _EMPTY:
        return _EMPTY[operator].format(c=column)
    operators, kind = _TYPES.get(untrusted.text(model.get("filterType"), "a filter"), ({}, str))
    if operator == "inRange" and kind is float:
        low, high = _value(model, "filter", kind), _value(model, "filterTo", kind)
        place = _cast(column, kind)
        return f"({place} >= {result.add(low)} and {place} <= {result.add(high)})"
    if operator not in operators or model.get("filter") is None:
        return "true"
    value = result.add(_value(model, "filter", kind))
    return "(" + operators[operator].format(c=_cast(column, kind), v=value) + ")"


def _value(model: dict[str, Any], name: str, kind: type) -> Any:
    """Read what a column is compared with: a number, or a text."""
    found = model.get(name)
    if kind is str:
        return untrusted.text(found if isinstance(found, str) else str(found), name)
    if not isinstance(found, int | float | str):
        raise RequestError(f"a filter compares with a number, not with {untrusted.shown(found)}")
    try:
        return float(found)
    except (ValueError, OverflowError):
        raise RequestError(
            f"a filter compares with a number, not with {untrusted.shown(found)}"
        ) from None


def _cast(column: str, kind: type) -> str:
    """Cast a column to what it is compared with: a text filter may be on a number."""
    return f"{column}::varchar" if kind is str else f"try_cast({column} as double)"
