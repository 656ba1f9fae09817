"""Serves a dashboard below a path, as behind JupyterHub: ``/user/ada/proxy/8050/``.

Some proxies take the prefix off a request before they pass it on (jupyter-server-proxy), others do
not (its ``/proxy/absolute/``). Both work, and so does going round the proxy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from dash.development.base_component import Component

from ringlens.app.web.access import Wsgi
from ringlens.errors import ConfigError

_SAFE = re.compile(r"/(?:[A-Za-z0-9._~@:%+=-]+/)*")


def normal(prefix: str) -> str:
    """Normalize a prefix to a slash at both ends.

    Raises:
        ConfigError: It is no path of a URL.
    """
    found = f"/{prefix.strip('/')}/" if prefix.strip("/") else "/"
    if not _SAFE.fullmatch(found) or any(part in (".", "..") for part in found.split("/")):
        raise ConfigError(
            f"{prefix!r} is no path below which a page can lie: give one like "
            f"/user/ada/proxy/8050/, without a host"
        )
    return found


def from_environment(port: int, environment: Mapping[str, str] | None = None) -> str:
    """Find the prefix that the environment announces: Dash, code-server, Jupyter; or '/'.

    Args:
        port: Port that the dashboard is served on.
        environment: Environment variables; those of this process if left out.
    """
    known = os.environ if environment is None else environment
    for name in ("DASH_REQUESTS_PATHNAME_PREFIX", "DASH_URL_BASE_PATHNAME"):
        if value := known.get(name):
            return _or_none(value)
    if address := known.get("VSCODE_PROXY_URI"):  # https://host/proxy/{{port}}/
        # Where the editor gives a port a host name of its own, there is no prefix.
        return _or_none(urlsplit(address.replace("{{port}}", str(port))).path)
    for name in ("JUPYTERHUB_SERVICE_PREFIX", "NB_PREFIX", "JUPYTER_SERVER_URL"):
        if value := known.get(name):
            return _or_none(f"{urlsplit(value).path.rstrip('/')}/proxy/{port}/")
    return "/"


def _or_none(path: str) -> str:
    """Normalize a path that was found, not given; '/' if it is unusable."""
    try:
        return normal(path)
    except ConfigError:
        return "/"


class WithoutPrefix:
    """A WSGI application that removes the prefix from requests that have it."""

    def __init__(self, application: Wsgi, prefix: str) -> None:
        self._application = application
        self._prefix = unquote_to_bytes(prefix).decode("latin-1")  # as PATH_INFO is written

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        path = environ.get("PATH_INFO", "")
        if f"{path}/".startswith(self._prefix):
            environ = {**environ, "PATH_INFO": f"/{path[len(self._prefix) :]}"}
        return self._application(environ, start)


def without(prefix: str, pathname: str) -> str:
    """Return the path of a page without the prefix that the browser sees."""
    path, start = unquote(pathname), unquote(prefix)
    return f"/{path[len(start) :]}" if f"{path}/".startswith(start) else pathname


def below(prefix: str, tree: Any) -> Any:
    """Change links to pages in components, in place, so that they lead below the prefix."""
    if prefix == "/":
        return tree
    waiting = [tree]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list | tuple):
            waiting.extend(each)
        elif isinstance(each, Component):
            href = getattr(each, "href", None)
            if isinstance(href, str) and href.startswith("/"):
                each.href = prefix + href[1:]
            waiting.append(getattr(each, "children", None))
    return tree
