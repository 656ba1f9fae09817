"""Answers what the page of two traces fetches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Flask

from ringlens.app.beside import alignment, refusal
from ringlens.app.shared import queries
from ringlens.app.shared.kept import Kept
from ringlens.app.shared.sources import Sources
from ringlens.app.web.answers import answered
from ringlens.errors import NotInStoreError
from ringlens.store import Store
from ringlens.store.schema.promise import recorded_layers

Row = dict[str, Any]

PAIRS = 16
"""Answers that are kept."""

AT_ONCE = 2
"""Alignments that are computed at a time: each holds tables of all pairs of steps."""


class Pairs:
    """The last alignments of a store."""

    def __init__(self, store: Store) -> None:
        del store
        self.kept: Kept[Row] = Kept(PAIRS)
        self.turns = threading.BoundedSemaphore(AT_ONCE)


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/beside``."""
    routes = Blueprint("beside", __name__, url_prefix="/data/beside/<first>/<second>")
    for name, ask in (("alignment", alignment.aligned), ("chance", alignment.chance)):
        routes.add_url_rule(f"/{name}", name, answered(partial(_asked, sources, ask), 400))
    server.register_blueprint(routes)


def _asked(sources: Sources, ask: Callable[..., Row], first: str, second: str) -> Row:
    """Ask about two traces, or return what was answered before."""
    a, b = (refusal.head(sources, trace) for trace in (first, second))
    found = refusal.refusal(sources, a, b)
    if found is not None:
        raise NotInStoreError(found.sentence)
    run = queries.run(sources.catalogue, a["run_id"])
    layers = list(recorded_layers(run, "routing"))
    pairs = sources.one(Pairs)

    def make() -> Row:
        with pairs.turns:
            return ask(sources.store, a["trace_id"], b["trace_id"], run["experts"], layers)

    files = tuple(file.path for file in sources.store.snapshot().get("steps", ()))
    key = (ask.__name__, queries.version(sources.store), files, a["trace_id"], b["trace_id"])
    return pairs.kept.get(key, make)
