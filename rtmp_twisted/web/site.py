"""HTTP connections that cannot hurt each other: a twisted.web site with limits on their number, time and memory.

The operators' site serves one request on each connection, so the age of a connection says how long it has been
unfinished. The viewers' site keeps connections open for more requests. There, a connection whose answer has to wait is
on hold, and one that has become a stream is taken over: neither counts as unfinished, and others bound them.

Requests are read in the turns of the reactor (live/turns.py), one of a connection in each, so that media never waits
for many of them.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any, Final, Protocol, cast

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import BAD_REQUEST, HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from rtmp_twisted.live.turns import Turns
from rtmp_twisted.rtmp.factory import textual_ip
from rtmp_twisted.rtmp.limits import ConnectionLimits

MAX_CONNECTIONS: Final = 64
"""Unfinished connections of the operators' site. The oldest one is closed in favour of a new one, so that a new one is
always served."""

YOUNG_SECONDS: Final = 0.25
"""A connection is not closed for a new one before it is so old: else a burst of others could close it before its
request, which may be there already, is read."""

MORE: Final = 192
"""So many more unfinished connections there may be while all are young."""

MAX_UNFINISHED: Final = 4096
"""The same of the viewers' site, where those that ask for segments count between two requests as well."""

REQUEST_SECONDS: Final = 10
"""From the connection to the end of its request, however slowly it is sent."""

ANSWER_SECONDS: Final = 30
"""From the end of the request, or of the wait for its answer, until the client has read the whole answer."""

KEEP_ALIVE_SECONDS: Final = 30
"""From an answer until it has been read and the next request has come."""

MAX_INPUT: Final = 32 * 1024
"""Bytes that have come and wait to be read, beyond which no more is taken from the socket."""

MAX_BODY: Final = 4096
"""Bytes of a request's body. A longer one closes the connection."""

MAX_UNREAD: Final = 16 * 1024 * 1024
"""Bytes of all answers of the operators' site together that clients have not read yet. Beyond them, the oldest are
given up."""

MAX_VIEWERS_UNREAD: Final = 64 * 1024 * 1024
"""The same of the viewers' site."""

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
            cast(LimitedConnection, self.channel).request_received()
            super().requestReceived(command, path, version)

    def finish(self) -> None:
        cast(LimitedConnection, self.channel).site.answers[self.code] += 1
        super().finish()


class Heir(Protocol):
    """Who takes a connection over from HTTP."""

    def received(self, data: bytes) -> None:
        """The client has sent something."""

    def lost(self, reason: Failure) -> None:
        """The connection is lost. Nothing is called after that."""


class LimitedConnection(HTTPChannel):
    """Closed when its time is over, and on a site without ``keep_alive`` after its first answer. ``peer`` is the
    client's address, textual; ``unread`` is the size of its answers in bytes."""

    site: LimitedSite
    peer = ""
    unread = 0
    since = 0.0
    """When it began to be unfinished, in the clock's seconds."""
    heir: Heir | None = None
    has_answered = False
    """Whether there was an answer on this connection, which may not have left yet."""
    _deadline: float | None = None  # when it is closed, in the clock's seconds
    _limit: IDelayedCall | None = None  # looks at that, when it is due or before
    _look_at = inf  # when that is
    _answered: Request | None = None  # behind which the next one may be read
    _scheduled = False  # something is read in the next turn
    _lost = False

    def __init__(self) -> None:
        super().__init__()
        self._input: list[bytes] = []

    def connectionMade(self) -> None:
        super().connectionMade()
        self._arm(REQUEST_SECONDS)
        self.site.opened(self)
        self.site.turns.let_publishers_be_read()  # for many may come at once, or go

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        if self.site.keep_alive and super().checkPersistence(request, version):
            return True
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def dataReceived(self, data: bytes) -> None:
        if self.heir is not None:
            self.heir.received(data)
            return
        self._input.append(data)
        if sum(map(len, self._input)) > MAX_INPUT:
            cast(Any, self.transport).pauseProducing()
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.site.turns.add(self._read)

    def _unread_input(self) -> bytes:
        """What has come and is not read yet. Takes more from the socket again, if that was too much."""
        data = b"".join(self._input)
        if len(data) > MAX_INPUT:
            cast(Any, self.transport).resumeProducing()
        return data

    def _read(self) -> bool:
        """Reads one request of what has come."""
        self._scheduled = False
        if self._lost:
            return False
        data = self._unread_input()
        self._input.clear()
        request, self._answered = self._answered, None
        if request is not None:
            super().requestDone(request)  # reads the next one, if that has come
        if self.heir is not None:
            if data:
                self.heir.received(data)
        elif data:
            super().dataReceived(data)
        return False

    def rawDataReceived(self, data: bytes) -> None:
        if self.heir is not None:  # what came in one piece with the request
            self.heir.received(data)
        else:
            super().rawDataReceived(data)

    def request_received(self) -> None:
        """The request is complete; its answer follows."""
        self.forget_unread()
        self._arm(ANSWER_SECONDS)

    def forget_unread(self) -> None:
        """Whoever sends another request has read the answers before, if they have left."""
        if self.unread and not self._waitingForTransport:
            self.site.limit_unread(self, -self.unread)
            self.unread = 0

    def requestDone(self, request: Request) -> None:
        self.has_answered = True
        if self.site.keep_alive:
            self._arm(KEEP_ALIVE_SECONDS)
            self.site.unfinished(self)
            self._answered = request
            if not self._waitingForTransport:  # else the answer has to leave first
                self._schedule()
        else:
            super().requestDone(request)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._answered is not None:
            self._schedule()

    def write(self, data: bytes) -> None:
        self.unread += len(data)
        self.site.limit_unread(self, len(data))
        super().write(data)

    def hold(self) -> None:
        """The answer has to wait, which somebody else limits, until it is written."""
        self._disarm()
        self.site.finished(self)

    def take_over(self, heir: Heir) -> Any:
        """Hands the connection over to ``heir``, who limits it from now on; returns its transport."""
        self.hold()
        self.heir = heir
        transport = cast(Any, self.transport)
        transport.unregisterProducer()
        transport.resumeProducing()
        for request in self.requests:
            request.channel = None  # they refer to each other
        self.requests.clear()
        return transport

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.site.answers[BAD_REQUEST] += 1
        self._lost = True  # nothing more is read
        super()._respondToBadRequestAndDisconnect()

    def abort(self) -> None:
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._answered = None
        self._input.clear()
        self._disarm()
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        try:
            if self.heir is not None:
                heir, self.heir = self.heir, None
                heir.lost(reason)
            else:
                super().connectionLost(reason)
        finally:
            self.site.closed(self)
            self.site.turns.let_publishers_be_read()

    def _arm(self, seconds: float) -> None:
        self._deadline = deadline = self.site.clock.seconds() + seconds
        if deadline < self._look_at:
            self._look_later(deadline, seconds)

    def _disarm(self) -> None:
        self._deadline = None

    def _look_later(self, moment: float, seconds: float) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._look_at = moment
        self._limit = self.site.clock.callLater(seconds, self._check_deadline)

    def _check_deadline(self) -> None:
        self._limit, self._look_at = None, inf
        if self._deadline is not None:
            left = self._deadline - self.site.clock.seconds()
            if left > 0:
                self._look_later(self._deadline, left)
            else:
                self.abort()


