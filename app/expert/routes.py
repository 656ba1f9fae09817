"""Answers what the page of an expert fetches."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, Flask, request

from ringlens.app.expert import card
from ringlens.app.shared import queries
from ringlens.app.shared.confined import Confined
from ringlens.app.shared.kept import Kept
from ringlens.app.shared.sources import Sources
from ringlens.app.web.answers import answered
from ringlens.app.web.untrusted import shown, text, whole
from ringlens.errors import NotInStoreError
from ringlens.sandbox.predicate import check
from ringlens.store import Store
from ringlens.store.read.selection import Source
from ringlens.store.schema.promise import recorded_layers
from ringlens.store.schema.views import literal

Row = dict[str, Any]

PARTS = 512
"""Parts of cards that are kept, each of some 5 kB."""


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/expert``."""
    routes = Blueprint("expert", __name__, url_prefix="/data/expert/<layer>/<expert>")
    sources.one(_kept)
    routes.add_url_rule("/ablation", "ablation", answered(partial(_ablation, sources)))
    routes.add_url_rule("/card/<part>", "card", answered(partial(_part, sources), 400))
    server.register_blueprint(routes)


def _kept(store: Store) -> Kept[Row]:
    """What is kept of cards of a store."""
    del store
    return Kept(PARTS)


def _part(sources: Sources, layer: str, expert: str, part: str) -> Row:
    if part not in card.PARTS:
        raise NotInStoreError(f"a card has no {shown(part)}; it has {', '.join(card.PARTS)}")
    run, number, place = find(sources, request.args.get("run"), layer, expert)
    narrowed = text(request.args.get("where"), "where").strip()
    where = tokens_of(run["run_id"], narrowed)
    store, encode = sources.store, card.PARTS[part]
    key = (part, queries.version(store, part, narrowed), number, place, where)

    def confined(source: Source, where: str) -> Row:
        if narrowed:
            check(source, narrowed)  # by itself: its brackets must not close ours
        return encode(card.Asked(source, store, number, place, where))

    def make() -> Row:
        if not narrowed:
            return confined(store, where)
        return sources.one(Confined).ask(confined, where=where)

    return sources.one(_kept).get(key, make)


def _ablation(sources: Sources, layer: str, expert: str) -> Row:
    run, L, E = find(sources, request.args.get("run"), layer, expert)
    return card.ablation(sources.store, run["run_id"], L, E)


def tokens_of(run_id: str, narrowed: str) -> str:
    """Write the predicate of the tokens of a run, or of some of them."""
    whole_run = f"run_id = {literal(run_id)}"
    return f"{whole_run} and ({narrowed}\n)" if narrowed else whole_run


def find(
    sources: Sources, run_id: str | None, layer: str, expert: str
) -> tuple[queries.Row, int, int]:
    """Find the run, the layer and the expert that an address names.

    Args:
        sources: The sources.
        run_id: The run; None for the newest with routing.
        layer: The layer.
        expert: The expert.

    Raises:
        NotInStoreError: There is no such run, layer or expert.
    """
    routed = [run for run in queries.runs(sources.catalogue) if recorded_layers(run, "routing")]
    if not routed:
        raise NotInStoreError("no run of the store recorded routing; capture one that does")
    if run_id is None:
        run = next((each for each in routed if each["traces"]), routed[0])
    else:
        run = queries.run(sources.catalogue, run_id)
    layers, experts = list(recorded_layers(run, "routing")), run["experts"]
    number, place = whole(layer), whole(expert)
    if number is None or number not in layers:
        raise NotInStoreError(f"layer {shown(layer)} has no experts; those that have: {layers}")
    if place is None or place >= experts:
        raise NotInStoreError(f"there is no expert {shown(expert)}; a layer has 0 to {experts - 1}")
    return run, number, place
