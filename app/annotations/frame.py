"""The frame in which a page shows what people said of its subject; its script fills it."""

from __future__ import annotations

from typing import Any

from dash import Dash, dcc, html
from dash.development.base_component import Component

from ringlens.app.annotations import routes
from ringlens.app.shared.parts import run_script
from ringlens.app.shared.sources import Sources

KEY = ("a", "annotate the focused step, or what the page is about")


def register(app: Dash, sources: Sources) -> None:
    """Add the addresses, and have the script fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "annotations")


def of_trace(trace_id: int) -> Component:
    """Make the frame of a trace and its steps."""
    return _frame({"trace_id": trace_id})


def of_expert(run_id: str, layer: int, expert: int) -> Component:
    """Make the frame of an expert of a run's model."""
    return _frame({"run_id": run_id, "layer": layer, "expert": expert})


def _frame(about: dict[str, Any]) -> Component:
    key = "-".join(map(str, about.values()))
    return html.Div(
        [
            html.Div(id="annotations", className="annotations", key=key),
            dcc.Store(id="annotations-boot", data=about),
        ]
    )
