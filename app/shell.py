"""The app: the frame around every page, and which page an address shows."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from ringlens.app import version
from ringlens.app.routing import page as page_routing
from ringlens.app.shared.palette import FONT
from ringlens.app.shared.parts import state_page
from ringlens.app.shared.sources import Sources
from ringlens.app.sql import page as page_sql
from ringlens.app.store import page as page_store
from ringlens.app.trace import page as page_trace
from ringlens.app.web import asked, callback_checks, security
from ringlens.app.web.prefix import below, without
from ringlens.errors import RinglensError
from ringlens.store import Store

TITLE = "ringlens"
INDEX = """<!DOCTYPE html>
<html lang="en">
  <head>
    {%metas%}
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{%title%}</title>
    <link rel="icon" href="{prefix}assets/shared/favicon.svg" type="image/svg+xml">
    <script src="{prefix}assets/shared/first_paint.js"></script>
    {%css%}
  </head>
  <body>
    {%app_entry%}
    <footer>{%config%}{%scripts%}{%renderer%}</footer>
  </body>
</html>"""


def build(store: Store, prefix: str = "/", any_host: bool = False) -> Dash:
    """The Dash app of an open store.

    Args:
        store: The store.
        prefix: Path below which the browser sees the app; begins and ends with a slash.
        any_host: See :func:`ringlens.app.web.security.protect`.
    """
    app = Dash(
        "ringlens.app",
        title=TITLE,
        update_title="",
        use_pages=False,
        serve_locally=True,
        assets_folder=str(Path(__file__).parent),
        assets_ignore="first_paint|bundle",  # loaded in <head>, before the first paint
        index_string=INDEX.replace("{prefix}", prefix),
        requests_pathname_prefix=prefix,
        routes_pathname_prefix="/",
        suppress_callback_exceptions=True,  # pages come and go
        enable_mcp=False,
        add_log_handler=False,
    )
    app.layout = below(prefix, layout(store))
    sources = Sources(store, prefix)
    app.server.extensions["ringlens.sources"] = sources  # whoever serves closes them
    _navigation(app, sources)
    for each in (page_store, page_routing, page_trace, page_sql):
        each.register(app, sources)
    version.register(app.server, sources)
    callback_checks.register(app)
    security.protect(app, any_host)
    return app


def layout(store: Store) -> Component:
    """Navigation on the left, the page on the right."""
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="theme"),
            dmc.AppShell(
                [dmc.AppShellNavbar(_sidebar(store)), dmc.AppShellMain(html.Div(id="page"))],
                navbar={"width": 196, "breakpoint": 0},
                padding=0,
            ),
        ],
        theme={
            "fontFamily": FONT,
            "primaryColor": "indigo",
            "defaultRadius": "sm",
            "cursorType": "pointer",
        },
        defaultColorScheme="auto",
    )


def _sidebar(store: Store) -> list[Component]:
    def item(name: str, href: str, label: str) -> Component:
        content = [html.Span(className=f"icon icon-{name}"), html.Span(label, className="nav-text")]
        return dcc.Link(content, href=href, id=f"nav-{name}", className="nav-item", title=label)

    def button(name: str, label: str, key: str) -> Component:
        content = [
            html.Span(className=f"icon icon-{name}"),
            html.Span(label, className="nav-text"),
            html.Kbd(key, className="nav-text"),
        ]
        return html.Button(content, id=f"{name}-button", className="nav-item", title=label)

    brand = [html.Span(className="mark"), html.Span("ringlens", className="nav-text")]
    return [
        dcc.Link(brand, href="/", className="brand"),
        html.Nav(
            [
                item("traces", "/", "Traces"),
                item("routing", "/routing", "Routing"),
                item("sql", "/sql", "SQL"),
            ]
        ),
        html.Div(className="spacer"),
        html.Div(
            [
                html.Span("Store", className="label"),
                html.Span(store.name, className="path", title=store.address),
            ],
            className="store-name nav-text",
        ),
        html.Div(
            [button("theme", "Theme", "t"), button("help", "Keyboard", "?")], className="nav-tools"
        ),
    ]


def _navigation(app: Dash, sources: Sources) -> None:
    """Which page an address shows, and what the buttons of the frame do."""

    @app.callback(Output("page", "children"), Input("url", "pathname"), Input("url", "search"))
    def show(pathname: str | None, search: str | None) -> Component:
        path = without(sources.prefix, asked.text(pathname, "pathname") or "/")
        try:
            found = page(sources, path, asked.text(search, "search"))
        except RinglensError as error:
            found = state_page("This page cannot be shown", str(error))
        return below(sources.prefix, found)

    def client(namespace: str, function: str, *dependencies: Input | Output) -> None:
        app.clientside_callback(ClientsideFunction(namespace, function), *dependencies)

    client("shell", "theme", Output("theme", "data"), Input("url", "id"))
    client("shell", "toggle", Output("theme-button", "n_clicks"), Input("theme-button", "n_clicks"))
    client("shell", "help", Output("help-button", "n_clicks"), Input("help-button", "n_clicks"))
    client(
        "shell",
        "nav",
        Output("nav-traces", "className"),
        Output("nav-routing", "className"),
        Output("nav-sql", "className"),
        Input("url", "pathname"),
    )


def page(sources: Sources, pathname: str, search: str) -> Component:
    """The page of an address."""
    query = {name: values[-1] for name, values in parse_qs(search.lstrip("?")).items()}
    parts = [part for part in pathname.split("/") if part]
    if not parts:
        return page_store.layout(sources)
    if parts == ["routing"]:
        return page_routing.layout(sources, query)
    if parts == ["sql"]:
        return page_sql.layout(sources, query)
    if len(parts) == 2 and parts[0] == "trace":
        return page_trace.layout(sources, parts[1])
    return state_page("No such page", f"There is nothing at {pathname}.")
