"""``/sql``: type a query, see its rows or a chart of them, take them along.

The page is a frame; its script (page.js) asks the addresses of
:mod:`ringlens.app.sql.routes`, where a sandbox runs what was typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html, no_update
from dash.development.base_component import Component

from ringlens.app.shared.parts import GRID_THEME, command_box, run_script, segments
from ringlens.app.shared.plots import CONFIG
from ringlens.app.shared.sources import Sources
from ringlens.app.sql import cells, chart, routes
from ringlens.app.sql.console import Console
from ringlens.app.sql.examples import EXAMPLES
from ringlens.app.web import untrusted
from ringlens.errors import RinglensError
from ringlens.store.read.catalog import catalog, functions

KEYS = (
    ("Ctrl ↵", "run"),
    ("Tab", "complete the word; so does Ctrl Space"),
    ("Esc", "close the list, cancel, or leave the editor"),
    ("e", "to the editor"),
    ("v", "table or chart"),
)


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page with the query of the address, or say why no query can be run here."""
    console = sources.one(Console)
    if reason := console.refusal():
        return _refused(console, reason)
    return html.Div(
        [
            html.H1("SQL", className="unseen"),
            html.Aside(_sidebar(), className="sql-side", **{"aria-label": "Tables"}),
            html.Div(
                [_editor(query.get("q", "")), _bar(console), _results()], className="sql-main"
            ),
            dcc.Store(id="sql-result"),
            dcc.Store(id="sql-boot", data=_boot(console)),
        ],
        className="page sql-page",
        id="sql-page",
    )


