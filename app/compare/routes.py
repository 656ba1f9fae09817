"""Answers what the page that compares fetches; predicates run in the sandbox."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, Flask, request

from ringlens.analysis.differences.contrast import TOKEN
from ringlens.app.compare import contrast
from ringlens.app.shared import queries
from ringlens.app.shared.confined import Confined
from ringlens.app.shared.kept import Kept
from ringlens.app.shared.sources import Sources
from ringlens.app.web.answers import answered
from ringlens.app.web.untrusted import one_of, text
from ringlens.store import Store

Row = dict[str, Any]

COMPARISONS = 32
"""Answers that are kept: of Ring-1T's size each is 0.7 MB."""


class Comparisons:
    """The last comparisons of a store."""

    def __init__(self, store: Store) -> None:
        del store
        self.kept: Kept[Row] = Kept(COMPARISONS)


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/compare``."""
    routes = Blueprint("compare", __name__, url_prefix="/data/compare")
    for name, view in (("contrast", _contrast), ("null", _null), ("shift", _shift)):
        routes.add_url_rule(f"/{name}", name, answered(partial(view, sources), 400))
    server.register_blueprint(routes)


def _contrast(sources: Sources) -> Row:
    return _asked(sources, contrast.contrast, within=_within())


def _null(sources: Sources) -> Row:
    return _asked(sources, contrast.nothing, within=_within())


def _shift(sources: Sources) -> Row:
    return _asked(sources, contrast.shift)


def _asked(sources: Sources, analysis: Any, **options: Any) -> Row:
    """Ask about the two selections of the address, or return what was answered before."""
    a, b = (text(request.args.get(name), name).strip() for name in ("a", "b"))
    key = (analysis.__name__, queries.version(sources.store, a, b), a, b, *options.values())
    ask = partial(sources.one(Confined).ask, analysis, a=a, b=b, store=sources.store, **options)
    return sources.one(Comparisons).kept.get(key, ask)


def _within() -> str | None:
    given = request.args.get("within")
    return one_of(given, (TOKEN,), "within") if given else None
