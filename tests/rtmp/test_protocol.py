"""rtmp_twisted.rtmp.connection and protocol: bytes, time-outs and ends of one connection."""

from __future__ import annotations

import contextlib
import socket
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHandshakeListener
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.connection import (
    CONNECT_SECONDS,
    HANDSHAKE_SECONDS,
    IDLE_SECONDS,
    LINGER_SECONDS,
    SILENT_SECONDS,
    STUCK_SECONDS,
)
from rtmp_twisted.rtmp.protocol import RTMPProtocol
from rtmp_twisted.wire import amf0, chunks, messages
from rtmp_twisted.wire.messages import ACKNOWLEDGEMENT, USER_CONTROL, Message
from tests.support.fakes import Log
from tests.support.memory import MemoryTransport, World, codes, media
from tests.support.rtmp_client import AVC_HEADER, HANDSHAKE, aac, avc

PING = messages.PING_REQUEST.to_bytes(2, "big")
ANYTHING = Message(ACKNOWLEDGEMENT, 0, 0, bytes(4))


class TransportTests(SynchronousTestCase):
    def test_small_writes_are_not_held_back(self) -> None:
        """TCP_NODELAY is on: an answer leaves although the one before it has not been acknowledged."""
        switched: list[bool] = []

        class TCP(MemoryTransport):
            def setTcpNoDelay(self, enabled: bool) -> None:
                switched.append(enabled)

        made = World().factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        assert made is not None
        made.makeConnection(TCP("192.0.2.1"))
        self.assertEqual(switched, [True])

    def test_a_client_s_commands_are_acknowledged_at_once(self) -> None:
        """TCP_QUICKACK is set anew when TLS is ready, and for each read until the client publishes or plays."""
        options: list[tuple[int, ...]] = []

        class Socket:
            def setsockopt(self, *option: int) -> None:
                options.append(option)

        class TCP(MemoryTransport):
            socket = Socket()

        made = World().factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        assert isinstance(made, RTMPProtocol)
        made.makeConnection(TCP("192.0.2.1"))
        self.assertTrue(IHandshakeListener.providedBy(made))
        options.clear()
        made.handshakeCompleted()
        for read in HANDSHAKE[:9], HANDSHAKE[9:]:
            self.assertEqual(options, [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)])
            options.clear()
            made.dataReceived(read)
        self.assertEqual(options, [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)])


