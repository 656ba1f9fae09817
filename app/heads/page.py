"""``/heads/<trace_id>``: what each attention head of a trace did, and which steps look at which.

The page is a heading and an empty frame; its script draws the rest from the addresses of
:mod:`ringlens.app.heads.routes`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from dash import Dash, dcc, html
from dash.development.base_component import Component

from ringlens.app.annotations import routes as said
from ringlens.app.heads import routes, steps
from ringlens.app.heads.measures import PROBE, measures
from ringlens.app.shared.parts import copy_button, run_script, state_page
from ringlens.app.shared.sources import Sources
from ringlens.errors import NotInStoreError
from ringlens.store import Store

Row = dict[str, Any]

KEYS = (
    ("[ ]", "previous, next layer"),
    ("← →", "previous, next head"),
    ("Esc", "let go of the head: the mean over all"),
    ("m", "the next measure"),
    ("j k", "next, previous step that looks back"),
    ("J K", "next, previous step that is looked at"),
    ("Enter", "that step on the trace"),
    said.KEY,
)


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page of a trace's heads, or say what to do if there is nothing to show."""
    try:
        head, run = routes.find(sources, query["trace_id"])
    except NotInStoreError as error:
        return state_page("There is no such trace", f"{error}.")
    data = boot(sources.store, head, run)
    if not data["measures"] and not data["steps"]:
        return state_page(
            "Nothing is known of its heads",
            "This trace was captured without head statistics, and the probe of receiver heads was "
            "not run. It reads the trace again with the model:",
            data["command"],
        )
    return html.Div(
        [
            _header(sources.store, head, run),
            html.Div(id="heads-app", className="heads-app", key=f"heads-{head['trace_id']}"),
            dcc.Store(id="heads-boot", data=data),
        ],
        className="page heads-page",
    )


def boot(store: Store, head: Row, run: Row) -> Row:
    """Return what the script must know before it fetches."""
    trace_id = head["trace_id"]
    words = ("ringlens", "probe", PROBE, run["model"], store.address)
    return {
        "trace_id": trace_id,
        "heads": run["heads"],
        "measures": [
            {
                "name": each.name,
                "label": each.label,
                "unit": each.unit,
                "about": each.about,
                "term": each.term,
                "signed": each.signed,
                "tested": each.tested,
            }
            for each in measures(store, trace_id)
        ],
        "steps": steps.listed(store, trace_id),
        "heads_kept": steps.heads_kept(store, trace_id),
        "command": " ".join(map(shlex.quote, words)),
    }


def register(app: Dash, sources: Sources) -> None:
    """Add what the page's script fetches, and have it fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "heads")


def _header(store: Store, head: Row, run: Row) -> Component:
    trace_id = head["trace_id"]
    line = (
        "import ringlens as rl; from ringlens.analysis.importance.receiver_heads import "
        f"receiver_heads; found = receiver_heads(rl.Store({store.address!r}), {run['run_id']!r})"
    )
    crumbs = [
        dcc.Link("Traces", href="/"),
        html.Span("/", className="dim"),
        dcc.Link(f"Trace {trace_id}", href=f"/trace/{trace_id}"),
        html.Span("/", className="dim"),
        html.Span("Heads"),
    ]
    links = [
        copy_button("Copy Python", line),
        dcc.Link("The run", href=f"/runs/{run['run_id']}", className="button"),
        dcc.Link("The trace", href=f"/trace/{trace_id}", className="button"),
    ]
    shape = f"{run['layers']} layers of {run['heads']} heads"
    about = f"{shape} · {head['prompt'][:120]}"
    return html.Header(
        [
            html.Div(
                [html.Div(crumbs, className="crumbs"), html.Div(links, className="buttons")],
                className="crumb-row",
            ),
            html.Div(
                [
                    html.H1("Attention heads"),
                    html.Span(about, title=about, className="dim"),
                ],
                className="title-row",
            ),
        ],
        className="page-header",
    )