def register(app: Dash, sources: Sources) -> None:
    """Register the chart of an answer; the script does the rest."""
    console = sources.one(Console)
    routes.register(app.server, console)

    @app.callback(
        Output("sql-chart", "figure"),
        Input("sql-result", "data"),
        Input("sql-kind", "value"),
        Input("sql-x", "value"),
        Input("sql-y", "value"),
        Input("sql-by", "value"),
        Input("theme", "data"),
        prevent_initial_call=True,
    )
    def draw(
        key: str | None, kind: str, x: str | None, y: str | None, by: str | None, theme: str | None
    ) -> Any:
        if not key or not x:
            return no_update
        kind = untrusted.one_of(kind, chart.KINDS, "kind of chart")
        key, x = untrusted.text(key, "the answer's id"), untrusted.text(x, "x")
        y, by, theme = (
            untrusted.text(y, "y"),
            untrusted.text(by, "colour"),
            untrusted.text(theme, "theme"),
        )
        try:
            table = cells.drawable(console.answer(key))
        except RinglensError:
            return no_update  # not kept any more: what was drawn stays
        if not {x, y or x, by or x} <= set(table.schema.names):
            return no_update  # the choices of another answer: theirs follow
        return chart.figure(table, kind, x, y or x, by or "", theme or "dark")

    run_script(app, "sql")
    app.clientside_callback(
        ClientsideFunction("sql", "view"),
        Output("sql-view", "id"),
        Input("sql-view", "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("sql", "choices"),
        Output("sql-kind", "id"),
        Input("sql-kind", "value"),
        Input("sql-x", "value"),
        Input("sql-y", "value"),
        Input("sql-by", "value"),
        prevent_initial_call=True,
    )


def _boot(console: Console) -> dict[str, Any]:
    """Return what the script must know: limits, examples, names to complete, where the store is."""
    limits = console.limits
    return {
        "store": console.store.address,
        "seconds": limits.seconds,
        "rows": limits.rows,
        "tables": [
            {
                "name": entry.name,
                "kind": "view" if entry.view else "table",
                "meaning": entry.meaning,
                "columns": [[each.name, each.type.lower(), each.meaning] for each in entry.columns],
            }
            for entry in catalog(console.store)
        ],
        "functions": functions(console.store),
        "examples": [
            {"name": each.question, "query": each.query.strip(), "chart": each.chart}
            for each in EXAMPLES
        ],
    }


def _refused(console: Console, reason: str) -> Component:
    command = f"ringlens sql {shlex.quote(console.store.address)}"
    return html.Div(
        html.Div(
            [
                html.H2("SQL is switched off here"),
                html.P(f"{reason[0].upper()}{reason[1:]}."),
                html.P("In your own terminal you need none:"),
                command_box(command),
            ],
            className="state",
        ),
        className="page",
    )


def _sidebar() -> list[Component]:
    """Frame of what may be asked and of the tables; the script fills it.

    As components, hundreds of columns would each be looked at whenever one of them changes.
    """
    finder = dcc.Input(
        id="sql-find", type="search", placeholder="Find a column", className="sql-find"
    )
    return [
        html.Div(
            [
                html.Section(id="sql-saved", className="sql-list"),
                html.H3("Tables"),
                finder,
                html.Div(id="sql-tables", className="sql-tables"),
                html.H3("Views"),
                html.Div(id="sql-views", className="sql-tables"),
            ],
            className="sql-scroll",
        )
    ]


def _editor(query: str) -> Component:
    """Make the frame of the editor; the script fills it, as React would overwrite its text."""
    return html.Div(id="sql-editor", className="sql-editor", **{"data-query": query})


def _bar(console: Console) -> Component:
    limits = console.limits
    caps = f"{limits.seconds:g} s · {limits.rows:,} rows · {limits.bytes / 1e6:.0f} MB"
    views = [{"value": "table", "label": "Table"}, {"value": "chart", "label": "Chart"}]
    return html.Div(
        [
            html.Button(["Run", html.Kbd("Ctrl ↵")], id="sql-run", className="button primary"),
            html.Button(
                ["Cancel", html.Kbd("Esc")], id="sql-cancel", className="button", hidden=True
            ),
            html.Span(id="sql-status", className="sql-status", role="status"),
            html.Div(className="spacer"),
            html.Span(caps, className="dim sql-caps", title="the most that a query may take"),
            html.Div(
                [
                    html.Button("Save", id="sql-save", className="button"),
                    html.Button("Copy Python", id="sql-python", className="button"),
                    html.A("CSV", id="sql-csv", className="button disabled"),
                    html.A("Parquet", id="sql-parquet", className="button disabled"),
                ],
                className="buttons",
            ),
            segments("sql-view", views, "table"),
        ],
        className="toolbar sql-bar",
    )


def _results() -> Component:
    return html.Div(
        [
            html.Div(id="sql-note", className="sql-note"),
            html.Div(_grid(), id="sql-rows", className="sql-rows", hidden=True),
            html.Div(_charts(), id="sql-drawn", className="sql-drawn", hidden=True),
        ],
        className="sql-results",
    )


def _grid() -> Component:
    return dag.AgGrid(
        id="sql-grid",
        columnDefs=[],
        rowData=[],
        defaultColDef={"sortable": True, "resizable": True, "suppressHeaderMenuButton": True},
        dashGridOptions={
            "theme": GRID_THEME,
            "enableCellTextSelection": True,
            "ensureDomOrder": True,
            "tooltipShowDelay": 400,
            "animateRows": False,
            "rowHeight": 30,
            "suppressFieldDotNotation": True,
        },
        className="sql-grid",
        style={"height": None},
    )


def _charts() -> list[Component]:
    kinds = [{"value": kind, "label": label} for kind, label in chart.KINDS.items()]

    def chooser(name: str, label: str, empty: bool = False) -> Component:
        return html.Label(
            [
                label,
                dmc.Select(
                    id=f"sql-{name}",
                    data=[],
                    size="xs",
                    w=150,
                    clearable=empty,
                    searchable=True,
                    comboboxProps={"withinPortal": True},
                ),
            ],
            className="sql-choice",
        )

    return [
        html.Div(
            [
                segments("sql-kind", kinds, "line"),
                chooser("x", "x"),
                chooser("y", "y"),
                chooser("by", "colour", empty=True),
            ],
            className="sql-choices",
        ),
        dcc.Graph(id="sql-chart", config=CONFIG, responsive=True, className="sql-chart"),
    ]
