"""``/routing``: layer × expert heatmap of a run or a trace, and the panel of one expert.

The page is a heading and an empty frame; its script draws the rest from the addresses of
:mod:`ringlens.app.routing.routes`. A bundle and a notebook show the same frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from ringlens.app.annotations import routes as said
from ringlens.app.routing import routes
from ringlens.app.routing.usage_payload import CONSTANTS as CONSTANTS
from ringlens.app.shared import queries
from ringlens.app.shared.parts import run_script, state_page
from ringlens.app.shared.sources import Sources
from ringlens.app.web import untrusted
from ringlens.store.schema.promise import recorded_layers

Row = dict[str, Any]

KEYS = (
    ("[ ]", "previous, next layer"),
    ("← →", "previous, next expert"),
    ("/", "go to a layer and expert, such as L36 E179"),
    ("+ -", "zoom in, out; so does the wheel"),
    ("Shift ← ↑ → ↓", "move the part that is shown; so does dragging"),
    ("0", "the whole map; so does a double click"),
    ("Esc", "let go of the expert"),
    said.KEY,
)

_MODEL = 14
"""Letters of a model's name in the list of runs."""


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page for the scope, metric, phase and focus that the address asks for."""
    found = queries.runs(sources.catalogue)
    if not found:
        return state_page("Nothing to count yet", "This store holds no runs. Fill it first.")
    if "trace" in query:
        number = untrusted.whole(query["trace"])
        head = None if number is None else queries.trace_head(sources.catalogue, number)
        if head is None:
            return state_page(f"No trace {query['trace'][:60]}", "The store does not hold it.")
        query = {**query, "run": head["run_id"]}
    else:
        head = None
    names = [run["run_id"] for run in found]
    # Without a wish: the newest run that has traces.
    default = next((run["run_id"] for run in found if run["traces"]), names[0])
    name = query.get("run", default)
    if name not in names:
        return state_page(f"No run {name[:60]}", "The store does not hold it.")
    run = found[names.index(name)]
    if not recorded_layers(run, "routing"):
        return state_page(
            "Routing was not recorded",
            f"Run {name} holds no routing rows. Capture again without leaving routing out.",
        )
    return _page(found, run, head)


def _page(found: list[Row], run: Row, head: Row | None) -> Component:
    scope = {"run": run["run_id"]}
    if head is not None:
        scope["trace"] = head["trace_id"]
    query = urlencode(scope)
    return html.Div(
        [
            _header(found, run, head),
            html.Div(id="usage-app", className="usage-app", key=query),
            dcc.Store(id="routing-boot", data={"usage": f"/data/usage?{query}", "of": scope}),
        ],
        className="page routing-page",
    )


def _short(run: Row) -> str:
    """Name a run's model by the last part of its path, where that says enough."""
    name = str(run["model"]).rstrip("/").rpartition("/")[2]
    return name if len(name) <= _MODEL else f"{name[: _MODEL - 1]}…"


def _header(found: list[Row], run: Row, head: Row | None) -> Component:
    runs = [
        {"value": each["run_id"], "label": f"{each['run_id']} · {_short(each)}, {each['mode']}"}
        for each in found
    ]
    chooser = dmc.Select(
        id="run",
        data=runs,
        value=run["run_id"],
        size="xs",
        w=320,
        allowDeselect=False,
        **{"aria-label": "Run"},
    )
    title: list[Any] = [html.H1("Routing")]
    if head is not None:
        prompt = head["prompt"] if len(head["prompt"]) < 60 else head["prompt"][:57] + "…"
        title.append(
            html.Span(
                [
                    dcc.Link(
                        f"trace {head['trace_id']}: {prompt}",
                        href=f"/trace/{head['trace_id']}",
                        title=head["prompt"],
                    ),
                    dcc.Link(
                        "×", href=f"/routing?run={run['run_id']}", title="all traces of the run"
                    ),
                ],
                className="scope-chip",
            )
        )
    return html.Header(
        html.Div(
            [
                *title,
                html.Div(className="spacer"),
                html.Div(chooser, title=f"{run['run_id']} · {run['model']}, {run['mode']}"),
            ],
            className="title-row",
        ),
        className="page-header",
    )


def register(app: Dash, sources: Sources) -> None:
    """Add what the page's script fetches, and have it fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "routing")
    app.clientside_callback(
        ClientsideFunction("routing", "scope"),
        Output("run", "id"),
        Input("run", "value"),
        prevent_initial_call=True,
    )
