"""Requests like those before on their connection: they are answered alike, by those who may still watch."""

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
MEDIA = f"/tv/{STREAM_KEY}/v0.m3u8"


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


class QuickTests(WatchCase):
    """`heads` counts the requests that twisted.web has read."""

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
        """The same head but for the date, and the same body, on this connection and on others that were let in."""
        self.serve()
        one, other = await self.open(), await self.open()
        for connection in one, other:
            await self.ask_again(connection, get(INDEX))
        self.encoder.send(*media(2, start=7, first=210))
        init = re.findall(rb'MAP:URI="([^"]+)"', (await self.ask_again(one, get(MEDIA)))[1])[0].decode()
        for path in INDEX, MEDIA, MEDIA.replace("v0.m3u8", init):
            first = await self.ask_again(one, get(path))
            self.heads = 0
            for connection in other, one:
                again = await self.ask_again(connection, get(path))
                self.assertEqual((self.fields(again[0]), again[1]), (self.fields(first[0]), first[1]), path)
            self.assertEqual(self.heads, 0)
        self.assertEqual(self.site.answers, {200: 12})

    async def test_what_is_read_anew(self) -> None:
        """Other headers, another method, another key, and what is no file of a stream."""
        self.serve()
        connection = await self.open()
        await self.ask_again(connection, get(INDEX))
        for request, code in (
            (get(INDEX, "X: y"), b"200"),
            (get(INDEX, "X: y").replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nA: b\r\n"), b"200"),
            (get(INDEX).replace(b"/index", b"/nothing"), b"404"),
            (get(INDEX).replace(b"/index", b"/nothing"), b"404"),
            (get("/tv/another/index.m3u8"), b"403"),
            (get("/tv/index.m3u8"), b"404"),
        ):
            self.heads = 0
            head, _ = await self.ask_again(connection, request)
            self.assertEqual((head.split(b" ")[1], self.heads), (code, 1), request)

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

    async def test_a_token_that_expires(self) -> None:
        self.serve(TOKEN)
        request = get(f"/tv/{self.token(seconds=60)}/index.m3u8")
        connection = await self.open()
        for wait in 0, 0, 25, 25:
            self.world.clock.advance(wait)
            self.assertIn(b" 200 ", (await self.ask_again(connection, request))[0])
        self.assertEqual(self.heads, 1)
        self.world.clock.advance(10)
        head, body = await self.ask_again(connection, request)
        self.assertEqual((head.split(b" ")[1], body), (b"403", b"the token has expired\n"))

    async def test_tokens_in_the_query(self) -> None:
        """Names are known whatever the token is; each viewer's playlists have their own."""
        self.serve(TOKEN)
        tokens = [self.token(seconds=seconds) for seconds in (60, 70)]
        connections = [await self.open() for _ in tokens]
        files = [[f"/tv/{file}.m3u8?token={token}" for file in ("index", "v0")] for token in tokens]
        for connection, (index, _) in zip(connections, files, strict=True):
            await self.ask_again(connection, get(index))
        self.encoder.send(*media(2, start=7, first=210))
        self.heads = 0
        for connection, (_, playlist), token in zip(connections, files, tokens, strict=True):
            _, body = await self.ask_again(connection, get(playlist))
            self.assertEqual(set(re.findall(rb"token=([^\s\"]+)", body)), {token.encode()})
        self.assertEqual(self.heads, 1)
        wrong = self.token(seconds=60, secret="another secret of thirty-two bytes!")
        head, _ = await self.ask_again(connections[0], get(f"/tv/v0.m3u8?token={wrong}"))
        self.assertIn(b" 403 ", head)
        self.assertEqual({name.count(b"token=") for name in self.known}, {1})
        self.assertNotIn(b"token=e", b"".join(self.known))

    async def test_another_publisher(self) -> None:
        self.serve()
        connection = await self.open()
        for _ in range(2):
            self.assertIn(b" 200 ", (await self.ask_again(connection, get(INDEX)))[0])
        self.encoder.call("closeStream", None, stream_id=1)
        self.publisher(key="another")
        self.assertIn(b" 403 ", (await self.ask_again(connection, get(INDEX)))[0])

    async def test_where_it_comes_from(self) -> None:
        """Others are judged for themselves; and so is somebody whose address has failed since."""
        self.serve(players=Networks.parse("127.0.0.1"))
        for source, code in ("127.0.0.1", b" 200 "), ("127.0.0.2", b" 403 "):
            connection = await self.open(source=source)
            self.assertIn(code, (await self.ask_again(connection, get(INDEX)))[0])
        connection = await self.open()
        await self.ask_again(connection, get(INDEX))
        self.heads = 0
        self.access.guessing.fail("play", "127.0.0.1", "tv", "wrong")
        connection.answer = b""
        connection.transport.write(get(INDEX))
        await until(lambda: self.heads, "the request")
        self.assertEqual(connection.answer, b"")
        self.world.clock.advance(2)
        await until(lambda: connection.answer, "its answer")

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
        """Too long, or with a body."""
        self.serve()
        for headers in ("X: " + "y" * quick.MAX_HEAD,), ("Content-Length: 0", "Expect: x"):
            connection = await self.open()
            for _ in range(2):
                await self.ask_again(connection, get(INDEX, *headers))
        for path, body in (INDEX, b"body"), (f"{INDEX}?{'x' * quick.MAX_NAME}", b""):
            connection = await self.open()
            for _ in range(2):
                await self.ask_again(connection, get(path, f"Content-Length: {len(body)}") + body)
        self.assertEqual((self.heads, self.known), (8, {}))
        self.assertEqual(self.site.answers, {200: 8})

    async def test_they_are_forgotten(self) -> None:
        self.patch(quick, "MAX_KNOWN", 3)
        self.serve()
        connection = await self.open()
        for number in range(4):
            await self.ask_again(connection, get(f"{INDEX}?{number}"))
        self.assertEqual(list(self.known), [b"index.m3u8?3"])