class LimitedSite(Site):
    """Serves ``resource``, on connections that are a `LimitedConnection` each. ``limits``, if there are any, are told
    of all of them; ``most`` are unfinished, and ``most_unread`` bytes of their answers are kept."""

    noisy = False
    protocol = LimitedConnection  # type: ignore[assignment]
    displayTracebacks = False

    def __init__(
        self,
        resource: IResource,
        clock: IReactorTime,
        turns: Turns,
        keep_alive: bool = False,
        most: int = MAX_CONNECTIONS,
        most_unread: int = MAX_UNREAD,
        limits: ConnectionLimits | None = None,
    ) -> None:
        super().__init__(resource, requestFactory=LimitedRequest, timeout=None, reactor=clock)
        self.clock = clock
        self.turns = turns
        self.keep_alive = keep_alive
        self.connections: dict[LimitedConnection, None] = {}
        self.accepted = 0
        """Connections so far."""
        self.answers: Counter[int] = Counter()
        """Answers so far, by status code."""
        self._most = most
        self._most_unread = most_unread
        self._limits = limits
        self._unfinished: dict[LimitedConnection, None] = {}  # the oldest first
        self.unread = 0
        """Bytes of all their answers that may not have been read."""
        self._full = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self._unfinished) >= self._most:
            oldest = next(iter(self._unfinished))
            is_young = self.clock.seconds() - oldest.since < YOUNG_SECONDS
            if not is_young or len(self._unfinished) >= self._most + MORE:
                self._close_for_another(oldest)
        connection = super().buildProtocol(addr)
        connection.peer = textual_ip(getattr(addr, "host", ""))
        return connection

    def opened(self, connection: LimitedConnection) -> None:
        self.accepted += 1
        self.connections[connection] = None
        self.unfinished(connection)
        if self._limits is not None:
            self._limits.enter(connection.peer)

    def unfinished(self, connection: LimitedConnection) -> None:
        """It waits for a request, or until its answer has been read."""
        connection.since = self.clock.seconds()
        self._unfinished.pop(connection, None)
        self._unfinished[connection] = None

    def finished(self, connection: LimitedConnection) -> None:
        """Its request is complete, and somebody else looks after it."""
        self._unfinished.pop(connection, None)

    def closed(self, connection: LimitedConnection) -> None:
        if connection not in self.connections:
            return  # it never began
        del self.connections[connection]
        self.unread -= connection.unread
        self._unfinished.pop(connection, None)
        if len(self._unfinished) < self._most // 2:
            self._full = False
        if self._limits is not None:
            self._limits.leave(connection.peer)

    def limit_unread(self, connection: LimitedConnection, size: int) -> None:
        """``connection`` has ``size`` bytes more to read. Gives up the oldest unread answers, but not that one, until
        all together are small enough."""
        self.unread += size
        if self.unread <= self._most_unread:
            return
        for other in list(self._unfinished):
            if other.unread and other is not connection:
                self._drop(other)
            if self.unread <= self._most_unread:
                return

    def abort_all(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    def log(self, request: Any) -> None:
        """Writes no access log: requests are logged like other events."""

    def _close_for_another(self, oldest: LimitedConnection) -> None:
        if not self._full:
            self._full = True
            _log.warn("HTTP: {count} connections; the oldest are closed for new ones", count=self._most)
        self._drop(oldest)

    def _drop(self, connection: LimitedConnection) -> None:
        # Not only when it is lost, which is a moment later.
        del self._unfinished[connection]
        self.unread -= connection.unread
        connection.unread = 0
        connection.abort()
