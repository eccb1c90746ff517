"""The callback against a real HTTP application, over real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.server import NOT_DONE_YET, Request

from rtmp_twisted.integrations import callback
from rtmp_twisted.integrations.callback import STOP_RETRY_DELAYS, CallbackAuthority
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from tests.support.certificates import Authority
from tests.support.fakes import Log, reactor, read_token, until, within
from tests.support.http_app import Answer, Event, HTTPApp, accept, never, status

SECRET = "a secret"


class CallbackCase(TestCase):
    """An application that listens, and a running authority that asks it."""

    def setUp(self) -> None:
        self.log = Log(self)
        self.app = HTTPApp(SECRET)
        self.addCleanup(self._stop_app)

    def _stop_app(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.app.stop())

    def authority(self, url: str = "", secret: str = SECRET, **options: Any) -> CallbackAuthority:
        if not url:
            self.app.listen()
        authority = CallbackAuthority(
            reactor, url=url or self.app.url, secret=secret, rtmp_host="live.example", rtmp_port=1936, **options
        )
        authority.startService()

        async def stop() -> None:
            stopped = authority.stopService()
            if "clock" in options:
                await until(lambda: options["clock"].advance(0) or stopped.called, "the end of the service")
            await stopped

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return authority

    def listen(self, factory: Factory) -> str:
        """Returns the URL of another application."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}/"

    async def refusal(self, authority: CallbackAuthority) -> str:
        error: Any = await self.assertFailure(within(authority.start("tv", "key", "192.0.2.1")), Refused)
        return str(error)


class AcceptTests(CallbackCase):
    async def test_start_and_stop(self) -> None:
        authority = self.authority(now=lambda: 1_700_000_000.9)
        stream_id = await within(authority.start("tv", "key", "::ffff:192.0.2.1"))
        self.assertEqual(stream_id, "id-of-tv")
        await within(authority.end("tv", "key", stream_id, "::ffff:192.0.2.1"))
        common = {"sub": "rtmp_event", "iat": 1_700_000_000, "exp": 1_700_000_120, "channel": "tv", "key": "key"}
        common |= {"client_ip": "192.0.2.1", "rtmp_host": "live.example", "rtmp_port": 1936}
        start, stop = self.app.events
        self.assertEqual(start.claims, {**common, "event": "start"})
        self.assertEqual(stop.claims, {**common, "event": "stop", "stream_id": "id-of-tv"})

    async def test_request(self) -> None:
        await within(self.authority().start("tv", "key", "192.0.2.1"))
        (event,) = self.app.events
        self.assertEqual((event.method, event.path, event.body), (b"POST", b"/hook?from=rtmp", b""))
        self.assertEqual(event.headers[b"Content-Length"], [b"0"])
        self.assertEqual(self.app.problems, [])

    async def test_other_subject(self) -> None:
        await within(self.authority(subject="live").start("tv", "key", "192.0.2.1"))
        self.assertEqual(self.app.events[0].claims["sub"], "live")

    async def test_empty_secret(self) -> None:
        self.app.secret = ""
        stream_id = await within(self.authority(secret="").start("tv", "key", "192.0.2.1"))
        self.assertEqual(stream_id, "id-of-tv")

    async def test_any_text_in_channel_and_key(self) -> None:
        authority = self.authority()
        self.app.answer = status(200)
        for text in ['a"b\\', "ünïcode \U0001f3a5", "\r\nx: y", "x" * 1000]:
            await within(authority.start(text, text, "2001:db8::1"))
            claims = self.app.events.pop().claims
            self.assertEqual((claims["channel"], claims["key"], claims["client_ip"]), (text, text, "2001:db8::1"))

    async def test_no_stream_id(self) -> None:
        self.app.answer = status(200)
        self.assertEqual(await within(self.authority().start("tv", "key", "192.0.2.1")), "")

    async def test_forms_of_a_stream_id(self) -> None:
        authority = self.authority()
        forms: list[tuple[str | bytes, str]] = [
            ("a b:c", "a b:c"),
            ("x" * 1024, "x" * 1024),
            ("ünï", "ünï"),
            (b"\xe9", "é"),
        ]
        for sent, expected in forms:
            self.app.answer = status(200, Stream_ID=sent)
            self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), expected)

    async def test_one_connection_for_all(self) -> None:
        clock = Clock()
        authority = self.authority(clock=clock)
        for _ in range(5):
            stream_id = await within(authority.start("tv", "key", "192.0.2.1"))
            await until(lambda: not clock.getDelayedCalls(), "the end of the body")
            await within(authority.end("tv", "key", stream_id, "192.0.2.1"))
            await until(lambda: not clock.getDelayedCalls(), "the end of the body")
        self.assertEqual(len(self.app.events), 10)
        self.assertEqual(self.app.connections, 1)

    async def test_password_in_the_url(self) -> None:
        self.app.listen()
        url = self.app.url.replace("//", "//user:hunter2@")
        await within(self.authority(url).start("tv", "key", "192.0.2.1"))
        (event,) = self.app.events
        self.assertEqual(event.headers[b"Authorization"], [b"Basic dXNlcjpodW50ZXIy"])
        self.app.answer = status(403)
        await self.refusal(self.authority(url))
        self.assertNotIn("hunter2", self.log.everything())

    async def test_body_is_ignored(self) -> None:
        def answer(request: Request, event: Event) -> bytes:
            request.setHeader(b"stream-id", b"id")
            return b"x" * 1_000_000

        clock = Clock()
        authority = self.authority(clock=clock)
        self.app.answer = answer
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "id")
        await until(lambda: not clock.getDelayedCalls(), "the end of the body")

    async def test_endless_body(self) -> None:
        """The head of the answer counts. The body has a time limit of its own, and is dropped."""
        gone: list[bool] = []

        def answer(request: Request, event: Event) -> int:
            request.write(b"x")
            request.notifyFinish().addErrback(lambda _: gone.append(True))
            return NOT_DONE_YET

        authority = self.authority(timeout=0.5)
        self.app.answer = answer
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "")
        await until(lambda: gone, "the drop of the connection")


