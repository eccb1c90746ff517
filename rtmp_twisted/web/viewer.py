"""One viewer of an endless stream over HTTP: from its request to the end of its connection. Made by watch.py.

    attempt (waits if its address has failed before) -> waits for a publisher -> watches -> ends with the publish

It takes the connection over from twisted.web at once. Its player writes to the same kind of writer as an RTMP player's,
so the rendition's bytes go straight to the socket. Nothing is answered before the publisher is there and the key has
been compared. The site calls ``check`` every second.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from attrs import Factory, field, frozen
from twisted.internet import error
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http

from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.player import Form, Player
from rtmp_twisted.logs import SessionLog
from rtmp_twisted.rtmp.connection import LINGER_SECONDS, STUCK_SECONDS
from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.message_stream import DRAINED
from rtmp_twisted.rtmp.writer import Writer, writer_for
from rtmp_twisted.web import answers, framing
from rtmp_twisted.web.access import Access, Denied, Visit
from rtmp_twisted.web.hls import HLS
from rtmp_twisted.web.site import LimitedConnection

WAIT_SECONDS: Final = 30
"""How long a viewer waits for a publisher, before it is told that there is none."""

ENDING_SECONDS: Final = 10
"""How long a viewer may take for the rest of a publish that has ended."""

MAX_IGNORED: Final = 16 * 1024
"""Bytes a second that a client may send after its request, which nobody needs."""

_SILENT_ENDS: Final = (error.ConnectionDone, error.ConnectionLost, error.ConnectionAborted)
_log = Logger()


@frozen
class Stream:
    """A format that is an endless stream: its name in an address, its media type, and the rendition's form, as it is
    (for HTTP/1.0), in chunks and in WebSocket frames."""

    name: str
    content_type: str
    form: Form
    chunked: Form = field(init=False)
    websocket: Form = field(init=False)

    @chunked.default
    def _chunked(self) -> Form:
        return framing.chunked(self.form)

    @websocket.default
    def _websocket(self) -> Form:
        return framing.websocket(self.form)


@frozen
class Viewers:
    """All viewers, and what they have in common. ``debug``: whether such log events are wanted."""

    clock: IReactorTime
    broker: Broker
    access: Access
    debug: bool = False
    hls: HLS = field(default=Factory(lambda self: HLS(self.clock, self.broker), takes_self=True))
    all: dict[Viewer, None] = field(factory=dict)
    """The oldest first."""

    def clients(self) -> list[Callable[[], object]]:
        """What sends each viewer away, for `live.drain.Drain`."""
        return [viewer.send_away for viewer in self.all]

    def check(self) -> None:
        """Checks each viewer's times; called every second. Never raises."""
        now = self.clock.seconds()
        for viewer in list(self.all):
            viewer.check(now)


