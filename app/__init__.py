"""The dashboard of a store. Imports the store and the analyses, never the model, observe or torch.

from ringlens.app import serve
serve("runs/first")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dash

__all__ = ["make_app", "serve"]


def make_app(store_path: str | Path, url_prefix: str = "/") -> dash.Dash:
    """Make the Dash app of one store; ``make_app(path).server`` is its WSGI application.

    It answers this machine only and asks for no token; :func:`serve` does. When another store takes
    the place of this one, it shows that.

    Args:
        store_path: Folder or address of the store.
        url_prefix: Path below which a proxy shows the app, such as ``/user/ada/proxy/8050/``.

    Raises:
        ConfigError: ``url_prefix`` is no path.
        StoreError: There is no store, or one that this version cannot read.
    """
    from ringlens.app.shell import build
    from ringlens.app.web.following import FollowingApp
    from ringlens.app.web.prefix import WithoutPrefix, normal
    from ringlens.store import Store

    prefix = normal(url_prefix)

    def made() -> dash.Dash:
        return build(Store(store_path), prefix)

    app = made()
    following = FollowingApp(store_path, made, app)
    app.server.wsgi_app = WithoutPrefix(following, prefix)
    return app


def serve(
    store_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8050,
    open_browser: bool = False,
    **options: Any,
) -> None:
    """Serve the dashboard until interrupted; see :func:`ringlens.app.server.serve`."""
    from ringlens.app import server

    server.serve(store_path, host=host, port=port, open_browser=open_browser, **options)
