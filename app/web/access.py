"""Who may ask: whoever has the token that ``ringlens app`` printed, as in Jupyter.

Any user of a machine can connect to any port of it. So the link that is printed carries a token;
the first request with it gets a cookie, and every other needs the cookie or the token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable
from html import escape
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from werkzeug.wrappers import Request, Response

from ringlens.errors import ConfigError

Wsgi = Callable[..., Iterable[bytes]]

VARIABLE = "RINGLENS_TOKEN"
"""Environment variable with a token of one's own: `ps` shows options to all users, not this."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,256}")
_NEEDED = (
    "this dashboard needs its token: open the link that `ringlens app` printed, or send the token "
    "as ?token=… or as the header `Authorization: Bearer …`"
)
_WRONG = (
    "this is not the token of this dashboard, which gets a new one with each start: open the link "
    "that `ringlens app` printed last"
)


def chosen_token(given: str | None) -> str:
    """Check the given token, or make a random one.

    Raises:
        ConfigError: It is short, or has characters that a link or a header would change.
    """
    if given is None:
        return secrets.token_urlsafe(24)
    if not _TOKEN.fullmatch(given):
        raise ConfigError(
            f"a token has 8 to 256 of the characters A-Z a-z 0-9 . _ ~ -, the given one of "
            f"{len(given)} does not: leave it out for a random one, or say --no-token"
        )
    return given


def is_loopback(host: str) -> bool:
    """Return whether a Host header names this machine; Werkzeug's check knows no IPv6."""
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:  # malformed, for example an open bracket
        return False


class TokenGate:
    """A WSGI application that lets through requests with the token.

    A right ``?token=`` is answered with a cookie and the same address without it, so that the
    token stays neither in the address bar nor in links that are copied. The cookie holds what is
    computed from the token, not the token: a browser sends cookies to all ports of a machine.

    Args:
        application: What answers then.
        token: The token.
        port: Port of the server; cookies of several dashboards must not replace one another.
        prefix: Path below which the browser sees the dashboard; begins and ends with a slash.
    """

    def __init__(self, application: Wsgi, token: str, port: int, prefix: str = "/") -> None:
        self._application = application
        self._token = token.encode()
        self._cookie = f"ringlens-{port}"
        proof = hmac.new(self._token, f"cookie of port {port}".encode(), hashlib.sha256)
        self._proof = proof.hexdigest().encode()
        self._prefix = prefix

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        request = Request(environ)
        given = _given(request)
        if given is not None:
            if not hmac.compare_digest(given.encode(errors="replace"), self._token):
                return refused(request, 403, _WRONG)(environ, start)
            if "token" in request.args and request.method in ("GET", "HEAD"):
                return self._signed_in(request)(environ, start)
            return self._application(environ, start)
        cookie = request.cookies.get(self._cookie)
        if cookie is None:
            return refused(request, 401, _NEEDED)(environ, start)
        if not hmac.compare_digest(cookie.encode(errors="replace"), self._proof):
            return refused(request, 403, _WRONG)(environ, start)
        return self._application(environ, start)

    def _signed_in(self, request: Request) -> Response:
        """Redirect to the same address without the token, and set the cookie."""
        text = request.query_string.decode("latin-1")
        rest = [pair for pair in parse_qsl(text, keep_blank_values=True) if pair[0] != "token"]
        # No second slash at the front: `//host` would lead to another machine.
        path = self._prefix + quote(request.path.lstrip("/\\"), safe="/~:@!$&'()*+,;=")
        response = Response(status=302)
        response.autocorrect_location_header = False
        response.headers["Location"] = path + (f"?{urlencode(rest)}" if rest else "")
        response.set_cookie(
            self._cookie, self._proof.decode(), path=self._prefix, httponly=True, samesite="Lax"
        )
        return sealed(response)


class HostGate:
    """A WSGI application that answers only to names of this machine, where there is no token.

    A page elsewhere can point its own name at 127.0.0.1 and so make the browser talk to us (DNS
    rebinding), but the request then names that host. Any port is accepted, as an SSH tunnel may
    come in by another one. Where there is a token, such a page lacks the cookie.
    """

    def __init__(self, application: Wsgi) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        host = environ.get("HTTP_HOST", "")
        if is_loopback(host):
            return self._application(environ, start)
        reason = f"this dashboard serves {', '.join(LOOPBACK)} only, not {host!r}"
        return refused(Request(environ), 400, reason)(environ, start)


def _given(request: Request) -> str | None:
    """Return the token in a request's address or header; None without one."""
    if "token" in request.args:
        return request.args["token"]
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if kind.lower() in ("bearer", "token") else None


def refused(request: Request, status: int, reason: str) -> Response:
    """Answer with a sentence: a page for browsers, JSON for all else."""
    if request.accept_mimetypes.best == "text/html" or "text/html" in request.headers.get(
        "Accept", ""
    ):
        return sealed(Response(simple_page("ringlens", reason), status, mimetype="text/html"))
    body = json.dumps({"error": reason}, ensure_ascii=False)
    return sealed(Response(body, status, mimetype="application/json"))


def simple_page(title: str, text: str, head: str = "") -> str:
    """Write a page of one sentence that loads nothing."""
    sentence = escape(text[:1].upper() + text[1:])
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1">{head}<title>{escape(title)}</title>'
        f"<style>:root{{color-scheme:light dark}}body{{font:15px/1.6 system-ui,sans-serif;"
        f"max-width:44em;margin:18vh auto;padding:0 2em}}h1{{font-size:1.3em}}"
        f"code{{overflow-wrap:anywhere}}</style></head>"
        f"<body><h1>{escape(title)}</h1><p>{sentence}.</p></body></html>"
    )


def sealed(response: Response) -> Response:
    """Add the headers of pages that load nothing and are not cached."""
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response
