"""``/expert/<layer>/<expert>``: the card of one expert.

The page is a heading and an empty frame; its script draws the rest from the addresses of
:mod:`ringlens.app.expert.routes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from dash import Dash, dcc, html
from dash.development.base_component import Component

from ringlens.app.annotations import routes as said
from ringlens.app.expert import routes
from ringlens.app.shared import queries
from ringlens.app.shared.parts import OFF, copy_button, is_it_real, run_script, state_page, term
from ringlens.app.shared.sources import Sources
from ringlens.errors import NotInStoreError
from ringlens.plot.figure import signed
from ringlens.plot.palette import expert_colour
from ringlens.store.schema.promise import recorded_layers
from ringlens.store.schema.views import literal

Row = dict[str, Any]

KEYS = (
    ("← →", "previous, next expert"),
    ("[ ]", "previous, next layer"),
    ("1 2 3 4", "all phases, prompt, think, answer"),
    ("/", "which tokens the card is about"),
    said.KEY,
)


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page of an expert, or say what to do if there is none."""
    try:
        run, layer, expert = routes.find(sources, query.get("run"), query["layer"], query["expert"])
    except NotInStoreError as error:
        return state_page("There is no such expert", f"{error}.")
    facts = queries.expert_facts(sources.store, run["run_id"], layer, expert)
    return html.Div(
        [
            _header(sources, run, layer, expert, facts),
            html.Div(
                id="expert-app", className="expert-app", key=f"{run['run_id']}-{layer}-{expert}"
            ),
            dcc.Store(id="expert-boot", data=boot(run, layer, expert)),
        ],
        className="page expert-page",
    )


def boot(run: Row, layer: int, expert: int) -> Row:
    """Return what the script must know before it fetches."""
    return {
        "run_id": run["run_id"],
        "layer": layer,
        "expert": expert,
        "layers": list(recorded_layers(run, "routing")),
        "experts": run["experts"],
        "groups": run["groups"],
        "k": run["experts_per_token"],
    }


def register(app: Dash, sources: Sources) -> None:
    """Add what the page's script fetches, and have it fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "expert")


def _header(sources: Sources, run: Row, layer: int, expert: int, facts: Row | None) -> Component:
    where = {"run": run["run_id"]}
    routing = f"/routing?{urlencode({**where, 'L': layer, 'E': expert})}"
    line = (
        f"import ringlens as rl; from ringlens import analysis; "
        f"card = analysis.expert_card(rl.Store({sources.store.address!r}), {layer}, {expert}, "
        f"{routes.tokens_of(run['run_id'], '')!r})"
    )
    crumbs = [
        dcc.Link("Routing", href=f"/routing?{urlencode(where)}"),
        html.Span("/", className="dim"),
        html.Span(f"Layer {layer}"),
        html.Span("/", className="dim"),
        html.Span(f"Expert {expert}"),
    ]
    links = [
        copy_button("Copy Python", line),
        dcc.Link("On the map", href=routing, className="button"),
        *_real(sources, run["run_id"], layer, expert),
        *_steps(run, layer, expert),
    ]
    colour = expert_colour(expert, run["experts"], run["groups"])
    size = run["experts"] // run["groups"]
    about: list[Any] = [
        html.Span([term("group", "group"), f" {expert // size} of {run['groups']}"]),
        html.Span(f"{run['experts_per_token']} of {run['experts']} experts a token"),
        html.Span(f"run {run['run_id']}, {run['model']}", title=run["model"], className="long"),
    ]
    if facts and facts["bias"] is not None:
        bias = html.Span(
            [term("selection bias", "selection bias"), f" {signed(facts['bias'], '+.3f')}"]
        )
        about.insert(1, bias)
    return html.Header(
        [
            html.Div(
                [html.Div(crumbs, className="crumbs"), html.Div(links, className="buttons")],
                className="crumb-row",
            ),
            html.Div(
                [
                    html.I(className="swatch large", style={"background": colour}),
                    html.H1(f"Layer {layer}, expert {expert}"),
                ],
                className="title-row",
            ),
            html.Div(about, className="fact-row"),
        ],
        className="page-header",
    )


def _real(sources: Sources, run_id: str, layer: int, expert: int) -> list[Component]:
    """Link what tells the difference between its phases from chance, if the run has both."""
    query = """
        select bool_or(n_think > 0) and bool_or(n_answer > 0) as both from traces
        where run_id = $run_id"""
    found = queries.rows(sources.catalogue, query, {"run_id": run_id})
    of = f"run_id = {literal(run_id)}"
    return [is_it_real(of, layer, expert)] if found[0]["both"] else []


def _steps(run: Row, layer: int, expert: int) -> list[Component]:
    """Make the buttons that lead to the experts beside it."""

    def link(number: int, label: str, key: str) -> Component:
        content = [label, html.Kbd(key)]
        if not 0 <= number < run["experts"]:
            return html.Span(content, className="button disabled", role="link", **OFF)
        href = f"/expert/{layer}/{number}?{urlencode({'run': run['run_id']})}"
        return dcc.Link(content, href=href, className="button")

    return [link(expert - 1, "Previous", "←"), link(expert + 1, "Next", "→")]
