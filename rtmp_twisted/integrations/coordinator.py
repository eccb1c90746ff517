"""The coordinator: a WebSocket connection on which each publish is asked for, and on which kills arrive.

`CoordinatorAuthority` is made by tap.py, only when CONTROL_USE is on: importing this file imports autobahn and PyJWT.
This file holds the connection; what is said on it is in conversation.py.
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
from rtmp_twisted.integrations.errors import PeerError, describe
from rtmp_twisted.integrations.reconnecting import (
    CLOSING_TIMEOUT,
    OPENING_TIMEOUT,
    OneShotEvent,
    ReconnectingClient,
    aborted,
)
from rtmp_twisted.integrations.tokens import signed_token
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from rtmp_twisted.live.commands import ICommandTarget

# autobahn logs requests, tokens included, and each dropped connection; `ReconnectingClient` logs what is worth a line.
# (txaio has this function once autobahn has told it to use Twisted.)
_silent = txaio.make_logger(level="none")  # type: ignore[attr-defined]

PATH = "/ws/control/rtmp"

#: Seconds for which a token is good.
TOKEN_LIFETIME = 3600

#: Bytes that the answer to the opening request may have.
MAX_OPENING = 16 * 1024

#: Characters of the other side's reason that are logged.
_MAX_REASON = 200


def control_url(base: str) -> str:
    """The address of the coordinator's WebSocket: `PATH`, resolved against ``base`` like a link on a page.

    So a path that ``base`` has is replaced, as are a query and a fragment. Raises ValueError, with one clear line,
    where ``base`` is not a ws or wss URL with a host, or holds a user name (which would go nowhere).
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


class _ControlProtocol(WebSocketClientProtocol):  # type: ignore[misc]
    """One connection. What arrives raises nothing; what cannot be understood ends it."""

    log = _silent

    factory: _ControlFactory

    def __init__(self) -> None:
        super().__init__()
        self.lost = OneShotEvent()
        self.opened: Deferred[None] = Deferred()
        self.conversation: CoordinatorSession | None = None
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
        self.conversation = CoordinatorSession(self.factory.clock, self.factory.target, self._say, self.give_up)
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self.give_up("a message that is not text")
        elif self.conversation is not None:
            self.conversation.received(payload.decode())

    def dataReceived(self, data: bytes) -> None:
        if self.conversation is None:
            self._received += len(data)
            if self._received > MAX_OPENING:
                self.give_up("an endless answer to the opening request")
                return
        try:
            super().dataReceived(data)
        except Exception as error:
            self.give_up(f"not the WebSocket protocol ({describe(error)})")

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        """The other side closes, or has answered our closing. Its TCP connection is not left to it."""
        done: bool | None = super().onCloseFrame(code, reasonRaw)
        self._end(f"closed by the coordinator ({code})")
        self.transport.loseConnection()
        self._limit_closing()
        return done

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._end(self._problem or (reason or "connection closed"))
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        self.lost.happen(self._problem or "connection closed")

    def give_up(self, problem: str) -> None:
        self._end(problem)
        self.abort()

    def close(self) -> None:
        self._end("closed by this server")
        self.sendClose(1000)
        self._limit_closing()

    def abort(self) -> None:
        self.transport.abortConnection()

    def _limit_closing(self) -> None:
        if self._closing is None:
            self._closing = self.factory.clock.callLater(CLOSING_TIMEOUT, self.abort)

    def _end(self, problem: str) -> None:
        """From here on nothing can be said, although the transport may still be there."""
        if self._problem is None:
            self._problem = "".join(
                character if character.isprintable() else "?" for character in problem[:_MAX_REASON]
            )
        if not self.opened.called:
            self.opened.errback(PeerError(self._problem))
        if self.conversation is not None:
            self.conversation.closed()

    def _say(self, text: str) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(text.encode())


class _ControlFactory(WebSocketClientFactory):  # type: ignore[misc]
    protocol = _ControlProtocol
    noisy = False
    log = _silent

    target: ICommandTarget

    def __init__(
        self, reactor: IReactorTime, url: str, clock: IReactorTime, make_headers: Callable[[], dict[str, str]]
    ) -> None:
        super().__init__(url, reactor=reactor)
        self.clock = clock
        self.make_headers = make_headers
        # autobahn's own time-outs would run on the global reactor; the link and the conversation have theirs.
        self.setProtocolOptions(
            maxFramePayloadSize=MAX_MESSAGE,
            maxMessagePayloadSize=MAX_MESSAGE,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
        )


@implementer(IPublishAuthority)
class CoordinatorAuthority(ReconnectingClient[_ControlProtocol]):
    """Keeps the connection to the coordinator at ``base_url`` and asks it for each publish.

    ``target`` (the broker) takes its kills; it must be set before the service starts, and may be set after the
    construction, since the broker wants its authority first. At a shutdown, the publishes should have ended before
    this service stops, so that each PUBLISH-END is sent; what is still being asked then has ``shutdown_timeout``
    seconds for its answer.

    ``clock`` is the reactor unless a test says otherwise; ``trust_root`` replaces the system's roots for wss; ``now``
    gives the time of day in seconds, for the tokens. Raises ValueError where ``base_url`` cannot be used.
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
        self._factory = _ControlFactory(reactor, control_url(base_url), clock or reactor, self._headers)
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
        self._place = {"x-external-ip": external_ip, "x-custom-port": str(external_port or "")}
        self._place["x-ssl-use"] = "true" if external_ssl else ""

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        conversation = self._conversation()
        if conversation is None:
            return fail(Refused("there is no connection to the coordinator"))
        return conversation.request(channel, key, client_ip)

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        conversation = self._conversation()
        if conversation is not None:
            conversation.end(channel, stream_id)
        return succeed(None)

    def startService(self) -> None:
        assert self.target is not None, "the target must be set first"
        self._factory.target = self.target
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Waits for the answers that are under way, so that what they accept is ended in so many words."""
        conversation = self._conversation()
        if conversation is None:
            return super().stopService()
        limit = self.clock.callLater(self._shutdown_timeout, conversation.stop_waiting)

        def close(_: object) -> Deferred[None]:
            if limit.active():
                limit.cancel()
            return ReconnectingClient.stopService(self)

        return conversation.answered().addCallback(close)

    async def open(self) -> _ControlProtocol:
        protocol = cast(_ControlProtocol, await self._endpoint.connect(self._factory))
        try:
            await protocol.opened
        except BaseException:
            await aborted(protocol)
            raise
        return protocol

    def _conversation(self) -> CoordinatorSession | None:
        conversation = self.connection.conversation if self.connection is not None else None
        return conversation if conversation is not None and conversation.is_open else None

    def _headers(self) -> dict[str, str]:
        issued = int(self._now())
        claims: dict[str, str | int] = {"sub": "rtmp-control", "iat": issued, "exp": issued + TOKEN_LIFETIME}
        headers = {"x-control-auth-token": signed_token(claims, self._secret)}
        return headers | {name: value for name, value in self._place.items() if value}
