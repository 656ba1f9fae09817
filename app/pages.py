"""The registry of pages: one row a page. Shell, navigation, keys, help and files are made from it.

A new page is a folder and a row. In the folder lie a module that lays the page out and registers
its callbacks and data addresses, and its scripts and style sheets; ``page.js`` and ``page.css`` are
loaded, and import what else they need. Nothing but the row names the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dash import Dash
from dash.development.base_component import Component

from ringlens.app.beside import page as beside
from ringlens.app.compare import page as compare
from ringlens.app.expert import page as expert
from ringlens.app.heads import page as heads
from ringlens.app.live import page as live
from ringlens.app.probes import page as probes
from ringlens.app.routing import page as routing
from ringlens.app.runs import page as runs
from ringlens.app.shared.sources import Sources
from ringlens.app.sql import page as sql
from ringlens.app.store import page as store
from ringlens.app.trace import page as trace

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """One page of the dashboard.

    Attributes:
        name: Its name in identifiers and in addresses of its files.
        path: Its address; a part in angle brackets stands for any one part: ``/trace/<trace_id>``.
        title: Of the browser's tab; a name in angle brackets is replaced by that part of the path.
        build: Makes it from the sources and what the address asks for: the parts of the path that
            vary, and the query.
        register: Adds its callbacks and data addresses to the app.
        folder: Where its scripts and style sheets lie; all of them are served.
        scripts: Modules that are loaded when the dashboard opens.
        styles: Style sheets, in this order after those of the pages before.
        constants: Values that its scripts import from ``./constants.js``, by name.
        label: Its entry in the navigation; without one it has none.
        icon: Name of the entry's icon: a style sheet has a rule for ``.icon-NAME``.
        key: The key that opens it from anywhere.
        keys: What keys do on it, as pairs, for the keyboard help.
        under: Name of the page whose entry is marked while this one is open, if it has none.
    """

    name: str
    path: str
    title: str
    build: Callable[[Sources, Mapping[str, str]], Component]
    register: Callable[[Dash, Sources], None]
    folder: Path
    scripts: tuple[str, ...] = ("page.js",)
    styles: tuple[str, ...] = ("page.css",)
    constants: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    icon: str = ""
    key: str | None = None
    keys: tuple[tuple[str, str], ...] = ()
    under: str | None = None

    def match(self, pathname: str) -> dict[str, str] | None:
        """Return the parts of a path that vary, by name; None if it is not this page's address."""
        wanted, given = _parts(self.path), _parts(pathname)
        if len(wanted) != len(given):
            return None
        pairs = list(zip(wanted, given, strict=True))
        if any(not _varies(part) and part != found for part, found in pairs):
            return None
        return {part[1:-1]: found for part, found in pairs if _varies(part)}

    def facts(self) -> dict[str, Any]:
        """Return what the frame's scripts need to know of it."""
        names = ("name", "path", "title", "label", "key", "keys", "under")
        return {name: getattr(self, name) for name in names}


PAGES = (
    Page(
        name="store",
        path="/",
        title="",
        build=store.layout,
        register=store.register,
        folder=HERE / "store",
        label="Traces",
        icon="traces",
        key="g",
    ),
    Page(
        name="trace",
        path="/trace/<trace_id>",
        title="Trace <trace_id>",
        build=trace.layout,
        register=trace.register,
        folder=HERE / "trace",
        constants=trace.CONSTANTS,
        keys=trace.KEYS,
        under="store",
    ),
    Page(
        name="beside",
        path="/beside/<first>/<second>",
        title="Side by side <first> <second>",
        build=beside.layout,
        register=beside.register,
        folder=HERE / "beside",
        keys=beside.KEYS,
        under="store",
    ),
    Page(
        name="routing",
        path="/routing",
        title="Routing",
        build=routing.layout,
        register=routing.register,
        folder=HERE / "routing",
        constants=routing.CONSTANTS,
        label="Routing",
        icon="routing",
        key="r",
        keys=routing.KEYS,
    ),
    Page(
        name="expert",
        path="/expert/<layer>/<expert>",
        title="Expert <layer>/<expert>",
        build=expert.layout,
        register=expert.register,
        folder=HERE / "expert",
        keys=expert.KEYS,
        under="routing",
    ),
    Page(
        name="heads",
        path="/heads/<trace_id>",
        title="Heads <trace_id>",
        build=heads.layout,
        register=heads.register,
        folder=HERE / "heads",
        keys=heads.KEYS,
        under="store",
    ),
    Page(
        name="compare",
        path="/compare",
        title="Compare",
        build=compare.layout,
        register=compare.register,
        folder=HERE / "compare",
        label="Compare",
        icon="compare",
        key="c",
        keys=compare.KEYS,
    ),
    Page(
        name="probes",
        path="/probes",
        title="Probes",
        build=probes.layout,
        register=probes.register,
        folder=HERE / "probes",
        label="Probes",
        icon="probes",
        key="b",
    ),
    Page(
        name="live",
        path="/live",
        title="Live",
        build=live.layout,
        register=live.register,
        folder=HERE / "live",
        constants=live.CONSTANTS,
        label="Live",
        icon="live",
        key="l",
        keys=live.KEYS,
    ),
    Page(
        name="runs",
        path="/runs/<run_id>",
        title="Run <run_id>",
        build=runs.layout,
        register=runs.register,
        folder=HERE / "runs",
        under="store",
    ),
    Page(
        name="sql",
        path="/sql",
        title="SQL",
        build=sql.layout,
        register=sql.register,
        folder=HERE / "sql",
        label="SQL",
        icon="sql",
        key="s",
        keys=sql.KEYS,
    ),
)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _varies(part: str) -> bool:
    return part.startswith("<") and part.endswith(">")
