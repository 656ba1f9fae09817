"""Limits what a page may load, and checks the Host header of requests."""

from __future__ import annotations

from dash import Dash
from flask import Response, abort, request

from ringlens.app.web.access import LOOPBACK, is_loopback

CONTENT_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Everything from here, no eval, no inline script.

Styles are inline because Mantine, Plotly and AG Grid make theirs at run time.
"""


def protect(app: Dash, any_host: bool = False) -> None:
    """Check the Host header and add the security headers.

    Args:
        app: The app.
        any_host: Answer to any name: what stands before the app asks for a token.
    """

    @app.server.before_request
    def check_host() -> None:
        host = request.headers.get("Host", "")
        if not any_host and not is_loopback(host):
            abort(400, f"This dashboard serves {', '.join(LOOPBACK)} only, not {host!r}.")

    @app.server.after_request
    def add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = CONTENT_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response
