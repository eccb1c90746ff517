"""Bad clients of the viewers' site, and good ones that are unusual: each is bounded, and answered by the book."""

from __future__ import annotations

import re
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogLevel

from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.settings_types import Networks
from rtmp_twisted.web import site, watch
from rtmp_twisted.web.metrics import Metrics, TimedAuthority
from rtmp_twisted.web.serializers import serialize_channel
from rtmp_twisted.web.site import ANSWER_SECONDS, KEEP_ALIVE_SECONDS, MAX_BODY, REQUEST_SECONDS
from rtmp_twisted.web.status import WebStatus, one_channel
from tests.support.fakes import Log, until, within
from tests.support.rtmp_client import avc
from tests.web.case import Connection
from tests.web.watch_case import HEADERS, STREAM_KEY, Viewer, WatchCase

PAGE = f"/tv/{STREAM_KEY}".encode()
FLV = PAGE + b".flv"


def get(path: bytes = PAGE, *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"%s %s HTTP/%s" % (method, path, version), b"Host: localhost", *headers, b"", b""])


class RequestTests(WatchCase):
    async def test_persistent_connections(self) -> None:
        """Requests one behind the other, and many at once: all are answered, in order."""
        self.serve()
        connection = await self.open()
        for count in 1, 2:
            connection.transport.write(get())
            await until(lambda count=count: connection.answer.count(b"</html>") == count, "an answer")  # type: ignore[misc]
        connection.transport.write(b"".join(get(b"/x%d" % number) for number in range(50)) + get())
        await until(lambda: connection.answer.count(b"</html>") == 3, "all answers")
        self.assertEqual(re.findall(rb"HTTP/1.1 (\d+)", connection.answer), [b"200"] * 2 + [b"404"] * 50 + [b"200"])
        self.assertFalse(connection.ended.called)
        for closing in get(b"/", b"Connection: close"), get(version=b"1.0"):
            answer = await self.exchange(closing * 2)
            self.assertEqual((answer.count(b"HTTP/1."), b"connection: close" in answer.lower()), (1, True))

    async def test_a_stream_is_the_last_answer(self) -> None:
        """What was sent behind its request is not answered."""
        self.serve()
        publisher = self.on_air()
        viewer = Viewer(await self.open(get() + get(FLV) + get()))
        await until(lambda: b"video/x-flv" in viewer.connection.answer, "the answers")
        _, _, rest = viewer.connection.answer.partition(b"</html>\n")
        viewer.connection.answer = rest
        await viewer.has(*HEADERS, *self.group(publisher, 0))
        self.assertEqual(self.site.answers, {200: 2})

    async def test_methods(self) -> None:
        self.serve()
        self.on_air()
        for path in PAGE, FLV, b"/nothing":
            answer = await self.exchange(
                get(path, b"Connection: close", b"Origin: https://a.example", method=b"OPTIONS")
            )
            head = answer.decode().lower()
            self.assertTrue(head.startswith("http/1.1 204 "), path)
            self.assertIn("access-control-allow-origin: *\r\n", head)
            self.assertIn("access-control-allow-methods: get, head, options\r\n", head)
            self.assertTrue(head.endswith("\r\n\r\n"))
            for method in b"POST", b"DELETE", b"NONSENSE":
                answer = await self.exchange(get(path, b"Connection: close", method=method))
                self.assertIn(b" 405 ", answer)
                self.assertIn(b"Allow: GET, HEAD, OPTIONS\r\n", answer)
        answer = await self.exchange(get(PAGE, b"Connection: close", method=b"HEAD"))
        self.assertRegex(answer, rb"(?s)\AHTTP/1.1 200 .*\r\n\r\n\Z")

    async def test_the_page(self) -> None:
        """It has no secret, names nothing elsewhere, and is asked for only once."""
        self.serve()
        answer = await self.ask(PAGE.decode())
        self.assertEqual((answer.code, STREAM_KEY in answer.text), (200, False))
        headers = {name.lower(): values[0] for name, values in answer.headers.getAllRawHeaders()}
        self.assertRegex(headers[b"content-security-policy"], rb"\Adefault-src 'none'; script-src 'sha256-")
        self.assertEqual(headers[b"referrer-policy"], b"no-referrer")
        self.assertEqual(headers[b"x-content-type-options"], b"nosniff")
        again = await self.exchange(get(PAGE, b"If-None-Match: " + headers[b"etag"], b"Connection: close"))
        self.assertIn(b" 304 ", again)

    async def test_paths(self) -> None:
        """Dots and slashes lead nowhere, and an absolute target is a path."""
        self.serve()
        for path in (
            *(b"/", b"/tv", b"//", b"/../../etc/passwd", b"/tv/../../x", b"/%2e%2e/%2e%2e/%2e%2e", b"/tv/k/e/y"),
            *(
                b"/tv/key.ts",
                b"/index.html",
                b"/page/index.html",
                b"/%zz/%",
                b"/tv/\xff.flv",
                b"/tv/key.jpg",
                b"?",
                b"x",
            ),
        ):
            answer = await self.exchange(get(path, b"Connection: close"))
            self.assertRegex(answer, rb"\AHTTP/1.1 (404 Not Found|400 Bad Request)\r\n", path)
        for path in b"http://localhost/tv/k", b"HTTPS://x:1/tv/k?a=b", b"/%74v/k", b"/tv/k?token=%ff&" + b"a&" * 100:
            self.assertIn(b" 200 ", await self.exchange(get(path, b"Connection: close")), path)

    async def test_long_heads(self) -> None:
        """8 kB of headers are read, 20 kB refused."""
        self.serve()
        self.assertIn(b" 200 ", await self.exchange(get(PAGE, b"X: " + b"y" * 8000, b"Connection: close")))
        self.assertIn(b" 200 ", await self.exchange(get(PAGE, *[b"X: y"] * 400, b"Connection: close")))
        for request in get(PAGE, *[b"X: " + b"y" * 5000] * 4), get(PAGE, *[b"X: y"] * 1000), get(b"/" + b"x" * 20000):
            answer = await self.exchange(request)
            self.assertRegex(answer, rb"\A(HTTP/1.1 400 Bad Request\r\n|\Z)")
        self.assertGreaterEqual(self.site.answers[400], 2)

    async def test_bodies(self) -> None:
        self.serve()
        answer = await self.exchange(get(PAGE, b"Content-Length: 4", b"Connection: close") + b"body")
        self.assertIn(b" 200 ", answer)
        self.assertEqual(await self.exchange(get(PAGE, b"Content-Length: 9999") + bytes(MAX_BODY + 1)), b"")


