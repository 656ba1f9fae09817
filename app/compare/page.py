"""``/compare``: two selections of tokens, which experts they choose, and whether it is chance.

The page is a heading and an empty frame; its script draws the rest from the addresses of
:mod:`ringlens.app.compare.routes`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from dash import Dash, dcc, html
from dash.development.base_component import Component

from ringlens.app.compare import routes
from ringlens.app.compare.presets import presets
from ringlens.app.shared.parts import run_script, state_page
from ringlens.app.shared.sources import Sources

KEYS = (
    ("[ ]", "previous, next layer"),
    ("← →", "previous, next expert"),
    ("Enter", "the card of the expert in focus"),
    ("e", "equal tokens only, or all"),
    ("q", "what survives the false discovery rate, or all"),
    ("0", "what nothing would look like: choices in random order"),
    ("/", "the first selection"),
)


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page, or say what a store without routing lacks."""
    del query  # the script reads it
    known = presets(sources)
    if not known:
        return state_page(
            "Nothing to compare yet",
            "No run of this store recorded routing. Capture one that does.",
            f"ringlens capture ring-nano --n 8 --store {shlex.quote(sources.store.address)}",
        )
    return html.Div(
        [
            html.Header(
                html.Div(
                    [
                        html.H1("Compare"),
                        html.Span(
                            "which experts two selections choose, and whether it is chance",
                            className="dim",
                        ),
                    ],
                    className="title-row",
                ),
                className="page-header",
            ),
            html.Div(id="compare-app", className="compare-app"),
            dcc.Store(id="compare-boot", data={"presets": known, "address": sources.store.address}),
        ],
        className="page compare-page",
    )


def register(app: Dash, sources: Sources) -> None:
    """Add what the page's script fetches, and have it fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "compare")
