"""The addresses the trace page's script fetches from: JSON with typed arrays, one trace each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from flask import Blueprint, Flask, Response, jsonify

from ringlens.app import payload, queries
from ringlens.errors import NotInStoreError, RinglensError
from ringlens.store import Store

View = Callable[..., Any]


def register(server: Flask, store: Store) -> None:
    """Add the addresses under ``/data``."""
    routes = Blueprint("data", __name__, url_prefix="/data/trace/<int:trace_id>")
    views: dict[str, View] = {
        "/tokens": payload.tokens,
        "/margin": payload.margin,
        "/layer/<int:layer>": payload.layer,
        "/experts": _experts,
        "/routing/<int:pos>": payload.routing,
        "/heads/<int:pos>": _heads,
    }
    for rule, view in views.items():
        routes.add_url_rule(rule, rule, _answer(partial(view, store)))
    server.register_blueprint(routes)
    # A string, as JavaScript would round the number.
    server.add_url_rule(
        "/data/version", "version", _answer(lambda: {"version": str(queries.version(store))})
    )


def _experts(store: Store, trace_id: int) -> payload.Payload:
    head = _head(store, trace_id)
    return payload.expert_map(store, trace_id, queries.n_tokens(head))


def _heads(store: Store, trace_id: int, pos: int) -> payload.Payload:
    run = queries.run(store, _head(store, trace_id)["run_id"])
    return payload.heads(store, trace_id, pos, run["layers"], run["heads"])


def _head(store: Store, trace_id: int) -> dict[str, Any]:
    head = queries.trace_head(store, trace_id)
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
