"""rtmp_twisted.services, and RTMPService: what a stop waits for."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.factory import RTMPService
from rtmp_twisted.services import SequentialService
from tests.support.fakes import Log
from tests.support.memory import World


class Part(Service):
    """Writes down what happens to it; ``stopped`` is what its stop waits for."""

    def __init__(self, name: str, story: list[str], stopped: Any = None) -> None:
        self.setName(name)
        self.story = story
        self.stopped = stopped

    def startService(self) -> None:
        super().startService()
        self.story.append(f"start {self.name}")

    def stopService(self) -> Any:
        super().stopService()
        self.story.append(f"stop {self.name}")
        if isinstance(self.stopped, Exception):
            raise self.stopped
        return self.stopped


class SequentialServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.story: list[str] = []

    def make(self, *stopped: Any) -> SequentialService:
        sequence = SequentialService()
        for name, outcome in zip("abc", stopped, strict=True):
            Part(name, self.story, outcome).setServiceParent(sequence)
        sequence.startService()
        self.assertEqual(self.story, ["start a", "start b", "start c"])
        self.story.clear()
        return sequence

    def test_order(self) -> None:
        sequence = self.make(None, None, None)
        self.successResultOf(sequence.stopService())
        self.assertEqual(self.story, ["stop c", "stop b", "stop a"])
        self.assertFalse(sequence.running)

    def test_one_that_takes_its_time(self) -> None:
        late: Deferred[None] = Deferred()
        stopping = self.make(None, late, None).stopService()
        self.assertEqual(self.story, ["stop c", "stop b"])
        self.assertNoResult(stopping)
        late.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.story, ["stop c", "stop b", "stop a"])

    def test_those_that_fail(self) -> None:
        """At once, or later; the others are stopped all the same."""
        log = Log(self)
        late: Deferred[None] = Deferred()
        stopping = self.make(None, ValueError("at once"), late).stopService()
        late.errback(ValueError("later"))
        self.successResultOf(stopping)
        self.assertEqual(self.story, ["stop c", "stop b", "stop a"])
        self.assertEqual(log.lines(), ["Part did not stop as it should"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)


class Port:
    def __init__(self) -> None:
        self.closed: Deferred[None] = Deferred()
        self.asked = False

    def getHost(self) -> object:
        return "a port"

    def stopListening(self) -> Deferred[None]:
        self.asked = True
        return self.closed


class Endpoint:
    """One whose ``listen`` returns what the test says."""

    def __init__(self, listening: Deferred[Any]) -> None:
        self.listening = listening

    def listen(self, factory: object) -> Deferred[Any]:
        return self.listening


class RTMPServiceTests(SynchronousTestCase):
    def make(self, listening: Deferred[Any]) -> RTMPService:
        self.world = World()
        self.failures: list[str] = []
        endpoints: Any = [("RTMP", Endpoint(listening), Factory())]
        return RTMPService(self.world.factory, endpoints, 5, self.failures.append)

    def test_stop_waits_for_the_port(self) -> None:
        port = Port()
        service = self.make(succeed(port))
        service.privilegedStartService()
        service.startService()
        stopping = service.stopService()
        self.assertTrue(port.asked)
        self.world.clock.advance(60)
        self.assertNoResult(stopping)
        port.closed.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_a_port_that_cannot_be_closed(self) -> None:
        port = Port()
        service = self.make(succeed(port))
        service.privilegedStartService()
        service.startService()
        stopping = service.stopService()
        port.closed.errback(OSError("no"))
        self.successResultOf(stopping)

    def test_listening_fails_later(self) -> None:
        listening: Deferred[Any] = Deferred()
        service = self.make(listening)
        service.privilegedStartService()
        self.assertEqual(self.failures, [])
        listening.errback(OSError("there is no such name"))
        self.assertEqual(self.failures, ["there is no such name"])

    def test_listens_after_the_stop(self) -> None:
        """An endpoint that takes its time: its port is closed at once."""
        listening: Deferred[Any] = Deferred()
        service = self.make(listening)
        service.privilegedStartService()
        service.startService()
        self.successResultOf(service.stopService())
        port = Port()
        listening.callback(port)
        self.assertTrue(port.asked)

    def test_listening_fails_after_the_stop(self) -> None:
        listening: Deferred[Any] = Deferred()
        service = self.make(listening)
        service.privilegedStartService()
        service.startService()
        self.successResultOf(service.stopService())
        listening.errback(OSError("no"))
        self.assertEqual(self.failures, [])
