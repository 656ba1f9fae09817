"""``/probes``: what probes have stored, by probe and run: settings, table, figure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from dash import Dash, Input, Output, dcc, html, no_update
from dash.development.base_component import Component

from ringlens.app.probes import results
from ringlens.app.shared import queries
from ringlens.app.shared.kept import Kept
from ringlens.app.shared.parts import run_script, state_page
from ringlens.app.shared.plots import CONFIG
from ringlens.app.shared.sources import Sources
from ringlens.app.shared.tables import table
from ringlens.app.web import untrusted
from ringlens.display import plural
from ringlens.errors import RinglensError
from ringlens.store import Store

Row = dict[str, Any]

READ = 16
"""Results that are kept."""

TRACES = 40
"""Probed traces that are linked above the table."""

DRAWN = tuple(results.FIGURES)
THEMES = ("dark", "light")


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the list of results and the chosen ones, or say how to measure some."""
    listed = results.listed(sources.store)
    if not listed:
        address = shlex.quote(sources.store.address)
        return state_page(
            "No probe has stored anything",
            "A probe runs the model again on stored thoughts, and keeps what it measures.",
            f"ringlens probe belief ring-nano {address}",
        )
    wanted = [
        each
        for each in listed
        if query.get("probe", each["probe"]) == each["probe"]
        and query.get("run", each["run_id"]) == each["run_id"]
    ]
    if not wanted:
        return state_page("There are no such results", "No probe of this name ran on this run.")
    chosen = wanted[0]
    return html.Div(
        [
            html.Header(
                html.Div(
                    [
                        html.H1("Probes"),
                        html.Span("what was measured with the model, and stored", className="dim"),
                    ],
                    className="title-row",
                ),
                className="page-header",
            ),
            html.Div(
                [_list(listed, chosen), _chosen(sources, chosen)],
                className="probes-body",
            ),
        ],
        className="page probes-page",
    )


def register(app: Dash, sources: Sources) -> None:
    """Have the script draw the table, and the figure follow the colour scheme."""
    sources.one(_kept)
    run_script(app, "probes")

    @app.callback(
        Output("probes-figure", "figure"),
        Output("probes-figure", "style"),
        Input("probes-asked", "data"),
        Input("theme", "data"),
    )
    def draw(asked: Any, theme: Any) -> Any:
        asked = untrusted.mapping(asked, "the results")
        probe = untrusted.one_of(asked.get("probe"), DRAWN, "probe")
        run = queries.run(sources.catalogue, untrusted.text(asked.get("run"), "run"))
        theme = untrusted.one_of(theme or "dark", THEMES, "theme")
        try:
            found = _read(sources, probe, run["run_id"])
            shown = results.drawn(sources.store, probe, run["run_id"], found)
        except RinglensError:
            return no_update, no_update  # the page says it
        if shown is None or shown.frame.empty:
            return no_update, no_update
        figure = results.figure(probe, shown, theme)
        # The width is the page's; the height is that of the rows.
        return figure, {"height": figure.layout.height}


def _kept(store: Store) -> Kept[results.Read]:
    del store
    return Kept(READ)


def _read(sources: Sources, probe: str, run_id: str) -> results.Read:
    files = tuple(file.path for file in sources.store.snapshot().get("probes", ()))
    key = (probe, run_id, files)
    return sources.one(_kept).get(key, lambda: results.read(sources.store, probe, run_id))


def _list(listed: list[Row], chosen: Row) -> Component:
    items = []
    for each in listed:
        href = f"/probes?{urlencode({'probe': each['probe'], 'run': each['run_id']})}"
        traces = plural(each["traces"], "trace")
        current = {"aria-current": "true"} if each is chosen else {}
        items.append(
            html.Li(
                dcc.Link(
                    [
                        html.B(each["probe"]),
                        html.Span(f"run {each['run_id']}", className="dim"),
                        html.Span(
                            f"{traces}, {plural(each['results'], 'result')}", className="dim"
                        ),
                    ],
                    href=href,
                    className="probe-link chosen" if each is chosen else "probe-link",
                ),
                **current,
            )
        )
    return html.Nav(html.Ul(items), className="probes-list", **{"aria-label": "Results"})


def _chosen(sources: Sources, chosen: Row) -> Component:
    probe, run_id = chosen["probe"], chosen["run_id"]
    parts: list[Any] = [
        html.Div(
            [
                html.H2(f"{probe} on run {run_id}"),
                html.Div(className="spacer"),
                dcc.Link("The run", href=f"/runs/{run_id}", className="button"),
            ],
            className="section-bar",
        )
    ]
    if chosen["settings"]:
        parts.append(html.P(["Settings: ", html.Code(chosen["settings"])], className="dim"))
    parts.append(_traces(sources.store, probe, run_id))
    try:
        found = _read(sources, probe, run_id)
    except RinglensError as error:
        return html.Section(
            [*parts, html.P(str(error), className="error")], className="probes-main"
        )
    if found.said:
        parts.append(html.P(found.said, className="probes-said"))
    shown = results.drawn(sources.store, probe, run_id, found)
    about = f"What the probe {probe} measured on run {run_id}."
    name = f"probes-{probe}-{run_id}"
    figure = None
    if shown is not None:
        figure = table(shown.frame, "Figure", f"{name}-figure", about, _links(run_id), shown.made)
        parts += [
            html.Div(id="probes-figure-head"),
            dcc.Graph(
                id="probes-figure", config=CONFIG, responsive=True, className="probes-figure"
            ),
            dcc.Store(id="probes-asked", data={"probe": probe, "run": run_id}),
        ]
    data = table(found.frame, "Results", name, about, _links(run_id), found.made)
    parts += [
        html.Div(id="probes-app", key=name),
        dcc.Store(id="probes-boot", data={"rows": data, "figure": figure}),
    ]
    return html.Section(parts, className="probes-main", **{"aria-label": probe})


def _traces(store: Store, probe: str, run_id: str) -> Component:
    """Link the traces that were probed: to their heads where it is heads that were."""
    where = "heads" if probe == "receivers" else "trace"
    found = results.traces(store, probe, run_id)
    links = [
        dcc.Link(str(trace_id), href=f"/{where}/{trace_id}", className="row-address")
        for trace_id in found[:TRACES]
    ]
    more = len(found) - len(links)
    parts: list[Any] = ["Traces: ", *[part for link in links for part in (link, " ")]]
    return html.P([*parts, f"and {more} more" if more > 0 else ""], className="dim")


def _links(run_id: str) -> dict[str, str]:
    """Addresses that columns of results lead to."""
    run = urlencode({"run": run_id})
    return {"trace_id": "/trace/{trace_id}", "expert": f"/expert/{{layer}}/{{expert}}?{run}"}
