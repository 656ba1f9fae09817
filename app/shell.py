"""Builds the app: the frame around every page, and which page an address shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from ringlens.app import version
from ringlens.app.annotations import routes as said
from ringlens.app.pages import PAGES, Page
from ringlens.app.palette import find
from ringlens.app.shared.constants import CONSTANTS
from ringlens.app.shared.parts import state_page
from ringlens.app.shared.sources import Sources
from ringlens.app.web import callback_checks, security, untrusted
from ringlens.app.web.files import Files
from ringlens.app.web.prefix import below, without
from ringlens.app.web.writing import READ_ONLY, Writing
from ringlens.errors import RinglensError
from ringlens.plot.palette import FONT
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.live.thinker import Thinker

TITLE = "ringlens"
HERE = Path(__file__).parent

INDEX = """<!DOCTYPE html>
<html lang="en">
  <head>
    {%metas%}
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{%title%}</title>
    <link rel="icon" href="<shared/favicon.svg>" type="image/svg+xml">
    <script src="<shared/first_paint.js>"></script>
    {%css%}
    <styles>
  </head>
  <body>
    {%app_entry%}
    <footer>
      {%config%}{%scripts%}
      <modules>
    </footer>
  </body>
</html>"""
CLASSIC = "shared/first_paint.js"
"""The only script that is no module: it runs before the first paint."""


def build(
    store: Store,
    prefix: str = "/",
    any_host: bool = False,
    pages: Sequence[Page] = PAGES,
    thinker: Thinker | None = None,
    writing: Writing = READ_ONLY,
) -> Dash:
    """Build the Dash app of an open store.

    Args:
        store: The store.
        prefix: Path below which the browser sees the app; begins and ends with a slash.
        any_host: See :func:`ringlens.app.web.security.protect`.
        pages: The registry.
        thinker: The model that thinks live; whoever serves closes it.
        writing: Whether pages may write annotations.
    """
    files = files_of(pages)
    app = Dash(
        "ringlens.app",
        title=TITLE,
        update_title="",
        use_pages=False,
        serve_locally=True,
        include_assets_files=False,
        index_string=index(pages, files, prefix),
        requests_pathname_prefix=prefix,
        routes_pathname_prefix="/",
        suppress_callback_exceptions=True,  # pages come and go
        enable_mcp=False,
        add_log_handler=False,
    )
    sources = Sources(store, prefix, thinker, writing)
    app.server.extensions["ringlens.sources"] = sources  # whoever serves closes them
    app.layout = below(prefix, layout(store, pages))
    _navigation(app, sources, pages)
    for each in pages:
        each.register(app, sources)
    find.register(app.server, sources)
    said.register(app.server, sources)
    version.register(app.server, sources)
    files.register(app.server)
    callback_checks.register(app)
    security.protect(app, any_host)
    return app


def files_of(pages: Sequence[Page]) -> Files:
    """Collect the files of the frame and of pages, and the modules made of constants."""
    frame = {"": HERE, "shared": HERE / "shared", "palette": HERE / "palette"}
    frame["annotations"] = HERE / "annotations"
    folders = {**frame, **{page.name: page.folder for page in pages}}
    modules: dict[str, Mapping[str, Any]] = {
        "pages.js": {"PAGES": [page.facts() for page in pages]},
        "shared/constants.js": CONSTANTS,
        **{f"{page.name}/constants.js": page.constants for page in pages if page.constants},
    }
    return Files(folders, modules)


def index(pages: Sequence[Page], files: Files, prefix: str) -> str:
    """Write the HTML of every address: style sheets, scripts, and an empty frame.

    Modules run in their order after all other scripts. The last of them starts Dash: by then those
    of the pages have made known what its callbacks call.
    """
    of_pages = (f"{page.name}/{script}" for page in pages for script in page.scripts)
    start = ["shell.js", *of_pages]
    own = ("shared/base.css", "palette/palette.css", "annotations/annotations.css")
    styles = [*own, *(f"{page.name}/{style}" for page in pages for style in page.styles)]
    modules = [name for name in files.names(".js") if name != CLASSIC]

    def lines(form: str, names: Sequence[str]) -> str:
        return "\n    ".join(form.format(prefix + files.address(name)) for name in names)

    found = INDEX.replace(
        "<styles>",
        lines('<link rel="stylesheet" href="{}">', styles),
    ).replace(
        "<modules>",
        "\n    ".join(
            [
                # Or each import would be fetched only when what imports it is there.
                lines('<link rel="modulepreload" href="{}">', modules),
                lines('<script type="module" src="{}"></script>', start),
                lines('<script type="module" id="_dash-renderer" src="{}"></script>', ["start.js"]),
            ]
        ),
    )
    for name in (CLASSIC, "shared/favicon.svg"):
        found = found.replace(f"<{name}>", prefix + files.address(name))
    return found


def layout(store: Store, pages: Sequence[Page]) -> Component:
    """Lay out navigation on the left, the page on the right."""
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="theme"),
            dmc.AppShell(
                [
                    dmc.AppShellNavbar(_sidebar(store, pages)),
                    dmc.AppShellMain(html.Div(id="page")),
                ],
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


def _sidebar(store: Store, pages: Sequence[Page]) -> list[Component]:
    def item(page: Page) -> Component:
        content = [
            html.Span(className=f"icon icon-{page.icon}"),
            html.Span(page.label, className="nav-text"),
        ]
        return dcc.Link(
            content, href=page.path, id=f"nav-{page.name}", className="nav-item", title=page.label
        )

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
        html.Nav([item(page) for page in pages if page.label], **{"aria-label": "Pages"}),
        html.Div(className="spacer"),
        html.Div(
            [
                html.Span("Store", className="label"),
                html.Span(store.name, className="path", title=store.address),
            ],
            className="store-name nav-text",
        ),
        html.Div(
            [
                button("palette", "Go to…", "Ctrl K"),
                button("theme", "Theme", "t"),
                button("help", "Keyboard", "?"),
            ],
            className="nav-tools",
        ),
    ]


def _navigation(app: Dash, sources: Sources, pages: Sequence[Page]) -> None:
    """Register which page an address shows, and what the buttons of the frame do."""

    @app.callback(Output("page", "children"), Input("url", "pathname"), Input("url", "search"))
    def show(pathname: str | None, search: str | None) -> Component:
        path = without(sources.prefix, untrusted.text(pathname, "pathname") or "/")
        try:
            found = page_at(sources, path, untrusted.text(search, "search"), pages)
        except RinglensError as error:
            found = state_page("This page cannot be shown", str(error))
        return below(sources.prefix, found)

    def client(function: str, *dependencies: Input | Output) -> None:
        app.clientside_callback(ClientsideFunction("shell", function), *dependencies)

    client("theme", Output("theme", "data"), Input("url", "id"))
    client("toggle", Output("theme-button", "n_clicks"), Input("theme-button", "n_clicks"))
    client("palette", Output("palette-button", "n_clicks"), Input("palette-button", "n_clicks"))
    client("help", Output("help-button", "n_clicks"), Input("help-button", "n_clicks"))
    entries = [Output(f"nav-{page.name}", "className") for page in pages if page.label]
    client("nav", *entries, Input("url", "pathname"))


def page_at(
    sources: Sources, pathname: str, search: str, pages: Sequence[Page] = PAGES
) -> Component:
    """Build the page of an address."""
    query = {name: values[-1] for name, values in parse_qs(search.lstrip("?")).items()}
    for page in pages:
        varying = page.match(pathname)
        if varying is not None:
            return page.build(sources, {**query, **varying})
    return state_page("No such page", f"There is nothing at {pathname}.")
