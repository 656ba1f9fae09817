"""Answers what a widget asks, as the dashboard's server answers its pages: by the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask

from ringlens.app.annotations import routes as said
from ringlens.app.shared.sources import Sources
from ringlens.app.trace import routes as traces
from ringlens.app.web.writing import Writing
from ringlens.store import Store

Payload = dict[str, Any]


class Answers:
    """The addresses of traces and annotations, without a server.

    Whoever runs the kernel may annotate: they have the store itself.

    Args:
        store: The store.
        more: What makes the answers of further paths.
    """

    def __init__(
        self, store: Store, more: Mapping[str, Callable[[], Payload]] | None = None
    ) -> None:
        server = Flask(__name__, static_folder=None)
        sources = Sources(store, writing=Writing.of())
        traces.register(server, sources)
        said.register(server, sources)
        self._client = server.test_client()
        self._more = more or {}

    def get(self, path: str) -> Payload:
        """Return the JSON at a path; where there is none, a sentence under ``error``."""
        if path in self._more:
            return self._more[path]()
        return self._answer(path, self._client.get(path))

    def post(self, path: str, sent: Any) -> Payload:
        """Send JSON to a path; return the answer, or a sentence under ``error``."""
        return self._answer(path, self._client.post(path, json=sent))

    def _answer(self, path: str, answer: Any) -> Payload:
        found = answer.get_json(silent=True)
        return found if isinstance(found, dict) else {"error": f"there is nothing at {path[:100]}"}
