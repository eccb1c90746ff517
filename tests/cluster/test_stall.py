"""The clock that notices that the process stood still."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.cluster.stall import STALL_SECONDS, StallClock
from rtmp_twisted.cluster.store import PLACE_SECONDS, REFRESH_SECONDS


class StallTests(SynchronousTestCase):
    def test_gaps(self) -> None:
        clock = Clock()
        stalls: list[float] = []
        stall = StallClock(clock, 3)
        stall.stalled = lambda: stalls.append(clock.seconds())
        for gap in (1.0, 3.0, 3.5, 0.0, 100.0, 2.9):
            clock.advance(gap)
            self.assertEqual(stall.seconds(), clock.seconds())
        self.assertEqual(stalls, [7.5, 107.5])

    def test_limit(self) -> None:
        """A place that was refreshed just before the last look, or two seconds before it, has not ended by then."""
        self.assertLess(STALL_SECONDS + REFRESH_SECONDS, PLACE_SECONDS)
