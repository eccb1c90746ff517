"""rtmp_twisted.process: when the garbage collector looks at all objects, and what goes back to the system."""

from __future__ import annotations

import gc
import resource
import weakref

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted import process
from rtmp_twisted.process import COLLECT_SECONDS, GarbageService, give_back_memory


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


class GiveBackTests(SynchronousTestCase):
    def test_free_memory_below_what_is_in_use(self) -> None:
        many = [bytes(4000) for _ in range(20_000)]
        last = many[-100:]
        many.clear()
        before = resident()
        give_back_memory()
        self.assertLess(resident(), before - 50e6)
        self.assertEqual(len(last), 100)


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
