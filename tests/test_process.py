"""rtmp_twisted.process: when the garbage collector looks at all objects."""

from __future__ import annotations

import gc
import weakref

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted import process
from rtmp_twisted.process import COLLECT_SECONDS, GarbageService


class Cycle:
    def __init__(self) -> None:
        self.itself = self


class GarbageTests(SynchronousTestCase):
    def setUp(self) -> None:
        before = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *before)
        self.addCleanup(gc.unfreeze)
        self.clock = Clock()
        self.service = GarbageService(self.clock)
        self.service.startService()
        gc.set_threshold(0)  # nothing is collected but by this service

    def test_old_cycles_go(self) -> None:
        cycle = weakref.ref(Cycle())
        self.clock.advance(COLLECT_SECONDS - 1)
        self.assertIsNotNone(cycle())
        self.clock.advance(1)
        self.assertIsNone(cycle())
        self.service.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_while_there_are_many_objects(self) -> None:
        """It would stop the server for too long."""
        self.patch(process, "FEW_OBJECTS", 100_000)
        cycle = weakref.ref(Cycle())
        many = [object() for _ in range(200_000)]
        self.clock.advance(COLLECT_SECONDS)
        self.assertIsNotNone(cycle())
        many.clear()
        self.clock.advance(COLLECT_SECONDS)
        self.assertIsNone(cycle())
        self.service.stopService()
