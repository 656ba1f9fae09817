"""Serves the dashboard to this machine."""

from __future__ import annotations

import gc
import socket
import threading
import webbrowser
from pathlib import Path

from ringlens.app import make_app, payload
from ringlens.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
THREADS = 8


def serve(
    store_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8050,
    open_browser: bool = False,
) -> None:
    """Serve the dashboard of a store until interrupted.

    Args:
        store_path: Folder or address of the store.
        host: Address to listen on; only this machine's own are allowed.
        port: Port to listen on; 0 takes a free one.
        open_browser: Open the page in the default browser.

    Raises:
        ConfigError: Another host than this machine, or a port that cannot be had.
        StoreError: There is no store, or one that this version cannot read.
    """
    from waitress import create_server

    if host not in LOOPBACK:
        raise ConfigError(
            f"the dashboard serves this machine only, not {host!r}: it has no sign-in yet. "
            f"Use host 127.0.0.1 and, from elsewhere, a tunnel: ssh -L {port}:127.0.0.1:{port} HOST"
        )
    app = make_app(store_path)
    settle()
    listener = _listen(host, port)
    for warm in (payload.warm, app.server.extensions["ringlens.sources"].warm):
        threading.Thread(target=warm, daemon=True).start()
    server = create_server(app.server, sockets=[listener], threads=THREADS, ident=None)
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}"
    print(f"ringlens serves {store_path} on {url}  (stop with Ctrl-C)", flush=True)
    if open_browser:
        threading.Timer(0.3, webbrowser.open, [url]).start()
    try:
        server.run()
    finally:
        server.close()
        app.server.extensions["ringlens-console"].close()
        app.server.extensions["ringlens"].close()


def settle() -> None:
    """Leave all that there is now out of garbage collections: it lives as long as the server.

    A full collection passes over every object of Dash and Plotly, 70 ms in the midst of an answer.
    """
    gc.collect()
    gc.freeze()


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"port {port} on {host} cannot be used ({error}); "
            f"choose another, for example {port + 1}, or 0 for any that is free"
        ) from error
    return listener
