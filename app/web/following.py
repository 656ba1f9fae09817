"""Follows the store at a path: waits until there is one, notices when it is replaced.

An open store reads the files that it opened, also when they are deleted and others stand at their
names. So what is built on a store is thrown away with all its caches and workers when the store is
no longer the one at its path, and built anew on the one that is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response
from werkzeug.wsgi import ClosingIterator

from ringlens.app.web.access import refused, sealed, simple_page
from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import NAME
from ringlens.store.storage import layout
from ringlens.store.storage.folder import Folder, folder_at

if TYPE_CHECKING:
    from dash import Dash

REMOTE_SECONDS = 5.0
"""Seconds between checks whether a remote store is the same; a local one is always checked."""

PATIENCE = 10.0
"""Seconds that closing waits for what was begun ahead of the first request."""

Identity = tuple[object, ...]


def identity(folder: Folder) -> Identity | None:
    """Return what tells a store from the next one at the same path; None without a store.

    Inode numbers are given out again at once, so the time counts as well. The manifest of a store
    on a disk that machines share is a folder of small files: there the marker alone tells.

    Raises:
        OSError: Wherever the disk or the server does.
    """
    try:
        if not folder.is_local:
            return (folder.read(layout.MARKER),)
        marker = os.stat(Path(folder.address) / layout.MARKER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = marker.st_dev, marker.st_ino, marker.st_ctime_ns, marker.st_size
    try:
        manifest = os.stat(Path(folder.address) / NAME)
    except FileNotFoundError:
        return found
    return *found, manifest.st_dev, manifest.st_ino


def is_awaited(folder: Folder) -> bool:
    """Return whether a store may still be created: nothing else is at the path."""
    if folder.is_local and os.path.exists(folder.address) and not os.path.isdir(folder.address):
        return False
    try:
        return not folder.exists(layout.MARKER) and not layout.foreign_names(folder)
    except OSError:  # whoever opens it will say what is the matter
        return False


@dataclass
class _Built:
    """An application on a store, and how many requests are being answered by it."""

    app: Dash
    identity: Identity | None
    answers: Callable[..., Iterable[bytes]]
    requests: int = 0
    retired: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> bool:
        """Count a request in; False if it is retired."""
        with self.lock:
            self.requests += not self.retired
            return not self.retired

    def leave(self) -> None:
        """Count a request out."""
        with self.lock:
            self.requests -= 1
            last = self.retired and not self.requests
        if last:
            self.close()

    def retire(self) -> None:
        """Close it when its last request is answered."""
        with self.lock:
            self.retired = True
            idle = not self.requests
        if idle:
            self.close()

    def close(self) -> None:
        """Close what it holds."""
        warming = self.app.server.extensions.get("ringlens.warming")
        if warming is not None:  # it still asks the store
            warming.join(PATIENCE)
        self.app.server.extensions["ringlens.sources"].close()


class FollowingApp:
    """A WSGI application that shows whichever store is at a path.

    Args:
        path: Folder or address of the store.
        build: Makes the application of the store that is there.
        first: The application of that store, where it is built already.
    """

    def __init__(
        self, path: str | Path, build: Callable[[], Dash], first: Dash | None = None
    ) -> None:
        self._folder = folder_at(path)
        self._build = build
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._had_one = first is not None
        self._built: _Built | None = None
        if first is not None:
            self._built = _Built(first, identity(self._folder), first.server.wsgi_app)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        try:
            built = self._current()
        except StoreError as error:
            return self._without(Request(environ), str(error))(environ, start)
        try:
            answer = built.answers(environ, start)
        except BaseException:
            built.leave()
            raise
        return ClosingIterator(answer, built.leave)

    def open(self) -> None:
        """Build the application now, where there is a store.

        Raises:
            StoreError: There is none, or it cannot be opened.
        """
        self._current().leave()

    def close(self) -> None:
        """Close what the application holds."""
        with self._lock:
            built, self._built = self._built, None
        if built is not None:
            built.retire()

    def _current(self) -> _Built:
        """Return the application of the current store, with one request counted in."""
        with self._lock:
            found = self._identity_now()
            if self._built is not None and self._built.identity != found:
                built, self._built = self._built, None
                built.retire()
            if self._built is None:
                self._built = self._opened(found)
            self._built.enter()
            return self._built

    def _identity_now(self) -> Identity | None:
        known = self._built.identity if self._built is not None else None
        now = time.monotonic()
        if known and not self._folder.is_local and now - self._looked < REMOTE_SECONDS:
            return known
        self._looked = now
        try:
            return identity(self._folder)
        except OSError:  # unreachable: what needs the store will say so
            return known

    def _opened(self, found: Identity | None) -> _Built:
        app = self._build()
        self._had_one = True
        return _Built(app, found, app.server.wsgi_app)

    def _without(self, request: Request, reason: str) -> Response:
        """Answer while there is no store; the page asks again by itself."""
        if "text/html" not in request.headers.get("Accept", ""):
            response = refused(request, 503, reason)
            response.headers["Retry-After"] = "2"
            return response
        title = "The store cannot be opened"
        if is_awaited(self._folder):
            title = "The store is gone" if self._had_one else "Waiting for the store"
        text = f"{reason}. This page opens by itself when it is there"
        return sealed(
            Response(
                simple_page(title, text, '<meta http-equiv="refresh" content="2">'),
                mimetype="text/html",
            )
        )
