"""Requests that come again, byte by byte the same: they are answered alike, and who may watch is asked anew."""

from __future__ import annotations

import re
import socket
from typing import Any

from rtmp_twisted.settings_types import Networks
from rtmp_twisted.web import quick
from tests.media.test_fmp4 import AVC
from tests.media.test_segments import NOW, media
from tests.support.fakes import until, within
from tests.support.rtmp_client import AAC_HEADER
from tests.web.case import Connection
from tests.web.watch_case import STREAM_KEY, TOKEN, WatchCase

INDEX = f"/tv/{STREAM_KEY}/index.m3u8"


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


class QuickTests(WatchCase):
    """Each request is sent several times; `heads` counts those that twisted.web has read."""

    def serve(self, *arguments: Any, **options: Any) -> None:
        super().serve(*arguments, **options)
        self.heads = 0

        def counted(resource: object, request: object) -> object:
            self.heads += 1
            return render(resource, request)

        render = type(self.site.resource).render
        self.patch(type(self.site.resource), "render", counted)
        clock = self.world.clock
        self.viewers.hls.now = lambda: NOW + clock.seconds()
        self.encoder = self.publisher()
        self.encoder.send(AVC, AAC_HEADER, *media(7))

    @property
    def known(self) -> dict[bytes, Any]:
        assert isinstance(self.site, quick.QuickSite)
        return self.site.known

    async def ask_again(self, connection: Connection, request: bytes) -> tuple[bytes, bytes]:
        """Sends a request; returns the head and the body of the answer."""
        connection.answer = b""
        connection.transport.write(request)

        def whole() -> bool:
            head, end, body = connection.answer.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: (\d+)", head)
            return bool(end and found and len(body) >= int(found[1]))

        await until(whole, "an answer")
        head, _, body = connection.answer.partition(b"\r\n\r\n")
        return head, body

    def fields(self, head: bytes) -> set[bytes]:
        return {line.lower() for line in head.split(b"\r\n") if not line.lower().startswith(b"date")}

    async def test_the_same_answer(self) -> None:
        """The same head but for the date, and the same body, on this connection and on others."""
        self.serve()
        one, other = await self.open(), await self.open()
        await self.ask_again(one, get(INDEX, "X: another"))
        self.encoder.send(*media(2, start=7, first=210))
        for path in INDEX, INDEX.replace("index", "v0"), INDEX.replace("index.m3u8", "x"):
            self.heads = 0
            first = await self.ask_again(one, get(path))
            for connection in one, other, one:
                again = await self.ask_again(connection, get(path))
                self.assertEqual((self.fields(again[0]), again[1]), (self.fields(first[0]), first[1]), path)
            self.assertEqual(self.heads, 1)
        self.assertEqual(self.site.answers, {200: 9, 404: 4})

    async def test_many_in_one_piece(self) -> None:
        """They are answered in their order, those that are known and those that are not."""
        self.serve()
        connection = await self.open()
        await self.ask_again(connection, get(INDEX))
        wanted = [INDEX, "/nothing", f"/tv/{STREAM_KEY}", INDEX, INDEX, "/nothing", INDEX]
        connection.answer = b""
        connection.transport.write(b"".join(map(get, wanted)))
        await until(lambda: len(re.findall(rb"HTTP/1.1 \d+", connection.answer)) == len(wanted), "all answers")
        codes = [int(code) for code in re.findall(rb"HTTP/1.1 (\d+)", connection.answer)]
        self.assertEqual(codes, [404 if path == "/nothing" else 200 for path in wanted])

    async def test_a_client_that_reads_nothing(self) -> None:
        """The next request waits until the answer has left; what waits is counted."""
        self.serve()
        connection = await self.open()
        await self.ask_again(connection, get(INDEX))
        await self.ask_again(connection, get(INDEX))
        connection.answer = b""
        connection.transport.pauseProducing()
        connection.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for one in self.site.connections:
            transport: Any = one.transport
            transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        count = 2_000
        connection.transport.write(get(INDEX) * count)
        await until(lambda: self.site.unread, "an answer that waits")
        answered = self.site.answers[200]
        self.assertLess(answered, count)
        connection.transport.resumeProducing()
        await until(lambda: self.site.answers[200] == 2 + count, "all answers")
        await until(lambda: not self.site.unread, "the end of what waits")
        connection.transport.loseConnection()
        await within(connection.ended)

    async def test_who_may_watch(self) -> None:
        """A head that is known lets nobody in: neither with another key, nor from elsewhere, nor when a token ends."""
        self.serve(TOKEN)
        token = self.token(seconds=60)
        request = get(f"/tv/{token}/index.m3u8")
        connection = await self.open()
        for _ in range(2):
            self.assertIn(b" 200 ", (await self.ask_again(connection, request))[0])
        self.world.clock.advance(20)
        self.assertIn(b" 200 ", (await self.ask_again(connection, request))[0])
        self.now += 60
        head, body = await self.ask_again(connection, request)
        self.assertEqual((head.split(b" ")[1], body), (b"403", b"the token has expired\n"))
        self.assertEqual(self.heads, 1)

    async def test_another_publisher(self) -> None:
        self.serve()
        connection = await self.open()
        for _ in range(2):
            self.assertIn(b" 200 ", (await self.ask_again(connection, get(INDEX)))[0])
        self.encoder.call("closeStream", None, stream_id=1)
        self.publisher(key="another")
        self.assertIn(b" 403 ", (await self.ask_again(connection, get(INDEX)))[0])
        self.assertEqual(self.heads, 1)

    async def test_where_it_comes_from(self) -> None:
        self.serve(players=Networks.parse("127.0.0.1"))
        for source, code in ("127.0.0.1", b" 200 "), ("127.0.0.2", b" 403 "):
            connection = await self.open(source=source)
            self.assertIn(code, (await self.ask_again(connection, get(INDEX)))[0])
        self.assertEqual(self.heads, 1)

    async def test_a_stream_behind_it(self) -> None:
        """What was answered before has left when the stream begins."""
        self.serve()
        connection = await self.open()
        await self.ask_again(connection, get(INDEX))
        connection.answer = b""
        connection.transport.write(get(INDEX) * 20 + get(f"/tv/{STREAM_KEY}.flv"))
        await until(lambda: b"FLV" in connection.answer, "the stream")
        self.assertEqual(len(re.findall(rb"HTTP/1.1 200", connection.answer)), 21)
        self.assertGreater(connection.answer.index(b"FLV"), connection.answer.rindex(b"#EXT"))

    async def test_those_that_are_not_remembered(self) -> None:
        """Too long, to be closed, or with a body."""
        self.serve()
        for headers in ("X: " + "y" * quick.MAX_HEAD,), ("Connection: close",), ("Content-Length: 0", "Expect: x"):
            for _ in range(2):
                await self.ask_again(await self.open(), get(INDEX, *headers))
        connection = await self.open()
        for _ in range(2):
            await self.ask_again(connection, get(INDEX, "Content-Length: 4") + b"body")
        self.assertEqual((self.heads, self.known), (8, {}))
        self.assertEqual(self.site.answers, {200: 8})

    async def test_they_are_forgotten(self) -> None:
        self.patch(quick, "MAX_KNOWN", 3)
        self.serve()
        connection = await self.open()
        for number in range(4):
            await self.ask_again(connection, get(INDEX, f"X: {number}"))
        self.assertEqual(len(self.known), 1)
