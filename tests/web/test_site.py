"""Bad clients of the operators' port: /healthz is answered whatever they do, and nothing that they hold grows."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogLevel

from rtmp_twisted.web import site
from rtmp_twisted.web.site import ANSWER_SECONDS, MAX_BODY, MAX_CONNECTIONS, MAX_UNREAD, REQUEST_SECONDS
from tests.support.fakes import Log, until, within
from tests.web.case import Connection, HTTPCase

HEALTH = b"GET /healthz HTTP/1.0\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


class SlowClientTests(HTTPCase):
    def setUp(self) -> None:
        self.patch(site, "MORE", 0)

    async def test_a_burst(self) -> None:
        """For a moment there may be more, so that what has come on each can be read."""
        self.patch(site, "MORE", 10)
        self.serve()
        young = [await self.open() for _ in range(MAX_CONNECTIONS + 10)]
        one = await self.open(HEALTH)
        await within(one.ended)
        self.assertIn(b"ok\n", one.answer)
        await until(lambda: young[0].ended.called, "the end of the oldest")
        self.assertFalse(any(other.ended.called for other in young[1:]))
        self.world.clock.advance(site.YOUNG_SECONDS)
        another = await self.open(HEALTH)
        await within(another.ended)
        await until(lambda: young[1].ended.called, "the end of the next")
        for other in young:
            other.transport.loseConnection()

    async def test_publishers_are_read_in_between(self) -> None:
        """Behind each connection that comes or goes: there may be many in one turn."""
        self.serve()
        glances: list[None] = []
        self.world.broker.scheduler.turns.before = lambda: glances.append(None)
        there = [await self.open() for _ in range(5)]
        await until(lambda: len(glances) == 5, "a glance for each that came")
        for one in there:
            one.transport.loseConnection()
        await until(lambda: len(glances) == 10, "a glance for each that went")

    async def test_many_half_requests(self) -> None:
        """A new connection is served in place of the oldest, however many there are."""
        self.serve("a token")
        log = Log(self)
        timers = len(self.world.clock.getDelayedCalls())
        waiting: list[Connection] = []
        for beginning in b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nContent-":
            for _ in range(MAX_CONNECTIONS):
                waiting.append(await self.open(beginning))
            self.assertIn(b"ok\n", await self.exchange(HEALTH))
        alive = waiting[1 - MAX_CONNECTIONS :]
        await until(lambda: all(one.ended.called for one in waiting if one not in alive), "the end of the oldest")
        self.assertFalse(any(one.ended.called for one in alive))
        for one in alive:
            one.transport.loseConnection()
        line = "HTTP: 64 connections; the oldest are closed for new ones"
        self.assertEqual(log.lines(LogLevel.warn), [line])
        await until(lambda: len(self.world.clock.getDelayedCalls()) == timers, "the end of all connections")
        again = [await self.open() for _ in range(MAX_CONNECTIONS + 1)]
        await within(again[0].ended)
        self.assertEqual(log.lines(LogLevel.warn), [line] * 2)
        for one in again:
            one.transport.loseConnection()

    async def test_two_hundred_at_once(self) -> None:
        """Only the newest are kept, also of those that the server accepts in one go."""
        self.serve()
        opening = [Deferred.fromCoroutine(self.open(b"GET /metr")) for _ in range(200)]
        waiting: list[Connection] = await within(gatherResults(opening))
        await until(lambda: sum(one.ended.called for one in waiting) == 200 - MAX_CONNECTIONS, "the end of the oldest")
        for _ in range(10):
            self.assertEqual((await self.ask("/healthz")).text, "ok\n")
        for one in waiting:
            one.transport.loseConnection()

    async def test_connections_that_have_ended(self) -> None:
        """They do not count: a slow client is not dropped because of them."""
        self.serve()
        slow = await self.open(HEALTH[:-2])
        for _ in range(MAX_CONNECTIONS + 1):
            await self.exchange(HEALTH)
        slow.transport.write(HEALTH[-2:])
        await within(slow.ended)
        self.assertIn(b"ok\n", slow.answer)

    async def test_request_in_pieces(self) -> None:
        """The time for a request is counted from the connection on: more bytes do not extend it."""
        self.serve()
        for piece in b"x: y\r\n", b"G", b"":
            connection = await self.open(b"" if piece == b"G" else b"GET /healthz HTTP/1.1\r\n")
            for _ in range(REQUEST_SECONDS - 1):
                connection.transport.write(piece)
                self.world.clock.advance(1)
                await self.ask("/healthz")
                self.assertFalse(connection.ended.called)
            self.world.clock.advance(1)
            await within(connection.ended)
            self.assertEqual(connection.answer, b"")

    async def test_body_in_pieces(self) -> None:
        self.serve()
        connection = await self.open(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
        for _ in range(REQUEST_SECONDS):
            connection.transport.write(b"x")
            self.world.clock.advance(1)
        await within(connection.ended)

    async def test_no_timer_is_left(self) -> None:
        self.serve()
        before = len(self.world.clock.getDelayedCalls())
        await self.ask("/healthz")
        await self.exchange(b"nonsense\r\n\r\n")
        await until(lambda: len(self.world.clock.getDelayedCalls()) == before, "the end of all timers")

    async def unread(self, size: int) -> Connection:
        """A client that has asked for an answer of ``size`` bytes, and reads none of it."""
        self.big = bytes(size)
        connection = await self.open()
        connection.transport.pauseProducing()
        before = len(self.requests)
        connection.transport.write(METRICS)
        await until(lambda: len(self.requests) > before, "the request")
        return connection

    async def read(self, connection: Connection) -> int:
        """Reads the rest of an answer. Returns how many bytes there were."""
        connection.transport.resumeProducing()
        await within(connection.ended)
        return len(connection.answer)

    @property
    def requests(self) -> list[str]:
        return [line for line in self.log.lines() if "metrics" in line]

    async def test_answer_that_is_not_read(self) -> None:
        """It is kept for `ANSWER_SECONDS`."""
        self.serve()
        self.log = Log(self)
        size = MAX_UNREAD // 2 - 100
        in_time, too_late = [await self.unread(size) for _ in range(2)]
        self.world.clock.advance(ANSWER_SECONDS - 0.1)
        self.assertEqual((await self.ask("/healthz")).text, "ok\n")
        self.assertGreater(await self.read(in_time), size)
        self.world.clock.advance(0.1)
        self.assertLess(await self.read(too_late), size)

    async def test_answers_that_are_not_read(self) -> None:
        """All together are limited: the oldest is given up, and no more than necessary."""
        self.serve()
        self.log = Log(self)
        idle = await self.open()
        half = MAX_UNREAD // 2
        first, second, third = [await self.unread(half) for _ in range(3)]
        self.assertGreater(await self.read(second), half)
        self.assertGreater(await self.read(third), half)
        self.assertLess(await self.read(first), half)
        self.assertFalse(idle.ended.called)
        idle.transport.loseConnection()

    async def test_newest_answer(self) -> None:
        """It is never given up, even if it is too large by itself."""
        self.serve()
        self.log = Log(self)
        older, newest = await self.unread(MAX_UNREAD // 2), await self.unread(MAX_UNREAD + 1)
        self.assertGreater(await self.read(newest), MAX_UNREAD)
        self.assertLess(await self.read(older), MAX_UNREAD // 2)


class BadRequestTests(HTTPCase):
    async def test_one_request_a_connection(self) -> None:
        """What follows a request is not answered, and the answer says so."""
        self.serve()
        for version in b"1.0", b"1.1":
            answer = await self.exchange(b"GET /healthz HTTP/%s\r\nHost: localhost\r\n\r\n" % version * 50)
            self.assertEqual(answer.count(b" 200 OK\r\n"), 1)
            self.assertIn(b"connection: close", answer.lower())

    async def test_long_bodies(self) -> None:
        self.serve()
        publisher = self.publisher()
        head = b"POST /api/v1/channels/tv/kill HTTP/1.1\r\nHost: localhost\r\n"
        for body in (
            b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + bytes(MAX_BODY + 1),
            b"Transfer-Encoding: chunked\r\n\r\n" + (b"800\r\n" + bytes(2048) + b"\r\n") * 3 + b"0\r\n\r\n",
        ):
            self.assertEqual(await self.exchange(head + body), b"")
            self.assertFalse(publisher.closing)
        answer = await self.ask("/api/v1/channels/tv/kill", "POST", body=bytes(MAX_BODY))
        self.assertEqual(answer.code, 200)

    async def test_error_page(self) -> None:
        """A bug is logged, and its traceback is not shown."""
        self.serve()
        self.patch(self.metrics, "text", lambda: 1 // 0)
        answer = await self.ask("/metrics")
        self.assertEqual(answer.code, 500)
        self.assertNotIn("ZeroDivision", answer.text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_nonsense(self) -> None:
        self.serve()
        for request in (
            b"\0\1\2\3\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /%ff%00%zz/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: \xff\xfe[[\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nAuthorization: \xff \xff\r\nHost: [::1\r\n\r\n",
            b"GET /api/v1/channels?limit=%FF HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
            b"A" * 100_000,
        ):
            answer = await self.exchange(request)
            self.assertRegex(answer, rb"\A(HTTP/1\.[01] (4\d\d|200)|\Z)", request)
            self.assertEqual((await self.ask("/healthz")).code, 200)
        self.assertEqual(self.flushLoggedErrors(), [])
