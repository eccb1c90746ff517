"""The server without sockets: its protocol on a transport in memory, with a clock that tests turn."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.channel import ChannelOptions
from rtmp_twisted.live.memory import NO_LIMIT, Memory
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.settings_types import EVERYONE, Networks
from rtmp_twisted.wire import amf0, chunks, messages
from rtmp_twisted.wire.messages import Command, Message
from tests.support.rtmp_client import HANDSHAKE, answers, codes, commands


@implementer(IPublishAuthority)
class Authority:
    """Writes down what it is asked, and answers when the test says so, or with the key at once."""

    def __init__(self, ask: bool = False) -> None:
        self.ask = ask
        self.questions: list[Deferred[str]] = []
        self.events: list[tuple[str, ...]] = []

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        self.events.append(("start", channel, key, client_ip))
        answer: Deferred[str] = Deferred()
        if self.ask:
            self.questions.append(answer)
        else:
            answer.callback(f"id of {key}")
        return answer

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        self.events.append(("end", channel, key, stream_id, client_ip))
        told: Deferred[None] = Deferred()
        told.callback(None)
        return told

    def accept(self, stream_id: str = "id") -> None:
        self.questions.pop(0).callback(stream_id)

    def refuse(self, reason: str = "no") -> None:
        self.questions.pop(0).errback(Refused(reason))


class MemoryTransport(StringTransport):
    """Keeps what is written; ``writes`` is one item per write. Closes as a TCP connection would, when told to."""

    def __init__(self, address: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", address, 50000))
        self.writes: list[bytes] = []
        self.half_closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True


@define
class World:
    """A server's parts; `connect` makes a client of it."""

    ask: bool = False
    names: NameRules = field(factory=NameRules)
    players: Networks = EVERYONE
    channels: ChannelOptions = field(factory=ChannelOptions)
    takeover_seconds: float = 3
    memory_limit: int = NO_LIMIT
    clock: Clock = field(factory=Clock)
    authority: Authority = field(init=False)
    broker: Broker = field(init=False)
    factory: RTMPFactory = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.authority = Authority(self.ask)
        scheduler = FlushScheduler(self.clock, 0, self.clock.seconds, Turns(self.clock))
        memory = Memory(self.memory_limit, scheduler.turns)
        self.broker = Broker(self.clock, self.authority, scheduler, self.channels, self.takeover_seconds, memory=memory)
        self.factory = RTMPFactory(
            SessionOptions(broker=self.broker, clock=self.clock, names=self.names, players=self.players)
        )

    def connect(self, address: str = "192.0.2.1", handshake: bool = True) -> Client:
        transport = MemoryTransport(address)
        protocol: Any = self.factory.buildProtocol(IPv4Address("TCP", address, 50000))
        protocol.makeConnection(transport)
        client = Client(self, protocol, transport)
        if handshake:
            client.feed(HANDSHAKE + bytes(1536))
        return client

    def turn(self) -> None:
        """Lets everything happen that waits for the next turns of the reactor."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, second by second, as the server's service checks its connections."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.factory.check()


@define(eq=False)
class Client:
    """The other side of one connection."""

    world: World
    protocol: Any
    transport: MemoryTransport
    _decoder: chunks.ChunkDecoder = field(factory=chunks.ChunkDecoder)
    _read: int = 0
    received: list[Message] = field(factory=list)
    chunk_size: int = 128

    def feed(self, data: bytes) -> None:
        """Bytes arrive at the server, unless it has closed the connection."""
        if not self.transport.aborted:
            self.protocol.dataReceived(data)
        self.world.turn()

    def send(self, *to_send: Message) -> None:
        self.feed(b"".join(chunks.encode(message, 4, self.chunk_size) for message in to_send))

    def call(self, name: str, *arguments: amf0.Value, transaction: float = 5, stream_id: int = 0) -> list[Message]:
        """Sends a command, and returns what came of it."""
        self.new()
        self.send(messages.command(name, transaction, *arguments, stream_id=stream_id))
        return self.new()

    def new(self) -> list[Message]:
        """What the server has sent since this was asked last."""
        self.world.turn()
        data = self.transport.value()
        start = max(self._read, 1 + 1536 + 1536)
        found = list(filter(None, self._decoder.feed(data[start:])))
        self._read = len(data)
        self.received += found
        return found

    def open(self, channel: str = "channel") -> Client:
        self.call("connect", {"app": channel}, transaction=1)
        self.call("createStream", None, transaction=2)
        return self

    def publish(self, key: str = "key", stream_id: int = 1) -> list[Message]:
        return self.call("publish", None, key, "live", stream_id=stream_id)

    def play(self, key: str = "key", stream_id: int = 1) -> list[Message]:
        return self.call("play", None, key, stream_id=stream_id)

    def leave(self) -> None:
        """The connection is lost."""
        self.protocol.connectionLost(Failure(ConnectionAborted() if self.transport.aborted else ConnectionDone()))

    @property
    def closing(self) -> bool:
        """Whether the server has said its last word, and will close when it has arrived."""
        return self.transport.half_closed and not self.transport.aborted


def answer(received: list[Message], transaction: float = 5) -> Command:
    """The one answer to a command."""
    [found] = [message for message in received if answers(message, int(transaction))]
    return messages.parse_command(found)


def media(received: list[Message]) -> list[Message]:
    return [message for message in received if message.type_id in (messages.AUDIO, messages.VIDEO)]


__all__ = ["Authority", "Client", "MemoryTransport", "World", "answer", "codes", "commands", "media"]
