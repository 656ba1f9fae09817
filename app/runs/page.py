"""``/runs/<run_id>``: what a run is, its traces, what it lost, and runs to compare it with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from dash import Dash, dcc, html
from dash.development.base_component import Component

from ringlens.app.shared import queries
from ringlens.app.shared.made import made
from ringlens.app.shared.parts import copy_button, run_script, state_page
from ringlens.app.shared.sources import Sources
from ringlens.app.shared.tables import table
from ringlens.display import plural
from ringlens.store.schema.promise import recorded_layers
from ringlens.store.schema.views import literal

Row = dict[str, Any]

OTHERS = 12
"""Runs to compare with that are listed, the newest first."""


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page of a run, or say that there is none."""
    runs = queries.runs(sources.catalogue)
    run = next((each for each in runs if each["run_id"] == query["run_id"]), None)
    if run is None:
        return state_page(f"No run {query['run_id'][:60]}", "The store does not hold it.")
    return html.Div(
        [
            _header(sources, run),
            html.Div(
                [
                    html.Section(
                        [*_about(run), *_compare(run, runs)],
                        className="run-about",
                        **{"aria-label": "What it is"},
                    ),
                    html.Div(id="runs-app", className="run-traces", key=run["run_id"]),
                ],
                className="run-body",
            ),
            dcc.Store(id="runs-boot", data=_traces(sources, run)),
        ],
        className="page run-page",
    )


def register(app: Dash, sources: Sources) -> None:
    """Have the script draw the traces."""
    del sources
    run_script(app, "runs")


def _traces(sources: Sources, run: Row) -> Row:
    sql = f"""select trace_id, task, problem_id, sample, correct,
       n_prompt as prompt, n_think as think, n_answer as answer,
       finish_reason as finish, array_to_string(flags, ', ') as flags
from traces where run_id = {literal(run["run_id"])} order by trace_id"""
    frame = sources.catalogue.sql(sql).df()
    frame["correct"] = frame["correct"].map({True: "yes", False: "no"})
    how = made(sources.store, sql, f'found = store.sql("""{sql}""").df()')
    about = f"Traces of run {run['run_id']}; prompt, think and answer in tokens."
    links = {"trace_id": "/trace/{trace_id}"}
    return table(frame.astype(object), "Traces", f"run-{run['run_id']}", about, links, how)


def _header(sources: Sources, run: Row) -> Component:
    run_id = run["run_id"]
    query = f"select * from runs where run_id = {literal(run_id)}"
    line = f'import ringlens as rl; run = rl.Store({sources.store.address!r}).sql("{query}").df()'
    links: list[Component] = [copy_button("Copy Python", line)]
    if recorded_layers(run, "routing"):
        href = f"/routing?{urlencode({'run': run_id})}"
        links.append(dcc.Link("Routing", href=href, className="button"))
    links.append(
        dcc.Link("Probes", href=f"/probes?{urlencode({'run': run_id})}", className="button")
    )
    crumbs = [dcc.Link("Traces", href="/"), html.Span("/", className="dim"), html.Span("Run")]
    return html.Header(
        [
            html.Div(
                [html.Div(crumbs, className="crumbs"), html.Div(links, className="buttons")],
                className="crumb-row",
            ),
            html.Div([html.H1(f"Run {run_id}")], className="title-row"),
        ],
        className="page-header",
    )


def _about(run: Row) -> Iterator[Component]:
    yield html.H2("What it is")
    yield _facts(_identity(run))
    yield html.H2("What was recorded")
    yield _facts(
        [
            ("record", ", ".join(run["record"]) or "nothing"),
            ("interventions", ", ".join(run["interventions"] or ()) or "none"),
            ("lost", ", ".join(run["lost"] or ()) or "nothing"),
        ]
    )
    yield html.H2("How it was run")
    settings = [("sampling", run["sampling"]), ("parallel", run["parallel"])]
    versions = [("versions", run["versions"])]
    yield _facts([(name, _said(value)) for name, value in settings + versions])


def _identity(run: Row) -> list[tuple[str, str]]:
    shape = (
        f"{run['layers']} layers, {len(run['sparse_layers'])} of them sparse; "
        f"{run['experts_per_token']} of {run['experts']} experts a token, "
        f"in {run['groups']} groups; "
        f"{run['heads']} heads"
    )
    judged = f"{run['correct']} of {run['judged']} correct" if run["judged"] else "none was judged"
    ended = "still running" if run["finished"] is None else f"{run['finished']:%Y-%m-%d %H:%M}"
    return [
        ("model", " ".join(filter(None, (run["model"], run["revision"])))),
        ("shape", shape),
        ("weights", " ".join(filter(None, (run["dtype"], run["quantization"])))),
        ("kernels", f"attention {run['attention']}, experts {run['experts_layout']}"),
        ("mode", run["mode"]),
        ("seed", str(run["seed"])),
        ("time, UTC", f"{run['started']:%Y-%m-%d %H:%M} to {ended}"),
        ("counts", f"{plural(run['traces'], 'trace')}, {run['tokens']:,} tokens; {judged}"),
    ]


def _said(text: str) -> str:
    """Write JSON of settings as words."""
    found = json.loads(text)
    return ", ".join(f"{name} {value}" for name, value in found.items()) or "none"


def _facts(pairs: list[tuple[str, str]]) -> Component:
    items = [part for name, value in pairs for part in (html.Dt(name), html.Dd(value))]
    return html.Dl(items, className="run-facts")


def _compare(run: Row, runs: list[Row]) -> Iterator[Component]:
    """Links that compare its thoughts with those of runs whose experts can stand beside its own."""
    shape = ("layers", "experts", "experts_per_token")
    others = [
        each
        for each in runs
        if each is not run
        and each["traces"]
        and recorded_layers(each, "routing")
        and all(each[name] == run[name] for name in shape)
    ]
    yield html.H2("Compare with")
    if not others or not recorded_layers(run, "routing"):
        yield html.P("No other run has routing of the same layers and experts.", className="dim")
        return
    items = []
    for each in others[:OTHERS]:
        a, b = (f"run_id = {literal(one['run_id'])} and phase = 'think'" for one in (run, each))
        href = f"/compare?{urlencode({'a': a, 'b': b})}"
        acted = ", ".join(each["interventions"] or ())
        more = html.Span(f" {each['model']}{f', {acted}' if acted else ''}", className="dim")
        link = dcc.Link(f"run {each['run_id']}", href=href, className="row-address")
        items.append(html.Li([link, more]))
    yield html.Ul(items, className="run-others")
