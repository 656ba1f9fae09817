"""The addresses the trace page's script fetches from: JSON with typed arrays, one trace each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from flask import Blueprint, Flask, Response, jsonify

from ringlens.app import payload, queries
from ringlens.app.sources import Sources
from ringlens.errors import NotInStoreError, RinglensError

View = Callable[..., Any]


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data``."""
    routes = Blueprint("data", __name__, url_prefix="/data/trace/<int:trace_id>")
    store = sources.store
    views: dict[str, View] = {
        "/tokens": partial(payload.tokens, store),
        "/margin": partial(payload.margin, store),
        "/layer/<int:layer>": partial(payload.layer, store),
        "/experts": partial(_experts, sources),
        "/routing/<int:pos>": partial(payload.routing, store),
        "/heads/<int:pos>": partial(_heads, sources),
    }
    for rule, view in views.items():
        routes.add_url_rule(rule, rule, _answer(view))
    server.register_blueprint(routes)

    def version() -> dict[str, str]:
        return {"version": str(queries.version(store))}  # JavaScript would round the number

    server.add_url_rule("/data/version", "version", _answer(version))


def _experts(sources: Sources, trace_id: int) -> payload.Payload:
    return payload.expert_map(sources.store, trace_id, queries.n_tokens(_head(sources, trace_id)))


def _heads(sources: Sources, trace_id: int, pos: int) -> payload.Payload:
    run = queries.run(sources.catalogue, _head(sources, trace_id)["run_id"])
    return payload.heads(sources.store, trace_id, pos, run["layers"], run["heads"])


def _head(sources: Sources, trace_id: int) -> dict[str, Any]:
    head = queries.trace_head(sources.catalogue, trace_id)
    if head is None:
        raise NotInStoreError(f"no trace {trace_id} in the store; open / for the traces it holds")
    return head


def _answer(view: View) -> View:
    """The view's result as JSON; an error of ours as a sentence with status 404 or 500."""

    @wraps(view.func if isinstance(view, partial) else view)
    def answer(**arguments: int) -> tuple[Response, int]:
        try:
            return jsonify(view(**arguments)), 200
        except RinglensError as error:
            status = 404 if isinstance(error, NotInStoreError) else 500
            return jsonify({"error": str(error)}), status

    return answer
