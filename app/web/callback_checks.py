"""Checks requests of Dash's callbacks, and answers errors with sentences everywhere.

Dash trusts a callback's request: a missing key, an unknown callback or a value nested a thousand
deep would be a server error. Here they are the client's.
"""

from __future__ import annotations

from typing import Any

from dash import Dash
from dash.exceptions import DependencyException, InvalidResourceError
from flask import Response, jsonify, request
from werkzeug.exceptions import HTTPException

from ringlens.app.web import untrusted
from ringlens.app.web.answers import status_of
from ringlens.errors import RequestError, RinglensError

CALLBACKS = "/_dash-update-component"
BODY_BYTES = 2**20
_KEYS = ("output", "outputs", "inputs", "changedPropIds")


def register(app: Dash) -> None:
    """Check the bodies of requests; answer errors with a sentence."""
    app.server.config["MAX_CONTENT_LENGTH"] = BODY_BYTES

    @app.server.before_request
    def check_body() -> None:
        if request.method != "POST" or not request.is_json:
            return
        body = untrusted.parsed(request.get_data())
        if request.path == CALLBACKS:
            check(app.callback_map, body)

    @app.server.errorhandler(RinglensError)
    def say(error: RinglensError) -> tuple[Response, int]:
        return jsonify(error=str(error)), status_of(error)

    @app.server.errorhandler(HTTPException)
    def say_standard(error: HTTPException) -> Any:
        if error.code is None or error.code < 400:
            return error  # a redirect
        response = jsonify(error=error.description or error.name)
        response.status_code = error.code
        response.headers.extend(  # such as Allow
            [(k, v) for k, v in error.get_headers() if k not in ("Content-Type", "Content-Length")]
        )
        return response

    @app.server.errorhandler(DependencyException)
    @app.server.errorhandler(InvalidResourceError)
    def say_missing(error: Exception) -> tuple[Response, int]:
        del error
        return jsonify(error=f"there is nothing at {request.path[:100]}"), 404


def check(callbacks: dict[str, Any], body: Any) -> None:
    """Raise RequestError unless a body calls one of the callbacks, with all that it takes."""
    body = untrusted.mapping(body, "a callback's request")
    for name in _KEYS:
        if name not in body:
            raise RequestError(f"a callback's request lacks {name!r}")
    output = body["output"]
    known = callbacks.get(output) if isinstance(output, str) else None
    if known is None or "callback" not in known:
        raise RequestError(
            f"there is no callback for {untrusted.shown(output)}: load the page again"
        )
    for name, wanted in (("inputs", known["inputs"]), ("state", known["state"])):
        given = body.get(name, [])
        if not isinstance(given, list) or [_property(each) for each in given] != [
            _property(each) for each in wanted
        ]:
            raise RequestError(f"the {name} of the callback for {output} are not its own")
    outputs = body["outputs"]
    listed = outputs if isinstance(outputs, list) else [outputs]
    name = "...".join(str(_property(each)) for each in listed)
    if (f"..{name}.." if isinstance(outputs, list) else name) != output:
        raise RequestError(f"the outputs of the callback for {output} are not its own")
    changed = body["changedPropIds"]
    triggers = {_property(each) for each in known["inputs"]}
    if not isinstance(changed, list) or not all(
        isinstance(each, str) and each in triggers for each in changed
    ):
        raise RequestError(f"what changed are no inputs of the callback for {output}")


def _property(each: Any) -> str | None:
    """Return ``id.property`` of an input, state or output; None for anything else."""
    if not isinstance(each, dict):
        return None
    found, name = each.get("id"), each.get("property")
    return f"{found}.{name}" if isinstance(found, str) and isinstance(name, str) else None
