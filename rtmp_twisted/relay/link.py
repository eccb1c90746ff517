"""The connection of one push or pull: made again for as long as it is wanted, never more than one at a time. Base of
push and pull.

It knows where to: the address of the rule, or the one that the other server has named (a redirect, or Enhanced RTMP
v2's "Reconnect Request"), which holds until a connection to it fails.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final
from urllib.parse import urljoin

from attrs import evolve, frozen
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IAddress, IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.relays import RelayStatus
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.reconnecting import ReconnectingClient, abort_and_wait
from rtmp_twisted.relay.client import ClientProtocol, ClientSession, Refused
from rtmp_twisted.relay.tls import ServerCheck
from rtmp_twisted.relay_rules import Address
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.tls import SecuredFactory
from rtmp_twisted.settings_types import Mistake
from rtmp_twisted.wire import amf0

MAX_REDIRECTS: Final = 3
"""Servers that may send us elsewhere, one after the other, before that is an error."""

SOON: Final = 0.25
"""Seconds until the next attempt where the other server has asked for it, shortened by a random part of up to a
half."""

CONNECT_SECONDS: Final = 15
"""How long TCP may take."""

MAX_DELAY: Final = 30.0
"""Most seconds between two attempts."""

BOUNDARY_SECONDS: Final = 10
"""How long media goes on, after a request to reconnect, until a keyframe comes."""

_log = Logger()


@frozen
class RelayOptions:
    """What all pushes and pulls have in common. ``endpoint`` says how a host and port are reached. ``contexts`` give
    what TLS connections are made with, for a server that is checked and for one that is not. ``chunk_size`` (bytes) is
    that of the channels' logs."""

    reactor: Any
    endpoint: Callable[[str, int], IStreamClientEndpoint]
    broker: Broker
    factory: RTMPFactory
    random: Random
    contexts: Callable[[bool], SSL.Context]
    chunk_size: int = 4096

    @property
    def server_id(self) -> str:
        return self.broker.server_id


class Link(ReconnectingClient[ClientSession]):
    """``kind`` is "push" or "pull". Subclasses say what is done over the connection."""

    kind = ""
    internal = False
    """Whether the other side is another worker of this server."""
    max_delay = MAX_DELAY
    opening_timeout = 60.0
    closing_timeout = 10.0

    def __init__(self, options: RelayOptions, id: str, channel: str, address: Address, made_by: str) -> None:
        super().__init__(
            f"{address} ({self.kind} of channel {channel!r})", options.factory.options.clock, options.random
        )
        self.options = options
        self.id = id
        self.channel = channel
        self.address = address
        self.made_by = made_by
        self.live_since: float | None = None
        self.on_idle: Callable[[], None] = lambda: None
        """Called when it has stopped, and is not to begin again."""
        self._where = address
        self._redirects = 0
        self._at_once = False  # the next attempt is one that the other server has asked for
        self._patience: IDelayedCall | None = None  # with media after such a request
        self._past = Traffic()  # of connections that are lost
        self._stopping: Deferred[None] | None = None
        self._wanted = False

    # What relays calls

    def start(self) -> None:
        """It is wanted. Safe to call again."""
        if not self._wanted:
            self._wanted = True
            if self._stopping is None:
                self.startService()

    def stop(self) -> Deferred[None]:
        """It is not wanted any more; fires when its connection is gone. Safe to call again."""
        self._wanted = False
        if self._stopping is not None:
            return self._stopping
        if not self.running:
            return succeed(None)
        stopping: Deferred[None] = Deferred()
        self._stopping = stopping
        self.stopService().addBoth(self._stopped)
        return stopping

    def status(self) -> RelayStatus:
        session, player = self.connection, None if self.connection is None else self.connection.player
        now = self.clock.seconds()
        traffic = self._past if session is None else self._past + self.traffic(session)
        return RelayStatus(
            id=self.id,
            kind=self.kind,
            channel=self.channel,
            target=str(self.address),
            made_by=self.made_by,
            state=self.state,
            live_seconds=None if self.live_since is None else now - self.live_since,
            bit_rate=0.0 if session is None or self.live_since is None else session.bit_rate,
            total_bytes=traffic.delivered_bytes + traffic.received_bytes,
            waiting_bytes=0 if player is None else player.waiting(),
            skips=traffic.skips,
            skipped_bytes=traffic.skipped_bytes,
            reconnects=self.losses,
            last_error=self.last_problem,
        )

    @property
    def state(self) -> str:
        if self.live_since is not None:
            return "live"
        if self.connection is not None:
            return "waiting"
        if not self.running:
            return "off"
        return "connecting" if self.opening else "trying again"

    # What subclasses say

    def traffic(self, session: ClientSession) -> Traffic:
        """The media that went over one connection."""
        raise NotImplementedError

    async def prepare(self, session: ClientSession) -> None:
        """Publishes or plays on a new connection. Raises PeerError."""
        raise NotImplementedError

    def leave_at_boundary(self, session: ClientSession) -> None:
        """Calls `leave` at the next keyframe."""
        raise NotImplementedError

    # ReconnectingClient

    async def open(self) -> ClientSession:
        where, self._at_once = self._where, False
        try:
            session = await self._open(where)
        except Refused as refused:
            self._follow(refused)
            raise
        except Exception as error:
            self._where, self._redirects = self.address, 0
            if not isinstance(error, _EXPECTED):
                _log.failure("{title}: a bug, which ends this attempt", title=self.title)
            raise
        self._redirects = 0
        Deferred.fromCoroutine(self._note_end(session))
        return session

    @property
    def asked_to_reconnect(self) -> bool:
        """Whether the other server has asked for another connection, which is not there yet."""
        return self._at_once

    def delay(self, attempts: int) -> float:
        # A server that asks for it again and again is called no more often than one that refuses.
        soon = self._at_once and attempts <= MAX_REDIRECTS
        return SOON * self.random.uniform(0.5, 1) if soon else super().delay(attempts)

    # ClientOwner

    def checked(self, session: ClientSession) -> None:
        """Nothing that has to be looked at."""

    def ended(self, session: ClientSession) -> None:
        raise NotImplementedError

    def told(self, code: str, info: dict[str, amf0.Value]) -> None:
        """Nothing that a push has to know."""

    def reconnect(self, url: str) -> None:
        session = self.connection
        if session is None:
            return
        try:
            self._where = self._elsewhere(url) if url else self._where
        except Mistake as mistake:
            _log.warn("{title}: cannot reconnect as it asks: {mistake}", title=self.title, mistake=mistake)
            return
        _log.info("{title}: it asks to reconnect", title=self.title)
        if not self._at_once:
            self._at_once = True
            self._patience = self.clock.callLater(BOUNDARY_SECONDS, self.leave, session)
            self.leave_at_boundary(session)

    def leave(self, session: ClientSession) -> None:
        """Ends a connection, so that the next one is made. Does nothing if it has ended."""
        if self.connection is session:
            session.close()

    # Inside

    async def _open(self, where: Address) -> ClientSession:
        session, connecting = self._connect(where)
        await connecting
        try:
            await self.prepare(session)
        except Exception:
            await abort_and_wait(session)
            raise
        return session

    def _connect(self, where: Address) -> tuple[ClientSession, Deferred[Any]]:
        options = self.options
        connection = options.factory.call(f"{where.host}:{where.port}", self.internal)
        session = ClientSession(connection, where, self, self.kind == "pull")
        connection.handler = session
        check = (
            ServerCheck(options.contexts(where.insecure), where.host, where.insecure)
            if where.scheme == "rtmps"
            else None
        )
        plain = _One(ClientProtocol(session, lambda: "" if check is None else check.problem))
        factory = plain if check is None else SecuredFactory(check, True, plain, options.reactor)
        return session, options.endpoint(where.host, where.port).connect(factory)

    async def _note_end(self, session: ClientSession) -> None:
        """Keeps what a connection has counted, when it is lost."""
        began = self.clock.seconds()
        await session.lost.wait()
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        traffic = self.traffic(session)
        self._past += traffic
        self.live_since = None
        size = traffic.delivered_bytes + traffic.received_bytes
        lost = f", {amount(traffic.skipped_bytes)} left out in {traffic.skips} places" if traffic.skips else ""
        _log.info(
            "{title} has ended after {duration}, {amount}{lost}: {reason}",
            title=self.title,
            duration=duration(self.clock.seconds() - began),
            amount=amount(size),
            lost=lost,
            reason=session.lost.reason,
        )

    def _follow(self, refused: Refused) -> None:
        """Goes where a refusal says, if it says that."""
        self._redirects += 1
        if not refused.redirect or self._redirects > MAX_REDIRECTS:
            self._where, self._redirects = self.address, 0
            return
        try:
            self._where = self._elsewhere(refused.redirect)
        except Mistake as mistake:
            self._where, self._redirects = self.address, 0
            raise PeerError(f"it sends us elsewhere, but {mistake}") from None
        self._at_once = True

    def _elsewhere(self, url: str) -> Address:
        """The address that the other server has named: a ``tcUrl``, perhaps relative, with the stream's name of before.
        Raises Mistake."""
        now = self._where
        found = url
        if "://" not in url:  # relative, by the rules of http: urljoin knows none of rtmp
            try:
                found = now.scheme + urljoin("http" + now.tc_url.removeprefix(now.scheme), url).removeprefix("http")
            except ValueError:
                raise Mistake("to an address that cannot be read") from None
        elsewhere = Address.parse(found.rstrip("/") + "/name")
        if now.scheme == "rtmps" and elsewhere.scheme != "rtmps":
            raise Mistake("to an address without TLS")
        return evolve(elsewhere, name=now.name, insecure=now.insecure)

    def _stopped(self, _: object) -> None:
        stopping, self._stopping = self._stopping, None
        assert stopping is not None
        if self._wanted:
            self.startService()
        else:
            self.on_idle()
        stopping.callback(None)


_EXPECTED: Final = (PeerError, OSError, ConnectError, ConnectionClosed, CancelledError, ConnectingCancelledError)
"""What an attempt may fail with."""


class _One(Factory):
    """Gives one protocol."""

    noisy = False

    def __init__(self, made: ClientProtocol) -> None:
        self._made = made

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol:
        return self._made