class Viewer:
    """Begins with `begin`. ``in_chunks``: whether the client knows chunks (HTTP/1.1); ``with_body``: whether the stream
    itself is wanted, or only the head of the answer."""

    transport_name = "http"
    """How it is served, for the metrics."""

    __slots__ = (
        "__weakref__",
        "_attempt",
        "_began",
        "_closing_since",
        "_connection",
        "_deadline",
        "_ignored",
        "_in_chunks",
        "_left",
        "_logged_skips",
        "_player",
        "_reason",
        "_with_body",
        "log",
        "stream",
        "transport",
        "viewers",
        "visit",
        "writer",
    )

    def __init__(
        self,
        viewers: Viewers,
        connection: LimitedConnection,
        number: int,
        visit: Visit,
        stream: Stream,
        in_chunks: bool = True,
        with_body: bool = True,
    ) -> None:
        self.viewers = viewers
        self.visit = visit
        self.stream = stream
        self.log = SessionLog(_log, f"w{number}", visit.peer, viewers.debug)
        self.writer: Writer
        self._connection = connection
        self._in_chunks = in_chunks
        self._with_body = with_body
        self.transport: Any = None
        self._attempt: IDelayedCall | None = None  # until its key is looked at
        self._player: Player | None = None
        self._deadline: float | None = None  # for a publisher, or for the rest of a publish
        self._began: float | None = None  # when the stream began
        self._closing_since: float | None = None
        self._reason = ""  # why it will end
        self._left = False
        self._ignored = 0
        self._logged_skips = 0

    def begin(self) -> None:
        """Takes the connection over. Never raises."""
        clock = self.viewers.clock
        self.transport = transport = self._connection.take_over(self)
        with contextlib.suppress(AttributeError, OSError):  # not TCP
            transport.setTcpKeepAlive(True)
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_SECONDS * 1000)
        self.writer = writer_for(transport, clock, self._drained, self._blocked, self.abort)
        if self._connection.has_answered:
            self.writer.wait()
        self.viewers.all[self] = None
        try:
            self._ask()
        except Exception:
            self._fail()

    @property
    def form(self) -> Form:
        """The rendition that it reads."""
        return self.stream.chunked if self._in_chunks else self.stream.form

    @property
    def watching(self) -> bool:
        """Whether it gets a stream, or has got one to the end."""
        return self._began is not None

    # What its connection calls

    def received(self, data: bytes) -> None:
        self._ignored += len(data)
        if self._ignored > MAX_IGNORED:
            self.abort("it goes on sending")

    def lost(self, reason: Failure) -> None:
        why = "the viewer left" if reason.check(*_SILENT_ENDS) else reason.getErrorMessage()
        del self.viewers.all[self]
        self._leave(self._reason or why)
        self.writer.clear()
        self.transport = self._connection = cast(Any, None)

    # What access, broker and writer call

    def _ask(self) -> None:
        """Asks whether it may watch."""
        self._attempt = self.viewers.access.attempt(self.visit, self.log, self._judged)

    def _judged(self, denied: Denied | None) -> None:
        self._attempt = None
        if denied is None and self.viewers.broker.draining:
            denied = Denied(http.SERVICE_UNAVAILABLE, DRAINED)
        if denied is not None:
            self._refuse(denied.code, str(denied))
            return
        visit = self.visit
        player = Player(self, self.writer, visit.key, form=self.form, watcher=self)
        try:
            on_air = self.viewers.broker.play(visit.target.channel, player)
        except Refused:
            self._deny()
            return
        self._player = player
        if on_air:
            self._start(player)
        else:
            self._deadline = self.viewers.clock.seconds() + WAIT_SECONDS
            self.log.info('waiting for a publisher on channel "{channel}"', channel=visit.target.channel)

    def publish_began(self, player: Player) -> None:
        try:
            self._start(player)
        except Exception:
            self._fail()

    def publish_ended(self, player: Player) -> None:
        self._reason = "the publish has ended"
        self._deadline = self.viewers.clock.seconds() + ENDING_SECONDS
        self._finish_if_caught_up()

    def play_refused(self, player: Player, reason: str) -> None:
        if self._player is player:
            self._player = None
            self._deny()

    def play_ended(self, player: Player, reason: str) -> None:
        if self._player is player:
            self.finish(reason)

    def _drained(self) -> None:
        if self._player is not None:
            self._player.resume()
            self._finish_if_caught_up()

    def _blocked(self) -> None:
        if self._player is not None:
            self._player.blocked()

    # Called every second

    def check(self, now: float) -> None:
        """Ends it if its time is over. Never raises."""
        try:
            self._check(now)
        except Exception:
            self._fail()

    def _check(self, now: float) -> None:
        self._ignored = 0
        if self._closing_since is not None:
            if now - self._closing_since >= LINGER_SECONDS:
                self.transport.abortConnection()
            return
        blocked_since = self.writer.blocked_since
        until = self.visit.until
        if until is not None and now >= until:
            self.finish("the token has expired")
        elif blocked_since is not None and now - blocked_since >= STUCK_SECONDS:
            self.abort(f"took nothing for {STUCK_SECONDS} s")
        elif self._deadline is not None and now >= self._deadline:
            if self._began is None:
                self._refuse(http.NOT_FOUND, "nobody publishes there now")
            else:
                self.finish(self._reason)
        elif self._player is not None and self._player.skips != self._logged_skips:
            log = self.log.debug if self._logged_skips else self.log.info
            self._logged_skips = self._player.skips
            log(
                "too slow: {amount} of channel {channel!r} left out so far",
                amount=amount(self._player.skipped_bytes),
                channel=self.visit.target.channel,
            )

    # Inside

    def _start(self, player: Player) -> None:
        """A publisher is there, and the key is right: the answer begins."""
        self._deadline = None
        self._began = self.viewers.clock.seconds()
        self.log.info(
            'watching channel "{channel}" as {stream}', channel=self.visit.target.channel, stream=self.stream.name
        )
        self._accept()
        if not self._with_body:
            self.finish("it wanted the head only")
        elif self._player is player:  # else the connection came to its end over the answer
            self.viewers.broker.start(player)

    def _accept(self) -> None:
        """Writes what comes before the stream."""
        self._connection.site.answers[http.OK] += 1
        headers = {"Content-Type": self.stream.content_type, **answers.ENDLESS}
        if self._in_chunks:
            headers["Transfer-Encoding"] = "chunked"
        self.writer.write(answers.head(http.OK, headers))

    def _deny(self) -> None:
        """The key is not the publisher's."""
        self.viewers.access.fail(self.visit)
        self._refuse(http.FORBIDDEN, "the key is not the publisher's")

    def _refuse(self, code: int, reason: str) -> None:
        log = self.log.debug if code == http.NOT_FOUND or code == answers.TOO_MANY_REQUESTS else self.log.info
        log('watching channel "{channel}" refused: {reason}', channel=self.visit.target.channel, reason=reason)
        self._answer_refusal(code, reason)
        self.finish(reason)

    def _answer_refusal(self, code: int, reason: str) -> None:
        self._connection.site.answers[code] += 1
        self.writer.write(answers.refusal(code, reason, self._with_body))

    def _finish_if_caught_up(self) -> None:
        ending = self._deadline is not None and self._began is not None
        if ending and self._player is not None and self._player.caught_up and not self.writer.blocked:
            self.finish(self._reason)

    def send_away(self) -> None:
        """The viewer is to go to another server. Safe to call when it is gone."""
        if self._closing_since is None and self in self.viewers.all:
            if self._began is None:
                self._refuse(http.SERVICE_UNAVAILABLE, DRAINED)
            else:
                self.finish(DRAINED)

    def finish(self, reason: str) -> None:
        """Closes the connection when all that was written has arrived."""
        if self._closing_since is None:
            self._closing_since = self.viewers.clock.seconds()
            self._leave(reason)
            if self._began is not None:
                self._last_words()
            self._close()

    def _last_words(self) -> None:
        """Writes what comes behind the stream."""
        if self._in_chunks and self._with_body:
            self.writer.write(framing.LAST_CHUNK)

    def _close(self) -> None:
        """Nothing more is written."""
        transport = self.transport
        self.writer.close()
        half_close = getattr(transport, "loseWriteConnection", None)
        if half_close is None or ISSLTransport.providedBy(transport):
            transport.loseConnection()
        else:
            half_close()

    def abort(self, reason: str) -> None:
        """Closes the connection at once."""
        if self._closing_since is None:
            self._closing_since = self.viewers.clock.seconds()
        self._leave(reason)
        if self.transport is not None:
            self.transport.abortConnection()

    def _fail(self) -> None:
        self.log.failure("a bug, which ends this viewer")
        self.abort("internal error")

    def _leave(self, reason: str) -> None:
        """It gets nothing of the stream any more. Safe to call again."""
        if self._left:
            return
        self._left = True
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        player, self._player = self._player, None
        if player is None:
            return
        self.viewers.broker.leave(player)
        if self._began is not None:
            lost = f", {amount(player.skipped_bytes)} left out in {player.skips} places" if player.skips else ""
            self.log.info(
                'stopped watching channel "{channel}" after {duration}, {amount}{lost}: {reason}',
                channel=self.visit.target.channel,
                duration=duration(self.viewers.clock.seconds() - self._began),
                amount=amount(player.delivered()),
                lost=lost,
                reason=reason,
            )
