"""rtmp_twisted.rtmp.writer over real sockets: the order of what is written, and what waits."""

from __future__ import annotations

import os
import random
import socket
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import AcceptAll, IPublishAuthority
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.channel import ChannelOptions
from rtmp_twisted.rtmp.connection import Client
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.message_stream import MAX_HELD
from rtmp_twisted.rtmp.poller import PublisherPoller
from rtmp_twisted.rtmp.session import SessionOptions
from rtmp_twisted.rtmp.writer import SocketWriter, TransportWriter, Writer, writer_for
from rtmp_twisted.wire import chunks, messages
from tests.support.fakes import reactor, until, within
from tests.support.rtmp_client import HANDSHAKE, RTMPClient, avc, client, codes


class Reader(Protocol):
    """Reads only when it is told to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class Serving(Protocol):
    """Has an outlet."""

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()
        self.drains = 0

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.outlet: Writer = writer_for(transport, reactor, self.drained)
        self.ready.callback(None)

    def drained(self) -> None:
        self.drains += 1


class SocketOutletTests(TestCase):
    timeout = 60

    async def pair(self) -> tuple[Serving, Reader]:
        writer = Serving()
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(lambda: writer))
        self.addCleanup(port.stopListening)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        reader: Reader = await connectProtocol(endpoint, Reader())
        await within(writer.ready)
        self.addCleanup(self.close, writer, reader)
        self.assertIsInstance(writer.outlet, SocketWriter)
        return writer, reader

    async def close(self, writer: Any, reader: Any) -> None:
        reader.transport.abortConnection()
        writer.transport.abortConnection()
        await until(lambda: not (reader.transport.connected or writer.transport.connected), "the end of both")

    async def test_order(self) -> None:
        """Whatever way a byte took, it arrives behind those that were written before it."""
        writer, reader = await self.pair()
        outlet = writer.outlet
        chance = random.Random(7)
        expected = bytearray()
        for _ in range(300):
            data = chance.randbytes(chance.choice([1, 100, 5000, 60_000]))
            way = chance.randrange(3)
            if way == 0:
                taken = outlet.offer(data)
                expected += data[:taken]
                if taken < len(data):  # as a player does: the rest of the message is queued
                    outlet.write(data[taken:])
                    expected += data[taken:]
            elif way == 1:
                buffers: list[bytes | memoryview] = [data, memoryview(data)[1:]]
                expected += (data + data[1:])[: outlet.offer_all(buffers)]
            else:
                outlet.write(data)
                expected += data
            if outlet.blocked:
                self.assertEqual((outlet.offer(b"x"), outlet.offer_all([b"x"])), (0, 0))
                if chance.random() < 0.3:
                    drains = writer.drains
                    reader.transport.resumeProducing()  # type: ignore[union-attr]
                    await until(lambda: writer.drains > drains, "what waited to leave")  # noqa: B023
                    reader.transport.pauseProducing()  # type: ignore[union-attr]
                    self.assertFalse(outlet.blocked)
        reader.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: len(reader.data) >= len(expected), "everything")
        self.assertEqual(reader.data, expected)
        self.assertGreater(writer.drains, 0)

    async def test_close_delivers_what_waits(self) -> None:
        writer, reader = await self.pair()
        data = os.urandom(2_000_000)
        writer.outlet.write(data)
        self.assertTrue(writer.outlet.blocked)
        writer.outlet.close()
        writer.transport.loseConnection()  # type: ignore[union-attr]
        reader.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: len(reader.data) >= len(data), "everything")
        self.assertEqual(reader.data, data)

    async def test_a_lost_connection_takes_nothing(self) -> None:
        writer, reader = await self.pair()
        await self.close(writer, reader)
        self.assertEqual(writer.outlet.offer(b"x"), 0)
        self.assertEqual(writer.outlet.offer_all([b"x"]), 0)
        writer.outlet.write(b"x")


class TransportOutletTests(SynchronousTestCase):
    def test_waits_while_the_transport_is_full(self) -> None:
        transport, clock, drains = StringTransport(), Clock(), []
        outlet = writer_for(transport, clock, lambda: drains.append(1))
        assert isinstance(outlet, TransportWriter)
        clock.advance(5)
        self.assertEqual(outlet.offer(b"ab"), 2)
        self.assertEqual(outlet.offer_all([b"cd", memoryview(b"ef")]), 4)
        outlet.pauseProducing()
        outlet.pauseProducing()
        self.assertEqual((outlet.blocked, outlet.blocked_since), (True, 5))
        self.assertEqual((outlet.offer(b"x"), outlet.offer_all([b"x"])), (0, 0))
        outlet.write(b"gh")
        self.assertEqual(drains, [])
        outlet.resumeProducing()
        outlet.resumeProducing()
        self.assertEqual((outlet.blocked, outlet.blocked_since, drains), (False, None, [1]))
        self.assertEqual(transport.value(), b"abcdefgh")
        outlet.close()
        self.assertIsNone(transport.producer)


class ServerTests(TestCase):
    """The server's factory on a real port, in this process."""

    timeout = 60

    async def serve(self, authority: IPublishAuthority | None = None) -> int:
        broker = Broker(reactor, authority or AcceptAll(), FlushScheduler(0, reactor.seconds), ChannelOptions())
        self.factory = RTMPFactory(
            SessionOptions(broker=broker, clock=reactor), intake=PublisherPoller(reactor, reactor)
        )
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.factory)
        self.addCleanup(self.gone)
        self.addCleanup(self.factory.finish_all, "the test is over")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def gone(self) -> None:
        await until(lambda: not self.factory.connections, "the end of all connections")

    async def connect(self, port: int) -> RTMPClient:
        some = await client(port)
        self.addCleanup(some.transport.abortConnection)
        return some

    async def test_a_refusal_arrives_before_the_close(self) -> None:
        """Also while the client sends on without a look: unread bytes at a close make the kernel drop the answer."""
        port = await self.serve()
        for command, name in ("publish", "bad key"), ("play", "bad key"), ("connect", ""):
            some = await self.connect(port)
            if command == "connect":
                some.call("connect", {"app": "bad channel"})
            else:
                await some.open()
                some.call(command, None, name, stream_id=1)
            for n in range(50):
                some.send(avc(n, True, bytes(20_000)))
            code = {"connect": "NetConnection.Connect.Rejected"}.get(command, f"NetStream.{command.title()}.BadName")
            await some.status(code)
            some.transport.loseConnection()
            await within(some.lost)

    async def test_publishers_are_looked_after_in_between(self) -> None:
        """After each client's commands, and after each that goes on with what waited to leave."""
        port = await self.serve()
        glances: list[None] = []
        self.patch(self.factory.intake, "glance", lambda: glances.append(None))
        some = await self.connect(port)
        await some.open()
        self.assertTrue(glances)
        [serving] = self.factory.connections
        glances.clear()
        serving.outlet.blocked_since = 1.0
        serving.outlet.resumeProducing()
        self.assertTrue(glances)

    async def test_the_server_ends_a_refused_connection(self) -> None:
        port = await self.serve()
        some = await self.connect(port)
        await some.open()
        some.call("publish", None, "bad key", stream_id=1)
        await within(some.lost)
        self.assertEqual(codes(some.received)[-1], "NetStream.Publish.BadName")

    async def test_answers_between_the_media_of_a_slow_player(self) -> None:
        """Answers and media share a connection that is full most of the time: every message arrives whole."""
        port = await self.serve()
        publisher, player = await self.connect(port), await self.connect(port)
        await publisher.open()
        publisher.set_chunk_size(65536)
        await publisher.publish()
        await player.open()
        player.call("createStream", None)
        player.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await player.play()
        player.call("play", None, "key", stream_id=2)
        player.transport.pauseProducing()
        [serving] = [p for p in self.factory.connections if p._session.playing]
        asked = sent = 0
        for _ in range(12):
            drained = serving.outlet.blocked_since
            while not serving.outlet.blocked:
                publisher.send(avc(sent, True, b"%04d" % sent + bytes(100_000)))
                sent += 1
                await until(lambda: serving._session.delivered() > 0)
                await until(lambda: publisher.transport.dataBuffer == b"" and not publisher.transport._tempDataLen)
                player.send(messages.user_control(messages.PING_REQUEST, asked))
                asked += 1
            self.assertIsNone(drained)
            player.transport.resumeProducing()
            await until(lambda: not serving.outlet.blocked, "room")
            player.transport.pauseProducing()
        player.transport.resumeProducing()
        pong = messages.user_control(messages.PING_RESPONSE, asked - 1)
        await player.until(lambda message: message == pong, "the last answer")
        pongs = [m.body for m in player.received if m.body[:2] == pong.body[:2] and m.type_id == messages.USER_CONTROL]
        self.assertEqual(pongs, [messages.user_control(messages.PING_RESPONSE, n).body for n in range(asked)])
        for stream_id in 1, 2:
            numbers = [int(m.body[5:9]) for m in player.media() if m.stream_id == stream_id]
            self.assertEqual(numbers, sorted(set(numbers)))
            self.assertGreater(len(numbers), 0)

    async def test_garbage_over_tcp(self) -> None:
        """A stranger is dropped, and nobody else notices."""
        port = await self.serve()
        publisher, player = await self.connect(port), await self.connect(port)
        await publisher.open()
        await publisher.publish()
        await player.open()
        await player.play()
        strangers: list[tuple[bytes, RTMPClient]] = []
        for garbage in os.urandom(3000), b"\xff" * 4000, chunks.encode(messages.Message(1, 0, 0, bytes(4)), 2, 128):
            stranger = await self.connect(port)
            stranger.transport.write(garbage)
            strangers.append((garbage, stranger))
        plain = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Protocol())
        plain.transport.write(b"GET / HTTP/1.1\r\n\r\n" + HANDSHAKE)
        await until(lambda: not plain.transport.connected, "the end of a web browser")
        for _, stranger in strangers[1:]:
            await within(stranger.lost)
        publisher.send(avc(0, True, b"still here"))
        await player.until(lambda message: message.body.endswith(b"still here"))

    async def test_publishes_one_after_the_other(self) -> None:
        """The second publish of a connection waits for its answer, and its media with it, in the end in the kernel."""
        asked: list[Deferred[str]] = []

        @implementer(IPublishAuthority)
        class Asked:
            def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
                asked.append(Deferred())
                return asked[-1]

            def end(self, *_: str) -> Deferred[None]:
                return succeed(None)

        port = await self.serve(Asked())
        publisher, player = await self.connect(port), await self.connect(port)
        await player.open()
        await player.play()
        await publisher.open()
        publisher.set_chunk_size(65536)
        contents = []

        async def publish(turn: int) -> None:
            publisher.call("publish", None, "key", "live", stream_id=1)
            await until(lambda: len(asked) == turn, "the question")
            [serving] = [p for p in self.factory.connections if p._session.publication is not None]
            before = serving._received
            for n in range(40):
                contents.append(b"%d %d " % (turn, n) + bytes(100_000))
                publisher.send(avc(n, True, contents[-1]))
            await until(lambda: serving.transport not in reactor.getReaders() and not self.reads(serving), "a pause")
            self.assertLess(serving._received - before, MAX_HELD + 300_000)
            asked[-1].callback("id")
            await until(lambda: len(player.media()) == len(contents), "what waited, and what came after it")
            publisher.call("closeStream", None, stream_id=1)
            await until(lambda: serving._session.publication is None, "the end of the publish")

        await publish(1)
        await publish(2)
        self.assertEqual([message.body[5:] for message in player.media()], contents)

    def reads(self, serving: Client) -> bool:
        """Whether the intake reads for it."""
        assert self.factory.intake is not None
        return serving in self.factory.intake._files
