"""``/data/annotations``: what people said, and the one door through which pages write."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from flask import Blueprint, Flask, request

from ringlens.app.annotations import said
from ringlens.app.shared import queries
from ringlens.app.shared.sources import Sources
from ringlens.app.web import same_origin, untrusted
from ringlens.app.web.answers import answered
from ringlens.errors import ConfigError, NotInStoreError, RequestError

Row = dict[str, Any]

KEY = ("a", "annotate the focused step, or what the page is about")
"""What a page's help says of the key, where a strip of annotations stands on it."""

NUMBERS = ("trace_id", "step", "layer", "expert")
TEXTS = ("run_id", "label", "note", "author", "supersedes")


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/annotations``."""
    routes = Blueprint("annotations", __name__, url_prefix="/data/annotations")
    for name, path, method, view in (
        ("of_trace", "/trace/<trace_id>", "GET", _of_trace),
        ("of_expert", "/expert/<layer>/<expert>", "GET", _of_expert),
        ("labels", "/experts", "GET", _labels),
        ("say", "", "POST", _say),
        ("retract", "/retract", "POST", _retract),
    ):
        routes.add_url_rule(path, name, answered(partial(view, sources)), methods=[method])
    server.register_blueprint(routes)


def _of_trace(sources: Sources, trace_id: str) -> Row:
    number = untrusted.whole(trace_id)
    if number is None or queries.trace_head(sources.catalogue, number) is None:
        raise NotInStoreError(f"no trace {untrusted.shown(trace_id)} in the store")
    store = sources.store
    found = _version(sources)  # before the rows: what comes between is then read again
    return found | said.of_trace(store, number) | _writer(sources)


def _of_expert(sources: Sources, layer: str, expert: str) -> Row:
    number, place = untrusted.whole(layer), untrusted.whole(expert)
    if number is None or place is None or not said.is_expert(sources.store, number, place):
        raise NotInStoreError(
            f"there is no expert {untrusted.shown(expert)} on layer {untrusted.shown(layer)}"
        )
    found = _version(sources)
    return found | said.of_expert(sources.store, _run(), number, place) | _writer(sources)


def _labels(sources: Sources) -> Row:
    return said.labels_of_experts(sources.store, _run())


def _version(sources: Sources) -> Row:
    return {"said": str(queries.version_of_said(sources.store))}


def _run() -> str:
    return untrusted.text(request.args.get("run"), "run")


def _writer(sources: Sources) -> Row:
    """Who would write, and why not."""
    writing = sources.writing
    return {"author": writing.author, "refused": writing.refusal(sources.store.folder)}


def _say(sources: Sources) -> Row:
    body = _body(sources, (*NUMBERS, *TEXTS))
    asked: Row = {name: _number(body, name) for name in NUMBERS}
    asked |= {name: untrusted.text(body.get(name), name) or None for name in TEXTS}
    layer, expert = asked.pop("layer"), asked.pop("expert")
    if (layer is None) != (expert is None):
        raise RequestError("an expert is named by its layer and its id: one of them is missing")
    place = None if layer is None else (layer, expert)
    author = asked.pop("author") or sources.writing.author
    with_author = {**asked, "author": author, "expert": place}
    return {"annotation_id": _checked(sources.store.annotate, **with_author)}


def _retract(sources: Sources) -> Row:
    body = _body(sources, ("annotation_id", "author"))
    annotation_id = untrusted.text(body.get("annotation_id"), "annotation_id")
    author = untrusted.text(body.get("author"), "author") or sources.writing.author
    return {"annotation_id": _checked(sources.store.retract, annotation_id, author=author)}


def _checked(write: Any, *given: Any, **named: Any) -> str:
    """Write; what the pages could have known is the request's fault."""
    try:
        return str(write(*given, **named))
    except ConfigError as error:
        raise RequestError(str(error)) from error


def _body(sources: Sources, known: tuple[str, ...]) -> Mapping[str, Any]:
    """Read a request that writes: JSON, sent by a page of this dashboard, where one may write."""
    same_origin.check(request.headers)
    if refused := sources.writing.refusal(sources.store.folder):
        raise RequestError(f"nothing was written: {refused}")
    if not request.is_json:
        raise RequestError("an annotation is sent as JSON, with this Content-Type")
    body = untrusted.mapping(request.get_json(), "the request")
    if unknown := sorted(set(body) - set(known)):
        raise RequestError(f"the request holds {untrusted.shown(unknown[0])}, which means nothing")
    return body


def _number(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise RequestError(f"{name} must be a whole number, not {untrusted.shown(value)}")
    return value
