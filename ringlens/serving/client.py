"""An HTTP client for model servers that retries what may pass and bounds what each answer costs.

An answer has one deadline, from the connection to its last byte, and one limit on its size, so a
server that is broken or hostile costs no more than these.
"""

from __future__ import annotations

import random
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import httpx

from ringlens.config import number, whole
from ringlens.errors import ConfigError, ServingError
from ringlens.serving.address import Address, NoServerError
from ringlens.serving.download import GZIP, printable, read_body, utf8
from ringlens.serving.fields import STREAM, parsed

LONGEST = 60.0
"""Most seconds between two attempts."""

LARGEST = 256_000_000
"""Most bytes of an answer: the routing of 65,536 tokens, 80 layers and 8 experts as int32 in base64
takes 224 million."""

FOR_ALL = (401, 403, 404, 405)
"""Refusals that every request would meet, as the key or the address is wrong."""

REFUSAL = 65536
"""Bytes of a refusal that are read."""

WHOLE = (("concurrency", 1, 2**31 - 1), ("retries", 0, 2**31 - 1), ("largest", 1, 2**50))
"""Settings that are whole numbers, with their least and greatest values."""


@dataclass(frozen=True)
class Patience:
    """How long a client waits, how much it accepts and how often it retries.

    Attributes:
        concurrency: Requests at a time.
        timeout: Seconds for a whole answer, from the connection to its last byte.
        retries: Attempts after the first, if the server is busy (429), fails (5xx) or is gone.
        backoff: Seconds before the second attempt, doubled before each further one.
        largest: Most bytes of an answer, after decompression.
    """

    concurrency: int = 16
    timeout: float = 1800.0
    retries: int = 5
    backoff: float = 1.0
    largest: int = LARGEST

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name, least, most in WHOLE:
            object.__setattr__(self, name, whole(name, getattr(self, name), least, most))
        for name in ("timeout", "backoff"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0))


@dataclass(frozen=True)
class Response:
    """The head of a response, and what was read of its body.

    Attributes:
        head: Status and headers.
        body: The decoded body.
        whole: Whether that is all of it.
    """

    head: httpx.Response
    body: bytearray
    whole: bool

    @property
    def words(self) -> str:
        """The server's words about an error, in one short line."""
        return printable(self.body.decode(errors="replace")) or printable(self.head.reason_phrase)


class Client(AbstractAsyncContextManager["Client"]):
    """Posts JSON to a server and returns its JSON, inside one event loop.

    Args:
        server: Address of the server, with or without ``/v1``.
        patience: Its limits.
        api_key: Sent as a bearer token; never stored or shown.

    Raises:
        NoServerError: The address is malformed.
        ConfigError: The key cannot be sent, or the environment's settings of proxies or
            certificates cannot be used.
    """

    def __init__(self, server: str, patience: Patience, api_key: str | None = None) -> None:
        self._address = Address.of(server)
        self.server = self._address.shown
        self.patience = patience
        self._key = _checked_key(api_key)
        self._http = _http(patience, self._key)

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Post a request; the JSON of the answer.

        Raises:
            ServingError: The server refuses, fails in every attempt, or its answer is too large or
                no JSON.
        """
        return await self._answer("POST", path, body)

    async def get(self, path: str) -> Any:
        """The JSON at a path.

        Raises:
            ServingError: As `post`.
        """
        return await self._answer("GET", path)

    async def _answer(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        failure, pause = "", 0.0
        for attempt in range(self.patience.retries + 1):
            await anyio.sleep(pause)
            pause = _backoff(self.patience.backoff, attempt)
            try:
                with anyio.fail_after(self.patience.timeout):
                    response = await self._response(method, path, body)
            except TimeoutError:
                failure = f"no whole answer within {self.patience.timeout:g} seconds"
                continue
            except httpx.TransportError as error:
                failure = printable(f"{type(error).__name__} {error}")
                continue
            except httpx.RequestError as error:
                raise NoServerError(f"{self.server}{path}: {printable(str(error))}") from error
            status = response.head.status_code
            if status != 429 and status < 500:
                return self._json(path, response)
            failure = f"status {status} ({self._said(response)})"
            pause = _asked_pause(response.head) or pause
        raise NoServerError(
            f"{self.server}{path}: {failure}, {self.patience.retries + 1} times. Check the server "
            f"and run the same command again: it resumes where this one stopped."
        )

    async def _response(self, method: str, path: str, body: dict[str, Any] | None) -> Response:
        """A response, read up to the limit; of a refusal only what its message needs."""
        async with self._http.stream(method, self._address.url + path, json=body) as head:
            if head.status_code == 200:
                if head.headers.get("content-type", "").startswith("text/event-stream"):
                    raise ServingError(f"{self.server}{path}: {STREAM}")
                try:
                    return Response(head, *await read_body(head, self.patience.largest))
                except ServingError as error:
                    raise ServingError(f"{self.server}{path}: {error}") from error
            try:
                return Response(head, *await read_body(head, REFUSAL))
            except ServingError:  # a body that cannot be read: the status says enough
                return Response(head, bytearray(), False)

    def _json(self, path: str, response: Response) -> Any:
        place = self.server + path
        if response.head.status_code != 200:
            kind = NoServerError if response.head.status_code in FOR_ALL else ServingError
            status = response.head.status_code
            raise kind(f"{place}: refused with status {status}: {self._said(response)}")
        if not response.whole:
            raise ServingError(
                f"{place}: the answer is larger than {self.patience.largest:,} bytes. If it "
                f"should be that large, allow more (--max-answer-mb, or Patience(largest=…))"
            )
        try:
            text = utf8(response.head, response.body)
        except ServingError as error:
            raise ServingError(f"{place}: {error}") from error
        return parsed(place, text)

    def _said(self, response: Response) -> str:
        """The words of a refusal, without the key if the server repeats it."""
        return response.words.replace(self._key, "…") if self._key else response.words


def _http(patience: Patience, key: str | None) -> httpx.AsyncClient:
    """The httpx client.

    Its own timeouts are off: they count from byte to byte, while ours bound the whole answer. It
    follows no redirect and keeps no cookie, so each answer is one exchange with the named server.
    """
    headers = GZIP | ({"Authorization": f"Bearer {key}"} if key else {})
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    limits = httpx.Limits(max_connections=patience.concurrency)
    try:
        return httpx.AsyncClient(headers=headers, cookies=cookies, timeout=None, limits=limits)
    except (ValueError, OSError, ImportError, httpx.InvalidURL) as error:
        raise ConfigError(
            f"the environment's proxy or certificate settings cannot be used ({error}): check "
            f"HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR."
        ) from error


def _checked_key(key: str | None) -> str | None:
    """A key that fits into a header; the error about one that does not fit never shows it."""
    if key and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ConfigError(
            "the server's key holds a line break, a space at an end or a character that is not "
            "ASCII: give it exactly as the server's operator gave it."
        )
    return key or None


def _backoff(first: float, attempt: int) -> float:
    """Seconds before the next attempt, spread so that waiting clients do not return together."""
    return min(LONGEST, first * 2.0 ** min(attempt, 64) * random.uniform(0.5, 1.5))


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, up to `LONGEST`; None if it gives no number."""
    after = response.headers.get("retry-after", "")
    return min(LONGEST, float(after)) if after.isdecimal() else None
