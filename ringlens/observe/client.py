"""An HTTP client for servers of models, patient with failures that pass."""

from __future__ import annotations

import random
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from ringlens.config import number, whole
from ringlens.errors import ServingError
from ringlens.observe.answer import STREAM, parsed

LONGEST = 60.0
"""Seconds between two attempts at most."""

FOR_ALL = (401, 403, 404, 405)
"""Refusals that any request would meet: a wrong key or address."""


@dataclass(frozen=True)
class Patience:
    """How long a client waits and how often it asks again.

    Attributes:
        concurrency: Requests at a time.
        timeout: Seconds that one answer may take.
        retries: Attempts after the first, where the server is busy (429), fails (5xx) or is gone.
        backoff: Seconds before the second attempt, doubled before each further one.
    """

    concurrency: int = 16
    timeout: float = 1800.0
    retries: int = 5
    backoff: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name, least in (("concurrency", 1), ("retries", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        for name in ("timeout", "backoff"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0))


class NoServerError(ServingError):
    """A server that is gone, or refuses whatever is asked: no other request would fare better."""


class Client(AbstractAsyncContextManager["Client"]):
    """Posts JSON to a server and gives its JSON back. For use inside one event loop.

    Args:
        server: Address of the server, with or without ``/v1``.
        patience: How it waits.
        api_key: Sent as a bearer token; never stored or shown.
    """

    def __init__(self, server: str, patience: Patience, api_key: str | None = None) -> None:
        self.server = server.rstrip("/").removesuffix("/v1")
        self.patience = patience
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=patience.concurrency)
        self._http = httpx.AsyncClient(headers=headers, timeout=patience.timeout, limits=limits)

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the server answers to a request.

        Raises:
            ServingError: It refuses, or fails however often it is asked.
        """
        return await self._answer("POST", path, body)

    async def get(self, path: str) -> Any:
        """What is found at a path.

        Raises:
            ServingError: As `post`.
        """
        return await self._answer("GET", path)

    async def _answer(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        failure, pause = "", 0.0
        for attempt in range(self.patience.retries + 1):
            await anyio.sleep(pause)
            pause = min(LONGEST, self.patience.backoff * 2**attempt * random.uniform(0.5, 1.5))
            try:
                response = await self._http.request(method, self.server + path, json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise NoServerError(
                    f"{self.server!r} is no address of a server ({error}): give one such as "
                    f"http://localhost:8000"
                ) from error
            except httpx.TransportError as error:
                failure = f"{type(error).__name__} {error}".strip()
                continue
            except httpx.RequestError as error:
                raise NoServerError(f"{self.server}{path}: {error}") from error
            if response.status_code != 429 and response.status_code < 500:
                return self._json(path, response)
            failure = f"status {response.status_code} ({_told(response)})"
            pause = _asked_pause(response) or pause
        raise NoServerError(
            f"{self.server}{path}: {failure}, {self.patience.retries + 1} times. See to the server "
            f"and give the same command again: it goes on where this one stopped."
        )

    def _json(self, path: str, response: httpx.Response) -> Any:
        if response.status_code != 200:
            kind = NoServerError if response.status_code in FOR_ALL else ServingError
            raise kind(
                f"{self.server}{path}: refused with status {response.status_code}: "
                f"{_told(response)}"
            )
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            raise ServingError(f"{self.server}{path}: {STREAM}")
        return parsed(self.server + path, response.text)


def _told(response: httpx.Response) -> str:
    """What a server says of an error, in one short line."""
    return " ".join(response.text.split())[:300] or response.reason_phrase


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, if it says so in seconds."""
    after = response.headers.get("retry-after", "")
    return min(LONGEST, float(after)) if after.isdecimal() else None
