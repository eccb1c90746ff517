"""The connection to the coordinator, against a real WebSocket server."""

from __future__ import annotations

import time
from functools import partial
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted import reconnecting
from rtmp_twisted.integrations.coordinator import CoordinatorAuthority, control_url
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from tests.support import coordinator as play
from tests.support.certificates import Authority
from tests.support.coordinator import Coordinator, Visit
from tests.support.fakes import Log, RecordingTarget, reactor, until, within

SECRET = "hunter2-the-secret"


class URLTests(SynchronousTestCase):
    def test_resolved(self) -> None:
        for base, expected in [
            ("ws://example", "ws://example/ws/control/rtmp"),
            ("ws://example/", "ws://example/ws/control/rtmp"),
            ("wss://example:8443", "wss://example:8443/ws/control/rtmp"),
            ("ws://example/some/path/", "ws://example/ws/control/rtmp"),
            ("ws://example/ws/control/rtmp", "ws://example/ws/control/rtmp"),
            ("ws://example/path?query#fragment", "ws://example/ws/control/rtmp"),
            ("ws://[2001:db8::1]:80", "ws://[2001:db8::1]:80/ws/control/rtmp"),
        ]:
            self.assertEqual(control_url(base), expected)

    def test_unusable(self) -> None:
        for base in [
            "",
            "example",
            "example:80",
            "//example",
            "http://example",
            "https://example",
            "ws:",
            "ws://",
            "ws:///path",
            "ws://example:port",
            "ws://example:0",
            "ws://example:99999",
            "ws://[::1",
            "ws://exa mple",
            "ws://example\r\nx: y",
            "ws://user:hunter2@example",
        ]:
            with self.assertRaises(ValueError, msg=base) as caught:
                CoordinatorAuthority(reactor, Random(1), base_url=base, secret=SECRET)
            self.assertRegex(str(caught.exception), "^(not a|a) (ws:// or wss:// )?URL[a-z, ]*$")


class ControlCase(TestCase):
    """A coordinator. `connect` returns a running authority that is connected to it."""

    def setUp(self) -> None:
        self.log = Log(self)
        self.patch(reconnecting.ReconnectingClient, "max_delay", 0.05)
        self.coordinator = Coordinator(SECRET)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.coordinator.stop()))
        self.target = RecordingTarget()

    def authority(self, base_url: str = "", **options: Any) -> CoordinatorAuthority:
        if not base_url:
            self.coordinator.listen()
        options = {"base_url": base_url or self.coordinator.base_url, "secret": SECRET, **options}
        authority = CoordinatorAuthority(reactor, Random(1), **options)
        authority.target = self.target
        authority.startService()
        self.addCleanup(authority.stopService)
        return authority

    async def connect(self, **options: Any) -> CoordinatorAuthority:
        authority = self.authority(**options)
        await until(lambda: authority.connected and self.coordinator.visits, "the connection")
        return authority

    def said(self, text: str, times: int = 1) -> bool:
        return sum(text in line for line in self.log.lines()) >= times

    def check_nothing_leaked(self) -> None:
        everything = self.log.everything()
        self.assertTrue(self.log.events)
        self.assertNotIn(SECRET, everything)
        self.assertNotIn("x-control-auth-token", everything)
        for token, _ in self.coordinator.tokens:
            self.assertNotIn(token, everything)
        self.assertEqual(self.flushLoggedErrors(), [])


