"""Answers what the routing page's script fetches: usage of experts, and what one was chosen for."""

from __future__ import annotations

import shlex
from functools import partial
from typing import Any

from flask import Blueprint, Flask, request

from ringlens.app.routing.evidence import EvidenceCache
from ringlens.app.routing.usage_payload import made_of_scope, usage_payload
from ringlens.app.shared import queries
from ringlens.app.shared.parts import address_of_proof
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.sources import Sources
from ringlens.app.web import untrusted
from ringlens.app.web.answers import answered
from ringlens.errors import NotInStoreError
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.promise import recorded_layers
from ringlens.store.schema.views import literal

Row = dict[str, Any]

TOKENS = 12
CONTEXTS = 6
ORDERS = ("count", "share")


def register(server: Flask, sources: Sources) -> None:
    """Add the addresses under ``/data/usage``."""
    routes = Blueprint("usage", __name__, url_prefix="/data/usage")
    routes.add_url_rule("", "usage", answered(partial(_usage, sources)))
    routes.add_url_rule("/expert/<layer>/<expert>", "expert", answered(partial(_expert, sources)))
    server.register_blueprint(routes)


def _scope(sources: Sources) -> tuple[Scope, Row]:
    """Read the run, or the trace of it, that a request names; and the row of the run.

    Raises:
        NotInStoreError: There is no such run or trace (any more).
    """
    run = queries.run(sources.catalogue, untrusted.text(request.args.get("run"), "run"))
    if "trace" not in request.args:
        return Scope(run["run_id"]), run
    trace_id = untrusted.whole(request.args["trace"])
    head = None if trace_id is None else queries.trace_head(sources.catalogue, trace_id)
    if head is None or head["run_id"] != run["run_id"]:
        shown = untrusted.shown(request.args["trace"])
        raise NotInStoreError(f"no trace {shown} in run {run['run_id']}")
    return Scope(run["run_id"], trace_id), run


def _usage(sources: Sources) -> Row:
    """Usage of a run or a trace, and the command that sums it up for good where it is not."""
    scope, run = _scope(sources)
    usage = sources.usage.get(scope)
    made_of = made_of_scope(sources.store, scope, usage, run)
    found = usage_payload(usage, run["run_id"], made_of)
    if not usage.from_rollups:
        found["command"] = f"ringlens rollup {shlex.quote(sources.store.address)}"
    return found


def _expert(sources: Sources, layer: str, expert: str) -> Row:
    """What an expert was chosen for: tokens, the places where it weighs most, its bias."""
    scope, run = _scope(sources)
    layers = recorded_layers(run, "routing")
    number = untrusted.number_in(untrusted.whole(layer), layers, "layer")
    place = untrusted.number_in(untrusted.whole(expert), range(run["experts"]), "expert")
    phase = untrusted.one_of(request.args.get("phase", "all"), ("all", *PHASES), "phase")
    order = untrusted.one_of(request.args.get("order", "count"), ORDERS, "order")
    evidence = sources.one(EvidenceCache)
    chosen = evidence.chosen(scope, number, place, phase)
    at = layers.index(number)
    evidence.look_ahead(scope, (*layers[at + 1 : at + 2], *layers[max(0, at - 1) : at]))
    facts = queries.expert_facts(sources.store, run["run_id"], number, place)
    usage = sources.usage.get(scope)
    # One trace cannot tell chance from a difference: its whole run is compared.
    both = usage.tokens("think") and usage.tokens("answer")
    of = f"run_id = {literal(run['run_id'])}"
    return {
        "tokens": chosen.top(order, TOKENS),
        "contexts": chosen.contexts(CONTEXTS),
        "bias": facts and facts["bias"],
        "proof": address_of_proof(of, number, place) if both else None,
    }
