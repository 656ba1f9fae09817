"""The address of a model server, checked before anything is sent to it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from ringlens.errors import ServingError

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)


class NoServerError(ServingError):
    """A server that is gone or refuses every request, so that no other request would succeed."""


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        url: Address of requests, without a final slash and without ``/v1``.
        shown: The same without user name and password, for errors.
    """

    url: str
    shown: str

    @classmethod
    def of(cls, server: str) -> Address:
        """Read an address.

        Args:
            server: Such as ``http://localhost:8000``, with or without ``/v1``.

        Raises:
            NoServerError: It is malformed.
        """
        try:
            url = httpx.URL(server.rstrip("/").removesuffix("/v1"))
            shown = str(url.copy_with(userinfo=b"")).rstrip("/")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise _refusal(_without_user(server), str(error)) from error
        fault = _fault(url)
        if fault:
            raise _refusal(shown if url.host else _without_user(server), fault)
        return cls(str(url).rstrip("/"), shown)


def _fault(url: httpx.URL) -> str | None:
    """What is wrong with an address that could be parsed."""
    host = url.raw_host.decode("ascii")
    if url.scheme not in ("http", "https"):
        return "it does not begin with http:// or https://"
    if ":" not in host and not _NAME.fullmatch(host):
        return f"{host!r:.80} is no name of a machine" if host else "it names no machine"
    if url.port is not None and not 0 < url.port < 65536:
        return f"ports are 1 to 65535, not {url.port}"
    if url.query or url.fragment:
        return "nothing may follow ? or #"
    return None


def _refusal(server: str, why: str) -> NoServerError:
    return NoServerError(
        f"{server!r:.120} is no address of a server ({why:.200}): give one such as "
        f"http://localhost:8000"
    )


def _without_user(server: str) -> str:
    """An address that cannot be parsed, without what may be a password."""
    return re.sub(r"//[^/]*@", "//…@", server)