class OpeningTests(ControlCase):
    async def test_headers(self) -> None:
        await self.connect(external_ip="192.0.2.9", external_port=1936, external_ssl=True)
        ((path, headers),) = self.coordinator.requests
        self.assertEqual(path, "/ws/control/rtmp")
        self.assertEqual(headers["x-external-ip"], "192.0.2.9")
        self.assertEqual(headers["x-custom-port"], "1936")
        self.assertEqual(headers["x-ssl-use"], "true")

    async def test_headers_that_are_not_set(self) -> None:
        await self.connect()
        ((_, headers),) = self.coordinator.requests
        for name in ["x-external-ip", "x-custom-port", "x-ssl-use"]:
            self.assertNotIn(name, headers)

    async def test_token(self) -> None:
        await self.connect(now=lambda: 1_700_000_000.9)
        ((_, claims),) = self.coordinator.tokens
        self.assertEqual(claims, {"sub": "rtmp-control", "iat": 1_700_000_000, "exp": 1_700_003_600})

    async def test_token_of_each_connection(self) -> None:
        times = iter([1000, 2000, 3000])
        authority = await self.connect(now=lambda: next(times))
        self.coordinator.visit.drop()
        await until(lambda: len(self.coordinator.tokens) == 2 and authority.connected, "the next connection")
        self.assertEqual([claims["iat"] for _, claims in self.coordinator.tokens], [1000, 2000])

    async def test_time_of_day(self) -> None:
        before = int(time.time())
        await self.connect()
        self.assertTrue(before <= self.coordinator.tokens[0][1]["iat"] <= time.time())

    async def test_empty_secret(self) -> None:
        self.coordinator.secret = ""
        await self.connect(secret="")

    async def test_base_with_path(self) -> None:
        self.coordinator.listen()
        await self.connect(base_url=self.coordinator.base_url + "/some/path/")
        self.assertEqual(self.coordinator.requests[0][0], "/ws/control/rtmp")

    async def test_token_refused(self) -> None:
        """The log tells it once, the server goes on trying, and each publish is refused."""
        self.coordinator.refuse = 403
        authority = self.authority()
        await until(lambda: len(self.coordinator.requests) >= 4, "four attempts")
        self.assertFalse(authority.connected)
        await self.assertFailure(authority.start("tv", "key", "192.0.2.1"), Refused)
        self.assertEqual(len(self.log.lines(LogLevel.warn)), 1)
        self.assertIn("403", self.log.lines(LogLevel.warn)[0])
        self.coordinator.refuse = None
        await until(lambda: authority.connected, "the connection")
        self.check_nothing_leaked()

    async def test_other_answers(self) -> None:
        for answer, expected in [
            (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "302"),
            (b"HTTP/1.1 200 \x1b[2J\r\n\r\n", "200"),
            (b"HTTP/1.1 101 Yes\r\n\r\n", "Upgrade"),
            (b"\xff\xfe\r\n\r\n", "not the WebSocket protocol"),
            (b"x" * 100_000, "endless"),
        ]:
            authority = self.authority(base_url=self._plays(answer))
            await until(partial(self.said, expected), f"a line with {expected}")
            await authority.stopService()
            self.assertNotIn("\x1b", "".join(self.log.lines()))
        self.check_nothing_leaked()

    async def test_silent_coordinator(self) -> None:
        """It accepts TCP and sends nothing. The server gives up after the time limit for opening."""
        self.patch(reconnecting.ReconnectingClient, "opening_timeout", 0.2)
        authority = self.authority(base_url=self._plays(None))
        await self.assertFailure(authority.start("tv", "key", "192.0.2.1"), Refused)
        await until(partial(self.said, "no answer in time", 3), "three attempts")

    async def test_closes_after_the_upgrade(self) -> None:
        self.coordinator.on_open = lambda visit: visit.sendClose(1000)
        authority = self.authority()
        await until(lambda: len(self.coordinator.requests) >= 4, "four attempts")
        kept: list[Visit] = []
        self.coordinator.on_open = kept.append
        await until(lambda: kept and authority.connected, "the connection")
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "id-of-tv")

    async def test_does_not_close_tcp(self) -> None:
        """After a close frame this side closes TCP, and reconnects."""
        authority = await self.connect()
        self.coordinator.visit.dropConnection = lambda abort: None
        self.coordinator.visit.sendClose(1000)
        await until(lambda: len(self.coordinator.requests) == 2 and authority.connected, "the next connection")
        self.assertIn("closed by the coordinator (1000)", self.log.lines(LogLevel.warn)[0])

    async def test_drops_after_the_upgrade(self) -> None:
        self.coordinator.on_open = Visit.drop
        self.authority()
        await until(lambda: len(self.coordinator.requests) >= 4, "four attempts")
        self.check_nothing_leaked()

    async def test_away_at_the_start(self) -> None:
        self.coordinator.listen()
        await self.coordinator.stop()
        authority = self.authority(base_url=self.coordinator.base_url)
        await until(partial(self.said, "refused", 4), "four attempts")
        self.assertEqual(len(self.log.lines(LogLevel.warn)), 1)
        self.coordinator.listen()
        await until(lambda: authority.connected, "the connection")

    async def test_stops_while_it_is_away(self) -> None:
        self.coordinator.listen()
        await self.coordinator.stop()
        authority = self.authority(base_url=self.coordinator.base_url)
        await until(partial(self.said, "refused"))
        await within(authority.stopService())

    async def test_stops_while_opening(self) -> None:
        authority = self.authority(base_url=self._plays(None))
        await until(lambda: self.plays.connections, "the connection")
        await within(authority.stopService())
        await until(lambda: not self.plays.connections, "its end")

    def _plays(self, answer: bytes | None) -> str:
        self.plays = _Plays(answer)
        port = reactor.listenTCP(0, self.plays, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"ws://127.0.0.1:{port.getHost().port}"


class TLSTests(ControlCase):
    async def test_good_certificate(self) -> None:
        trusted = Authority(self.mktemp())
        self.coordinator.listen(trusted.issue("127.0.0.1").options())
        authority = await self.connect(base_url=self.coordinator.base_url, trust_root=trusted.trust_root)
        self.assertTrue(self.coordinator.base_url.startswith("wss:"))
        self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "id-of-tv")

    async def test_bad_certificates(self) -> None:
        """The token is not sent to a server with a bad certificate."""
        trusted, other = Authority(self.mktemp(), "trusted"), Authority(self.mktemp(), "other")
        for issued, root in [
            (other.issue("127.0.0.1"), trusted.trust_root),
            (trusted.issue("127.0.0.2"), trusted.trust_root),
            (trusted.issue("127.0.0.1", days=-1), trusted.trust_root),
            (trusted.issue("127.0.0.1"), None),
        ]:
            self.coordinator.listen(issued.options())
            authority = self.authority(base_url=self.coordinator.base_url, trust_root=root)
            await until(lambda: self.log.lines(LogLevel.warn), "the refusal")
            self.assertFalse(authority.connected)
            await authority.stopService()
            await self.coordinator.stop()
            self.log.events.clear()
        self.assertEqual(self.coordinator.requests, [])


