"""``/data/version``: tells a page that the server answers, and when the store has grown."""

from __future__ import annotations

import hashlib

from flask import Flask

from ringlens.app.shared import queries
from ringlens.app.shared.sources import Sources
from ringlens.app.web.answers import answered
from ringlens.app.web.following import identity
from ringlens.errors import NotInStoreError


def register(server: Flask, sources: Sources) -> None:
    """Add the address, and the answer at unknown addresses under ``/data``."""

    def version() -> dict[str, str]:
        return versions(sources)

    def nothing(rest: str) -> None:
        raise NotInStoreError(f"there is nothing at /data/{rest[:100]}")

    server.add_url_rule("/data/version", "version", answered(version))
    server.add_url_rule("/data/<path:rest>", "nothing", answered(nothing))


def versions(sources: Sources) -> dict[str, str]:
    """Return texts that change with each commit of traces, another store, and what people say."""
    store = sources.store
    # As text: JavaScript would round the number.
    which = hashlib.sha256(repr(identity(store.folder)).encode()).hexdigest()
    said = str(queries.version_of_said(store))
    return {"version": str(queries.version(store)), "store": which[:16], "said": said}
