"""rtmp_twisted.rtmp.writer over real sockets: the order of what is written, and what waits."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
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
from rtmp_twisted.live.publication import MAX_HELD_BYTES
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.rtmp.connection import Connection
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.interfaces import ConnectionState
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.rtmp.poller import PublisherPoller
from rtmp_twisted.rtmp.writer import MAX_ABANDONED, MAX_TAKEN, SocketWriter, TransportWriter, Writer, writer_for
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
    """Has an writer."""

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()
        self.drains = self.blocks = 0
        self.reasons: list[str] = []
        self.on_drain: Callable[[], None] = lambda: None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.writer: Writer = writer_for(transport, reactor, self.drained, self.blocked, self.broken)
        self.ready.callback(None)

    def drained(self) -> None:
        self.drains += 1
        self.on_drain()

    def blocked(self) -> None:
        self.blocks += 1

    def broken(self, reason: str) -> None:
        self.reasons.append(reason)


class SocketWriterTests(TestCase):
    timeout = 60

    async def pair(self) -> tuple[Serving, Reader]:
        serving = Serving()
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(lambda: serving))
        self.addCleanup(port.stopListening)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        reader: Reader = await connectProtocol(endpoint, Reader())
        await within(serving.ready)
        self.addCleanup(self.close, serving, reader)
        self.assertIsInstance(serving.writer, SocketWriter)
        return serving, reader

    async def close(self, serving: Any, reader: Any) -> None:
        reader.transport.abortConnection()
        serving.transport.abortConnection()
        await until(lambda: not (reader.transport.connected or serving.transport.connected), "the end of both")

    async def test_order(self) -> None:
        """Messages arrive whole and in the order in which they were begun, whatever way they took."""
        serving, reader = await self.pair()
        writer = serving.writer
        chance = random.Random(7)
        expected = bytearray()
        rest: list[memoryview] = []  # of the message that holds the writer

        def go_on() -> None:
            while rest and not writer.blocked:
                rest[0] = rest[0][writer.try_writev([rest[0]]) :]
                if not rest[0]:
                    rest.clear()
                    writer.release()

        serving.on_drain = go_on
        for _ in range(300):
            data = chance.randbytes(chance.choice([1, 100, 5000, 60_000]))
            if chance.random() < 0.5:
                writer.write(data)
                expected += data
            elif writer.holder is None:
                sent = writer.try_writev([data[:10], memoryview(data)[10:]])
                if sent:
                    expected += data
                if 0 < sent < len(data):
                    rest.append(memoryview(data)[sent:])
                    writer.hold(self)
            if writer.blocked:
                self.assertEqual(writer.try_writev([b"x"]), 0)
                if chance.random() < 0.3:
                    drains = serving.drains
                    reader.transport.resumeProducing()  # type: ignore[union-attr]
                    await until(lambda: serving.drains > drains, "what waited to leave")  # noqa: B023
                    reader.transport.pauseProducing()  # type: ignore[union-attr]
        reader.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: len(reader.data) >= len(expected), "everything")
        self.assertEqual(reader.data, expected)
        self.assertGreater(serving.drains, 0)
        self.assertGreaterEqual(serving.blocks, serving.drains)

    async def test_nothing_of_what_does_not_fit_is_kept(self) -> None:
        """Media stays in the log; the reactor says when there is room."""
        serving, reader = await self.pair()
        data = bytes(20_000_000)
        sent = serving.writer.try_writev([data])
        self.assertLess(sent, len(data))
        self.assertTrue(serving.writer.blocked)
        self.assertEqual(serving.transport.dataBuffer, b"")  # type: ignore[union-attr]
        reader.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: serving.drains == 1, "room")
        self.assertFalse(serving.writer.blocked)

    async def test_leaving_in_the_middle_of_a_message(self) -> None:
        """The rest is sent if it is short, and what waited for it; else the connection has to end."""
        serving, reader = await self.pair()
        writer = serving.writer
        data = os.urandom(20_000_000)
        sent = writer.try_writev([data])
        writer.hold(self)
        writer.write(b"an answer")
        writer.abandon([memoryview(data)[sent : sent + 1000]])
        self.assertIsNone(writer.holder)
        reader.transport.resumeProducing()  # type: ignore[union-attr]
        expected = data[: sent + 1000] + b"an answer"
        await until(lambda: len(reader.data) >= len(expected), "the rest, and the answer")
        self.assertEqual(reader.data, expected)
        self.assertEqual(serving.reasons, [])
        writer.hold(self)
        writer.abandon([bytes(MAX_ABANDONED), b"x"])
        self.assertEqual(serving.reasons, ["it left in the middle of a long message"])

    async def test_close_delivers_what_waits(self) -> None:
        serving, reader = await self.pair()
        data = os.urandom(20_000_000)
        serving.writer.write(data)
        self.assertTrue(serving.writer.blocked)
        serving.writer.close()
        serving.transport.loseConnection()  # type: ignore[union-attr]
        reader.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: len(reader.data) >= len(data), "everything")
        self.assertEqual(reader.data, data)

    async def test_a_lost_connection_takes_nothing(self) -> None:
        serving, reader = await self.pair()
        await self.close(serving, reader)
        self.assertRaises(OSError, serving.writer.send, b"x")
        self.assertEqual(serving.writer.try_writev([b"x"]), 0)
        serving.writer.write(b"x")


class TransportWriterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transport, self.clock = StringTransport(), Clock()
        self.story: list[str] = []
        writer = writer_for(
            self.transport,
            self.clock,
            lambda: self.story.append("drained"),
            lambda: self.story.append("blocked"),
            self.story.append,
        )
        assert isinstance(writer, TransportWriter)
        self.writer = writer

    def test_waits_while_the_transport_is_full(self) -> None:
        writer = self.writer
        self.clock.advance(5)
        self.assertEqual(writer.send(b"ab"), 2)
        self.assertEqual(writer.try_writev([b"cd", memoryview(b"ef")]), 4)
        writer.pauseProducing()
        writer.pauseProducing()
        self.assertEqual((writer.blocked, writer.blocked_since), (True, 5))
        self.assertEqual(writer.try_writev([b"x"]), 0)
        writer.write(b"gh")
        self.assertEqual(self.story, ["blocked"])
        writer.resumeProducing()
        writer.resumeProducing()
        self.assertEqual((writer.blocked, writer.blocked_since), (False, None))
        self.assertEqual(self.story, ["blocked", "drained"])
        self.assertEqual(self.transport.value(), b"abcdefgh")
        writer.close()
        self.assertIsNone(self.transport.producer)

    def test_takes_no_more_than_a_bit_at_a_time(self) -> None:
        """It hears only behind a write that the transport is full, and what it takes is a copy."""
        data = os.urandom(MAX_TAKEN + 1000)
        self.assertEqual(self.writer.send(data), MAX_TAKEN)
        self.assertEqual(self.writer.try_writev([data[:1000], data]), MAX_TAKEN)
        self.assertEqual(self.transport.value(), data[:MAX_TAKEN] + data[:1000] + data[: MAX_TAKEN - 1000])


class ServerTests(TestCase):
    """The server's factory on a real port, in this process."""

    timeout = 60

    async def serve(self, authority: IPublishAuthority | None = None) -> int:
        scheduler = FlushScheduler(reactor, 0, reactor.seconds, Turns(reactor))
        broker = Broker(reactor, authority or AcceptAll(), scheduler, ChannelOptions())
        self.poller = PublisherPoller(reactor, reactor, scheduler.flush_pending, lambda: 0.0)
        self.factory = RTMPFactory(SessionOptions(broker=broker, clock=reactor), poller=self.poller)
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
        self.patch(self.poller, "poll_if_due", lambda: glances.append(None))
        some = await self.connect(port)
        await some.open()
        self.assertTrue(glances)
        [serving] = self.factory.connections
        glances.clear()
        serving.writer.blocked_since = 1.0
        serving.writer.resumeProducing()
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
        player.connection.pause_reading()
        [serving] = [p for p in self.factory.connections if p.state is ConnectionState.PLAYING]
        asked = sent = 0
        for _ in range(12):
            drained = serving.writer.blocked_since
            while not serving.writer.blocked:
                publisher.send(avc(sent, True, b"%04d" % sent + bytes(100_000)))
                sent += 1
                await until(lambda: serving.handler.delivered() > 0)
                await until(lambda: publisher.transport.dataBuffer == b"" and not publisher.transport._tempDataLen)
                player.send(messages.user_control(messages.PING_REQUEST, asked))
                asked += 1
            self.assertIsNone(drained)
            player.connection.read_media()
            await until(lambda: not serving.writer.blocked, "room")
            player.connection.pause_reading()
        player.connection.read_media()
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
            [serving] = [p for p in self.factory.connections if p.state is ConnectionState.PUBLISHING]
            before = serving.bytes_received
            for n in range(40):
                contents.append(b"%d %d " % (turn, n) + bytes(100_000))
                publisher.send(avc(n, True, contents[-1]))
            await until(lambda: serving.transport not in reactor.getReaders() and not self.reads(serving), "a pause")
            self.assertLess(serving.bytes_received - before, MAX_HELD_BYTES + 300_000)
            asked[-1].callback("id")
            await until(lambda: len(player.media()) == len(contents), "what waited, and what came after it")
            publisher.call("closeStream", None, stream_id=1)
            await until(lambda: serving.sink is None, "the end of the publish")

        await publish(1)
        await publish(2)
        self.assertEqual([message.body[5:] for message in player.media()], contents)

    def reads(self, serving: Connection) -> bool:
        """Whether the poller reads for it."""
        return serving in self.poller
