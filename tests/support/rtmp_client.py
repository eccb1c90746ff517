"""A small RTMP client for tests that need to say and to see exactly what goes over the wire.

Its connection is the package's own, in a client's role.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from rtmp_twisted.live.turns import Turns
from rtmp_twisted.rtmp.connection import Connection, ConnectionOptions
from rtmp_twisted.rtmp.protocol import RTMPProtocol
from rtmp_twisted.wire import amf0, chunks, messages
from rtmp_twisted.wire.handshake import ClientHandshake
from rtmp_twisted.wire.messages import Command, Message
from tests.support.fakes import reactor, within

HANDSHAKE = b"\x03" + bytes(1536)


class RTMPClient(RTMPProtocol):
    """``received`` is every message so far; ``chunk_size`` that of what is sent."""

    transport: Any

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.chunk_size = chunks.DEFAULT_CHUNK_SIZE
        self.ready: Deferred[None] = Deferred()
        """Fires when the handshake has been made, or the connection was lost before."""
        self.lost: Deferred[None] = Deferred()
        self.closed = False
        self._waiting: list[tuple[Callable[[Message], bool], Deferred[Message]]] = []
        self._transaction = 0
        self._pings = 0
        options = ConnectionOptions(reactor, self, Turns(reactor), lambda: None)
        super().__init__(Connection(options, ClientHandshake(os.urandom, lambda: 0), 0, "the server"))
        self.connection.handler = self
        self.connection.accept_messages(chunks.MAX_MESSAGE_LENGTH)

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.unregisterProducer()  # tests end the connection by its transport, which would wait for it

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        transport = self.transport
        super().connectionLost(reason)
        self.transport = transport  # a test may close it again

    # What the connection calls, as its registry and its handler

    def connection_made(self, connection: Connection) -> None: ...

    def connection_lost(self, connection: Connection) -> None: ...

    def exempt(self, connection: Connection) -> None: ...

    def handshaken(self) -> None:
        self.ready.callback(None)

    def receive(self, message: Message) -> None:
        self.received.append(message)
        for item in list(self._waiting):
            if item[0](message):
                self._waiting.remove(item)
                item[1].callback(message)

    def drained(self) -> None: ...

    def blocked(self) -> None: ...

    def delivered(self) -> int:
        return 0

    def check(self, received: int, seconds: float) -> None: ...

    def end(self, reason: str) -> None:
        self.closed = True
        waiting, self._waiting = self._waiting, []
        for _, deferred in waiting:
            deferred.errback(AssertionError(f"the connection was lost; it brought {self.summary()}"))
        if not self.ready.called:
            self.ready.callback(None)
        self.lost.callback(None)

    # What a test calls

    def send(self, *to_send: Message) -> None:
        """Sends messages in one write."""
        self.connection.writer.write(
            b"".join(chunks.encode(message, 3 if message.type_id == 20 else 4, self.chunk_size) for message in to_send)
        )

    def set_chunk_size(self, size: int) -> None:
        self.send(messages.set_chunk_size(size))
        self.chunk_size = size

    def call(self, name: str, *arguments: amf0.Value, stream_id: int = 0) -> int:
        """Sends a command, and returns its transaction id."""
        self._transaction += 1
        self.send(messages.command(name, self._transaction, *arguments, stream_id=stream_id))
        return self._transaction

    def until(self, condition: Callable[[Message], bool], what: str = "a message") -> Deferred[Message]:
        """The first message, from the beginning, for which ``condition`` is true."""
        for message in self.received:
            if condition(message):
                done: Deferred[Message] = Deferred()
                done.callback(message)
                return done
        waiting: Deferred[Message] = Deferred()
        self._waiting.append((condition, waiting))

        def explain(failure: Failure) -> Failure:
            raise AssertionError(f"{what} did not come, but {self.summary()}") from failure.value

        return within(waiting).addErrback(explain)

    def status(self, code: str) -> Deferred[Message]:
        """The first ``onStatus`` with ``code``."""
        return self.until(lambda message: code in codes([message]), code)

    async def open(self, channel: str = "channel", **wishes: amf0.Value) -> None:
        """``connect`` and ``createStream``, with their answers."""
        await within(self.ready)
        self.call("connect", {"app": channel, **wishes})
        self.call("createStream", None)
        transaction = self._transaction
        await self.until(lambda message: answers(message, transaction), "createStream's answer")

    async def publish(self, key: str = "key", stream_id: int = 1) -> None:
        self.call("publish", None, key, "live", stream_id=stream_id)
        await self.status("NetStream.Publish.Start")

    async def play(self, key: str = "key", stream_id: int = 1) -> None:
        self.call("play", None, key, -2000.0, stream_id=stream_id)
        await self.status("NetStream.Play.Start")

    async def heard(self) -> None:
        """Returns when the server has handled all that was sent before."""
        self._pings += 1
        number = self._pings.to_bytes(4, "big")
        self.send(messages.user_control(messages.PING_REQUEST, self._pings))
        await self.until(lambda message: message.body == b"\0\x07" + number, "the answer to a ping")

    def media(self) -> list[Message]:
        """The audio and video messages received."""
        return [message for message in self.received if message.type_id in (messages.AUDIO, messages.VIDEO)]

    def summary(self) -> str:
        return f"{codes(self.received)} and message types {[message.type_id for message in self.received][-20:]}"


def commands(received: list[Message]) -> list[Command]:
    """The commands among messages."""
    return [messages.parse_command(message) for message in received if message.type_id == messages.COMMAND_AMF0]


def codes(received: list[Message]) -> list[str]:
    """The status codes in the commands among messages."""
    found = []
    for command in commands(received):
        info = command.argument(1)
        if isinstance(info, dict) and isinstance(info.get("code"), str):
            found.append(str(info["code"]))
    return found


def answers(message: Message, transaction: int) -> bool:
    """Whether this is the answer to a command."""
    if message.type_id != messages.COMMAND_AMF0:
        return False
    command = messages.parse_command(message)
    return command.name in ("_result", "_error") and command.transaction_id == transaction


async def client(port: int, host: str = "127.0.0.1", make: Callable[[], RTMPClient] | None = None) -> RTMPClient:
    """A client that has connected, by TCP, and made the handshake, if the server lets it."""
    protocol: RTMPClient = await connectProtocol(HostnameEndpoint(reactor, host, port), (make or RTMPClient)())
    await within(protocol.ready)
    return protocol


def avc(timestamp: int, keyframe: bool, content: bytes = b"frame") -> Message:
    """An AVC frame."""
    head = b"\x17" if keyframe else b"\x27"
    return Message(messages.VIDEO, 1, timestamp, head + b"\x01\0\0\0" + content)


def aac(timestamp: int, content: bytes = b"sound") -> Message:
    """An AAC frame."""
    return Message(messages.AUDIO, 1, timestamp, b"\xaf\x01" + content)


AVC_HEADER = Message(messages.VIDEO, 1, 0, b"\x17\x00\0\0\0avc configuration")
AAC_HEADER = Message(messages.AUDIO, 1, 0, b"\xaf\x00\x12\x10")
METADATA = messages.data(0, "@setDataFrame", "onMetaData", amf0.ECMAArray(width=640.0), stream_id=1)
