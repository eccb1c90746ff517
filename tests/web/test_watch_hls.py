"""HLS through the viewers' site: who is let in, and requests that wait."""

from __future__ import annotations

import re
from typing import Any

from rtmp_twisted.rtmp.guessing import GuessingLimits
from tests.media.test_fmp4 import AVC
from tests.media.test_segments import NOW, media
from tests.support.fakes import until
from tests.support.playlists import broken_rules, parse
from tests.support.rtmp_client import AAC_HEADER
from tests.web.watch_case import ANYONE, STREAM_KEY, TOKEN, Viewer, WatchCase

HOME = f"/tv/{STREAM_KEY}/"


def lines(answer: bytes) -> list[bytes]:
    """The lines of an answer, but for the date."""
    return [line for line in answer.split(b"\r\n") if not line.lower().startswith(b"date:")]


class SiteTests(WatchCase):
    def serve(self, *arguments: Any, **options: Any) -> None:
        super().serve(*arguments, **options)
        clock = self.world.clock
        self.viewers.hls.now = lambda: NOW + clock.seconds()

    def start(self, seconds: float = 7) -> None:
        """On air, with so much media."""
        self.publisher_ = self.publisher("tv", STREAM_KEY)
        self.publisher_.send(AVC, AAC_HEADER, *media(seconds))

    def go_on(self, start: float, seconds: float) -> None:
        self.publisher_.send(*media(seconds, start=start, first=round(start * 30)))

    async def answer(self, path: str, **more: str) -> Viewer:
        """A whole answer."""
        viewer = await self.answered(path, **more)
        length = int(viewer.head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await until(lambda: len(viewer.body) >= length or more.get("method") == "HEAD", "the body")
        return viewer

    async def text(self, path: str, **more: str) -> str:
        viewer = await self.answer(path, **more)
        self.assertEqual(viewer.code, 200, viewer.connection.answer)
        return viewer.body.decode()

    async def answers(self, viewer: Viewer, count: int) -> None:
        await until(lambda: viewer.connection.answer.count(b"HTTP/1.1 ") == count, "the answers")

    async def whole(self, viewer: Viewer, length: int) -> None:
        await until(lambda: len(viewer.connection.answer) >= length, "the answer")

    async def test_a_session(self) -> None:
        """Relative addresses lead from the page's folder to everything; pages of any site may load it."""
        self.serve()
        self.start()
        index = await self.text(HOME + "index.m3u8")
        name = index.splitlines()[-1]
        self.go_on(7, 2)
        viewer = await self.answer(HOME + name)
        playlist = parse(viewer.body.decode())
        self.assertEqual(broken_rules(playlist.text), [])
        head = viewer.head.lower()
        self.assertIn(b"content-type: application/vnd.apple.mpegurl", head)
        self.assertIn(b"access-control-allow-origin: *", head)
        self.assertNotIn(b"connection: close", head)
        for uri in playlist.segments[0].map, playlist.segments[0].uri, playlist.parts[-1].uri:
            self.assertEqual((await self.answer(HOME + uri)).code, 200)
        self.assertEqual((await self.answer(HOME + "nothing.m3u8")).code, 404)
        only_head = await self.answer(HOME + name, method="HEAD")
        self.assertEqual(only_head.body, b"")
        self.assertIn(b"content-length: %d" % len(viewer.body), only_head.head.lower())

    async def test_a_request_that_waits(self) -> None:
        """Until its part is there, however long that takes; one whose client leaves does no harm."""
        self.serve()
        self.start()
        await self.text(HOME + "index.m3u8")
        self.go_on(7, 2)
        playlist = parse(await self.text(HOME + "v0.m3u8"))
        newest = playlist.segments[-1]
        path = f"{HOME}v0.m3u8?_HLS_msn={newest.number}&_HLS_part={len(newest.parts)}"
        waiting, leaving = await self.watch(path), await self.watch(path)
        [stream] = self.viewers.hls._streams.values()
        await until(lambda: len(stream._waiting) == 2, "the requests")
        leaving.connection.transport.abortConnection()
        await until(lambda: any(one.asker.gone for one in stream._waiting), "the end of one")
        self.assertEqual(waiting.connection.answer, b"")
        self.go_on(9, 0.5)
        await until(lambda: b"#EXTM3U" in waiting.connection.answer, "the playlist")

    async def test_the_following_requests_of_a_connection(self) -> None:
        """They are answered as the first one is, byte by byte."""
        self.serve()
        self.start()
        await self.text(HOME + "index.m3u8")
        self.go_on(7, 2)
        playlist = parse(await self.text(HOME + "v0.m3u8"))
        newest = playlist.segments[-1]
        reload = f"v0.m3u8?_HLS_msn={newest.number}&_HLS_part=0&_HLS_skip=YES"
        files = ["index.m3u8", "v0.m3u8", reload, playlist.parts[-1].uri, playlist.segments[0].map, "nothing.m4s"]
        files += ["v0.m3u8?_HLS_msn=x", "v0.m3u8?_HLS_part=1"]
        alone = [(await self.answer(HOME + file)).connection.answer for file in files]
        viewer = await self.answer(HOME + "index.m3u8")
        for file, expected in zip(files, alone, strict=True):
            viewer.connection.answer = b""
            viewer.connection.transport.write(f"GET {HOME}{file} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await self.whole(viewer, len(expected))
            self.assertEqual(sorted(lines(viewer.connection.answer)), sorted(lines(expected)))

    async def test_other_requests_of_a_connection(self) -> None:
        """They take the usual way: two in one piece, HEAD, another path, the last one."""
        self.serve()
        self.start()
        viewer = await self.answer(HOME + "index.m3u8")
        self.go_on(7, 2)
        for request, codes in (
            (f"GET {HOME}v0.m3u8 HTTP/1.1\r\nHost: a\r\n\r\n" * 2, [200, 200]),
            (f"HEAD {HOME}v0.m3u8 HTTP/1.1\r\nHost: a\r\n\r\n", [200]),
            (f"GET {HOME}v0.m3u8?token=x HTTP/1.1\r\nHost: a\r\n\r\n", [200]),
            ("GET /tv/wrong/v0.m3u8 HTTP/1.1\r\nConnection: close\r\n\r\n", [403]),
        ):
            viewer.connection.answer = b""
            viewer.connection.transport.write(request.encode())
            await self.answers(viewer, len(codes))
            found = [int(code) for code in re.findall(rb"HTTP/1.1 (\d+) ", viewer.connection.answer)]
            self.assertEqual((request, found), (request, codes))
        await viewer.gone()

    async def test_a_session_that_waits(self) -> None:
        """What comes in the meantime is answered behind it; the client may leave."""
        self.serve()
        self.start()
        viewer, other = await self.answer(HOME + "index.m3u8"), await self.answer(HOME + "index.m3u8")
        self.go_on(7, 2)
        playlist = parse(await self.text(HOME + "v0.m3u8"))
        newest = playlist.segments[-1]
        path = f"{HOME}v0.m3u8?_HLS_msn={newest.number}&_HLS_part={len(newest.parts)}"
        for one in viewer, other:
            one.connection.answer = b""
            one.connection.transport.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        [stream] = self.viewers.hls._streams.values()
        await until(lambda: len(stream._waiting) == 2, "the requests")
        viewer.connection.transport.write(f"GET {HOME}index.m3u8 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        other.connection.transport.abortConnection()
        await until(lambda: any(one.asker.gone for one in stream._waiting), "the end of one")
        self.assertEqual(viewer.connection.answer, b"")
        self.go_on(9, 0.5)
        await until(lambda: viewer.connection.answer.count(b"#EXTM3U") == 2, "both answers")
        self.assertLess(viewer.connection.answer.index(b"PART"), viewer.connection.answer.index(b"STREAM-INF"))

    async def test_a_token_that_expires_during_a_session(self) -> None:
        self.serve(TOKEN)
        self.start()
        token = self.token(seconds=20)
        request = f"GET /tv/v0.m3u8?token={token} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        viewer = await self.answer(f"/tv/index.m3u8?token={token}")
        self.go_on(7, 2)
        for seconds, code in (0, b" 200 "), (10, b" 200 "), (11, b" 403 "):
            self.world.clock.advance(seconds)
            viewer.connection.answer = b""
            viewer.connection.transport.write(request)
            await until(lambda: b"\r\n\r\n" in viewer.connection.answer, "an answer")
            self.assertIn(code, viewer.connection.answer[:20])

    async def test_a_wrong_key(self) -> None:
        """It is counted as a guess, for playlists and for segments."""
        self.serve()
        self.start()
        await self.text(HOME + "index.m3u8")
        guesses: list[str] = []
        self.patch(GuessingLimits, "fail", lambda limits, command, address, channel, key: guesses.append(key))
        for file in "index.m3u8", "v0.m3u8", "v0-1.m4s":
            self.assertEqual((await self.answer(f"/tv/wrong/{file}")).code, 403)
        self.assertEqual(guesses, ["wrong"] * 3)

    async def test_tokens(self) -> None:
        """One in the query is carried on, one in the path is there anyway; one that has expired ends the session."""
        self.serve(TOKEN)
        self.start()
        token = self.token()
        text = await self.text(f"/tv/index.m3u8?token={token}")
        self.assertEqual(text.splitlines()[-1], f"v0.m3u8?token={token}")
        self.go_on(7, 2)
        playlist = parse(await self.text(f"/tv/v0.m3u8?token={token}"))
        uri = playlist.segments[0].uri
        self.assertTrue(uri.endswith(f"?token={token}"))
        self.assertEqual((await self.answer(f"/tv/{uri}")).code, 200)
        without = await self.answer(f"/tv/{uri.partition('?')[0]}")  # a page for a token of that name
        self.assertIn(b"text/html", without.head)
        text = await self.text(f"/tv/{token}/index.m3u8")
        self.assertEqual(text.splitlines()[-1], "v0.m3u8")
        self.world.clock.advance(61)
        self.assertEqual((await self.answer(f"/tv/{uri}")).code, 403)

    async def test_anyone(self) -> None:
        self.serve(ANYONE)
        self.start()
        self.assertEqual((await self.text("/tv/index.m3u8")).splitlines()[-1], "v0.m3u8")

    async def test_the_server_stops(self) -> None:
        self.serve()
        waiting = await self.watch(HOME + "index.m3u8")
        await until(lambda: bool(self.viewers.hls._streams), "the request")
        self.viewers.hls.close()
        await until(lambda: b" 503 " in waiting.connection.answer, "the answer")
        self.assertEqual(self.world.broker.channels(), [])