class PublishTests(ControlCase):
    async def test_accepted_and_ended(self) -> None:
        authority = await self.connect()
        self.assertEqual(await within(authority.start("tv", "a key", "::ffff:192.0.2.1")), "id-of-tv")
        (request,) = self.coordinator.heard("PUBLISH-REQUEST")
        del request["request-id"]
        self.assertEqual(request, {"stream-channel": "tv", "stream-key": "a key", "user-ip": "192.0.2.1"})
        for _ in range(2):
            await within(authority.end("tv", "a key", "id-of-tv", "192.0.2.1"))
        await self._settle(authority)
        expected = [{"stream-channel": "tv", "stream-id": "id-of-tv"}]
        self.assertEqual(self.coordinator.heard("PUBLISH-END"), expected)

    async def test_denied(self) -> None:
        self.coordinator.on_message = play.deny
        authority = await self.connect()
        await self.assertFailure(within(authority.start("tv", "key", "192.0.2.1")), Refused)
        await within(authority.end("tv", "key", "", "192.0.2.1"))
        await self._settle(authority)
        self.assertEqual(self.coordinator.heard("PUBLISH-END"), [])

    async def test_forms_of_an_answer(self) -> None:
        authority = await self.connect()
        for form in [
            "PUBLISH-ACCEPT\nRequest-ID: {id}\nStream-Channel: tv\nStream-ID: a:b",
            "PUBLISH-ACCEPT\nRequest-ID:{id}\nStream-Channel:tv\nStream-ID:a:b\n",
            "PUBLISH-ACCEPT\r\nREQUEST-ID: {id}\r\nSTREAM-CHANNEL: tv\r\nSTREAM-ID: a:b\r\n",
            "PUBLISH-ACCEPT\nrequest-id :\t{id} \nstream-channel: tv\nstream-id  :  a:b\t\n\nsome\nbody: x\n",
        ]:
            self.coordinator.on_message = partial(_answer, form)
            self.assertEqual(await within(authority.start("tv", "key", "192.0.2.1")), "a:b", form)

    async def test_many_at_once(self) -> None:
        """Answers that arrive in another order than the requests still reach the right ones."""
        waiting: list[dict[str, str]] = []

        def answer(visit: Visit, kind: str, parameters: dict[str, str]) -> None:
            waiting.append(parameters)
            if len(waiting) == 20:
                for held in reversed(waiting):
                    play.accept(visit, "PUBLISH-REQUEST", held)

        self.coordinator.on_message = answer
        authority = await self.connect()
        answers = [authority.start(f"channel{number}", "key", "192.0.2.1") for number in range(20)]
        for number, deferred in enumerate(answers):
            self.assertEqual(await within(deferred), f"id-of-channel{number}")

    async def test_kills(self) -> None:
        await self.connect()
        for text in [
            "STREAM-KILL\nStream-Channel:tv\nStream-ID:id\n",
            "STREAM-KILL\nStream-Channel:tv\nStream-ID:*\n",
            "STREAM-KILL\r\nstream-channel: tv\r\nstream-id:\r\n",
        ]:
            self.coordinator.visit.say(text)
        await until(lambda: len(self.target.kills) == 3, "the kills")
        self.assertEqual(self.target.kills, [("tv", "id"), ("tv", None), ("tv", None)])

    async def test_error(self) -> None:
        authority = await self.connect()
        self.coordinator.visit.say("ERROR\nError-Code:17\nError-Message:no place: go away\n")
        self.coordinator.visit.sendClose(1000)
        await until(lambda: len(self.coordinator.requests) == 2 and authority.connected, "the next connection")
        (line,) = self.log.lines(LogLevel.error)
        self.assertIn("17", line)
        self.assertIn("no place: go away", line)

    async def test_dies_with_ten_on_air(self) -> None:
        """Each publish ends; pending and new requests are refused. The next connection starts from nothing."""
        authority = await self.connect()
        ids = [await within(authority.start(f"channel{number}", "key", "192.0.2.1")) for number in range(10)]
        self.coordinator.on_message = play.silent
        waiting = authority.start("waiting", "key", "192.0.2.1")
        await until(lambda: len(self.coordinator.heard("PUBLISH-REQUEST")) == 11, "the request")
        ended: list[Deferred[None]] = []
        refused: list[Deferred[str]] = []

        def end_all() -> None:
            ended.extend(authority.end(f"channel{number}", "key", ids[number], "192.0.2.1") for number in range(10))
            refused.append(authority.start("next", "key", "192.0.2.1"))

        self.target.on_kill_all = end_all
        await self.coordinator.stop()
        await self.assertFailure(within(waiting), Refused)
        await until(lambda: self.target.kill_alls, "the end of all publishes")
        self.assertEqual([deferred.called for deferred in ended], [True] * 10)
        await self.assertFailure(refused[0], Refused)
        self.assertFalse(authority.connected)
        await self.assertFailure(authority.start("tv", "key", "192.0.2.1"), Refused)

        self.target.on_kill_all = lambda: None
        self.coordinator.messages.clear()
        self.coordinator.on_message = play.accept
        self.coordinator.listen()
        await until(lambda: authority.connected, "the next connection")
        self.assertEqual(await within(authority.start("channel1", "key", "192.0.2.1")), "id-of-channel1")
        await self._settle(authority)
        self.assertEqual([kind for kind, _ in self.coordinator.messages], ["PUBLISH-REQUEST"])
        self.assertEqual(len(self.target.kill_alls), 1)
        self.check_nothing_leaked()

    async def test_bad_messages(self) -> None:
        """A message that is too large or not text ends the connection and all publishes. Then the server reconnects."""
        authority = await self.connect()
        actions: list[Any] = [
            lambda visit: visit.sendMessage(b"\x00\x01", isBinary=True),
            lambda visit: visit.sendMessage(b"STREAM-KILL\nStream-Channel: tv\n\n" + b"x" * 65536),
            lambda visit: visit.sendMessage(b"\xff\xfe"),
            lambda visit: visit.sendFrame(opcode=3, payload=b"x"),
            lambda visit: visit.transport.write(b"\xff" * 100),
            lambda visit: (
                [visit.sendFrame(opcode=1, payload=b"x" * 40_000, fin=False) for _ in range(1)]
                + [visit.sendFrame(opcode=0, payload=b"x" * 40_000)]
            ),
        ]
        for number, action in enumerate(actions, 1):
            action(self.coordinator.visit)
            await until(
                lambda count=number: (
                    len(self.target.kill_alls) == count  # type: ignore[misc]
                    and authority.connected
                    and len(self.coordinator.visits) == 1
                ),
                f"the next connection after {number}",
            )
        self.assertEqual(self.target.kills, [])
        self.check_nothing_leaked()

    async def test_junk_messages(self) -> None:
        """Meaningless text is ignored."""
        authority = await self.connect()
        for text in ["", "\n\n\n", ":", "WHAT\na: b", "PUBLISH-ACCEPT\n", "STREAM-\x00KILL", "A" + "\nb: c" * 9999]:
            self.coordinator.visit.say(text)
        self.coordinator.visit.say("STREAM-KILL\nStream-Channel:tv\nStream-ID:*")
        await until(lambda: self.target.kills, "the kill")
        self.assertTrue(authority.connected)
        self.assertEqual(self.target.kill_alls, [])

    async def test_shutdown(self) -> None:
        """The ends of the last publishes arrive, then an orderly close."""
        authority = await self.connect()
        stream_id = await within(authority.start("tv", "key", "192.0.2.1"))
        await within(authority.end("tv", "key", stream_id, "192.0.2.1"))
        await within(authority.stopService())
        await until(lambda: self.coordinator.closings, "the closing")
        self.assertEqual(self.coordinator.closings, [(True, 1000)])
        self.assertEqual(len(self.coordinator.heard("PUBLISH-END")), 1)
        await self.assertFailure(authority.start("tv", "key", "192.0.2.1"), Refused)

    async def test_shutdown_waits_for_answers(self) -> None:
        """A publish that is accepted after its publisher has left gets its end before the connection is closed."""
        held: list[tuple[Visit, str, dict[str, str]]] = []
        self.coordinator.on_message = lambda *message: held.append(message)
        authority = await self.connect()
        started = authority.start("tv", "key", "192.0.2.1")
        # As the broker does for a publisher that has left meanwhile.
        started.addCallback(lambda stream_id: authority.end("tv", "key", stream_id, "192.0.2.1"))
        await until(lambda: held, "the request")
        stopped = authority.stopService()
        self.assertNoResult(stopped)
        play.accept(*held[0])
        await within(stopped)
        await until(lambda: self.coordinator.closings, "the closing")
        self.assertEqual(self.coordinator.closings, [(True, 1000)])
        expected = [{"stream-channel": "tv", "stream-id": "id-of-tv"}]
        self.assertEqual(self.coordinator.heard("PUBLISH-END"), expected)

    async def test_dies_while_a_shutdown_waits(self) -> None:
        self.coordinator.on_message = play.silent
        authority = await self.connect()
        started = authority.start("tv", "key", "192.0.2.1")
        await until(lambda: self.coordinator.heard("PUBLISH-REQUEST"), "the request")
        stopped = authority.stopService()
        await self.coordinator.stop()
        await self.assertFailure(within(started), Refused)
        await within(stopped)
        self.assertFalse(authority.connected)

    async def test_keys_are_not_logged(self) -> None:
        authority = await self.connect()
        await within(authority.start("tv", "the-stream-key", "192.0.2.1"))
        self.coordinator.on_message = play.deny
        await self.assertFailure(within(authority.start("tv", "the-stream-key", "192.0.2.1")), Refused)
        self.assertNotIn("the-stream-key", self.log.everything())

    async def _settle(self, authority: CoordinatorAuthority) -> None:
        """Waits until all that was sent so far has arrived: makes one more request, which is answered."""
        on_message, self.coordinator.on_message = self.coordinator.on_message, play.deny
        await self.assertFailure(within(authority.start("last", "key", "192.0.2.1")), Refused)
        self.coordinator.on_message = on_message
        self.coordinator.messages = [
            message for message in self.coordinator.messages if message[1].get("stream-channel") != "last"
        ]


