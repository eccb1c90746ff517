"""A relay between a program and the server. It records what passes, and can stop passing anything without closing.

Neither the program nor the server reports what it sends and receives, so tests compare the messages that pass here.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from rtmp_twisted.media import tags
from rtmp_twisted.wire.chunks import ChunkDecoder
from rtmp_twisted.wire.messages import AUDIO, COMMAND_AMF0, COMMAND_AMF3, VIDEO, Message, parse_command
from tests.support.fakes import reactor, until
from tests.support.rtmp_client import codes

HANDSHAKE = 1 + 1536 + 1536


class Tape:
    """What passed in one direction. ``times`` says when each message was complete, in the reactor's seconds."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.times: list[float] = []
        self.frames = 0
        """Number of audio and video messages so far, without headers."""
        self._to_skip = HANDSHAKE
        self._decoder = ChunkDecoder()

    def feed(self, data: bytes) -> None:
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        for message in filter(None, self._decoder.feed(data[skipped:])):
            self.messages.append(message)
            self.times.append(reactor.seconds())
            self.frames += message.type_id in (AUDIO, VIDEO) and not is_header(message)

    @property
    def media(self) -> list[Message]:
        """The audio and video messages, as if all were on message stream 1."""
        return [message._replace(stream_id=1) for message in self.messages if message.type_id in (AUDIO, VIDEO)]

    @property
    def codes(self) -> list[str]:
        """The status codes."""
        return codes(self.messages)

    def commands(self) -> list[tuple[float, str]]:
        """The time and the name of each command."""
        return [
            (time, parse_command(message).name)
            for time, message in zip(self.times, self.messages, strict=True)
            if message.type_id in (COMMAND_AMF0, COMMAND_AMF3)
        ]

    def first_keyframe(self) -> tuple[float, Message]:
        """The first keyframe, and its time."""
        for time, message in zip(self.times, self.messages, strict=True):
            if is_keyframe(message):
                return time, message
        raise AssertionError("no keyframe passed")


def is_header(message: Message) -> bool:
    """Whether this is a codec header."""
    classify = {VIDEO: tags.classify_video, AUDIO: tags.classify_audio}.get(message.type_id)
    return classify is not None and classify(message.body) == tags.HEADER


def is_keyframe(message: Message) -> bool:
    return message.type_id == VIDEO and tags.classify_video(message.body) == tags.KEYFRAME


@implementer(IHandshakeListener)
class Leg(Protocol):
    """One connection of a program, and the connection to the server that the relay makes for it."""

    def __init__(self, relay: Relay) -> None:
        self.began = reactor.seconds()
        self.to_server = Tape()
        self.to_program = Tape()
        self.closed: set[str] = set()
        """Which of "program" and "server" have closed."""
        self._relay = relay
        self._early = b""
        self._server: _ServerSide | None = None

    def connectionMade(self) -> None:
        self.transport: Any
        # The relay must not add delay.
        self.transport.setTcpNoDelay(True)
        self._relay.legs.append(self)
        connectProtocol(self._relay.upstream, _ServerSide(self)).addErrback(lambda _: self.transport.abortConnection())

    def handshakeCompleted(self) -> None:
        self.transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def dataReceived(self, data: bytes) -> None:
        self.transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.to_server.feed(data)
        if self._server is None:
            self._early += data
        else:
            self._server.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.add("program")
        if self._server is not None and "server" not in self.closed and not self._relay.dead:
            self._server.transport.loseConnection()

    def server_connected(self, server: _ServerSide) -> None:
        self._server = server
        server.transport.write(self._early)

    async def until_told(self, code: str) -> None:
        """Returns when the program has received this status code."""
        await until(lambda: code in self.to_program.codes, code)

    def go_dead(self) -> None:
        """From now on nothing passes, and neither side notices."""
        self.transport.pauseProducing()
        if self._server is not None:
            self._server.transport.pauseProducing()

    def close(self) -> None:
        if "program" not in self.closed:
            self.transport.abortConnection()
        if self._server is not None and "server" not in self.closed:
            self._server.transport.abortConnection()


class _NoLeg(Protocol):
    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class _ServerSide(Protocol):
    def __init__(self, leg: Leg) -> None:
        self._leg = leg

    def connectionMade(self) -> None:
        self.transport: Any
        self.transport.setTcpNoDelay(True)
        self._leg.server_connected(self)

    def dataReceived(self, data: bytes) -> None:
        self._leg.to_program.feed(data)
        self._leg.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leg.closed.add("server")
        if "program" not in self._leg.closed:
            self._leg.transport.loseConnection()


class Relay(Factory):
    """The path between one program and the server. ``legs`` are the program's connections so far, in order."""

    def __init__(self, upstream: IStreamClientEndpoint) -> None:
        self.legs: list[Leg] = []
        self.upstream = upstream
        self.dead = False

    async def listen(self, case: TestCase, endpoint: IStreamServerEndpoint) -> int:
        """Accepts programs until the test has ended. Returns the port."""
        listening: Any = await endpoint.listen(self)

        def stop() -> Deferred[None]:
            for leg in self.legs:
                leg.close()
            stopped: Deferred[None] = listening.stopListening()
            return stopped

        case.addCleanup(stop)
        port: int = listening.getHost().port
        return port

    def buildProtocol(self, addr: Any) -> Protocol:
        return _NoLeg() if self.dead else Leg(self)  # with TLS this may not return None

    def go_dead(self) -> None:
        """From now on nothing passes on any connection, and nobody notices."""
        self.dead = True
        for leg in self.legs:
            leg.go_dead()

    def hang_up(self) -> None:
        """Closes the program's connections in an orderly way, and refuses further ones."""
        self.dead = True
        for leg in self.legs:
            leg.transport.loseConnection()

    async def until_connected(self) -> None:
        """Returns when the program has connected."""
        await until(lambda: self.legs, "a connection")

    async def until_sent(self, frames: int) -> None:
        """Returns when the program has sent that many audio and video frames."""
        await until(lambda: self.legs and self.legs[-1].to_server.frames >= frames, f"{frames} frames sent")

    async def until_received(self, frames: int) -> None:
        """Returns when the program has been sent that many audio and video frames."""
        await until(lambda: self.legs and self.legs[-1].to_program.frames >= frames, f"{frames} frames received")
