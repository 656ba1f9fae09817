"""The body of a response, read piece by piece up to a limit, whatever the server sends."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import httpx

from ringlens.errors import ServingError

GZIP = {"Accept-Encoding": "gzip"}
"""What to ask for: the only compression expanded here, and never past the limit."""

_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\";\s]*)", re.IGNORECASE)

Expand = Callable[[bytes, int], bytes]


async def read_body(response: httpx.Response, most: int) -> tuple[bytearray, bool]:
    """Read and expand the body of a response.

    Args:
        response: From ``httpx.AsyncClient.stream``.
        most: Most bytes to keep; no more are expanded, held or waited for.

    Returns:
        The bytes, and whether they are the whole body.

    Raises:
        ServingError: It is damaged, or in an encoding that was not asked for.
    """
    body = bytearray()
    gzip = _gzip(response)
    async for piece in response.aiter_raw():
        room = most - len(body) + 1
        body += piece[:room] if gzip is None else _expanded(gzip, piece, room)
        if len(body) > most:
            del body[most:]
            return body, False
    if gzip is not None and not gzip.eof:
        raise ServingError("its gzip is cut off")
    return body, True


def utf8(response: httpx.Response, body: bytearray) -> str:
    """A body as text; JSON is UTF-8 and nothing else.

    Raises:
        ServingError: The server names another charset, or it is no UTF-8.
    """
    named = _CHARSET.search(response.headers.get("content-type", ""))
    charset = named[1].lower() if named else "utf-8"
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise ServingError(f"its charset is {charset!r:.60}, where JSON is UTF-8")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ServingError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from error


def printable(text: str, most: int = 300) -> str:
    """The beginning of a server's text in one line, without control characters."""
    line = " ".join(text[: 4 * most].split())
    return "".join(char if char.isprintable() else "?" for char in line)[:most]


def _gzip(response: httpx.Response) -> zlib._Decompress | None:
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip"):
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    raise ServingError(f"it is encoded as {printable(coding, 60)!r}, which was not asked for")


def _expanded(gzip: zlib._Decompress, piece: bytes, room: int) -> bytes:
    """Expand a piece to at most ``room`` bytes."""
    try:
        found = gzip.decompress(piece, room)
    except zlib.error as error:
        raise ServingError(f"its gzip is damaged ({error})") from error
    if gzip.unused_data:
        raise ServingError("its gzip goes on after its end")
    return found
