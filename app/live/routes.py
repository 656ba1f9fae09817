"""Answers what the live page's script asks: what is new, think, stop, start again."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, Flask, request

from ringlens.app.shared.sources import Sources
from ringlens.app.web import same_origin, untrusted
from ringlens.app.web.answers import answered
from ringlens.errors import RequestError
from ringlens.live.thinker import Thinker
from ringlens.live.thought import Seen

Row = dict[str, Any]

NO_MODEL = "this dashboard holds no model: start it with `ringlens app STORE --live MODEL`"


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/live``."""
    routes = Blueprint("live", __name__, url_prefix="/data/live")
    routes.get("")(answered(partial(_news, sources)))
    routes.add_url_rule("/problems", "problems", answered(partial(_problems, sources)))
    for name, view in (("ask", _ask), ("stop", _stop), ("restart", _restart)):
        routes.add_url_rule(f"/{name}", name, answered(partial(view, sources)), methods=["POST"])
    server.register_blueprint(routes)


def _thinker(sources: Sources) -> Thinker:
    if sources.thinker is None:
        raise RequestError(NO_MODEL)
    return sources.thinker


def _news(sources: Sources) -> Row:
    return _thinker(sources).news(seen_in(request.args.get("seen", "")))


def _problems(sources: Sources) -> Row:
    """The problems of a set: ids and prompts."""
    name = untrusted.text(request.args.get("set"), "set")
    found = _thinker(sources).sets.of(name)
    return {"problems": [{"id": each.id, "prompt": each.prompt} for each in found.values()]}


def seen_in(text: str) -> dict[int, Seen]:
    """Read how much of each thought a page has: ``NUMBER.EDITION.TOKENS``, joined by commas.

    Raises:
        RequestError: It is no such list.
    """
    found: dict[int, Seen] = {}
    for part in filter(None, text.split(",")):
        numbers = [untrusted.whole(each) for each in part.split(".")]
        if len(numbers) != 3 or None in numbers:
            raise RequestError(f"'seen' holds {untrusted.shown(part)}, not NUMBER.EDITION.TOKENS")
        number, edition, tokens = (each or 0 for each in numbers)
        found[number] = (edition, tokens)
    return found


def _ask(sources: Sources) -> Row:
    return {"numbers": _thinker(sources).ask(_body())}


def _stop(sources: Sources) -> Row:
    number = _body().get("number")
    if not isinstance(number, int) or isinstance(number, bool):
        raise RequestError(f"'number' must be that of a thought, not {untrusted.shown(number)}")
    _thinker(sources).stop(number)
    return {}


def _restart(sources: Sources) -> Row:
    _body()
    _thinker(sources).restart()
    return {}


def _body() -> Row:
    """Read a request that changes something: JSON, which other sites' pages cannot send unasked."""
    same_origin.check(request.headers)
    return untrusted.mapping(request.get_json(), "the request")
