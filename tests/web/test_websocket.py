"""FLV over WebSocket, for a client that is autobahn's."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint

from rtmp_twisted.web.viewer import MAX_IGNORED
from rtmp_twisted.web.websocket import MAX_MESSAGE, MAX_WAITING
from tests.support.fakes import Log, reactor, until, within
from tests.support.flv import parse_flv
from tests.support.rtmp_client import avc
from tests.web.case import Connection
from tests.web.watch_case import HEADERS, STREAM_KEY, WatchCase

SHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: {version}\r\n\r\n"
)
FLV = f"/tv/{STREAM_KEY}.flv"


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame (RFC 6455, section 5.2), with a mask of zeros."""
    size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + size + bytes(4) + payload


class Client(WebSocketClientProtocol):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.media = b""
        self.pongs: list[bytes] = []
        self.opened: Deferred[None] = Deferred()
        self.ended: Deferred[tuple[bool, int]] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert isBinary
        self.media += payload

    def onPong(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        self.ended.callback((wasClean, code))

    def bodies(self) -> list[bytes]:
        return [message.body for message in parse_flv(self.media)]


class WebSocketTests(WatchCase):
    async def client(self, path: str = FLV) -> Any:
        factory = WebSocketClientFactory(f"ws://127.0.0.1:{self.port}{path}")
        factory.protocol = Client
        return await HostnameEndpoint(reactor, "127.0.0.1", self.port).connect(factory)

    async def raw(self, path: str = FLV, version: int = 13) -> Connection:
        """A connection on which the handshake has been answered."""
        connection = await self.open(SHAKE.format(path=path, version=version).encode())
        await until(lambda: b"\r\n\r\n" in connection.answer, "the answer")
        return connection

    async def test_the_stream(self) -> None:
        """The same bytes as over HTTP, in binary messages; pings are answered in between; it is closed at the end."""
        self.serve()
        log = Log(self)
        publisher = self.on_air()
        first = self.group(publisher, 1)
        plain = await self.watch()
        client = await self.client()
        await within(client.opened)
        second = [avc(2000, True, bytes(70_000)).body]
        publisher.send(avc(2000, True, bytes(70_000)))
        await plain.has(*HEADERS, *first, *second)
        await until(lambda: len(client.media) == len(plain.stream), "the stream")
        self.assertEqual(client.media, plain.stream)
        client.sendPing(b"1")
        await until(lambda: client.pongs == [b"1"], "the pong")
        third = self.group(publisher, 3)
        publisher.call("closeStream", None, stream_id=1)
        self.assertEqual(await within(client.ended), (True, 1000))
        self.assertEqual(client.bodies(), HEADERS + first + second + third)
        await self.waiting(0)
        self.assertNotIn(STREAM_KEY, log.everything())

    async def test_waiting(self) -> None:
        """The handshake is not answered before the publisher is there and the key has been compared."""
        self.serve()
        client, stranger = await self.client(), await self.client("/tv/wrong.flv")
        await self.waiting(2)
        self.assertFalse(client.opened.called)
        publisher = self.on_air()
        first = self.group(publisher, 0)
        await within(client.opened)
        await until(lambda: client.bodies() == HEADERS + first, "the stream")
        await within(stranger.ended)
        self.assertFalse(stranger.opened.called)
        self.assertEqual(self.site.answers[403], 1)

    async def test_a_viewer_that_says_goodbye(self) -> None:
        self.serve()
        self.on_air()
        client = await self.client()
        await within(client.opened)
        client.sendClose(1000)
        self.assertEqual(await within(client.ended), (True, 1000))
        await self.waiting(0)

    async def test_handshakes_that_are_wrong(self) -> None:
        self.serve()
        self.on_air()
        connection = await self.raw(version=7)
        await within(connection.ended)
        self.assertRegex(connection.answer, rb"\AHTTP/1.1 (400|426) ")
        await self.waiting(0)

    async def test_what_is_not_for_websocket(self) -> None:
        """Another upgrade is not made, and the page is no WebSocket."""
        self.serve()
        self.on_air()
        connection = await self.open(b"GET %s HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n" % FLV.encode())
        await until(lambda: b"\r\n\r\n" in connection.answer, "the answer")
        self.assertIn(b"HTTP/1.1 200 OK", connection.answer)

    async def test_bad_frames(self) -> None:
        """Each ends its own connection only."""
        self.serve()
        publisher = self.on_air()
        other = await self.client()
        await within(other.opened)
        for bad in (
            masked(2, bytes(MAX_MESSAGE + 1)),
            b"\x82\x01x",  # not masked
            b"\xf2\x80\0\0\0\0",  # reserved bits
            b"\x83\x80\0\0\0\0",  # an unknown opcode
            b"\x82\xff" + b"\xff" * 8 + bytes(4),  # 2**64 bytes
            b"\x09\x80\0\0\0\0",  # a control frame in pieces
        ):
            connection = await self.raw()
            connection.transport.write(bad)
            await within(connection.ended)
            await self.waiting(1)
        first = self.group(publisher, 0)
        await until(lambda: other.bodies() == HEADERS + first, "the stream")

    async def test_messages_are_ignored(self) -> None:
        self.serve()
        self.on_air()
        connection = await self.raw()
        for _ in range(10):
            connection.transport.write(masked(1, b"hello"))
        connection.transport.write(masked(9, b"there"))
        await until(lambda: b"\x8a\x05there" in connection.answer, "the pong")

    async def test_floods(self) -> None:
        """Of messages, and of pings whose answers nobody reads."""
        self.serve()
        publisher = self.on_air()
        connection = await self.raw()
        connection.transport.write(masked(2, bytes(4000)) * (MAX_IGNORED // 4000 + 1))
        await within(connection.ended)
        connection = await self.raw()
        await self.waiting(1)
        connection.transport.pauseProducing()
        [viewer] = self.viewers.all
        publisher.send(*(avc(number * 40, number == 0, bytes(60_000)) for number in range(100)))
        await until(lambda: viewer.writer.blocked, "a viewer that is behind")
        for _ in range(MAX_WAITING // 120 // 100 + 1):
            connection.transport.write(masked(9, bytes(120)) * 100)
            await until(lambda: viewer._ignored > 0 or not self.viewers.all, "the pings")
            self.service.check()
        await self.waiting(0)