class LimitTests(WatchCase):
    async def test_slow_requests(self) -> None:
        """The time counts from the connection, or from the last answer, on."""
        self.serve()
        timers = len(self.world.clock.getDelayedCalls())
        slow, idle = await self.open(b"GET /tv/"), await self.open(get())
        await until(lambda: b"</html>" in idle.answer, "the answer")
        for _ in range(REQUEST_SECONDS):
            slow.transport.write(b"x")
            self.world.clock.advance(1)
        await within(slow.ended)
        self.assertFalse(idle.ended.called)
        self.world.clock.advance(KEEP_ALIVE_SECONDS - REQUEST_SECONDS - 1)
        idle.transport.write(b"GET")
        self.assertFalse(idle.ended.called)
        self.world.clock.advance(1)
        await within(idle.ended)
        await until(lambda: len(self.world.clock.getDelayedCalls()) == timers, "the end of all timers")
        self.assertEqual((self.site.connections, self.limits.inside), ({}, 0))

    async def test_many_half_requests(self) -> None:
        """The oldest make room; those who watch or wait stay."""
        self.patch(watch, "MAX_UNFINISHED", 40)
        self.patch(site, "MORE", 0)
        self.serve()
        log = Log(self)
        publisher = self.on_air()
        viewer, waiting = await self.watch(), await self.watch("/other/key.flv")
        await self.waiting(2)
        opening = [Deferred.fromCoroutine(self.open(b"GET /tv/k HTTP/1.1\r\nX: ")) for _ in range(200)]
        halves: list[Connection] = await within(gatherResults(opening))
        await until(lambda: sum(one.ended.called for one in halves) == 160, "the end of the oldest")
        self.assertIn(b" 200 ", await self.exchange(get(PAGE, b"Connection: close")))
        await viewer.has(*HEADERS, *self.group(publisher, 0))
        self.assertFalse(waiting.connection.ended.called)
        self.assertEqual(log.lines(LogLevel.warn), ["HTTP: 40 connections; the oldest are closed for new ones"])
        for one in halves:
            one.transport.loseConnection()
        await until(lambda: len(self.site.connections) == 2, "their end")

    async def test_connections_of_an_address(self) -> None:
        """Viewers and others together; another address does not mind, nor do RTMP's limits."""
        self.serve(per_address=3)
        log = Log(self)
        self.on_air()
        viewers = [await self.watch(), await self.watch("/other/key.flv")]
        await self.waiting(2)
        idle = await self.open(get())
        await until(lambda: b"</html>" in idle.answer, "the answer")
        refused = await self.open(get())
        await within(refused.ended)
        self.assertEqual(refused.answer, b"")
        other = await self.open(get(PAGE, b"Connection: close"), source="127.0.0.2")
        await within(other.ended)
        self.assertIn(b"</html>", other.answer)
        self.assertEqual(self.limits.refused, {"address_limit": 1})
        self.assertEqual(
            log.lines(LogLevel.warn),
            [
                "127.0.0.1 has 3 connections (WEB_MAX_PER_IP); others from there are turned away,"
                " unless CONCURRENT_LIMIT_WHITELIST has the address"
            ],
        )
        viewers[0].connection.transport.loseConnection()
        await self.waiting(1)
        self.assertIn(b"</html>", await self.exchange(get(PAGE, b"Connection: close")))

    async def test_all_connections_together(self) -> None:
        """The web server's count towards MAX_CONNECTIONS."""
        self.serve()
        mine = ConnectionLimits(3)
        web = ConnectionLimits(0, 100, beside=mine)
        for limits in mine, web, web:
            self.assertFalse(limits.refuses("192.0.2.1"))
            limits.enter("192.0.2.1")
        self.assertTrue(mine.refuses("192.0.2.2"))
        self.assertTrue(web.refuses("192.0.2.2"))
        self.assertEqual((mine.inside, web.inside, web.total), (1, 2, 3))
        web.leave("192.0.2.1")
        self.assertFalse(mine.refuses("192.0.2.2"))

    async def test_behind_a_proxy(self) -> None:
        """The client's address is the one that the PROXY header says."""
        self.serve(proxies=Networks.parse("127.0.0.1"), per_address=1, players=Networks.parse("192.0.2.7"))
        publisher = self.on_air()
        header = b"PROXY TCP4 192.0.2.%d 127.0.0.1 5000 80\r\n"
        viewer = Viewer(await self.open(header % 7 + get(FLV)))
        await viewer.has(*HEADERS, *self.group(publisher, 0))
        other = await self.exchange(header % 8 + get(FLV))
        self.assertIn(b" 403 ", other)
        self.assertEqual(await self.exchange(header % 7 + get()), b"")

    async def test_answers_that_are_not_read(self) -> None:
        self.serve()
        resource: Any = self.site.resource
        resource.page = evolve(resource.page, content=bytes(8_000_000))
        connection = await self.open()
        connection.transport.pauseProducing()
        connection.transport.write(get() * 3)
        await until(lambda: self.site.unread >= 8_000_000, "the answer")
        held = self.site.unread
        self.assertEqual(held, 8_000_000)  # it does not answer all of them before the first is read
        self.service.check()
        self.assertGreater(self.world.broker.memory.held, held)
        self.world.clock.advance(max(ANSWER_SECONDS, KEEP_ALIVE_SECONDS))
        await until(lambda: not self.site.connections, "the end of the connection")
        self.assertEqual(self.site.unread, 0)

    async def test_nonsense(self) -> None:
        self.serve()
        for request in (
            b"\0\1\2\3\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"A" * 100_000,
        ):
            connection = await self.open(request)
            await self.end(connection)
            self.assertRegex(connection.answer, rb"\A(HTTP/1\.[01] 4\d\d|\Z)", request)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def end(self, connection: Connection) -> None:
        def has_ended() -> bool:
            self.world.clock.advance(1)
            return connection.ended.called

        await until(has_ended, "the end")


