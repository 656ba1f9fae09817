"""Writes a bundle as one HTML file that a browser opens from disk, without any server.

The data lie in the page as compressed blocks of base64, which no text in them can end. A browser
runs the two scripts whose hashes the page names, and asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from ringlens.app.bundle.assets import CLASSIC, ICON, STYLES, assets
from ringlens.app.bundle.contents import Entry
from ringlens.app.bundle.scripts import joined
from ringlens.app.bundle.sizes import Bound, compressed
from ringlens.errors import RinglensError
from ringlens.store import Store
from ringlens.store.maintain.export import whole
from ringlens.store.storage.failure import store_errors

ENTRY = "bundle/from_page.js"


def to_file(store: Store, entries: Iterable[Entry], out: Path, limit: int | None = None) -> int:
    """Write a bundle as one HTML file.

    Args:
        store: The store that the entries are of.
        entries: What the bundle holds, see :mod:`ringlens.app.bundle.contents`.
        out: The file.
        limit: Most bytes; None for no limit.

    Returns:
        Bytes of the file.

    Raises:
        StoreError: ``out`` is there already, is larger than the limit or could not be written;
            then there is no file.
    """
    bound = Bound(limit)
    failed = f"{out} was not written"
    with whole(out) as path, store_errors(store.folder, failed), open(path, "wb") as file:
        for part in _parts(store.name, entries):
            _write(file, part, bound)
    return bound.bytes


def _write(file: BinaryIO, part: str, bound: Bound) -> None:
    content = part.encode()
    bound.add(len(content))
    file.write(content)


def _parts(title: str, entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the page: its head, a block of data for each entry, the script."""
    found = assets()
    first = _inline(found[CLASSIC])
    script = _inline(joined({k: v for k, v in found.items() if k.endswith(".js")}, ENTRY))
    style = _inline("".join(found[name] for name in STYLES))
    icon = f"data:image/svg+xml,{quote(found[ICON])}"
    yield (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" '
        f'content="{policy([first, script], style)}">\n'
        f"<title>{escape(title)} · ringlens</title>\n"
        f'<link rel="icon" href="{icon}">\n'
        f"<script>{first}</script>\n<style>{style}</style>\n</head>\n"
        f'<body>\n<div id="page"></div>\n'
    )
    for name, payload in entries:
        yield _block(name, payload)
    yield f"<script>{script}</script>\n</body>\n</html>\n"


def policy(scripts: Iterable[str], style: str) -> str:
    """Return the Content-Security-Policy of a page with these scripts and this style sheet."""
    hashes = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    found = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{found}'"


def _inline(text: str) -> str:
    """Check that a browser reads an inline script or style sheet as it stands here."""
    for mark in ("</script", "</style", "<!--", "\r", "\0"):
        if mark in text.lower():
            raise RinglensError(f"a script or style sheet of the bundle holds {mark!r}")
    return text


def _block(name: str, payload: object) -> str:
    """Write an entry as a block of data, which is no script to a browser."""
    data = compressed(payload).decode()
    return f'<script type="application/gzip" data-name="{escape(name)}">{data}</script>\n'
