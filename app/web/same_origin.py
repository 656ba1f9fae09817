"""Lets a request change something only if one of our own pages, or a program, sent it."""

from __future__ import annotations

from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from ringlens.errors import RequestError


def check(headers: Headers) -> None:
    """Refuse a request that a browser sent for the page of another site.

    A cookie is sent along from other ports of the same host as well, so the cookie alone proves
    nothing. Browsers say where a request comes from; programs, which say nothing, have the token.

    Args:
        headers: Headers of the request.

    Raises:
        RequestError: It comes from another origin.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        # Said by the browser itself; right behind a proxy too, which may change the Host.
        foreign = site != "same-origin"
    else:
        origin = headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("Host")
    if foreign:
        raise RequestError("this comes from a page of another site: only the dashboard's own may")
