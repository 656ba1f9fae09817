"""A server on loopback that sends bytes as they are told, right or wrong."""

from __future__ import annotations

import socket
import tempfile
import threading
from contextlib import contextmanager, suppress

import anyio
import certifi
import pytest

from ringlens.serving.client import Client, Patience

TLS = 0x16
"""First byte of a client that greets in TLS."""


class RawServer:
    """Reads a request, sends ``pieces`` and closes the connection.

    ``pieces`` are bytes, or a function that gives any number of such; they may be changed between
    requests.
    """

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.pieces, self.asked = b"", []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, suppress(OSError):  # a client that has had enough
            self.asked.append(_request(connection))
            for piece in [self.pieces] if isinstance(self.pieces, bytes) else self.pieces():
                if self.stopped.is_set():
                    return
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # so that nothing unread resets what was sent
                pass

    def close(self):
        self.stopped.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


def _request(connection):
    """The request, headers and body."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(65536)
        if not piece or piece[0] == TLS:
            return found
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def raw_server(pieces=b""):
    """A running server; clients made meanwhile read one certificate, not all, as that is slow."""
    server = RawServer()
    server.pieces = pieces
    certificate, end, _ = certifi.contents().partition("-----END CERTIFICATE-----")
    with tempfile.NamedTemporaryFile("w") as file, pytest.MonkeyPatch.context() as patch:
        file.write(certificate + end)
        file.flush()
        patch.setenv("SSL_CERT_FILE", file.name)
        try:
            yield server
        finally:
            server.close()


def response(body, *headers, status="200 OK", length=True):
    """A response with a right length, or with none."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def got(url, patience, api_key=None, path="/v1/models"):
    """What a client gets from a server."""

    async def get():
        async with Client(url, patience, api_key) as client:
            return await client.get(path)

    return anyio.run(get)


ONCE = Patience(concurrency=1, timeout=60, retries=0, backoff=0, largest=1_000_000)
"""One attempt, with time enough on any machine."""
