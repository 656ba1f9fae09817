"""The scripts and style sheets of a bundle: those of the dashboard, and what replaces its frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringlens.app.annotations.routes import KEY
from ringlens.app.routing import page as page_routing
from ringlens.app.shared import constants as shared
from ringlens.app.trace import page as page_trace
from ringlens.app.web.files import TYPES, module

HERE = Path(__file__).parent
FOLDERS = ("shared", "annotations", "trace", "routing", "bundle")
STYLES = (
    "shared/base.css",
    "annotations/annotations.css",
    "trace/page.css",
    "routing/page.css",
    "bundle/bundle.css",
)
CLASSIC = "shared/first_paint.js"
ICON = "shared/favicon.svg"

CONSTANTS: Mapping[str, Mapping[str, Any]] = {
    "shared": shared.CONSTANTS,
    "trace": page_trace.CONSTANTS,
    "routing": page_routing.CONSTANTS,
    "bundle": {
        "KEYS": {
            name: [key for key in keys if key != KEY]  # a copy takes no more annotations
            for name, keys in (("Trace", page_trace.KEYS), ("Routing", page_routing.KEYS))
        }
    },
}
"""Exports of each folder's ``constants.js``."""


def assets() -> dict[str, str]:
    """Return the sources by path, such as ``trace/view.js``."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((HERE.parent / folder).iterdir()):
            if path.suffix in TYPES:
                found[f"{folder}/{path.name}"] = path.read_text(encoding="utf-8")
        if folder in CONSTANTS:
            found[f"{folder}/constants.js"] = module(CONSTANTS[folder])
    return found