class TimeTests(ControlCase):
    """Real sockets, and a clock that the test moves."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()

    async def connect(self, **options: Any) -> CoordinatorAuthority:
        return await super().connect(clock=self.clock, **options)

    async def test_interface(self) -> None:
        self.assertTrue(IPublishAuthority.providedBy(await self.connect()))

    async def test_heartbeats(self) -> None:
        await self.connect()
        for number in range(1, 8):
            self.clock.advance(20)
            await until(lambda count=number: len(self.coordinator.heard("HEARTBEAT")) == count)  # type: ignore[misc]
            self.target.kills.clear()
            self.coordinator.visit.say("HEARTBEAT\n")
            self.coordinator.visit.say("STREAM-KILL\nStream-Channel: x")
            await until(lambda: self.target.kills, "the heartbeat's arrival")
        self.assertEqual(len(self.coordinator.requests), 1)

    async def test_silence(self) -> None:
        """A connection on which nothing is received is dropped, and made again."""
        authority = await self.connect()
        self.clock.advance(59)
        self.assertTrue(authority.connected)
        self.clock.advance(1)
        await until(lambda: self.target.kill_alls and not authority.connected, "the drop")
        self.assertIn("nothing received for 60 s", self.log.lines(LogLevel.warn)[0])
        self.clock.advance(10)
        await until(lambda: authority.connected, "the next connection")

    async def test_request_without_answer(self) -> None:
        self.coordinator.on_message = play.silent
        authority = await self.connect()
        answer = authority.start("tv", "key", "192.0.2.1")
        self.clock.advance(20)
        await self.assertFailure(within(answer), Refused)

    async def test_shutdown_does_not_wait_for_ever(self) -> None:
        self.coordinator.on_message = play.silent
        authority = await self.connect(shutdown_timeout=3)
        answer = authority.start("tv", "key", "192.0.2.1")
        stopped = authority.stopService()
        self.clock.advance(2.9)
        self.assertNoResult(answer)
        self.clock.advance(0.1)
        await self.assertFailure(within(answer), Refused)
        await within(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_answer_to_a_closing_never_comes(self) -> None:
        """The shutdown is bounded."""
        authority = await self.connect()
        visit = self.coordinator.visit
        visit.transport.pauseProducing()
        stopped = authority.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(reconnecting.CLOSING_TIMEOUT)
        await within(stopped)
        visit.transport.resumeProducing()
        await until(lambda: not self.coordinator.visits)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class _Plays(Factory):
    """A TCP server that answers all data with a text, or never."""

    noisy = False

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.connections: list[Protocol] = []

    def buildProtocol(self, addr: object) -> Protocol:
        factory = self

        class Plays(Protocol):
            def connectionMade(self) -> None:
                factory.connections.append(self)

            def dataReceived(self, data: bytes) -> None:
                if factory.answer is not None and self.transport is not None:
                    self.transport.write(factory.answer)

            def connectionLost(self, reason: object = None) -> None:
                factory.connections.remove(self)

        return Plays()


def _answer(form: str, visit: Visit, kind: str, parameters: dict[str, str]) -> None:
    visit.say(form.format(id=parameters["request-id"]))
