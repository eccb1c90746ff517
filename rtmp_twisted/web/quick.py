"""Requests that have been read before, byte by byte the same: how thousands of HLS players ask for the same part.

twisted.web takes a tenth of a millisecond to read a request and to write its answer. Those who watch by HLS send
several a second each, and most of them the same ones. What a head (RFC 9112, section 2.1) asks for is remembered, and
who may watch is decided anew for each; answers go straight to the socket, as streams do (rtmp/writer.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.server import Request

from rtmp_twisted.rtmp.writer import Writer, writer_for
from rtmp_twisted.web import answers
from rtmp_twisted.web.site import KEEP_ALIVE_SECONDS, LimitedConnection, LimitedSite

MAX_HEAD: Final = 2048
"""Bytes of the longest head that is remembered."""

MAX_KNOWN: Final = 2048
"""Heads that are remembered; then all are forgotten."""

_END: Final = b"\r\n\r\n"
_SHARED: Final = "".join(f"{name}: {value}\r\n" for name, value in answers.SHARED.items()).encode()


class QuickRequest:
    """What twisted.web's request is to those who answer it. Always a GET on a persistent connection."""

    method = b"GET"

    def __init__(self, channel: QuickConnection, args: dict[bytes, list[bytes]]) -> None:
        self.channel = channel
        self.args = args
        self._code = 200
        self._head: list[bytes] = []
        self._body: list[bytes | memoryview] = []
        self._gone: list[Deferred[None]] = []

    def notifyFinish(self) -> Deferred[None]:
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    def setResponseCode(self, code: int) -> None:
        self._code = code

    def setHeader(self, name: bytes | str, value: bytes | str) -> None:
        name = name.encode() if isinstance(name, str) else name
        self._head.append(b"%s: %s\r\n" % (name, value.encode() if isinstance(value, str) else value))

    def write(self, data: bytes) -> None:
        self._body.append(data)

    def finish(self) -> None:
        date = self.channel.site.date()
        status = b"HTTP/1.1 %d %s\r\nDate: %s\r\n" % (self._code, answers.phrase(self._code), date)
        self.channel.answer(self._code, [b"".join((status, _SHARED, *self._head, b"\r\n")), *self._body])

    def lost(self, reason: Failure) -> None:
        """The connection is lost before the answer."""
        for gone in self._gone:
            gone.errback(reason)


class QuickConnection(LimitedConnection):
    """Gives twisted.web one head at a time, and those that are known to the site's ``answer_known``."""

    site: QuickSite
    head = b""
    """Of the request that twisted.web has, if it came without a body."""
    _busy = False  # a request is answered
    _in_body = False  # twisted.web has a head whose body has not come
    _writer: Writer | None = None
    _request: QuickRequest | None = None

    def _read(self) -> bool:
        self._scheduled = False
        if self._lost:
            return False
        data = self._unread_input()
        request, self._answered = self._answered, None
        if request is not None:
            self._busy = False
            HTTPChannel.requestDone(self, request)
        if self.heir is not None:
            self._input.clear()
            if data:
                self.heir.received(data)
        elif self._in_body:
            self._input.clear()
            HTTPChannel.dataReceived(self, data)
        elif not self._busy and data:
            self._read_head(data)
        return False

    def _read_head(self, data: bytes) -> None:
        end = data.find(_END) + len(_END)
        if end < len(_END):
            if len(data) <= self.totalHeadersSize:
                return
            end = len(data)  # twisted.web says what is wrong with it
        head, rest = data[:end], data[end:]
        self._input = [rest] if rest else []
        known = self.site.known.get(head)
        if known is not None:
            self.request_received()
            self._request = QuickRequest(self, known[1])
            self.site.answer_known(self, self._request, known[0])
            return
        self.head = head
        self._in_body = True
        HTTPChannel.dataReceived(self, head)
        if not self._busy:
            self.head = b""  # a body follows, which a head alone does not tell
            if self._input:
                self._schedule()

    def request_received(self) -> None:
        super().request_received()
        self._busy = True
        self._in_body = False

    def requestDone(self, request: Request) -> None:
        if self._writer is not None:
            self._writer.wait()
        super().requestDone(request)

    def remember(self, wish: object, args: dict[bytes, list[bytes]]) -> None:
        """The request that is being answered may be answered from its head alone when it comes again. ``wish`` is what
        it asks for, ``args`` its query."""
        known = self.site.known
        if self.persistent and self.head and len(self.head) <= MAX_HEAD and b"\nExpect" not in self.head:
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[self.head] = wish, args

    def answer(self, code: int, buffers: list[bytes | memoryview]) -> None:
        """Writes the answer to a request that was known."""
        self._request = None
        if self._lost or self.heir is not None:
            return
        self.site.answers[code] += 1
        writer = self._writer
        if writer is None:
            cast(Any, self.transport).unregisterProducer()
            writer = writer_for(
                cast(Any, self.transport), self.site.clock, self._drained, lambda: None, lambda _: self.abort()
            )
            self._writer = writer
            if self.has_answered:
                writer.wait()
        self.has_answered = True
        size = sum(map(len, buffers))
        taken = writer.try_writev(buffers)
        if taken < size:
            rest = b"".join(buffers)[taken:]
            self.unread += len(rest)
            self.site.limit_unread(self, len(rest))
            writer.write(rest)
        self._busy = False
        self._arm(KEEP_ALIVE_SECONDS)
        self.site.unfinished(self)
        if self._input and not writer.blocked:
            self._schedule()

    def _drained(self) -> None:
        """All answers have left."""
        self.site.limit_unread(self, -self.unread)
        self.unread = 0
        if self._input or self._answered is not None:
            self._schedule()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.lost(reason)
        if self._writer is not None:
            self._writer.clear()
            self._writer = None
        super().connectionLost(reason)


class QuickSite(LimitedSite):
    """``answer_known`` is given a connection, a request, and the wish of one that `QuickConnection.remember` got."""

    protocol = QuickConnection
    answer_known: Callable[[QuickConnection, QuickRequest, Any], None]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.known: dict[bytes, tuple[object, dict[bytes, list[bytes]]]] = {}
        """What heads ask for."""
        self._date = b""
        self._date_made = -1

    def date(self) -> bytes:
        """The date as an answer's head has it, made once a second."""
        second = int(self.clock.seconds())
        if second != self._date_made:
            self._date_made, self._date = second, datetimeToString()
        return self._date
