"""``/beside/<first>/<second>``: two traces of a problem, step beside step.

The page is a heading and an empty frame; its script draws the rest from the addresses of
:mod:`ringlens.app.beside.routes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import Dash, dcc, html
from dash.development.base_component import Component

from ringlens.app.beside import routes
from ringlens.app.beside.refusal import head, refusal
from ringlens.app.listing.problem import traces_alike
from ringlens.app.shared.parts import copy_button, run_script, state_page
from ringlens.app.shared.sources import Sources
from ringlens.errors import NotInStoreError

Row = dict[str, Any]

KEYS = (
    ("j k", "next, previous pair of steps"),
    ("u U", "next, previous step without a partner"),
    ("d D", "next, previous step that goes back"),
    ("1 2", "the step in focus on the first, the second trace"),
    ("e", "which experts the two steps choose differently"),
    ("n p", "the next, previous trace of the problem on the right"),
    ("x", "change sides"),
    ("a A", "annotate the step in focus, or the trace: the first, the second"),
    ("Esc", "let go of the step"),
)

TITLE = "These traces cannot stand side by side"


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page of two traces, or say why they cannot be aligned."""
    try:
        first, second = (head(sources, query[name]) for name in ("first", "second"))
    except NotInStoreError as error:
        return state_page("There is no such trace", f"{error}.")
    found = refusal(sources, first, second)
    if found is not None:
        return state_page(TITLE, found.sentence, found.command)
    a, b = first["trace_id"], second["trace_id"]
    return html.Div(
        [
            _header(sources, first, second),
            html.Div(id="beside-app", className="beside-app", key=f"beside-{a}-{b}"),
            dcc.Store(id="beside-boot", data=boot(sources, first, second)),
        ],
        className="page beside-page",
    )


def boot(sources: Sources, first: Row, second: Row) -> Row:
    """Return what the script must know before it fetches."""
    names = ("trace_id", "run_id", "sample", "correct", "answer", "mode", "tokens")
    alike = traces_alike(sources.catalogue, first["trace_id"])
    return {
        "first": first["trace_id"],
        "second": second["trace_id"],
        "traces": [
            {name: each[name] for name in names}
            | {"interventions": ", ".join(each["interventions"] or ())}
            for each in alike
        ],
    }


def register(app: Dash, sources: Sources) -> None:
    """Add what the page's script fetches, and have it fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "beside")


def _header(sources: Sources, first: Row, second: Row) -> Component:
    a, b = first["trace_id"], second["trace_id"]
    line = (
        "import ringlens as rl; from ringlens.analysis import trajectory; "
        f"found = trajectory.alignment(rl.Store({sources.store.address!r}), {a}, {b})"
    )
    crumbs = [
        dcc.Link("Traces", href="/"),
        html.Span("/", className="dim"),
        dcc.Link(f"Trace {a}", href=f"/trace/{a}"),
        html.Span("beside", className="dim"),
        dcc.Link(f"Trace {b}", href=f"/trace/{b}"),
    ]
    if first["problem_id"] is not None:
        crumbs.append(html.Span(f"problem {first['problem_id']}", className="tag"))
    links = [copy_button("Copy Python", line)]
    return html.Header(
        [
            html.Div(
                [html.Div(crumbs, className="crumbs"), html.Div(links, className="buttons")],
                className="crumb-row",
            ),
            html.Div(
                html.H1(first["prompt"], title=first["prompt"]),
                className="title-row",
            ),
        ],
        className="page-header",
    )
