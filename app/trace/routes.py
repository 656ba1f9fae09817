"""The addresses the trace page's script fetches from: JSON with typed arrays, one trace each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, Flask, Response, jsonify

from ringlens.app.asked import shown, whole
from ringlens.app.following import identity
from ringlens.app.shared import queries
from ringlens.app.shared.sources import Sources
from ringlens.app.trace import payload
from ringlens.errors import NotInStoreError, RequestError, RinglensError

View = Callable[..., Any]


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data``."""
    routes = Blueprint("data", __name__, url_prefix="/data")
    place = "/trace/<trace_id>"
    views: dict[str, View] = {
        f"{place}/tokens": _tokens,
        f"{place}/margin": _margin,
        f"{place}/layer/<layer>": _layer,
        f"{place}/experts": _experts,
        f"{place}/routing/<pos>": _routing,
        f"{place}/heads/<pos>": _heads,
        "/version": _version,
        "/<path:rest>": _nothing,
    }
    for rule, view in views.items():
        routes.add_url_rule(rule, rule.replace(".", ""), _answer(sources, view))
    server.register_blueprint(routes)


def _version(sources: Sources) -> dict[str, str]:
    """A text that changes with every commit, and one that another store does not have."""
    store = sources.store
    # As text: JavaScript would round the number.
    which = hashlib.sha256(repr(identity(store.folder)).encode()).hexdigest()
    return {"version": str(queries.version(store)), "store": which[:16]}


def _tokens(sources: Sources, trace_id: str) -> payload.Payload:
    return payload.tokens(sources.store, _head(sources, trace_id)["trace_id"])


def _margin(sources: Sources, trace_id: str) -> payload.Payload:
    return payload.margin(sources.store, _head(sources, trace_id)["trace_id"])


def _layer(sources: Sources, trace_id: str, layer: str) -> payload.Payload:
    head = _head(sources, trace_id)
    known = queries.run(sources.catalogue, head["run_id"])["sparse_layers"]
    number = whole(layer)
    if number is None or number not in known:
        raise NotInStoreError(f"layer {shown(layer)} has no experts; those that have: {known}")
    return payload.layer(sources.store, head["trace_id"], number)


def _experts(sources: Sources, trace_id: str) -> payload.Payload:
    head = _head(sources, trace_id)
    return payload.expert_map(sources.store, head["trace_id"], queries.n_tokens(head))


def _routing(sources: Sources, trace_id: str, pos: str) -> payload.Payload:
    head = _head(sources, trace_id)
    return payload.routing(sources.store, head["trace_id"], _pos(head, pos))


def _heads(sources: Sources, trace_id: str, pos: str) -> payload.Payload:
    head = _head(sources, trace_id)
    run = queries.run(sources.catalogue, head["run_id"])
    place = _pos(head, pos)
    return payload.heads(sources.store, head["trace_id"], place, run["layers"], run["heads"])


def _nothing(sources: Sources, rest: str) -> payload.Payload:
    raise NotInStoreError(f"there is nothing at /data/{rest[:100]}")


def _head(sources: Sources, trace_id: str) -> dict[str, Any]:
    number = whole(trace_id)
    head = None if number is None else queries.trace_head(sources.catalogue, number)
    if head is None:
        name = trace_id if len(trace_id) <= 30 else f"{trace_id[:30]}…"
        raise NotInStoreError(f"no trace {name} in the store; open / for the traces it holds")
    return head


def _pos(head: dict[str, Any], pos: str) -> int:
    """A position of a trace."""
    number, count = whole(pos), queries.n_tokens(head)
    if number is None or number >= count:
        raise NotInStoreError(
            f"trace {head['trace_id']} has no token {shown(pos)}; it has 0 to {count - 1}"
        )
    return number


def _answer(sources: Sources, view: View) -> View:
    """The view's result as JSON; an error of ours as a sentence."""

    @wraps(view)
    def answer(**arguments: str) -> tuple[Response, int]:
        try:
            return jsonify(view(sources, **arguments)), 200
        except RinglensError as error:
            return jsonify({"error": str(error)}), status_of(error)

    return answer


def status_of(error: RinglensError) -> int:
    """The HTTP status of an error of ours: 404 not there, 400 wrongly asked, 500 the store's."""
    if isinstance(error, NotInStoreError):
        return 404
    return 400 if isinstance(error, RequestError) else 500
