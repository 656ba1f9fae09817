"""Encodes two traces of a problem and which of their steps are partners.

Shape letters: R rows of the alignment, I steps of the first trace, J of the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ringlens.analysis import trajectory
from ringlens.analysis.trajectory.alignment import DRAWS, GAP, ROLE_WEIGHT
from ringlens.app.shared.constants import NO_STEP
from ringlens.app.shared.made import Made, made
from ringlens.app.steps import listed
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store

Row = dict[str, Any]

NUMBERS = 16_000_000
"""Numbers of the signatures of both traces at most; beyond it some of the layers are compared."""

CELLS = 40_000_000
"""Pairs of steps, times random orders, at most: of long traces fewer orders are drawn."""

LEAST_DRAWS = 20
"""Random orders below which there is no p-value worth showing."""


def aligned(store: Store, first: int, second: int, experts: int, layers: list[int]) -> Row:
    """Encode the steps of both traces and the rows of their alignment.

    Args:
        store: The store.
        first: Id of a trace.
        second: Id of another of the same problem.
        experts: Experts of a layer.
        layers: Layers whose routing was recorded.

    Returns:
        ``first``, ``second``: their steps, with ``text``; ``rows``: numbers of steps [R],
        ``distance`` and ``score`` [R]; and what the alignment rests on.

    Raises:
        ConfigError: As `ringlens.analysis.trajectory.alignment`.
        StoreError: As that.
    """
    some = _some(store, first, second, experts, layers)
    found = trajectory.alignment(store, first, second, layers=some, draws=0)
    attrs = found.attrs
    return {
        "first": _side(store, first, found["first"]),
        "second": _side(store, second, found["second"]),
        "rows": {
            "first": _numbers(found["first"]),
            "second": _numbers(found["second"]),
            "distance": encode(found["distance"].to_numpy(), "f4"),
            "similarity": encode(found["similarity"].to_numpy(), "f4"),
            "score": encode(found["score"].to_numpy(), "f4"),
        },
        "score": attrs["score"],
        "paired": attrs["paired"],
        "mean_distance": attrs["distance"],
        "gap": GAP,
        "role_weight": ROLE_WEIGHT,
        "layers": None if some is None else list(attrs["layers"]),
        "made": _made(store, first, second, some, found),
    }


def chance(store: Store, first: int, second: int, experts: int, layers: list[int]) -> Row:
    """Encode what score the second trace's steps have in random order.

    Returns:
        ``null``, the mean of ``draws`` orders, ``p`` and ``made``; or ``lacks``, why not.
    """
    some = _some(store, first, second, experts, layers)
    pairs = len(listed.steps(store, first)) * len(listed.steps(store, second))
    draws = min(DRAWS, CELLS // max(1, pairs))
    if draws < LEAST_DRAWS:
        return {"lacks": f"{pairs:,} pairs of steps are too many to draw random orders of here."}
    found = trajectory.alignment(store, first, second, layers=some, draws=draws)
    return {
        "null": found.attrs["null"],
        "p": found.attrs["p"],
        "draws": draws,
    }


def _some(
    store: Store, first: int, second: int, experts: int, layers: list[int]
) -> list[int] | None:
    """Choose the layers that are compared: all, or as many as keep the signatures small."""
    steps = sum(len(listed.steps(store, trace)) for trace in (first, second))
    return listed.spread(layers, NUMBERS // max(1, steps * experts))


def _side(store: Store, trace_id: int, numbers: pd.Series) -> Row:
    """Encode the steps of a trace that the alignment holds."""
    table = listed.steps(store, trace_id)
    there = pa.array(numbers.dropna().to_numpy(np.int64)).cast(table["step"].type)
    table = table.filter(pc.is_in(table["step"], value_set=there))
    text = listed.texts(store, trace_id)
    return {
        "trace_id": trace_id,
        **listed.encoded(table),
        "text": [text[step] for step in table["step"].to_pylist()],
    }


def _numbers(steps: pd.Series) -> str:
    return encode(steps.fillna(NO_STEP).to_numpy(np.uint32), "u4")


def _made(
    store: Store, first: int, second: int, layers: list[int] | None, found: pd.DataFrame
) -> Made:
    named = "" if layers is None else f", layers={layers}"
    program = f"found = trajectory.alignment(store, {first}, {second}{named}, draws=0)"
    sql = _sql(first, second, layers, found)
    return made(store, sql, program, "ringlens.analysis.trajectory")


def _sql(first: int, second: int, layers: list[int] | None, found: pd.DataFrame) -> str:
    """Write SQL that gives the routing distance of each row.

    Which steps are partners is found by dynamic programming, which SQL does not do: the pairs
    stand in it.
    """
    pairs = ", ".join(
        f"({row}, {_sql_number(a)}, {_sql_number(b)})"
        for row, (a, b) in enumerate(zip(found["first"], found["second"], strict=True))
    )
    some = "" if layers is None else f" and layer in ({', '.join(map(str, layers))})"
    return f"""with pairs(number, first, second) as (values {pairs}),
chosen as (
    select trace_id, step, layer, expert, count(*) as n
    from router_choices join token_context using (trace_id, pos)
    where trace_id in ({first}, {second}){some} and phase = 'think' and step is not null
    group by all),
shares as (
    select trace_id, step, layer, expert,
           n / sum(n) over (partition by trace_id, step, layer) as p
    from chosen),
alike as (
    select a.step as first, b.step as second, sum(sqrt(a.p * b.p)) as coefficient
    from shares as a join shares as b using (layer, expert)
    where a.trace_id = {first} and b.trace_id = {second}
          and (a.step, b.step) in (select (first, second) from pairs)
    group by all),
layers as (select count(distinct layer) as n from shares)
select pairs.first, pairs.second,
       case when pairs.first is not null and pairs.second is not null
            then sqrt(greatest(0, 1 - coalesce(coefficient, 0) / layers.n)) end as distance
from layers, pairs left join alike using (first, second) order by number"""


def _sql_number(step: Any) -> str:
    return "null" if pd.isna(step) else str(step)
