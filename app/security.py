"""Who may ask, and what a page may load."""

from __future__ import annotations

from urllib.parse import urlsplit

from dash import Dash
from flask import Response, abort, request

HOSTS = ("127.0.0.1", "localhost", "::1")


def protect(app: Dash) -> None:
    """Check the Host header and add the security headers; call it when all callbacks are known.

    A page elsewhere can point its own name at 127.0.0.1 and so make the browser talk to us (DNS
    rebinding), but the request then names that host. Any port is accepted, as an SSH tunnel may
    come in by another one.
    """

    @app.server.before_request
    def check_host() -> None:
        host = request.headers.get("Host", "")
        if not is_ours(host):
            abort(400, f"This dashboard serves {', '.join(HOSTS)} only, not {host!r}.")

    policy = content_policy(app)

    @app.server.after_request
    def add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


def is_ours(host: str) -> bool:
    """Whether a Host header names this machine; Werkzeug's own check knows no IPv6 addresses."""
    try:
        return urlsplit(f"//{host}").hostname in HOSTS
    except ValueError:  # malformed, for example an open bracket
        return False


def content_policy(app: Dash) -> str:
    """The Content-Security-Policy: everything from here, no eval, only Dash's own inline script.

    Styles are inline because Mantine, Plotly and AG Grid make theirs at run time.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *app.csp_hashes()]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
