"""rtmp_twisted.rtmp.poller: reading what publishers send. Sockets are real, the reactor and transports are not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.poller import LOAD_SECONDS, PATIENCE_SECONDS, READ_SIZE, PublisherPoller


class Reactor:
    def __init__(self) -> None:
        self.readers: list[object] = []

    def addReader(self, reader: object) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.remove(reader)


class Transport:
    """Of one end of a connection; ``reading`` is whether it would read by itself."""

    def __init__(self, handle: socket.socket) -> None:
        self.handle = handle
        self.reading = True

    def getHandle(self) -> socket.socket:
        return self.handle

    def fileno(self) -> int:
        return self.handle.fileno()

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True


class Reader:
    def __init__(self, name: str, story: list[tuple[str, bytes]], handle: socket.socket) -> None:
        self.transport = Transport(handle)
        self.name = name
        self.story = story
        self.then: Callable[[], None] = lambda: None
        self.failed: list[Exception] = []

    def receive(self, data: bytes) -> None:
        self.story.append((self.name, data))
        self.then()

    def fail(self, error: Exception) -> None:
        self.failed.append(error)


FLUSH = ("flush", b"")


class PublisherPollerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.clock = Clock()
        self.clock.advance(100)
        self.used = 0.0
        self.poller = PublisherPoller(cast(Any, self.reactor), self.clock, self.flush, lambda: self.used)
        self.addCleanup(self.poller.connectionLost, Failure(ConnectionDone()))
        self.story: list[tuple[str, bytes]] = []

    def flush(self) -> None:
        self.story.append(FLUSH)

    def connect(self, name: str) -> tuple[Reader, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        return Reader(name, self.story, near), far

    def take(self, name: str) -> tuple[Reader, socket.socket]:
        reader, far = self.connect(name)
        self.poller.add(reader)
        return reader, far


class PublisherPollerTests(PublisherPollerCase):
    def test_all_are_read_before_any_is_handed_on(self) -> None:
        _, one = self.take("one")
        _, two = self.take("two")
        self.take("silent")
        one.sendall(b"1")
        two.sendall(b"2")
        self.poller.doRead()
        self.assertEqual(sorted(self.story[:2]), [("one", b"1"), ("two", b"2")])
        self.assertEqual(self.story[2:], [FLUSH])

    def test_between_what_others_do(self) -> None:
        """`poll_if_due` lets publishers be read, unless that has just been done, or is being done."""
        reader, far = self.take("one")
        reader.then = self.poller.poll_if_due
        far.sendall(b"1")
        self.poller.poll_if_due()
        self.assertEqual(self.story, [("one", b"1"), FLUSH])
        far.sendall(b"2")
        self.clock.advance(PATIENCE_SECONDS / 2)
        self.poller.poll_if_due()
        self.assertEqual(len(self.story), 2)
        self.clock.advance(PATIENCE_SECONDS)

        def while_it_reads() -> None:
            far.sendall(b"3")
            self.clock.advance(1)
            self.poller.poll_if_due()

        reader.then = while_it_reads
        self.poller.poll_if_due()
        self.assertEqual(self.story[2:], [("one", b"2"), FLUSH])

    def test_in_place_of_the_transport(self) -> None:
        reader, far = self.take("one")
        self.assertFalse(reader.transport.reading)
        self.poller.add(reader)
        far.sendall(b"x" * READ_SIZE + b"y")
        self.poller.doRead()
        self.poller.doRead()
        self.assertEqual(b"".join(data for _, data in self.story), b"x" * READ_SIZE + b"y")

    def test_with_the_reactor_as_long_as_there_is_somebody(self) -> None:
        self.assertEqual(self.reactor.readers, [])
        one, _ = self.take("one")
        two, _ = self.take("two")
        self.assertEqual(self.reactor.readers, [self.poller])
        self.poller.remove(one)
        self.poller.remove(one)
        self.assertEqual(self.reactor.readers, [self.poller])
        self.poller.remove(two)
        self.assertEqual(self.reactor.readers, [])
        self.poller.add(one)
        self.assertEqual(self.reactor.readers, [self.poller])

    def test_dropped(self) -> None:
        """What comes stays in the socket, for whoever reads it next."""
        reader, far = self.take("one")
        self.take("two")
        self.poller.remove(reader)
        self.assertFalse(reader.transport.reading)
        far.sendall(b"later")
        self.poller.doRead()
        self.assertEqual(self.story, [FLUSH])
        self.poller.add(reader)
        self.poller.doRead()
        self.assertEqual(self.story[1:], [("one", b"later"), FLUSH])

    def test_dropped_by_what_another_sent(self) -> None:
        one, one_end = self.take("one")
        two, two_end = self.take("two")
        one.then = lambda: self.poller.remove(two)
        two.then = lambda: self.poller.remove(one)
        one_end.sendall(b"1")
        two_end.sendall(b"2")
        self.poller.doRead()
        self.assertEqual(len(self.story), 2)  # whichever was first, and its end
        self.assertEqual(len(self.reactor.readers), 1)

    def test_the_end_is_for_the_transport(self) -> None:
        reader, far = self.take("one")
        far.sendall(b"last")
        far.close()
        self.poller.doRead()
        self.assertEqual(self.story, [("one", b"last"), FLUSH])
        self.poller.doRead()
        self.assertTrue(reader.transport.reading)
        self.assertEqual(self.reactor.readers, [])

    def test_closed_before_it_is_dropped(self) -> None:
        """The transport has closed the socket when the protocol hears of it; the next one gets its number."""
        reader, _ = self.take("one")
        number = reader.transport.fileno()
        reader.transport.handle.close()
        self.poller.remove(reader)
        other, far = self.connect("other")
        if other.transport.fileno() != number:  # some other file was quicker: give it that number
            self.fail("file numbers are given out lowest first")
        self.poller.add(other)
        far.sendall(b"mine")
        self.poller.doRead()
        self.assertEqual(self.story, [("other", b"mine"), FLUSH])


class RoundTests(PublisherPollerCase):
    """Where the process has little time left, publishers are read together, now and then."""

    def busy(self, load: float, times: int = 50) -> None:
        """The process takes that part of a core, as long as many measurements of it take."""
        for _ in range(times):
            self.used += LOAD_SECONDS * load
            self.clock.advance(LOAD_SECONDS)
            self.poller.doRead()

    def test_the_interval(self) -> None:
        self.take("one")
        self.take("two")
        for load, interval in [(0.2, 0), (0.5, 0.005), (0.625, 0.0125), (0.75, 0.02), (1.0, 0.03), (1.2, 0.03)]:
            self.busy(load)
            self.assertAlmostEqual(self.poller.interval, interval, msg=str(load))
        self.busy(0.1)
        self.assertEqual(self.poller.interval, 0)

    def test_what_comes_waits_for_the_next_round(self) -> None:
        _, one = self.take("one")
        _, two = self.take("two")
        self.busy(0.75)
        self.assertEqual(self.reactor.readers, [])
        self.story.clear()
        one.sendall(b"1")
        two.sendall(b"2")
        self.clock.advance(0.015)
        self.assertEqual(self.story, [])
        self.clock.advance(0.015)
        self.assertEqual(sorted(self.story[:2]), [("one", b"1"), ("two", b"2")])
        self.assertEqual(self.story[2:], [FLUSH])
        self.busy(0.0)
        self.assertEqual((self.reactor.readers, self.clock.getDelayedCalls()), ([self.poller], []))

    def test_between_what_others_do(self) -> None:
        """Who has much to do for others makes publishers wait no longer because of that."""
        _, one = self.take("one")
        self.take("two")
        self.busy(0.75)
        self.story.clear()
        one.sendall(b"1")
        self.clock.advance(2 * PATIENCE_SECONDS)
        self.poller.poll_if_due()
        self.assertEqual(self.story, [("one", b"1"), FLUSH])

    def test_what_one_round_does_not_take_is_read_at_once(self) -> None:
        _, one = self.take("one")
        self.take("two")
        self.busy(1.0)
        one.sendall(b"x" * READ_SIZE + b"y")
        self.story.clear()
        self.clock.advance(0.05)
        self.assertEqual([len(data) for _, data in self.story], [READ_SIZE, 0, 1, 0])

    def test_a_single_one_never_waits(self) -> None:
        """Nothing could be read together with it."""
        self.take("one")
        self.busy(1.0)
        self.assertEqual((self.poller.interval, self.reactor.readers), (0, [self.poller]))

    def test_nobody_is_left(self) -> None:
        one, _ = self.take("one")
        two, _ = self.take("two")
        self.busy(1.0)
        self.poller.remove(one)
        self.poller.remove(two)
        self.assertEqual((self.reactor.readers, self.clock.getDelayedCalls()), ([], []))
        self.poller.add(two)
        self.assertEqual((self.poller.interval, self.reactor.readers), (0, [self.poller]))

    def test_removed_by_what_is_read_in_a_round(self) -> None:
        one, one_end = self.take("one")
        two, _ = self.take("two")
        self.busy(1.0)

        def remove_both() -> None:
            self.poller.remove(one)
            self.poller.remove(two)

        one.then = remove_both
        one_end.sendall(b"1")
        self.clock.advance(0.05)
        self.assertEqual((self.reactor.readers, self.clock.getDelayedCalls()), ([], []))


class FaultTests(PublisherPollerCase):
    """What goes wrong with one reader is the end of that one only."""

    def test_an_exception_of_one(self) -> None:
        for error in ValueError("a bug"), MemoryError():
            broken, broken_end = self.take("broken")
            sound, sound_end = self.take("sound")
            broken.then = raising(error)
            for end in broken_end, sound_end:
                end.sendall(b"1")
            self.poller.doRead()
            self.assertEqual(broken.failed, [error])
            self.assertNotIn(broken, self.poller)
            broken_end.sendall(b"2")
            sound_end.sendall(b"2")
            self.story.clear()
            self.poller.doRead()
            self.assertEqual(self.story, [("sound", b"2"), FLUSH])
            self.assertEqual(sound.failed, [])
            self.poller.remove(sound)

    def test_one_that_cannot_even_be_ended(self) -> None:
        broken, broken_end = self.take("broken")
        _, sound_end = self.take("sound")
        broken.then = raising(ValueError("a bug"))
        self.patch(broken, "fail", raising(MemoryError()))
        broken_end.sendall(b"1")
        sound_end.sendall(b"1")
        self.poller.doRead()
        self.assertIn(("sound", b"1"), self.story)
        self.assertNotIn(broken, self.poller)
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)

    def test_no_memory_to_read_into(self) -> None:
        reader, far = self.connect("one")

        class Full:
            recv = staticmethod(raising(MemoryError()))

        self.patch(reader.transport, "getHandle", Full)
        self.poller.add(reader)
        _, sound_end = self.take("sound")
        far.sendall(b"1")
        sound_end.sendall(b"1")
        self.poller.doRead()
        self.assertIsInstance(reader.failed[0], MemoryError)
        self.assertEqual(self.story, [("sound", b"1"), FLUSH])

    def test_a_transport_that_cannot_pause(self) -> None:
        reader, _ = self.connect("one")
        self.patch(reader.transport, "pauseProducing", raising(ValueError()))
        self.assertRaises(ValueError, self.poller.add, reader)
        self.assertNotIn(reader, self.poller)
        _, sound_end = self.take("sound")
        sound_end.sendall(b"1")
        self.poller.doRead()
        self.assertEqual(self.story, [("sound", b"1"), FLUSH])

    def test_a_socket_that_the_kernel_does_not_watch(self) -> None:
        """As for more than fs.epoll.max_user_watches: its transport goes on reading."""
        reader, _ = self.connect("one")
        with open(__file__) as file:  # the kernel watches no files on a disk
            self.patch(reader.transport, "fileno", file.fileno)
            self.poller.add(reader)
        self.assertTrue(reader.transport.reading)
        self.assertNotIn(reader, self.poller)
        self.poller.remove(reader)

    def test_the_reactor_takes_an_exception_for_its_end(self) -> None:
        """It removes a descriptor that has raised, and says that its connection is lost."""
        _, far = self.take("one")
        self.reactor.removeReader(self.poller)
        self.poller.connectionLost(Failure(MemoryError()))
        self.assertEqual(self.reactor.readers, [self.poller])
        far.sendall(b"1")
        self.poller.doRead()
        self.assertEqual(self.story, [("one", b"1"), FLUSH])


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail
