"""The coordinator: a WebSocket connection over which each publish is requested and kills arrive.

tap.py makes a `CoordinatorAuthority` only when CONTROL_USE is on: importing this module imports autobahn and PyJWT.
This module keeps the connection; coordinator_session.py holds what is said on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import txaio
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.types import ConnectingRequest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from zope.interface import implementer

from rtmp_twisted.integrations.coordinator_messages import MAX_MESSAGE
from rtmp_twisted.integrations.coordinator_session import REQUEST_TIMEOUT, CoordinatorSession
from rtmp_twisted.integrations.tokens import signed_token
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from rtmp_twisted.live.commands import ICommandTarget
from rtmp_twisted.peer_errors import PeerError, describe
from rtmp_twisted.reconnecting import (
    CLOSING_TIMEOUT,
    OPENING_TIMEOUT,
    OneShotEvent,
    ReconnectingClient,
    abort_and_wait,
)

# autobahn logs requests, with their tokens, and each dropped connection. `ReconnectingClient` logs what matters.
# (txaio has this function once autobahn has told it to use Twisted.)
_silent = txaio.make_logger(level="none")  # type: ignore[attr-defined]

PATH = "/ws/control/rtmp"

TOKEN_LIFETIME = 3600
"""Seconds for which a token is valid."""

MAX_OPENING = 16 * 1024
"""Most bytes of the answer to the opening request."""

_MAX_REASON = 200
"""Characters of the other side's reason for a close that are logged."""


def control_url(base: str) -> str:
    """Returns the URL of the coordinator's WebSocket: `PATH`, resolved against ``base`` like a link on a page.

    So the path, the query and the fragment of ``base`` are replaced. Raises ValueError, with one line for the user, if
    ``base`` is not a ws or wss URL with a host, or has a user name (which would be sent nowhere).
    """
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("ws", "wss"):
        raise ValueError("not a ws:// or wss:// URL")
    if not parts.hostname or port == 0 or any(character.isspace() for character in base):
        raise ValueError("not a URL with a host")
    if "@" in parts.netloc:
        raise ValueError("a URL with a user name, which is not supported")
    return urlunsplit((parts.scheme, parts.netloc, PATH, "", ""))


class _Connection(WebSocketClientProtocol):  # type: ignore[misc]
    """One WebSocket connection. Malformed input never raises; it closes the connection."""

    log = _silent

    factory: _ConnectionFactory

    def __init__(self) -> None:
        super().__init__()
        self.lost = OneShotEvent()
        self.opened: Deferred[None] = Deferred()
        self.session: CoordinatorSession | None = None
        self._problem: str | None = None
        self._received = 0
        self._closing: IDelayedCall | None = None

    def onConnecting(self, transport_details: object) -> ConnectingRequest:
        factory = self.factory
        host = f"[{factory.host}]" if ":" in factory.host else factory.host
        return ConnectingRequest(
            host=host,
            port=factory.port,
            resource=factory.resource,
            headers=factory.make_headers(),
            useragent="rtmp-twisted",
        )

    def onOpen(self) -> None:
        self.session = CoordinatorSession(self.factory.clock, self.factory.target, self._send_text, self.fail)
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self.fail("a message that is not text")
        elif self.session is not None:
            self.session.received(payload.decode())

    def dataReceived(self, data: bytes) -> None:
        if self.session is None:
            self._received += len(data)
            if self._received > MAX_OPENING:
                self.fail("an endless answer to the opening request")
                return
        try:
            super().dataReceived(data)
        except Exception as error:
            self.fail(f"not the WebSocket protocol ({describe(error)})")

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        """The other side closes, or answers this side's close. This side then closes TCP, and does not wait for it."""
        done: bool | None = super().onCloseFrame(code, reasonRaw)
        self._end(f"closed by the coordinator ({code})")
        self.transport.loseConnection()
        self._closing = self.factory.clock.callLater(CLOSING_TIMEOUT, self.abort)
        return done

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._end(self._problem or (reason or "connection closed"))
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        self.lost.happen(self._problem or "connection closed")

    def fail(self, problem: str) -> None:
        """Closes the connection at once. ``problem`` goes to the log."""
        self._end(problem)
        self.abort()

    def close(self) -> None:
        self._end("closed by this server")
        self.sendClose(1000)

    def abort(self) -> None:
        self.transport.abortConnection()

    def _end(self, problem: str) -> None:
        """Ends the session. Nothing is sent after this, although the transport may still be there."""
        if self._problem is None:
            self._problem = "".join(
                character if character.isprintable() else "?" for character in problem[:_MAX_REASON]
            )
        if not self.opened.called:
            self.opened.errback(PeerError(self._problem))
        if self.session is not None:
            self.session.closed()

    def _send_text(self, text: str) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(text.encode())


class _ConnectionFactory(WebSocketClientFactory):  # type: ignore[misc]
    protocol = _Connection
    noisy = False
    log = _silent

    target: ICommandTarget

    def __init__(
        self, reactor: IReactorTime, url: str, clock: IReactorTime, make_headers: Callable[[], dict[str, str]]
    ) -> None:
        super().__init__(url, reactor=reactor)
        self.clock = clock
        self.make_headers = make_headers
        # autobahn's own time-outs would run on the global reactor; `ReconnectingClient` and the session have theirs.
        self.setProtocolOptions(
            maxFramePayloadSize=MAX_MESSAGE,
            maxMessagePayloadSize=MAX_MESSAGE,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
        )


@implementer(IPublishAuthority)
class CoordinatorAuthority(ReconnectingClient[_Connection]):
    """Keeps a connection to the coordinator at ``base_url``, and asks it about each publish.

    ``target`` (the broker) executes its kills. It must be set before the service starts, and may be set after the
    construction, since the broker needs its authority first. At a shutdown, the publishes should have ended before
    this service stops, so that each PUBLISH-END is sent. Requests that are pending then have ``shutdown_timeout``
    seconds for their answers.

    ``now`` returns the time of day in seconds, for the tokens. In tests, ``clock`` replaces the reactor's time, and
    ``trust_root`` the system's root certificates for wss. Raises ValueError if ``base_url`` cannot be used.
    """

    target: ICommandTarget | None

    def __init__(
        self,
        reactor: IReactorTime,
        random: Random,
        *,
        base_url: str,
        secret: str,
        external_ip: str = "",
        external_port: int | None = None,
        external_ssl: bool = False,
        target: ICommandTarget | None = None,
        shutdown_timeout: float = REQUEST_TIMEOUT,
        trust_root: Any = None,
        clock: IReactorTime | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._factory = _ConnectionFactory(reactor, control_url(base_url), clock or reactor, self._headers)
        host, port = self._factory.host, self._factory.port
        super().__init__(f"the coordinator at {host}:{port}", clock or reactor, random)
        endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, host, port, timeout=OPENING_TIMEOUT)
        if self._factory.isSecure:
            endpoint = wrapClientTLS(optionsForClientTLS(host, trustRoot=trust_root), endpoint)
        self._endpoint = endpoint
        self.target = target
        self._shutdown_timeout = shutdown_timeout
        self._secret = secret
        self._now = now
        self._external = {"x-external-ip": external_ip, "x-custom-port": str(external_port or "")}
        self._external["x-ssl-use"] = "true" if external_ssl else ""

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        session = self._session()
        if session is None:
            return fail(Refused("there is no connection to the coordinator"))
        return session.request(channel, key, client_ip)

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        session = self._session()
        if session is not None:
            session.end(channel, stream_id)
        return succeed(None)

    def startService(self) -> None:
        assert self.target is not None, "the target must be set first"
        self._factory.target = self.target
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Waits for pending answers first, so that the end of what they accept can be sent."""
        session = self._session()
        if session is None:
            return super().stopService()
        limit = self.clock.callLater(self._shutdown_timeout, session.refuse_pending)

        def close(_: object) -> Deferred[None]:
            if limit.active():
                limit.cancel()
            return ReconnectingClient.stopService(self)

        return session.all_answered().addCallback(close)

    async def open(self) -> _Connection:
        connection = cast(_Connection, await self._endpoint.connect(self._factory))
        try:
            await connection.opened
        except BaseException:
            await abort_and_wait(connection)
            raise
        return connection

    def _session(self) -> CoordinatorSession | None:
        session = self.connection.session if self.connection is not None else None
        return session if session is not None and session.is_open else None

    def _headers(self) -> dict[str, str]:
        issued = int(self._now())
        claims: dict[str, str | int] = {"sub": "rtmp-control", "iat": issued, "exp": issued + TOKEN_LIFETIME}
        headers = {"x-control-auth-token": signed_token(claims, self._secret)}
        return headers | {name: value for name, value in self._external.items() if value}
