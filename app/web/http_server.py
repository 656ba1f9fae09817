"""The HTTP server: waitress, with limits on what one client can occupy."""

from __future__ import annotations

import logging
import resource
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from ringlens.app.web.access import Wsgi


@dataclass(frozen=True)
class ServerLimits:
    """What clients may take.

    Attributes:
        threads: Requests answered at a time.
        connections: Open connections; a further one takes the place of the one that has waited
            longest without a whole request.
        request_seconds: Time for a request to arrive in whole, however it trickles in.
        idle_seconds: Time until a connection is closed on which nothing happens.
        body_bytes: Bytes of a request's body; the largest that a page sends is a query.
        header_bytes: Bytes of a request's headers, in which the address may hold a query.
    """

    threads: int = 8
    connections: int = 256
    request_seconds: float = 20.0
    idle_seconds: float = 60.0
    body_bytes: int = 2**20
    header_bytes: int = 2**16


def make_server(
    application: Wsgi, listener: socket.socket, limits: ServerLimits | None = None
) -> TcpWSGIServer:
    """A server of a WSGI application on a bound socket; ``run()`` it, then ``close()`` it."""
    limits = limits or ServerLimits()
    # A page asks for many files at once: that one of them waits a moment is no news to anybody.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # Each takes a file descriptor, and the store's files need some: without any left the server
    # could not even take a connection to drop it.
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors != resource.RLIM_INFINITY:
        limits = replace(limits, connections=max(8, min(limits.connections, descriptors // 4)))
    adjustments = Adjustments(
        threads=limits.threads,
        sockets=[listener],
        # Ours comes first (`_Server.handle_accept`); this one would stop taking new connections.
        connection_limit=limits.connections + 64,
        max_request_body_size=limits.body_bytes,
        max_request_header_size=limits.header_bytes,
        cleanup_interval=1,
        asyncore_use_poll=True,  # select() fails on file descriptors above 1023
        ident=None,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    info = (listener.family, listener.type, listener.proto, listener.getsockname())
    server = _Server(
        application,
        {},
        _sock=listener,
        dispatcher=dispatcher,
        adj=adjustments,
        sockinfo=info,
        bind_socket=False,
    )
    server.limits = limits
    return server


class _Channel(HTTPChannel):
    """A connection that knows how long it has waited for the rest of a request."""

    waits_since = 0.0  # monotonic; of the request that is arriving, or of the last answer

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.waits_since = time.monotonic()
        super().__init__(*arguments, **options)

    def received(self, data: bytes) -> bool:
        """Take bytes; the first of a request start its clock."""
        if self.request is None:
            self.waits_since = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer a request, and restart the clock for the next."""
        super().service()
        self.waits_since = time.monotonic()

    def is_late(self, now: float, limits: ServerLimits) -> bool:
        """Return whether the connection has exceeded its time."""
        if self.requests:
            return False
        if self.total_outbufs_len:  # an answer that is being read, however slowly
            return time.time() - self.last_activity > limits.idle_seconds
        allowed = limits.idle_seconds if self.request is None else limits.request_seconds
        return now - self.waits_since > allowed


class _Server(TcpWSGIServer):
    """Waitress with limits.

    By itself it waits forever for a client that sends a byte now and then, and accepts no new
    connection while a hundred are open, silent or not.
    """

    channel_class = _Channel
    limits = ServerLimits()

    def handle_accept(self) -> None:
        """Accept a connection; if there are too many, drop the one that has waited longest."""
        super().handle_accept()
        # After it: the new connection must not get the file descriptor of the one that is dropped,
        # for which this turn of the loop may still hold events.
        if len(self.active_channels) > self.limits.connections:
            waiting = [each for each in self.active_channels.values() if not each.requests]
            if waiting:
                min(waiting, key=lambda each: each.waits_since).handle_close()

    def maintenance(self, now: float) -> None:
        """Close the connections that are late; called about once a second."""
        del now
        moment = time.monotonic()
        for channel in list(self.active_channels.values()):
            if channel.is_late(moment, self.limits):
                channel.will_close = True
