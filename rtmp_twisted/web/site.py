"""HTTP connections that cannot hurt each other: a twisted.web site with limits on their number, time and memory.

A connection carries one request and its answer, and is closed then. So there are no idle connections, no pipelined
requests, and the age of a connection says how long it has been unfinished.
"""

from __future__ import annotations

from typing import Any, Final, cast

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

MAX_CONNECTIONS: Final = 64
"""Connections at a time. The oldest one is closed in favour of a new one, so that a new one is always served."""

REQUEST_SECONDS: Final = 10
"""From the connection to the end of its request, however slowly it is sent."""

ANSWER_SECONDS: Final = 30
"""From the end of the request until the client has read the whole answer."""

MAX_BODY: Final = 4096
"""Bytes of a request's body. A longer one closes the connection."""

MAX_UNREAD: Final = 16 * 1024 * 1024
"""Bytes of all answers together that clients have not read yet. Beyond them, the oldest are given up."""

_log = Logger()


class LimitedRequest(Request):
    """Counts its body, and keeps it in memory."""

    _size = 0

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)  # else a long one would be written to a file

    def handleContentChunk(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_BODY:
            cast(Any, self.channel.transport).abortConnection()
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._size <= MAX_BODY:
            cast(OneRequestConnection, self.channel).request_received()
            super().requestReceived(command, path, version)


class OneRequestConnection(HTTPChannel):
    """Closes after its first answer, and when its time is over. ``unread`` is the size of its answer in bytes."""

    site: LimitedSite
    unread = 0
    _limit: IDelayedCall

    def connectionMade(self) -> None:
        super().connectionMade()
        self._limit = self.site.clock.callLater(REQUEST_SECONDS, self.abort)
        self.site.opened(self)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def request_received(self) -> None:
        """The request is complete; its answer follows."""
        if self._limit.active():
            self._limit.reset(ANSWER_SECONDS)

    def write(self, data: bytes) -> None:
        self.unread += len(data)
        self.site.limit_unread(self)
        super().write(data)

    def abort(self) -> None:
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._limit.active():
            self._limit.cancel()
        self.site.closed(self)


class LimitedSite(Site):
    """Serves ``resource``. Each connection is a `OneRequestConnection`."""

    noisy = False
    protocol = OneRequestConnection  # type: ignore[assignment]
    displayTracebacks = False

    def __init__(self, resource: IResource, clock: IReactorTime) -> None:
        super().__init__(resource, requestFactory=LimitedRequest, timeout=None, reactor=clock)
        self.clock = clock
        self._connections: dict[OneRequestConnection, None] = {}  # the oldest first
        self._full = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self._connections) >= MAX_CONNECTIONS:
            if not self._full:
                self._full = True
                _log.warn("HTTP: {count} connections; the oldest are closed for new ones", count=MAX_CONNECTIONS)
            self._drop(next(iter(self._connections)))
        return super().buildProtocol(addr)

    def opened(self, connection: OneRequestConnection) -> None:
        self._connections[connection] = None

    def closed(self, connection: OneRequestConnection) -> None:
        self._connections.pop(connection, None)
        if not self._connections:
            self._full = False

    def limit_unread(self, connection: OneRequestConnection) -> None:
        """Gives up the oldest unread answers, but not that of ``connection``, until all together are small enough."""
        unread = sum(other.unread for other in self._connections)
        for other in list(self._connections):
            if unread <= MAX_UNREAD:
                return
            if other.unread and other is not connection:
                unread -= other.unread
                self._drop(other)

    def abort_all(self) -> None:
        for connection in list(self._connections):
            self._drop(connection)

    def log(self, request: Any) -> None:
        """Writes no access log: requests are logged like other events."""

    def _drop(self, connection: OneRequestConnection) -> None:
        del self._connections[connection]  # not only when it is lost, which is a moment later
        connection.abort()
