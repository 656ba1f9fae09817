"""Serves the dashboard to this machine, and to whoever has its token."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
import threading
import webbrowser
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ringlens.app.shared import arrow
from ringlens.app.shell import build
from ringlens.app.web import access, prefix
from ringlens.app.web.following import PATIENCE, FollowingApp, is_awaited
from ringlens.app.web.writing import NO_TOKEN, READ_ONLY, Writing
from ringlens.errors import ConfigError
from ringlens.store import Store, StoreWriter
from ringlens.store.storage.folder import folder_at

if TYPE_CHECKING:
    from dash import Dash

    from ringlens.app.web.http_server import ServerLimits
    from ringlens.live.thinker import LiveModel, Thinker


def serve(
    store_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8050,
    open_browser: bool = False,
    token: str | bool | None = None,
    url_prefix: str | None = None,
    wait: bool = False,
    limits: ServerLimits | None = None,
    page: str = "",
    live: LiveModel | str | None = None,
    author: str | None = None,
    read_only: bool = False,
) -> None:
    """Serve the dashboard of a store until interrupted.

    Any user of the machine can connect to the port, so a request needs the token that is printed
    as part of the link; see :mod:`ringlens.app.web.access`.

    Args:
        store_path: Folder or address of the store.
        host: Address to listen on; others than this machine's own only with a token.
        port: Port to listen on; 0 takes a free one.
        open_browser: Open the page in the default browser.
        token: The token; None takes the environment's RINGLENS_TOKEN or a random one, False asks
            for none.
        url_prefix: Path below which a proxy shows the page, such as ``/user/ada/proxy/8050/``; what
            the environment tells (JupyterHub, code-server …) if left out.
        wait: Where there is no store yet, wait for it instead of raising.
        limits: What clients may take.
        page: Page that the link leads to, such as ``trace/3``; the first one if left out.
        live: A model that thinks about what is typed on the page ``/live``, in a process of its
            own, or its name; the store is made if it is not there.
        author: Name under which annotations are proposed; the system's user if left out.
        read_only: Let nobody annotate; so it is too without a token.

    Raises:
        ConfigError: Another host or a live model without a token, a token or a prefix that is
            none, or a port that cannot be had.
        StoreError: There is no store, or one that this version cannot read.
    """
    from ringlens.app.web.http_server import make_server

    secret = _secret(token)
    if secret is None and host not in access.LOOPBACK:
        raise ConfigError(
            f"without a token the dashboard serves this machine only, not {host!r}: leave the "
            f"token on, or use host 127.0.0.1 and, from elsewhere, a tunnel: "
            f"ssh -L {port}:127.0.0.1:{port} HOST"
        )
    if secret is None and live is not None:
        raise ConfigError(
            "without a token any user of this machine could have the model think, and fill the "
            "store: leave the token on"
        )
    listener = _listen(host, port)
    thinker = None
    try:
        port = listener.getsockname()[1]
        start = prefix.from_environment(port) if url_prefix is None else prefix.normal(url_prefix)
        thinker = None if live is None else _thinking(store_path, live)
        writing = _writing(author, secret is None, read_only)
        following = _following(store_path, start, secret is not None, wait, thinker, writing)
    except BaseException:
        listener.close()
        if thinker is not None:
            thinker.close()
        raise
    warming = threading.Thread(target=arrow.warm, daemon=True)
    warming.start()
    gate: access.Wsgi = access.HostGate(following)
    if secret is not None:
        gate = access.TokenGate(following, secret, port, start)
    server = make_server(prefix.WithoutPrefix(gate, start), listener, limits)
    _tell(store_path, host, port, start, secret, page)
    if open_browser:
        _open(_link(host, port, start, secret, page))
    try:
        server.run()
    finally:
        server.close()
        # A thread that ends with the process inside C++ code takes the process down with it.
        warming.join(PATIENCE)
        following.close()
        if thinker is not None:
            thinker.close()


def _thinking(path: str | Path, live: LiveModel | str) -> Thinker:
    """Start the process of a live model; make the store that it thinks into."""
    from ringlens.live.thinker import LiveModel, Thinker

    folder = folder_at(path)
    if is_awaited(folder):
        StoreWriter(path).close()
    return Thinker(folder.address, LiveModel(live) if isinstance(live, str) else live)


def _writing(author: str | None, is_open: bool, read_only: bool) -> Writing:
    """Decide whether pages may write annotations: not for whoever can reach the port."""
    if read_only:
        return READ_ONLY
    return Writing(refused=NO_TOKEN) if is_open else Writing.of(author)


def _secret(token: str | bool | None) -> str | None:
    """Choose the token to ask for; None for none."""
    if token is False:
        return None
    given = os.environ.get(access.VARIABLE) or None if token in (None, True) else str(token)
    return access.chosen_token(given)


def _following(
    path: str | Path,
    start: str,
    any_host: bool,
    wait: bool,
    thinker: Thinker | None = None,
    writing: Writing = READ_ONLY,
) -> FollowingApp:
    """Make the application of the store at a path, opened if there is one."""

    def built() -> Dash:
        app = build(Store(path), start, any_host, thinker=thinker, writing=writing)
        settle()
        warming = threading.Thread(
            target=app.server.extensions["ringlens.sources"].warm, daemon=True
        )
        warming.start()
        app.server.extensions["ringlens.warming"] = warming
        return app

    following = FollowingApp(path, built)
    if not (wait and is_awaited(folder_at(path))):
        following.open()
    return following


def _link(host: str, port: int, start: str, secret: str | None, page: str = "") -> str:
    name = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):  # every address; the one that always works here
        name = "127.0.0.1"
    # Without anything below the port the address stays as short as it was.
    path = start + page if start != "/" or secret or page else ""
    return f"http://{name}:{port}{path}" + (f"?token={secret}" if secret else "")


def _tell(
    path: str | Path, host: str, port: int, start: str, secret: str | None, page: str
) -> None:
    """Print where the page is."""
    link = _link(host, port, start, secret, page)
    if is_awaited(folder_at(path)):
        print(f"there is no store at {path} yet: the page opens when there is one", flush=True)
    print(f"ringlens serves {path} on {link}  (stop with Ctrl-C)", flush=True)
    if start != "/":
        key = f"?token={secret}" if secret else ""
        print(f"behind the proxy that is https://YOUR-SERVER{start}{page}{key}", flush=True)


def _open(link: str) -> None:
    """Open the page by a file that only this user can read: `ps` shows links to all users."""
    descriptor, name = tempfile.mkstemp(prefix="ringlens-", suffix=".html")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={escape(link)}">')
    threading.Timer(0.3, webbrowser.open, [Path(name).as_uri()]).start()
    remove = threading.Timer(30, Path(name).unlink, [True])
    remove.daemon = True
    remove.start()


def settle() -> None:
    """Exclude all objects of now from garbage collections: they live as long as the server.

    A full collection passes over every object of Dash and Plotly, 70 ms in the midst of an answer.
    """
    gc.unfreeze()  # what was built on a store that is gone
    gc.collect()
    gc.freeze()


def _listen(host: str, port: int) -> socket.socket:
    """Bind a socket to the address."""
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