class HandshakeTests(SynchronousTestCase):
    def test_one_write(self) -> None:
        client = World().connect(handshake=False)
        client.feed(HANDSHAKE)
        [answer] = client.transport.writes
        self.assertEqual(len(answer), 1 + 1536 + 1536)
        self.assertEqual(answer[:1], b"\3")
        self.assertEqual(answer[-1536:], HANDSHAKE[1:])

    def test_byte_by_byte_with_a_command_behind(self) -> None:
        client = World().connect(handshake=False)
        connect = chunks.encode(messages.command("connect", 1, {"app": "channel"}), 3, 128)
        for byte in HANDSHAKE + bytes(1536) + connect:
            client.feed(bytes((byte,)))
        client.new()
        self.assertEqual(codes(client.received), ["NetConnection.Connect.Success"])

    def test_not_rtmp(self) -> None:
        for data, reason in (
            (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
            (b"\x16\x03\x01\x02\x00\x01", "TLS"),
            (b"\x06" + bytes(1536), "version"),
            (b"\xff" * 5000, "version"),
        ):
            log = Log(self)
            client = World().connect(handshake=False)
            client.feed(data)
            self.assertTrue(client.transport.aborted, reason)
            client.leave()
            [line] = log.lines()
            self.assertIn(reason, line)


class GarbageTests(SynchronousTestCase):
    """Whatever a stranger sends, it is the stranger who goes."""

    def check(self, data: bytes, opened: bool, publishing: bool) -> None:
        world = World()
        publisher = world.connect().open()
        publisher.publish()
        player = world.connect().open()
        player.play()
        stranger = world.connect("198.51.100.1")
        if opened:
            stranger.open("other")
        if publishing:
            stranger.publish()
        with contextlib.suppress(AssertionError):
            stranger.feed(data)
        stranger.leave()
        self.assertEqual(self.flushLoggedErrors(), [])
        publisher.send(AVC_HEADER, avc(0, True))
        self.assertEqual(len(media(player.new())), 2)

    @settings(max_examples=200)
    @given(st.binary(min_size=1, max_size=400), st.booleans(), st.booleans())
    def test_any_bytes(self, data: bytes, opened: bool, publishing: bool) -> None:
        self.check(data, opened, opened and publishing)

    @settings(max_examples=200)
    @given(
        st.lists(
            st.builds(
                Message,
                st.sampled_from([2, 3, 4, 5, 6, 8, 9, 15, 17, 18, 20, 22, 99]),
                st.integers(0, 3),
                st.integers(0, 2**32 - 1),
                st.one_of(
                    st.binary(max_size=40),
                    st.lists(
                        st.sampled_from(["publish", "play", "pause", "deleteStream", "key", None, 1.0, -1.0, True, {}]),
                        max_size=6,
                    ).map(lambda values: amf0.encode(*values)),
                ),
            ),
            max_size=8,
        ),
        st.booleans(),
    )
    def test_any_messages(self, some: list[Message], publishing: bool) -> None:
        self.check(b"".join(chunks.encode(message, 3, 128) for message in some), True, publishing)

    def test_amf_nested_a_thousand_deep(self) -> None:
        client = World().connect().open()
        body = amf0.encode("publish", 1.0) + b"\x03\x00\x01a" * 1000
        client.send(Message(20, 1, 0, body))
        self.assertTrue(client.transport.aborted)

    def test_message_too_long(self) -> None:
        client = World().connect().open()
        client.send(Message(20, 1, 0, bytes(64 * 1024 + 1)))
        self.assertTrue(client.transport.aborted)

    def test_long_media_of_a_publisher(self) -> None:
        client = World().connect().open()
        client.publish()
        client.send(avc(0, True, bytes(5_000_000)))
        self.assertFalse(client.transport.aborted)

    def test_chunk_size_of_zero(self) -> None:
        client = World().connect().open()
        client.send(Message(1, 0, 0, bytes(4)))
        self.assertTrue(client.transport.aborted)

    def test_one_log_line(self) -> None:
        log = Log(self)
        client = World().connect().open()
        before = len(log.lines())
        client.feed(b"\xff" * 1000)
        client.leave()
        [line] = log.lines()[before:]
        self.assertIn("begins with a type 3 chunk", line)

    def test_a_bug(self) -> None:
        log = Log(self)
        world = World()
        other = world.connect().open()
        client = world.connect().open()
        self.patch(world.broker, "publish", lambda *_, **__: 1 / 0)
        client.publish()
        self.assertTrue(client.transport.aborted)
        client.leave()
        [failure] = self.flushLoggedErrors(ZeroDivisionError)
        [event] = [event for event in log.events if event.get("log_failure") is failure]
        self.assertEqual(event["session"], client.protocol.connection.number)
        self.assertIn("NetStream.Play.Start", codes(other.play()))


class TimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_handshake(self) -> None:
        client = self.world.connect(handshake=False)
        client.feed(HANDSHAKE)
        self.world.pass_time(HANDSHAKE_SECONDS - 1)
        client.feed(b"\0")
        self.assertFalse(client.transport.aborted)
        self.world.pass_time(1)
        self.assertTrue(client.transport.aborted)

    def test_connect(self) -> None:
        client = self.world.connect()
        self.world.pass_time(CONNECT_SECONDS - 1)
        self.assertFalse(client.transport.aborted)
        self.world.pass_time(1)
        self.assertTrue(client.transport.aborted)

    def test_neither_publishes_nor_plays(self) -> None:
        client = self.world.connect().open()
        for _ in range(IDLE_SECONDS - 1):
            self.world.pass_time(1)
            client.send(ANYTHING)
        self.assertFalse(client.transport.aborted)
        self.world.pass_time(1)
        self.assertTrue(client.transport.aborted)

    def test_idle_again_after_a_stream(self) -> None:
        client = self.world.connect().open()
        client.play()
        for _ in range(100):
            self.world.pass_time(1)
            client.send(ANYTHING)
        client.call("closeStream", None, stream_id=1)
        for _ in range(IDLE_SECONDS - 1):
            self.world.pass_time(1)
            client.send(ANYTHING)
        self.assertFalse(client.transport.aborted)
        self.world.pass_time(1)
        self.assertTrue(client.transport.aborted)

    def test_pings(self) -> None:
        client = self.world.connect().open()
        client.play()
        for second in range(1, 121):
            client.new()
            client.send(ANYTHING)
            self.world.pass_time(1)
            pings = [m for m in client.new() if m.type_id == USER_CONTROL and m.body.startswith(PING)]
            self.assertEqual(len(pings), 1 if second % 30 == 0 else 0, second)

    def test_silence(self) -> None:
        for role in "publish", "play":
            self.world = World()
            client = self.world.connect().open()
            client.call(role, None, "key", stream_id=1)
            self.world.pass_time(SILENT_SECONDS - 1)
            self.assertFalse(client.transport.aborted, role)
            self.world.pass_time(1)
            self.assertTrue(client.transport.aborted, role)

    def test_any_byte_counts(self) -> None:
        client = self.world.connect().open()
        client.publish()
        ping = chunks.encode(messages.user_control(messages.PING_RESPONSE, 1), 2, 128)
        for byte in ping * 5:
            self.world.pass_time(50)
            client.feed(bytes((byte,)))
        self.assertFalse(client.transport.aborted)

    def test_a_viewer_that_never_says_a_word(self) -> None:
        publisher = self.world.connect().open()
        publisher.publish()
        publisher.send(AVC_HEADER)
        player = self.world.connect().open()
        player.play()
        for second in range(200):
            publisher.send(avc(second * 1000, True))
            self.world.pass_time(1)
        self.assertFalse(player.transport.aborted)

    def test_a_viewer_that_takes_nothing(self) -> None:
        publisher = self.world.connect().open()
        publisher.publish()
        player = self.world.connect().open()
        player.play()
        player.protocol.connection.writer.pauseProducing()
        for second in range(STUCK_SECONDS):
            self.assertFalse(player.transport.aborted)
            publisher.send(avc(second * 1000, True))
            player.send(ANYTHING)
            self.world.pass_time(1)
        self.assertTrue(player.transport.aborted)

    def test_a_frame_that_fills_one_viewer_s_buffer(self) -> None:
        """A transport that buffers, as TLS does, says that it is full while it takes the frame."""
        publisher = self.world.connect().open()
        publisher.publish()
        publisher.send(AVC_HEADER, avc(0, True))
        players = [self.world.connect().open() for _ in range(3)]
        for player in players:
            player.play()
        full = players[0].transport
        writer = players[0].protocol.connection.writer
        take = full.write

        def fill(data: bytes) -> None:
            take(data)
            writer.pauseProducing()

        for size in 100_000, 200_000:  # the larger one is not taken at once
            full.write = fill  # type: ignore[method-assign]
            publisher.send(avc(40, True, bytes(size)))
            full.write = take  # type: ignore[method-assign]
            publisher.send(avc(80, False))
            for player in players[1:]:
                self.assertEqual([message.timestamp for message in media(player.new())][-2:], [40, 80])
            writer.resumeProducing()
            self.assertEqual([len(message.body) for message in media(players[0].new())][-2:], [size + 5, 10])

    def test_a_closing_connection_lingers_for_a_while(self) -> None:
        client = self.world.connect().open()
        client.publish("bad key")
        self.assertTrue(client.closing)
        client.feed(b"\xff" * 100)
        self.world.pass_time(LINGER_SECONDS - 1)
        self.assertFalse(client.transport.aborted)
        self.world.pass_time(1)
        self.assertTrue(client.transport.aborted)

    def test_answers_that_nobody_reads(self) -> None:
        client = self.world.connect().open()
        client.protocol.connection.writer.pauseProducing()
        for _ in range(400):
            for _ in range(99):
                client.call("_checkbw", None)
            client.protocol.connection.handler.check(0, 1)
        self.assertTrue(client.transport.aborted)

    def test_acknowledgements(self) -> None:
        client = self.world.connect().open()
        client.publish()
        client.send(messages.window_acknowledgement_size(10_000))
        client.new()
        acknowledged = []
        for n in range(20):
            client.send(aac(n, bytes(2000)))
            acknowledged += [messages.four_bytes(m) for m in client.new() if m.type_id == ACKNOWLEDGEMENT]
        self.assertEqual(len(acknowledged), 4)
        gaps = [later - earlier for earlier, later in pairwise(acknowledged)]
        self.assertTrue(all(gap >= 10_000 for gap in gaps), gaps)
