"""Writes a bundle as a folder that any web server of files can show."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from ringlens.app.bundle.assets import CLASSIC, ICON, STYLES, assets
from ringlens.app.bundle.contents import Entry
from ringlens.app.bundle.sizes import Bound, encoded
from ringlens.store import Store
from ringlens.store.maintain.export import whole
from ringlens.store.storage.failure import store_errors

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
ENTRY = "bundle/from_files.js"


def to_folder(store: Store, entries: Iterable[Entry], out: Path, limit: int | None = None) -> int:
    """Write a bundle; open it with ``python -m http.server -d FOLDER``.

    Args:
        store: The store that the entries are of.
        entries: What the bundle holds, see :mod:`ringlens.app.bundle.contents`.
        out: The folder.
        limit: Most bytes; None for no limit.

    Returns:
        Bytes of all files.

    Raises:
        StoreError: ``out`` is not empty, is larger than the limit or could not be written; then
            there is no bundle.
    """
    bound = Bound(limit)
    with whole(out) as folder, store_errors(store.folder, f"{out} was not written"):
        files = {f"assets/{name}": text.encode() for name, text in assets().items()}
        files["index.html"] = _page(store.name).encode()
        for name, content in files.items():
            _write(folder / name, content, bound)
        for name, payload in entries:
            _write(folder / f"{name}.json", encoded(payload), bound)
    return bound.bytes


def _write(path: Path, content: bytes, bound: Bound) -> None:
    bound.add(len(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _page(title: str) -> str:
    """Write the page that loads the scripts."""
    styles = [f'<link rel="stylesheet" href="assets/{name}">' for name in STYLES]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{escape(title)} · ringlens</title>",
            f'<link rel="icon" href="assets/{ICON}" type="image/svg+xml">',
            f'<script src="assets/{CLASSIC}"></script>',
            *styles,
            "</head>",
            "<body>",
            '<div id="page"></div>',
            f'<script type="module" src="assets/{ENTRY}"></script>',
            "</body>",
            "</html>",
            "",
        ]
    )
