"""The dashboard of a store. Imports the store and the analyses, never the model, observe or torch.

from ringlens.app import serve
serve("runs/first")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dash

__all__ = ["make_app", "serve"]


def make_app(store_path: str | Path) -> dash.Dash:
    """The Dash app of one store; ``make_app(path).server`` is its WSGI application.

    Args:
        store_path: Folder or address of the store.

    Raises:
        StoreError: There is no store, or one that this version cannot read.
    """
    from ringlens.app.shell import build
    from ringlens.store import Store

    return build(Store(store_path))


def serve(
    store_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8050,
    open_browser: bool = False,
) -> None:
    """Serve the dashboard until interrupted; see :func:`ringlens.app.server.serve`."""
    from ringlens.app import server

    server.serve(store_path, host=host, port=port, open_browser=open_browser)