class FigureTests(WatchCase):
    async def test_metrics_and_api(self) -> None:
        self.serve(per_address=6)
        publisher = self.on_air()
        clock = self.world.clock
        timed = TimedAuthority(self.world.authority, clock)
        status = WebStatus(self.viewers, self.site, self.limits)
        metrics = Metrics(clock, self.world.broker, self.world.factory, timed, {}, status)
        viewers = [await self.answered(FLV.decode()), await self.answered(FLV.decode(), version="1.0")]
        websocket = await self.open(
            get(FLV, b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: "
                b"dGhlIHNhbXBsZSBub25jZQ==")
        )  # fmt: skip
        await until(lambda: b" 101 " in websocket.answer, "the answer")
        waiting = await self.watch("/other/key.flv")
        await self.waiting(4)
        await self.exchange(get(b"/nothing", b"Connection: close"))
        player = self.player()
        publisher.send(avc(0, True))
        await until(lambda: all(b"\x17\x01" in viewer.stream for viewer in viewers), "the media")
        idle = [await self.open(get()) for _ in range(2)]
        await until(lambda: all(b"</html>" in one.answer for one in idle), "the answers")
        refused = await self.open()
        await within(refused.ended)
        text = metrics.text().decode()
        for line in (
            'rtmp_web_viewers{format="flv",over="http"} 2.0',
            'rtmp_web_viewers{format="flv",over="websocket"} 1.0',
            "rtmp_web_connections 6.0",
            "rtmp_web_connections_total 7.0",
            'rtmp_web_connections_refused_total{reason="address_limit"} 1.0',
            'rtmp_web_answers_total{status="200"} 4.0',
            'rtmp_web_answers_total{status="101"} 1.0',
            'rtmp_web_answers_total{status="404"} 1.0',
            "rtmp_players 5.0",
        ):
            self.assertIn(f"\n{line}\n", text)
        channel = one_channel(self.world.broker, "tv")
        assert channel is not None
        view = serialize_channel(channel, clock.seconds(), metrics.sampler)
        self.assertEqual((view["players"], view["web_viewers"]), (4, 3))
        self.assertGreater(view["delivered"]["bytes"], 0)
        without = Metrics(clock, self.world.broker, self.world.factory, timed, {}).text().decode()
        self.assertNotIn("rtmp_web", without)
        player.leave()
        waiting.connection.transport.loseConnection()
