"""Answers what a widget asks, as the dashboard's server answers its pages: by the same code."""

from __future__ import annotations

from typing import Any

from flask import Flask

from ringlens.app.shared.sources import Sources
from ringlens.app.trace import routes
from ringlens.store import Store


class Answers:
    """The addresses of traces, without a server.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        server = Flask(__name__, static_folder=None)
        routes.register(server, Sources(store))
        self._client = server.test_client()

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON at a path; where there is none, a sentence under ``error``."""
        found = self._client.get(path).get_json(silent=True)
        return found if isinstance(found, dict) else {"error": f"there is nothing at {path[:100]}"}
