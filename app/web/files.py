"""Serves scripts, style sheets and images, under an address that changes with any of them.

All of them stand below one address that holds a hash of all: so scripts import one another by
relative paths, and a browser need never ask again whether one has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response

from ringlens.app.web.untrusted import shown
from ringlens.errors import NotInStoreError

TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served of a folder, by suffix; not guessed, as machines can be set up to guess wrong."""

ROOT = "files"
YEAR = 365 * 24 * 3600


class Files:
    """The files of some folders, and modules made of constants, in memory.

    Args:
        folders: Folders by the name that they have in addresses; ``""`` is the top.
        modules: Constants of a module by its name in addresses, such as ``trace/constants.js``.
    """

    def __init__(
        self, folders: Mapping[str, Path], modules: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._bytes: dict[str, bytes] = {}
        for name, folder in folders.items():
            for path in sorted(folder.iterdir()):
                if path.suffix in TYPES and path.is_file():
                    self._bytes[f"{name}/{path.name}".lstrip("/")] = path.read_bytes()
        for name, constants in modules.items():
            self._bytes[name] = module(constants).encode()
        found = hashlib.sha256()
        for name, content in sorted(self._bytes.items()):
            found.update(f"{name} {len(content)} ".encode() + content)
        self.version = found.hexdigest()[:16]

    def address(self, name: str) -> str:
        """Return the address of a file, below the prefix. Raises KeyError if there is none."""
        if name not in self._bytes:
            raise KeyError(f"there is no file {name}")
        return f"{ROOT}/{self.version}/{name}"

    def names(self, suffix: str) -> Iterable[str]:
        """Return the names of all files with a suffix."""
        return [name for name in self._bytes if name.endswith(suffix)]

    def register(self, server: Flask) -> None:
        """Serve them."""

        def file(version: str, name: str) -> Response:
            if version != self.version or name not in self._bytes:
                raise NotInStoreError(f"there is no file {shown(name)}: load the page again")
            response = Response(self._bytes[name], content_type=TYPES[Path(name).suffix])
            response.headers["Cache-Control"] = f"private, max-age={YEAR}, immutable"
            return response

        server.add_url_rule(f"/{ROOT}/<version>/<path:name>", ROOT, file)


def module(constants: Mapping[str, Any]) -> str:
    """Write a module that exports constants."""
    lines = [
        f"export const {name} = {json.dumps(value, ensure_ascii=False)};\n"
        for name, value in constants.items()
    ]
    return "".join(lines)
