"""rtmp_twisted.rtmp.poller: reading what publishers send. Sockets are real, the reactor and transports are not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.poller import PATIENCE_SECONDS, READ_SIZE, PublisherPoller


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

    def receive(self, data: bytes) -> None:
        self.story.append((self.name, data))
        self.then()


FLUSH = ("flush", b"")


class PublisherPollerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.clock = Clock()
        self.clock.advance(100)
        self.poller = PublisherPoller(cast(Any, self.reactor), self.clock, self.flush)
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
