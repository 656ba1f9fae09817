"""Answers what the page of heads fetches."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from flask import Blueprint, Flask, request
from numpy.typing import NDArray

from ringlens.analysis.statistics.fdr import q_values
from ringlens.app.heads import steps
from ringlens.app.heads.measures import Measure, measures
from ringlens.app.shared import queries
from ringlens.app.shared.made import made
from ringlens.app.shared.sources import Sources
from ringlens.app.web.answers import answered
from ringlens.app.web.untrusted import shown, whole
from ringlens.errors import NotInStoreError
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store

Row = dict[str, Any]


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/heads``."""
    routes = Blueprint("heads", __name__, url_prefix="/data/heads/<trace_id>")
    routes.add_url_rule("/map/<name>", "map", answered(partial(_map, sources)))
    routes.add_url_rule("/steps", "steps", answered(partial(_steps, sources), 400))
    server.register_blueprint(routes)


def find(sources: Sources, trace_id: str) -> tuple[Row, Row]:
    """Find the trace that an address names, and its run.

    Raises:
        NotInStoreError: There is none.
    """
    number = whole(trace_id)
    head = None if number is None else queries.trace_head(sources.catalogue, number)
    if head is None:
        raise NotInStoreError(f"no trace {trace_id[:60]} in the store; open / for those it holds")
    return head, queries.run(sources.catalogue, head["run_id"])


def _map(sources: Sources, trace_id: str, name: str) -> Row:
    head, _ = find(sources, trace_id)
    known = {each.name: each for each in measures(sources.store, head["trace_id"])}
    if name not in known:
        raise NotInStoreError(
            f"of the heads of trace {head['trace_id']} nothing is known by the name "
            f"{shown(name)}; there are {', '.join(known) or 'none'}"
        )
    return _encoded(sources.store, known[name])


def _encoded(store: Store, measure: Measure) -> Row:
    frame = store.sql(measure.sql).df()
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    at = (frame["layer"].map({layer: i for i, layer in enumerate(layers)}), frame["head"])
    shape = (len(layers), int(frame["head"].max()) + 1)
    program = f'found = store.sql("""{measure.sql}""").df()'
    columns = ["value"]
    imports = []
    if measure.tested:
        frame["q"] = q_values(frame["p"].to_numpy(float))
        program += '\nfound["q"] = fdr.q_values(found["p"].to_numpy(float))'
        columns += ["by_chance", "p", "q"]
        imports = ["ringlens.analysis.statistics.fdr"]

    def grid(column: str) -> NDArray[np.float64]:
        values_LH = np.full(shape, np.nan)
        values_LH[at] = frame[column].to_numpy(float)
        return values_LH

    return {
        "layers": layers,
        "heads": shape[1],
        **{column: encode(grid(column), "f4") for column in columns},
        "made": made(store, measure.sql, program, *imports),
    }


def _steps(sources: Sources, trace_id: str) -> Row:
    head, run = find(sources, trace_id)
    layer = _number(request.args.get("layer"), run["layers"], "layer")
    chosen = _number(request.args.get("head"), run["heads"], "head")
    return steps.matrix(sources.store, head["trace_id"], layer, chosen)


def _number(text: str | None, size: int, what: str) -> int | None:
    if text is None:
        return None
    number = whole(text)
    if number is None or number >= size:
        raise NotInStoreError(f"the model has no {what} {shown(text)}; there are {size}")
    return number
