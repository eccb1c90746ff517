from __future__ import annotations

import subprocess
import sys
from random import Random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.reconnecting import CLOSING_TIMEOUT, OPENING_TIMEOUT, OneShotEvent, ReconnectingClient
from tests.support.fakes import Log


class _Connection:
    def __init__(self) -> None:
        self.lost = OneShotEvent()
        self.asked: list[str] = []

    def close(self) -> None:
        self.asked.append("close")

    def abort(self) -> None:
        self.asked.append("abort")
        self.lost.happen("aborted")


class _Client(ReconnectingClient[_Connection]):
    """Each attempt is answered by the test."""

    def __init__(self, clock: Clock, seed: int = 1) -> None:
        super().__init__("the other side", clock, Random(seed))
        self.attempts: list[tuple[float, Deferred[_Connection]]] = []
        self.cancelled = 0

    async def open(self) -> _Connection:
        attempt: Deferred[_Connection] = Deferred(self._count)
        self.attempts.append((self.clock.seconds(), attempt))
        return await attempt

    def _count(self, _: object) -> None:
        self.cancelled += 1

    @property
    def attempt(self) -> Deferred[_Connection]:
        return self.attempts[-1][1]


class ReconnectingClientTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.client = _Client(self.clock)
        self.log = Log(self)

    def connect(self) -> _Connection:
        connection = _Connection()
        self.client.attempt.callback(connection)
        return connection

    def until_next(self) -> float:
        """Lets time pass until the next attempt. Returns how long that took."""
        count, began = len(self.client.attempts), self.clock.seconds()
        while len(self.client.attempts) == count:
            self.assertLess(self.clock.seconds() - began, 11)
            self.clock.advance(0.01)
        return self.clock.seconds() - began

    def test_back_off(self) -> None:
        self.client.startService()
        delays = []
        for _ in range(60):
            self.client.attempt.errback(ConnectionRefusedError())
            delays.append(self.until_next())
        for number, delay in enumerate(delays):
            longest = min(10.0, 0.5 * 2**number)
            self.assertTrue(longest / 2 <= delay <= longest + 0.02, (number, delay))
        self.assertGreater(len({round(delay, 1) for delay in delays[10:]}), 10)

    def test_jitter_is_given(self) -> None:
        """Servers with different random numbers come back at different times."""
        times = set()
        for seed in range(10):
            self.client = _Client(self.clock, seed)
            self.client.startService()
            self.client.attempt.errback(ConnectionRefusedError())
            times.add(round(self.until_next(), 2))
        self.assertGreater(len(times), 5)

    def test_a_connection_that_lasted(self) -> None:
        """Its loss is followed by the first delay again; the loss of one that did not last is not."""
        self.client.startService()
        for _ in range(6):
            self.client.attempt.errback(ConnectionRefusedError())
            self.until_next()
        self.connect().lost.happen("gone")
        self.assertGreater(self.until_next(), 4)
        connection = self.connect()
        self.clock.advance(10)
        connection.lost.happen("gone")
        self.assertLess(self.until_next(), 0.6)

    def test_connected(self) -> None:
        self.client.startService()
        self.assertFalse(self.client.connected)
        connection = self.connect()
        self.assertTrue(self.client.connected)
        connection.lost.happen("gone")
        self.assertFalse(self.client.connected)

    def test_opening_is_bounded(self) -> None:
        self.client.startService()
        self.clock.advance(OPENING_TIMEOUT)
        self.assertEqual(self.client.cancelled, 1)
        self.until_next()
        self.assertEqual(len(self.client.attempts), 2)

    def test_an_outage_is_logged_once(self) -> None:
        self.client.startService()
        for _ in range(100):
            self.client.attempt.errback(ConnectionRefusedError())
            self.until_next()
        self.assertEqual(len(self.log.lines(LogLevel.warn)), 1)
        self.assertIn("refused", self.log.lines(LogLevel.warn)[0])
        self.client.attempt.errback(PeerError("AUTH was refused"))
        self.assertIn("AUTH was refused", self.log.lines(LogLevel.warn)[1])
        self.until_next()
        for number in range(100):
            self.client.attempt.errback(PeerError(f"reason {number}"))
            self.until_next()
        self.assertEqual(len(self.log.lines(LogLevel.warn)), 5)
        self.log.events.clear()
        self.connect().lost.happen("gone")
        self.assertEqual(self.log.lines(LogLevel.info), ["connected to the other side"])
        lost = "the connection to the other side was lost, trying again: gone"
        self.assertEqual(self.log.lines(LogLevel.warn), [lost])

    def test_stops_while_opening(self) -> None:
        self.client.startService()
        self.successResultOf(self.client.stopService())
        self.assertEqual((self.client.cancelled, self.log.lines(LogLevel.warn)), (1, []))
        self.check_finished()

    def test_stops_while_waiting(self) -> None:
        self.client.startService()
        self.client.attempt.errback(ConnectionRefusedError())
        self.successResultOf(self.client.stopService())
        self.check_finished()

    def test_stops_while_connected(self) -> None:
        self.client.startService()
        connection = self.connect()
        stopped = self.client.stopService()
        self.assertNoResult(stopped)
        self.assertEqual(connection.asked, ["close"])
        connection.lost.happen("closed")
        self.successResultOf(stopped)
        self.check_finished()

    def test_stop_is_bounded(self) -> None:
        self.client.startService()
        connection = self.connect()
        stopped = self.client.stopService()
        self.clock.advance(CLOSING_TIMEOUT)
        self.successResultOf(stopped)
        self.assertEqual(connection.asked, ["close", "abort"])
        self.check_finished()

    def test_stops_twice(self) -> None:
        self.successResultOf(self.client.stopService())
        self.client.startService()
        self.successResultOf(self.client.stopService())
        self.successResultOf(self.client.stopService())

    def check_finished(self) -> None:
        self.assertFalse(self.client.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.client.attempts), 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_bug_is_logged(self) -> None:
        """It ends the attempts, and is not silent."""

        class BrokenRandom(Random):
            def uniform(self, a: float, b: float) -> float:
                raise RuntimeError

        self.client.random = BrokenRandom()
        self.client.startService()
        self.client.attempt.errback(ConnectionRefusedError())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.successResultOf(self.client.stopService())


class OneShotEventTests(SynchronousTestCase):
    def test_waiters(self) -> None:
        """Each gets the first reason, whether it waits before or after, unless it has been cancelled."""
        event = OneShotEvent()
        early, cancelled = event.wait(), event.wait()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        event.happen("first")
        event.happen("second")
        self.assertEqual((self.successResultOf(early), self.successResultOf(event.wait())), ("first", "first"))


class ImportTests(SynchronousTestCase):
    def test_each_imports_only_what_it_needs(self) -> None:
        """The libraries cost memory, so a module must not import another's."""
        libraries = {"treq", "jwt", "txredisapi", "autobahn"}
        for module, expected in [
            ("rtmp_twisted.integrations", set()),
            ("rtmp_twisted.integrations.callback", {"treq", "jwt"}),
            ("rtmp_twisted.integrations.redis", {"txredisapi"}),
            ("rtmp_twisted.integrations.coordinator", {"autobahn", "jwt"}),
        ]:
            script = f"import sys, {module}; print(*({libraries!r} & set(sys.modules)))"
            run = subprocess.run(
                [sys.executable, "-c", script],
                capture_output=True,
                text=True,
                check=True,
                env={"PYTHONPATH": ":".join(sys.path)},
            )
            self.assertEqual(set(run.stdout.split()), expected, module)
