"""Requests for files like those before on their connection, which twisted.web does not have to read.

twisted.web takes a tenth of a millisecond to read a request and to write its answer. Those who watch by HLS send
several a second each. All those of one viewer begin and end alike (RFC 9112, section 2.1), and only the file's name
between changes, which is the same for all viewers. So a connection remembers who was let in and with which head, and
the site what names ask for. Answers go straight to the socket, as streams do (rtmp/writer.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from attrs import frozen
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.server import Request

from rtmp_twisted.rtmp.writer import Writer, writer_for
from rtmp_twisted.web.access import Visit
from rtmp_twisted.web.answers import Answer
from rtmp_twisted.web.hls_files import Wanted
from rtmp_twisted.web.site import KEEP_ALIVE_SECONDS, LimitedConnection, LimitedSite

MAX_HEAD: Final = 2048
"""Bytes of the longest head that is remembered."""

MAX_NAME: Final = 128
"""Bytes of the longest name that is remembered, with its query but without a token."""

MAX_KNOWN: Final = 2048
"""Names that are remembered; then all are forgotten."""

_END: Final = b"\r\n\r\n"
_TOKEN: Final = b"token="


@frozen(eq=False, repr=False)
class Session:
    """Somebody who was let in, to watch ``channel``, until the clock's time ``until`` if there is one. Their requests
    have a file's name with its query between ``begin`` and ``end``, and in it ``token``, unless that is empty. For
    ``key`` and ``suffix`` see `HLS.ask`."""

    begin: bytes
    end: bytes
    token: bytes
    channel: str
    key: str | None
    until: float | None
    suffix: bytes

    def name(self, head: bytes) -> bytes:
        """Returns what a request asks for, without the token; nothing where it is not like those before."""
        begin, end = len(self.begin), len(head) - len(self.end)
        if begin > end or not head.startswith(self.begin) or not head.endswith(self.end):
            return b""
        name = head[begin:end]
        return name.replace(self.token, _TOKEN) if self.token else name


class QuickConnection(LimitedConnection):
    """Gives twisted.web one head at a time, and the site's ``answer_again`` those like the ones before. To HLS it is
    the `Asker` of these."""

    site: QuickSite
    _head = b""  # of the request that twisted.web has, if it came without a body
    _session: Session | None = None
    _busy = False  # a request is answered
    _in_body = False  # twisted.web has a head whose body has not come
    _writer: Writer | None = None

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
        elif data and not self._busy and not (self._writer is not None and self._writer.blocked):
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
        if self._session is not None and self._answer_again(self._session, head):
            return
        self._head = head
        self._in_body = True
        HTTPChannel.dataReceived(self, head)
        if not self._busy:
            self._head = b""  # a body follows, which a head alone does not tell
            if self._input:
                self._schedule()

    def _answer_again(self, session: Session, head: bytes) -> bool:
        wanted = self.site.known.get(session.name(head))
        if wanted is None:
            return False
        self.forget_unread()
        self._busy = True
        if self.site.answer_again(self, session, wanted):
            return True
        self._busy = False
        return False

    def request_received(self) -> None:
        super().request_received()
        self._busy = True
        self._in_body = False

    def requestDone(self, request: Request) -> None:
        if self._writer is not None:
            self._writer.wait()
        super().requestDone(request)

    def remember(self, uri: bytes, wanted: Wanted, visit: Visit, suffix: bytes) -> None:
        """The visit that a request with ``uri`` asked for was let in, and others like it may follow. ``wanted`` is what
        it asks for, ``suffix`` what the URIs in its playlists get."""
        head = self._head
        if not self.persistent or len(head) > MAX_HEAD or b"\nExpect" in head or not head.startswith(b"GET " + uri):
            return
        begin = uri.partition(b"?")[0].rfind(b"/") + len(b"GET /")
        end = len(b"GET ") + len(uri)
        token = suffix[1:]
        channel, key = visit.target.channel, visit.key
        session = Session(head[:begin], head[end:], token, channel, key, visit.until, suffix)
        name = session.name(head)
        if len(name) > MAX_NAME or name.count(_TOKEN) != bool(token):
            return
        self._session = session
        known = self.site.known
        if name not in known:
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[name] = wanted

    # What HLS calls

    @property
    def gone(self) -> bool:
        return self._lost or self.heir is not None

    def reply(self, answer: Answer) -> None:
        """Writes the answer to a request that twisted.web has not read."""
        if self.gone:
            return
        site = self.site
        site.answers[answer.code] += 1
        writer = self._writer or self._open_writer()
        self.has_answered = True
        message = answer.message(site.date())
        taken, size = writer.try_writev(message), sum(map(len, message))
        if taken < size:
            rest = b"".join(message)[taken:]
            self.unread += len(rest)
            site.limit_unread(self, len(rest))
            writer.write(rest)
        self._busy = False
        self._arm(KEEP_ALIVE_SECONDS)
        site.unfinished(self)
        if self._input and not writer.blocked:
            self._schedule()

    # Inside

    def _open_writer(self) -> Writer:
        transport = cast(Any, self.transport)
        transport.unregisterProducer()
        writer = self._writer = writer_for(
            transport, self.site.clock, self._drained, lambda: None, lambda _: self.abort()
        )
        if self.has_answered:
            writer.wait()
        return writer

    def _drained(self) -> None:
        """All answers have left."""
        self.site.limit_unread(self, -self.unread)
        self.unread = 0
        if self._input or self._answered is not None:
            self._schedule()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._writer is not None:
            self._writer.clear()
            self._writer = None
        super().connectionLost(reason)


class QuickSite(LimitedSite):
    """``answer_again`` answers a request of a session, or returns False: then twisted.web has to read it."""

    protocol = QuickConnection
    answer_again: Callable[[QuickConnection, Session, Wanted], bool]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.known: dict[bytes, Wanted] = {}
        """What names ask for."""
        self._date = b""
        self._date_made = -1

    def date(self) -> bytes:
        """The date as an answer's head has it, made once a second."""
        second = int(self.clock.seconds())
        if second != self._date_made:
            self._date_made, self._date = second, datetimeToString()
        return self._date
