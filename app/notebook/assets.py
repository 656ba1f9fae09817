"""Scripts and style sheets of the dashboard, for a frame that imports them from no server."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ringlens.app.routing import page as page_routing
from ringlens.app.shared import constants as shared
from ringlens.app.trace import page as page_trace
from ringlens.app.web.files import module

APP = Path(__file__).parent.parent
FOLDERS = ("shared", "annotations", "trace", "routing", "notebook")
STYLES = (
    "shared/base.css",
    "annotations/annotations.css",
    "trace/page.css",
    "routing/page.css",
    "notebook/frame.css",
)
FIRST = "shared/first_paint.js"
ENTRY = "notebook/frame.js"

CONSTANTS: Mapping[str, Mapping[str, Any]] = {
    "shared": shared.CONSTANTS,
    "trace": page_trace.CONSTANTS,
    "routing": page_routing.CONSTANTS,
}
"""Exports of the ``constants.js`` of a folder."""

_FROM = re.compile(r'(?m)^((?:import|export)\b[^"\']*?["\']|\}\s*from\s*["\'])(\.{1,2}/[^"\']+)')


@cache
def assets() -> dict[str, Any]:
    """Return what a frame loads: ``modules`` by name, the ``style``, the script that comes first.

    A module names those that it imports by their paths below the dashboard, not relative to its
    own: so they need no addresses that fit together.
    """
    sources = {
        f"{folder}/{path.name}": path.read_text(encoding="utf-8")
        for folder in FOLDERS
        for path in sorted((APP / folder).glob("*.js"))
        if f"{folder}/{path.name}" not in (FIRST, f"{folder}/page.js", "notebook/widget.js")
    }
    for folder, constants in CONSTANTS.items():
        sources[f"{folder}/constants.js"] = module(constants)
    return {
        "first": (APP / FIRST).read_text(encoding="utf-8"),
        "style": "".join((APP / name).read_text(encoding="utf-8") for name in STYLES),
        "modules": {name: _absolute(name, source) for name, source in sources.items()},
        "entry": ENTRY,
    }


def _absolute(name: str, source: str) -> str:
    """Name imported modules by their paths below the dashboard."""

    def named(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[2]))
        return f"{found[1]}{path}"

    return _FROM.sub(named, source)
