"""``/live``: type a question, watch the model think about it, with and without interventions.

The page is a frame; its script (page.js) asks the addresses of :mod:`ringlens.app.live.routes`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from dash import Dash, dcc, html
from dash.development.base_component import Component

from ringlens.app.live import routes
from ringlens.app.shared.parts import run_script, state_page
from ringlens.app.shared.sources import Sources
from ringlens.interventions.intervention import KINDS
from ringlens.live.asked import Asked
from ringlens.live.thinker import Thinker
from ringlens.store.schema.captured import PHASES

KEYS = (
    ("Ctrl ↵", "think about what is typed"),
    ("e", "to the question"),
    ("x", "stop the running thought"),
)

SAYS = {
    "ablate": "take experts away: groups are ranked by those that are left",
    "route-around": "the groups stay, and the next best expert in them runs",
    "boost": "raise the selection score of experts; their groups are kept",
    "force": "experts run whatever their scores",
    "swap": "two experts, each in the other's place and with its weight",
    "scale": "multiply the weights of experts that run",
    "ablate-head": "zeros in place of what heads pass on",
    "scale-head": "multiply what heads pass on",
}
"""What the kinds of interventions do that the form offers: all but steering, which takes a vector
of numbers and is typed."""

CONSTANTS = {
    "KINDS": [
        {
            "kind": name,
            "target": KINDS[name].target,
            "strength": KINDS[name].strength,
            "says": says,
        }
        for name, says in SAYS.items()
    ]
}
"""Exports of ``live/constants.js``."""


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page, or say how a model comes to it."""
    del query  # the script reads the address
    if sources.thinker is None:
        return state_page(
            "No model thinks here",
            "Start the dashboard with a model, which lives in a process of its own: then a "
            "question can be typed here, and the thought be watched.",
            f"ringlens app {shlex.quote(sources.store.address)} --live ring-nano",
        )
    return html.Div(
        [
            html.Header(
                html.Div(
                    [html.H1("Live"), html.Span(id="live-model", className="dim")],
                    className="title-row",
                ),
                className="page-header",
            ),
            html.Div(id="live-app", className="live-app"),
            dcc.Store(id="live-boot", data=boot(sources.thinker)),
        ],
        className="page live-page",
    )


def boot(thinker: Thinker) -> dict[str, Any]:
    """Return what the script must know: limits, sets of problems, the form at first."""
    live = thinker.live
    return {
        "model": live.model,
        "characters": live.limits.characters,
        "tokens": live.limits.tokens,
        "usual": min(Asked.max_new_tokens, live.limits.tokens),
        "phases": list(PHASES),
        "sets": list(thinker.sets.names),
    }


def register(app: Dash, sources: Sources) -> None:
    """Add what the script asks, and have it fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "live")