class RefuseTests(CallbackCase):
    async def test_other_statuses(self) -> None:
        authority = self.authority()
        for code in [201, 204, 301, 304, 400, 401, 403, 404, 500, 503]:
            self.app.answer = status(code, Stream_ID="id")
            self.assertIn(str(code), await self.refusal(authority))

    async def test_redirect_is_not_followed(self) -> None:
        for code in [301, 302, 303, 307, 308]:
            authority = self.authority()
            self.app.answer = status(code, Location=self.app.url + "/other")
            self.assertIn(str(code), await self.refusal(authority))
            self.assertEqual(len(self.app.events), 1)
            self.app.events.clear()
            await self.app.stop()

    async def test_where_a_redirect_points(self) -> None:
        """The log tells it, without the parts that may be secret, and in bounded length."""
        authority = self.authority()
        for location, expected in [
            ("https://user:hunter2@other.example:444/a/b?key=hunter2#hunter2", "https://other.example:444/a/b"),
            ("/login?key=hunter2", f"http://127.0.0.1:{self.app.port}/login"),
            ("//other.example", "http://other.example"),
            ("http://[::1", "an invalid URL"),
            ("\xff", "an invalid URL"),
            ("/" + "x" * 5000, f"http://127.0.0.1:{self.app.port}/xxx"),
        ]:
            self.app.answer = status(302, Location=location)
            refusal = await self.refusal(authority)
            self.assertIn(f"status 302, a redirect to {expected}", refusal)
            self.assertTrue(refusal.endswith(", which is not followed"), refusal)
            self.assertNotIn("hunter2", refusal)
            self.assertLess(len(refusal), 400)
        self.app.answer = status(404, Location="/")
        self.assertTrue((await self.refusal(authority)).endswith("status 404"))

    async def test_wrong_secret(self) -> None:
        self.assertIn("401", await self.refusal(self.authority(secret="another")))

    async def test_nobody_listens(self) -> None:
        authority = self.authority()
        await self.app.stop()
        self.assertIn("refused", await self.refusal(authority))

    async def test_slow(self) -> None:
        self.app.answer = never
        self.assertIn("no answer in time", await self.refusal(self.authority(timeout=0.3)))

    async def test_accepts_and_says_nothing(self) -> None:
        """The time limit counts from the connection on."""
        url = self.listen(Factory.forProtocol(Protocol))
        self.assertIn("no answer in time", await self.refusal(self.authority(url, timeout=0.3)))

    async def test_closes_in_mid_answer(self) -> None:
        for part in [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nstream-id: i", b"not HTTP at all\r\n\r\n"]:
            url = self.listen(_Says(part))
            self.assertIn("could not be asked", await self.refusal(self.authority(url)))

    async def test_endless_head(self) -> None:
        """It is refused as soon as it is too long, not only when the time is over."""
        for part in [b"x: y\r\n", b"x" * 10_000 + b": y\r\n"]:
            answer = _Says(b"HTTP/1.1 200 OK\r\n" + part * (200_000 // len(part)), close=False)
            self.assertIn("an endless answer", await self.refusal(self.authority(self.listen(answer))))
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_closes_in_mid_body(self) -> None:
        """The application has accepted, and expects a stop."""
        answer = b"HTTP/1.1 200 OK\r\nstream-id: id\r\nContent-Length: 100\r\n\r\nx"
        authority = self.authority(self.listen(_Says(answer)))
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "id")

    async def test_shutdown_in_mid_body(self) -> None:
        """It does not wait for the rest of a body."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"
        application = _Says(answer, close=False)
        authority = self.authority(self.listen(application))
        await within(authority.start("tv", "key", "192.0.2.1"))
        await within(authority.stopService())
        await within(application.lost)

    async def test_unusable_stream_ids(self) -> None:
        """The publish is refused. The application, which has accepted, gets the stop with the id that it gave."""
        authority = self.authority()
        for stream_id in ["x" * 1025, "x" * 10_000, "a\x01b", "a\tb"]:
            self.app.answer = _first(status(200, Stream_ID=stream_id), status(200))
            self.assertIn("stream id", await self.refusal(authority))
            await until(lambda: len(self.app.events) == 2, "the stop")
            self.assertEqual(self.app.names("tv"), ["start", "stop"])
            self.assertEqual(self.app.events[1].claims["stream_id"], stream_id)
            self.app.events.clear()

    async def test_secrets_are_not_logged(self) -> None:
        self.app.answer = status(500)
        authority = self.authority()
        error: Any = await self.assertFailure(within(authority.start("tv", "hunter2", "192.0.2.1")), Refused)
        self.assertNotIn("hunter2", str(error))
        await self.app.stop()
        error = await self.assertFailure(within(authority.start("tv", "hunter2", "192.0.2.1")), Refused)
        self.assertNotIn("hunter2", str(error))
        everything = self.log.everything()
        self.assertNotIn("hunter2", everything)
        self.assertNotIn(SECRET, everything)


class TLSTests(CallbackCase):
    def setUp(self) -> None:
        super().setUp()
        self.trusted = Authority(self.mktemp(), "trusted")
        self.other = Authority(self.mktemp(), "other")

    async def test_good_certificate(self) -> None:
        self.app.listen(self.trusted.issue("127.0.0.1").options())
        authority = self.authority(self.app.url, trust_root=self.trusted.trust_root)
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "id-of-tv")
        self.assertTrue(self.app.url.startswith("https:"))

    async def test_bad_certificates(self) -> None:
        for issued in [
            self.other.issue("127.0.0.1"),
            self.trusted.issue("127.0.0.2"),
            self.trusted.issue("localhost"),
            self.trusted.issue("127.0.0.1", days=-1),
        ]:
            self.app.listen(issued.options())
            authority = self.authority(self.app.url, trust_root=self.trusted.trust_root)
            self.assertIn("TLS", await self.refusal(authority))
            await self.app.stop()
        self.assertEqual(self.app.events, [])

    async def test_system_roots_by_default(self) -> None:
        self.app.listen(self.trusted.issue("127.0.0.1").options())
        self.assertIn("TLS", await self.refusal(self.authority(self.app.url)))
        self.assertEqual(self.app.events, [])


class StopTests(CallbackCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(callback, "STOP_RETRY_DELAYS", (0.01, 0.01, 0.01))

    async def test_retried_until_it_arrives(self) -> None:
        self.app.answer = _first(status(500), status(302, Location="/"), accept)
        await within(self.authority().end("tv", "key", "id", "192.0.2.1"))
        self.assertEqual(self.app.names("tv"), ["stop"] * 3)
        self.assertEqual(self.log.lines(LogLevel.error), [])

    async def test_any_success_counts(self) -> None:
        authority = self.authority()
        for code in 200, 201, 204, 299:
            self.app.answer = status(code)
            await within(authority.end("tv", "key", "id", "192.0.2.1"))
        self.assertEqual(self.app.names("tv"), ["stop"] * 4)
        self.assertEqual(self.log.lines(LogLevel.warn), [])

    async def test_failures(self) -> None:
        """Any other status is a failure, and each failure is a line in the log."""
        self.app.answer = _first(status(300), status(302, Location="/a"), status(400), status(204))
        await within(self.authority().end("tv", "key", "id", "192.0.2.1"))
        problems = ["status 300", f"status 302, a redirect to http://127.0.0.1:{self.app.port}/a, which", "status 400"]
        for line, problem in zip(self.log.lines(LogLevel.warn), problems, strict=True):
            self.assertIn(f"a stop for channel tv failed: {problem}", line)

    async def test_given_up(self) -> None:
        self.app.answer = status(500)
        await within(self.authority().end("tv", "key", "id", "192.0.2.1"))
        self.assertEqual(self.app.names("tv"), ["stop"] * 4)
        (line,) = self.log.lines(LogLevel.error)
        self.assertIn("tv", line)
        self.assertIn("500", line)

    async def test_application_restarts(self) -> None:
        self.patch(callback, "STOP_RETRY_DELAYS", (0.05,) * 200)
        self.app.listen()
        port = self.app.port
        authority = self.authority(self.app.url)
        stream_id = await within(authority.start("tv", "key", "192.0.2.1"))
        await self.app.stop()
        ended = authority.end("tv", "key", stream_id, "192.0.2.1")
        await until(lambda: self.log.lines(LogLevel.warn), "the first failure")
        self.app.listen(port=port)
        await within(ended)
        self.assertEqual(self.app.names("tv"), ["start", "stop"])

    async def test_shutdown_waits(self) -> None:
        """It waits for a pending stop, and for one that follows from a pending start."""
        waiting: list[Request] = []

        def answer(request: Request, event: Event) -> int:
            waiting.append(request)
            return NOT_DONE_YET

        self.app.answer = answer
        self.app.listen()
        authority = CallbackAuthority(reactor, url=self.app.url, secret=SECRET)
        authority.startService()
        started = authority.start("tv", "key", "192.0.2.1")
        # As the broker does for a publisher that has left meanwhile.
        started.addCallback(lambda stream_id: authority.end("tv", "key", stream_id, "192.0.2.1"))
        await until(lambda: waiting, "the start")
        stopped = authority.stopService()
        waiting.pop().finish()
        await until(lambda: waiting, "the stop")
        self.assertFalse(stopped.called)
        waiting.pop().finish()
        await within(stopped)
        self.assertEqual(self.app.names("tv"), ["start", "stop"])

    async def test_shutdown_does_not_wait_for_ever(self) -> None:
        self.app.answer = never
        self.app.listen()
        authority = CallbackAuthority(reactor, url=self.app.url, secret=SECRET, shutdown_timeout=0.2)
        authority.startService()
        started = authority.start("tv", "key", "192.0.2.1")
        ended = authority.end("radio", "key", "id", "192.0.2.1")
        await until(lambda: len(self.app.events) == 2, "both requests")
        stopped = authority.stopService()
        await self.assertFailure(within(started), Refused)
        await within(ended)
        await within(stopped)
        self.assertTrue(any("radio" in line for line in self.log.lines(LogLevel.error)))


class KeptConnectionTests(CallbackCase):
    """The application closes a connection that it has kept, while the next request is on its way."""

    async def requests_of_two_events(self, application: _ClosesKept) -> list[int]:
        """One event is answered, and the next meets ``application.second``. Returns the connection of each request."""
        self.clock = Clock()
        authority = self.authority(self.listen(application), clock=self.clock)
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "1")
        self.second = authority.start("tv", "key", "192.0.2.1")
        await until(lambda: self.second.called or len(application.requests) == 3, "the second event")
        return application.requests

    async def test_sent_again(self) -> None:
        for close in "loseConnection", "abortConnection":
            application = _ClosesKept(lambda transport, close=close: getattr(transport, close)())  # type: ignore[misc]
            self.assertEqual(await self.requests_of_two_events(application), [1, 1, 2])
            self.assertEqual(await within(self.second), "2")
        self.assertEqual(self.log.lines(LogLevel.warn), [])

    async def test_on_a_new_connection(self) -> None:
        """Other kept connections may be closing too."""
        application = _ClosesKept(lambda transport: transport.loseConnection())
        clock = Clock()
        authority = self.authority(self.listen(application), clock=clock)
        await within(gatherResults([authority.start("tv", "key", "192.0.2.1") for _ in range(5)]))
        self.assertEqual(application.connections, 5)
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "6")
        self.assertEqual(len(application.requests), 7)

    async def test_a_stop(self) -> None:
        application = _ClosesKept(lambda transport: transport.loseConnection())
        authority = self.authority(self.listen(application))
        for _ in range(3):
            await within(authority.end("tv", "key", "id", "192.0.2.1"))
        self.assertEqual(self.log.lines(LogLevel.warn), [])

    async def test_only_once(self) -> None:
        application = _ClosesKept(lambda transport: transport.loseConnection(), kept=1)
        self.assertEqual(await self.requests_of_two_events(application), [1, 1, 2])
        await self.assertFailure(within(self.second), Refused)

    async def test_not_after_a_part_of_the_answer(self) -> None:
        """The application may have executed the request."""

        def answer(transport: Any) -> None:
            transport.write(b"H")
            transport.loseConnection()

        self.assertEqual(await self.requests_of_two_events(_ClosesKept(answer)), [1, 1])
        await self.assertFailure(within(self.second), Refused)

    async def test_not_after_a_time_out(self) -> None:
        application = _ClosesKept(lambda transport: None)
        authority = self.authority(self.listen(application), timeout=0.3)
        await within(authority.start("tv", "key", "192.0.2.1"))
        self.assertIn("no answer in time", await self.refusal(authority))
        self.assertEqual(application.requests, [1, 1])

    async def test_one_time_limit_for_both(self) -> None:
        application = _ClosesKept(lambda transport: transport.loseConnection(), kept=1, silent=True)
        self.assertEqual(await self.requests_of_two_events(application), [1, 1, 2])
        self.clock.advance(callback.TIMEOUT - 0.1)
        self.assertNoResult(self.second)
        self.clock.advance(0.1)
        await self.assertFailure(within(self.second), Refused)


class _Unanswered:
    """An HTTP client whose requests are answered by a test."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, Any], Deferred[Any]]] = []

    def post(self, url: object, headers: Any, **options: Any) -> Deferred[Any]:
        (token,) = headers.getRawHeaders("rtmp-event")
        answer: Deferred[Any] = Deferred()
        self.requests.append((read_token(token, SECRET), answer))
        return answer


class TimeTests(SynchronousTestCase):
    """Times that are too long for real sockets, on a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.client = _Unanswered()
        self.authority = CallbackAuthority(
            reactor,
            url="http://127.0.0.1/",
            secret=SECRET,
            client=self.client,  # type: ignore[arg-type]
            clock=self.clock,
            now=self.clock.seconds,
        )
        self.authority.startService()
        self.log = Log(self)

    def test_interface(self) -> None:
        self.assertTrue(IPublishAuthority.providedBy(self.authority))

    def test_start_times_out(self) -> None:
        answer = self.authority.start("tv", "key", "192.0.2.1")
        self.clock.advance(14.9)
        self.assertNoResult(answer)
        self.clock.advance(0.1)
        self.failureResultOf(answer, Refused)

    def test_stop_is_bounded(self) -> None:
        """Each attempt, their number and the delays are bounded. Each attempt has a token that is valid."""
        ended = self.authority.end("tv", "key", "id", "192.0.2.1")
        for delay in STOP_RETRY_DELAYS:
            self.clock.advance(15)
            self.assertNoResult(ended)
            self.clock.advance(delay)
        self.assertNoResult(ended)
        self.clock.advance(15)
        self.successResultOf(ended)
        self.assertEqual([claims["iat"] for claims, _ in self.client.requests], [0, 16, 34, 58])
        self.assertEqual([claims["exp"] for claims, _ in self.client.requests], [120, 136, 154, 178])
        self.assertEqual(len(self.log.lines(LogLevel.error)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_shutdown_between_attempts(self) -> None:
        ended = self.authority.end("tv", "key", "id", "192.0.2.1")
        self.clock.advance(15)
        self.authority.stopService()
        self.clock.pump([1.0] * 20)
        self.successResultOf(ended)


def _first(*answers: Answer) -> Answer:
    """Gives the answers one after another, and the last one from then on."""
    rest = list(answers)

    def answer(request: Request, event: Event) -> Any:
        return (rest.pop(0) if len(rest) > 1 else rest[0])(request, event)

    return answer


class _ClosesKept(Factory):
    """Answers the first request on each of its first ``kept`` connections with the connection's number as the id, and
    keeps the connection. At a second request on it, calls ``second`` with its transport. Closes further connections
    at their first request, or never answers them if it is ``silent``."""

    noisy = False

    def __init__(self, second: Callable[[Any], None], kept: int = 100, silent: bool = False) -> None:
        self.second = second
        self.kept = kept
        self.silent = silent
        self.connections = 0
        self.requests: list[int] = []
        """The number of each request's connection."""

    def buildProtocol(self, addr: object) -> Protocol:
        self.connections += 1
        factory, number = self, self.connections

        class Kept(Protocol):
            def dataReceived(self, data: bytes) -> None:
                transport: Any = self.transport
                again = number in factory.requests
                factory.requests.append(number)
                if again:
                    factory.second(transport)
                elif number <= factory.kept:
                    transport.write(b"HTTP/1.1 200 OK\r\nstream-id: %d\r\nContent-Length: 0\r\n\r\n" % number)
                elif not factory.silent:
                    transport.loseConnection()

        return Kept()


class _Says(Factory):
    """Answers all data with a text, and closes the connection then or not. ``lost`` is the end of the first one."""

    noisy = False

    def __init__(self, text: bytes, close: bool = True) -> None:
        self.text = text
        self.close = close
        self.lost: Deferred[None] = Deferred()

    def buildProtocol(self, addr: object) -> Protocol:
        factory = self

        class Says(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(factory.text)
                if factory.close:
                    self.transport.loseConnection()

            def connectionLost(self, reason: object = None) -> None:
                if not factory.lost.called:
                    factory.lost.callback(None)

        return Says()
