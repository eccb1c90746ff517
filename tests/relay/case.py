"""What the tests of relay/ share: servers in memory that call each other, and one that does what a test says. One
clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.audience import PUSH_SECONDS
from rtmp_twisted.live.player import Player
from rtmp_twisted.live.relays import RelayStatus
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay.relays import RelayService
from rtmp_twisted.relay_rules import parse_pull, parse_push
from rtmp_twisted.wire import amf0, chunks, messages
from rtmp_twisted.wire.handshake import ServerHandshake
from rtmp_twisted.wire.messages import Command, Message
from tests.support.fakes import Log
from tests.support.memory import Client, World
from tests.support.rtmp_client import AVC_HEADER, commands


class PipeTransport(StringTransport):
    """One end of a connection in memory: what is written arrives at the other end with `Network.settle`."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 50000))
        self.protocol: Any = None
        self.other: PipeTransport | None = None
        self.ended = False
        self.closing = False
        self.aborted = False
        self.stalled = False
        """What is written here does not arrive."""

    def loseWriteConnection(self) -> None:
        self.closing = True

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.aborted = True

    def end(self, reason: Exception) -> None:
        if not self.ended:
            self.ended = True
            self.protocol.connectionLost(Failure(reason))


class Network:
    """Hosts by name, and the clock of all of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.hosts: dict[str, Callable[[], Any]] = {}
        """What makes the protocol of a connection to a host. One that is not here refuses."""
        self.pipes: list[PipeTransport] = []
        self.calls: list[tuple[float, str]] = []
        """When each host was called."""

    def call(self, host: str, factory: Any) -> Deferred[Any]:
        self.calls.append((self.clock.seconds(), host))
        if host not in self.hosts:
            return fail(ConnectionRefusedError())
        near, far = PipeTransport(), PipeTransport()
        near.other, far.other = far, near
        near.protocol, far.protocol = factory.buildProtocol(None), self.hosts[host]()
        self.pipes += [near, far]
        far.protocol.makeConnection(far)
        near.protocol.makeConnection(near)
        return succeed(near.protocol)

    def settle(self) -> None:
        """Lets everything arrive, and everything happen that waits for the next turns."""
        moved = True
        while moved:
            moved = False
            for pipe in list(self.pipes):
                data = b"" if pipe.stalled else pipe.value()
                other = pipe.other
                assert other is not None
                if pipe.ended:
                    continue
                if pipe.aborted:
                    moved = True
                    pipe.end(ConnectionAborted())
                    other.end(ConnectionDone())
                elif data:
                    pipe.clear()
                    moved = True
                    if not other.ended and not other.aborted:
                        other.protocol.dataReceived(data)
                elif pipe.closing and not pipe.ended:
                    moved = True
                    pipe.end(ConnectionDone())
                    other.end(ConnectionDone())
            if any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
                moved = True
                self.clock.advance(0)
        self.pipes = [pipe for pipe in self.pipes if not pipe.ended]


class Endpoint:
    def __init__(self, network: Network, host: str) -> None:
        self._network, self._host = network, host

    def connect(self, factory: Any) -> Deferred[Any]:
        return self._network.call(self._host, factory)


class Node:
    """A server with pushes and pulls, called ``name`` by others."""

    def __init__(self, network: Network, name: str, push: str = "", pull: str = "", end_players: bool = False) -> None:
        self.network = network
        self.clients: list[Client] = []
        self.world = World(clock=network.clock, end_players=end_players)
        self.world.broker.server_id = f"id-of-{name}"
        options = RelayOptions(
            None,
            lambda host, port: Endpoint(network, host),  # type: ignore[arg-type, return-value]
            self.world.broker,
            self.world.factory,
            Random(1),
            lambda insecure: None,  # type: ignore[arg-type, return-value]
        )
        self.relays = RelayService(options, parse_push(push), parse_pull(pull))
        self.relays.startService()
        network.hosts[name] = partial(self.world.factory.buildProtocol, IPv4Address("TCP", "192.0.2.7", 50000))

    def publisher(self, channel: str = "tv", key: str = "key") -> Client:
        publisher = self.world.connect("192.0.2.1").open(channel)
        publisher.publish(key)
        self.clients.append(publisher)
        self.network.settle()
        return publisher

    def player(self, channel: str = "tv", key: str = "key") -> Client:
        player = self.world.connect("192.0.2.2").open(channel)
        player.send(messages.command("play", 5, None, key, stream_id=1))
        self.clients.append(player)
        self.network.settle()
        return player

    def players(self, channel: str = "tv") -> set[Player]:
        found = self.world.broker.channel(channel)
        return set() if found is None else found[0].players

    def status(self, channel: str = "tv") -> RelayStatus:
        """The only push or pull of a channel."""
        [status] = self.relays.statuses(channel)
        return status


class Stub:
    """A server that does what a test says. Each connection is a `StubConnection`, the newest last."""

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.connections: list[StubConnection] = []
        network.hosts[name] = self._accept

    def _accept(self) -> StubConnection:
        self.connections.append(StubConnection(self))
        return self.connections[-1]

    @property
    def connection(self) -> StubConnection:
        return self.connections[-1]


class StubConnection:
    """The server's side of a connection. It shakes hands, answers pings, and says nothing else by itself."""

    def __init__(self, stub: Stub) -> None:
        self._network = stub.network
        self._handshake = ServerHandshake(bytes, lambda: 0)
        self._decoder = chunks.ChunkDecoder()
        self.received: list[Message] = []
        self.lost = False
        self.transport: PipeTransport

    def makeConnection(self, transport: PipeTransport) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        if not self._handshake.done:
            self.transport.write(self._handshake.receive(data))
            data = self._handshake.rest
        if not self._handshake.done:
            return
        for message in filter(None, self._decoder.feed(data)):
            self.received.append(message)
            if message.type_id == messages.USER_CONTROL and message.body[:2] == b"\0\6":
                pong = message._replace(body=b"\0\7" + message.body[2:])
                self.transport.write(chunks.encode(pong, 2, 128))

    def connectionLost(self, reason: Failure) -> None:
        self.lost = True

    @property
    def commands(self) -> list[Command]:
        return commands(self.received)

    def names(self) -> list[str]:
        return [command.name for command in self.commands]

    def media(self) -> list[Message]:
        return [message for message in self.received if message.type_id in (messages.AUDIO, messages.VIDEO)]

    def send(self, *to_send: Message) -> None:
        self.transport.write(b"".join(chunks.encode(message, 3, 128) for message in to_send))
        self._network.settle()

    def answer(self, name: str, *arguments: amf0.Value, error: bool = False) -> None:
        """Answers the last command of this name."""
        command = [command for command in self.commands if command.name == name][-1]
        self.send(messages.command("_error" if error else "_result", command.transaction_id, *arguments))

    def status(self, code: str, level: str = "status", description: str = "", **more: amf0.Value) -> None:
        self.send(messages.status(1, level, code, description, more))

    def accept(self, stream_id: float = 1.0) -> None:
        """Lets the client publish or play."""
        self.answer("connect", None, {"code": "NetConnection.Connect.Success", "level": "status"})
        self.answer("createStream", None, stream_id)
        play = "play" in self.names()
        self.status("NetStream.Play.Start" if play else "NetStream.Publish.Start")

    def close(self) -> None:
        self.transport.loseConnection()
        self._network.settle()


class RelayCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log(self)
        self.network = Network()
        self.nodes: list[Node] = []

    def node(self, name: str, push: str = "", pull: str = "", end_players: bool = False) -> Node:
        self.nodes.append(Node(self.network, name, push, pull, end_players))
        return self.nodes[-1]

    def stub(self, name: str = "stub") -> Stub:
        return Stub(self.network, name)

    def settle(self) -> None:
        self.network.settle()

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, second by second, as the servers' services check their connections."""
        for _ in range(int(seconds)):
            self.network.clock.advance(1)
            for client in [client for node in self.nodes for client in node.clients]:
                client.send(messages.acknowledgement(0))  # it is still there
            for node in self.nodes:
                node.world.factory.check()
            self.settle()
        self.network.clock.advance(seconds % 1)
        self.settle()

    def begin(self, publisher: Client, *frames: Message) -> None:
        """A publisher's header and frames, which pushes have been handed afterwards."""
        publisher.send(AVC_HEADER, *frames)
        self.settle()
        self.pass_time(PUSH_SECONDS)
