"""Answers what the trace page's script fetches: JSON with typed arrays, of one trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Flask

from ringlens.app.shared import queries
from ringlens.app.shared.kept import Kept
from ringlens.app.shared.sources import Sources
from ringlens.app.trace import belief, payload, thought
from ringlens.app.web.answers import answered
from ringlens.app.web.untrusted import shown, whole
from ringlens.errors import NotInStoreError
from ringlens.store import Store
from ringlens.store.schema.promise import recorded_layers

View = Callable[..., payload.Payload]

KEPT = 64
"""Answers that are kept; of a thought of 64k tokens one has 0.4 MB at most."""


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/trace``."""
    routes = Blueprint("trace", __name__, url_prefix="/data/trace/<trace_id>")
    views: dict[str, View] = {
        "tokens": _tokens,
        "margin": _margin,
        "layer/<layer>": _layer,
        "experts": _experts,
        "routing/<pos>": _routing,
        "statistics/<table>/<pos>": _statistics,
        "attention/<head>/<pos>": _attention,
        "steps": _steps,
        "change": _change,
        "received": _received,
        "map": _map,
        "belief": _belief,
    }
    for rule, view in views.items():
        name = rule.partition("/")[0]
        routes.add_url_rule(f"/{rule}", name, answered(partial(view, sources)))
    server.register_blueprint(routes)


def _tokens(sources: Sources, trace_id: str) -> payload.Payload:
    return payload.tokens(sources.store, _head(sources, trace_id)["trace_id"])


def _margin(sources: Sources, trace_id: str) -> payload.Payload:
    trace = _head(sources, trace_id)["trace_id"]
    return _once(sources, "margin", trace, lambda: payload.margin(sources.store, trace))


def _layer(sources: Sources, trace_id: str, layer: str) -> payload.Payload:
    head = _head(sources, trace_id)
    known = list(recorded_layers(queries.run(sources.catalogue, head["run_id"]), "routing"))
    number = whole(layer)
    if number is None or number not in known:
        raise NotInStoreError(f"layer {shown(layer)} has no experts; those that have: {known}")
    return payload.layer(sources.store, head["trace_id"], number)


def _experts(sources: Sources, trace_id: str) -> payload.Payload:
    head = _head(sources, trace_id)
    trace, count = head["trace_id"], queries.n_tokens(head)
    return _once(sources, "experts", trace, lambda: payload.expert_map(sources.store, trace, count))


def _routing(sources: Sources, trace_id: str, pos: str) -> payload.Payload:
    head = _head(sources, trace_id)
    return payload.routing(sources.store, head["trace_id"], _pos(head, pos))


def _statistics(sources: Sources, trace_id: str, table: str, pos: str) -> payload.Payload:
    known = payload.head_tables()
    if table not in known:
        raise NotInStoreError(f"no numbers of heads in {shown(table)}; tables: {', '.join(known)}")
    head = _head(sources, trace_id)
    run = queries.run(sources.catalogue, head["run_id"])
    trace, place, sizes = head["trace_id"], _pos(head, pos), (run["layers"], run["heads"])
    return payload.statistics(sources.store, trace, place, known[table], *sizes)


def _attention(sources: Sources, trace_id: str, head: str, pos: str) -> payload.Payload:
    trace = _head(sources, trace_id)
    run = queries.run(sources.catalogue, trace["run_id"])
    layer, _, index = head.partition(".")
    n, h = whole(layer), whole(index)
    if n is None or h is None or n >= run["layers"] or h >= run["heads"]:
        raise NotInStoreError(
            f"no head {shown(head)}; write LAYER.HEAD: there are {run['layers']} layers of "
            f"{run['heads']} heads"
        )
    place, tokens = _pos(trace, pos), queries.n_tokens(trace)
    return payload.attention(sources.store, trace["trace_id"], n, h, place, tokens)


def _steps(sources: Sources, trace_id: str) -> payload.Payload:
    return thought.steps(sources.store, _head(sources, trace_id)["trace_id"])


def _change(sources: Sources, trace_id: str) -> payload.Payload:
    head = _head(sources, trace_id)
    trace, count = head["trace_id"], queries.n_tokens(head)
    return _once(sources, "change", trace, lambda: thought.change(sources.store, trace, count))


def _received(sources: Sources, trace_id: str) -> payload.Payload:
    head = _head(sources, trace_id)
    run = queries.run(sources.catalogue, head["run_id"])
    trace, count = head["trace_id"], queries.n_tokens(head)
    return _once(
        sources, "received", trace, lambda: thought.received(sources.store, run, trace, count)
    )


def _map(sources: Sources, trace_id: str) -> payload.Payload:
    trace = _head(sources, trace_id)["trace_id"]
    return _once(sources, "map", trace, lambda: thought.path_map(sources.store, trace))


def _kept(store: Store) -> Kept[payload.Payload]:
    """What is kept of traces: what reads all of their tokens."""
    del store
    return Kept(KEPT)


def _once(
    sources: Sources, name: str, trace_id: int | None, make: Callable[[], payload.Payload]
) -> payload.Payload:
    """Return an answer that was made before, if the store is what it was."""
    key = (name, trace_id, queries.version(sources.store))
    return sources.one(_kept).get(key, make)


def _belief(sources: Sources, trace_id: str) -> payload.Payload:
    head = _head(sources, trace_id)
    run = queries.run(sources.catalogue, head["run_id"])
    return belief.belief(sources.store, run, head["trace_id"])


def _head(sources: Sources, trace_id: str) -> dict[str, Any]:
    number = whole(trace_id)

    def read() -> dict[str, Any]:
        head = None if number is None else queries.trace_head(sources.catalogue, number)
        if head is None:
            name = trace_id if len(trace_id) <= 30 else f"{trace_id[:30]}…"
            raise NotInStoreError(f"no trace {name} in the store; open / for the traces it holds")
        return head

    return _once(sources, "head", number, read)


def _pos(head: dict[str, Any], pos: str) -> int:
    """Read a position of a trace."""
    number, count = whole(pos), queries.n_tokens(head)
    if number is None or number >= count:
        raise NotInStoreError(
            f"trace {head['trace_id']} has no token {shown(pos)}; it has 0 to {count - 1}"
        )
    return number
