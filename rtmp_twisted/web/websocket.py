"""A viewer over WebSocket (RFC 6455): the same stream, in binary messages. Made by watch.py.

autobahn answers the handshake, pings and the close, and reads what the client sends. The media goes past it: the
rendition's messages are frames already (framing.py), and autobahn's own frames come between them.
"""

from __future__ import annotations

from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, ITransport
from twisted.python.failure import Failure
from twisted.web.http import SWITCHING
from twisted.web.http_headers import Headers
from zope.interface import implementer

from rtmp_twisted.live.player import Form
from rtmp_twisted.web.viewer import Viewer

MAX_MESSAGE: Final = 4096
"""Bytes of a message, and of a frame, that a viewer may send. Nobody reads it."""

MAX_WAITING: Final = 64 * 1024
"""Bytes of answers to pings that may wait to leave."""

_NORMAL_CLOSURE: Final = 1000
_PASSED_ON: Final = (b"upgrade", b"connection", b"origin")
_PREFIX: Final = b"sec-websocket-"


class _Protocol(WebSocketServerProtocol):  # type: ignore[misc]
    """autobahn's side of a viewer's connection."""

    viewer: WebSocketViewer

    def onConnect(self, request: Any) -> Deferred[None]:
        """The handshake is right. It is answered when what is returned fires."""
        return self.viewer.shaken()


def _factory() -> WebSocketServerFactory:
    factory = WebSocketServerFactory(server="rtmp-twisted")
    factory.protocol = _Protocol
    factory.setProtocolOptions(
        maxFramePayloadSize=MAX_MESSAGE,
        maxMessagePayloadSize=MAX_MESSAGE,
        webStatus=False,
        # The viewer's own times hold.
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
    )
    return factory


_FACTORY: Final = _factory()


@implementer(ITransport)
class _Outlet:
    """What autobahn takes for its transport."""

    disconnecting = False

    def __init__(self, viewer: WebSocketViewer) -> None:
        self._viewer = viewer
        self._waiting = 0

    def write(self, data: bytes) -> None:
        writer = self._viewer.writer
        self._waiting = self._waiting + len(data) if writer.blocked else 0
        if self._waiting > MAX_WAITING:
            self._viewer.abort("it does not read its answers")
        else:
            writer.write(data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def unregisterProducer(self) -> None:
        """The viewer's writer is the producer, and stays it."""

    def loseConnection(self) -> None:
        self._viewer.finish("the viewer left")

    def abortConnection(self) -> None:
        self._viewer.abort("a mistake in the WebSocket protocol")

    def getPeer(self) -> IAddress:
        peer: IAddress = self._viewer.transport.getPeer()
        return peer

    def getHost(self) -> IAddress:
        host: IAddress = self._viewer.transport.getHost()
        return host


class WebSocketViewer(Viewer):
    """``headers`` are the request's."""

    transport_name = "websocket"

    __slots__ = ("_accepted", "_headers", "_protocol")

    def __init__(self, *arguments: Any, headers: Headers) -> None:
        super().__init__(*arguments)
        self._headers = headers
        self._protocol: Any = None
        self._accepted: Deferred[None] | None = None

    @property
    def form(self) -> Form:
        return self.stream.websocket

    def shaken(self) -> Deferred[None]:
        """The client's handshake is right."""
        self._accepted = Deferred()
        return self._accepted

    def received(self, data: bytes) -> None:
        super().received(data)
        if self._protocol is not None and self._closing_since is None:
            self._protocol.dataReceived(data)

    def lost(self, reason: Failure) -> None:
        protocol, self._protocol = self._protocol, None
        self._accepted = None
        super().lost(reason)
        if protocol is not None:
            protocol.connectionLost(reason)
            protocol.viewer = protocol.transport = None

    def _ask(self) -> None:
        self._protocol = protocol = _FACTORY.buildProtocol(None)
        protocol.viewer = self
        protocol.makeConnection(_Outlet(self))
        # The address holds the key, which is none of autobahn's business.
        lines = [b"GET / HTTP/1.1", b"Host: localhost"]
        for name, values in self._headers.getAllRawHeaders():
            if name.lower() in _PASSED_ON or name.lower().startswith(_PREFIX):
                lines += [name + b": " + value for value in values]
        protocol.dataReceived(b"\r\n".join([*lines, b"", b""]))
        if self._accepted is not None:
            super()._ask()

    def _accept(self) -> None:
        self._connection.site.answers[SWITCHING] += 1
        if self._accepted is not None:
            self._accepted.callback(None)

    def _last_words(self) -> None:
        protocol = self._protocol
        if protocol is not None and protocol.state == protocol.STATE_OPEN:
            protocol.sendClose(_NORMAL_CLOSURE)
