"""rtmp_twisted.live.drain: how many are sent away at a time."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.drain import STEPS, Drain
from rtmp_twisted.live.turns import ITEMS_PER_TURN


class DrainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.gone: list[int] = []
        self.drain = Drain(self.clock, cast(Any, SimpleNamespace(draining=False)))

    def client(self, number: int) -> None:
        self.gone.append(number)
        if number == 1:
            raise ValueError("a bug with one")

    def test_many(self) -> None:
        """As many in each second, some in each turn; and a bug with one keeps nobody."""
        self.drain.clients.append(lambda: [partial(self.client, number) for number in range(9000)])
        self.drain.turn(True)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        before, moments = 0, 0
        while self.clock.getDelayedCalls():
            self.assertLessEqual(len(self.gone) - before, ITEMS_PER_TURN)
            before, moments = len(self.gone), moments + 1
            self.clock.advance(self.clock.getDelayedCalls()[0].getTime() - self.clock.seconds())
        self.assertEqual(self.gone, list(range(9000)))
        self.assertTrue(STEPS - 1 < self.clock.seconds() <= STEPS)
        self.assertEqual(moments, 9000 // ITEMS_PER_TURN)
