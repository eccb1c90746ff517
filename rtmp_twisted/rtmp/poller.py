"""Reads what publishers send: first from all of them, and only then is it written to players. Made by tap.py, used by
connection.

Publishers' frames come in bursts, since encoders keep the same times. The reactor would read one frame, send it on and
read the next; here everything there is is read before any of it is sent. So the receiver of the first frame is not
woken up for each of them, and the way from a readable socket to its connection is short. To the reactor all publishers
are one file: an epoll that has their sockets. Everything else, writing and the end, stays with their transports.

When the process has little time left, publishers are read in rounds: more of their frames are there in each, and leave
in one write for each player.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

AT_ONCE: Final = 512
"""Sockets that are read in one call of the reactor."""

READ_SIZE: Final = 65536
"""Bytes that are read from a socket in one call of the reactor, as many as the reactor would."""

PATIENCE_SECONDS: Final = 0.002
"""When the reactor has been busy with others for so long, publishers are read in between."""

LOAD_SECONDS: Final = 0.25
"""How often the load is measured, which is the part of a core that the process takes."""

ROUNDS: tuple[tuple[float, float], ...] = ((0.2, 0.0), (0.5, 0.005), (0.75, 0.02), (1.0, 0.03))
"""Loads, and the seconds from one round to the next at each; in proportion between them."""

LEAST_SECONDS: Final = 0.001
"""There are no rounds for less."""

_log = Logger(__name__)


class Reader(Protocol):
    """Whose socket is read; a connection."""

    @property
    def transport(self) -> Any:
        """Its transport, TCP without TLS."""

    def receive(self, data: bytes) -> None:
        """Some bytes have come."""

    def fail(self, error: Exception) -> None:
        """Reading has raised ``error``, which is being handled: ends this connection."""


@implementer(IReadDescriptor)
class PublisherPoller:
    """Is with the reactor as long as it has readers, or with the clock while it reads in rounds. ``flush`` hands on
    what they have received. ``stopwatch`` gives the seconds of CPU time that the process has taken."""

    def __init__(
        self,
        reactor: IReactorFDSet,
        clock: IReactorTime,
        flush: Callable[[], None],
        stopwatch: Callable[[], float],
    ) -> None:
        self.interval = 0.0
        """Seconds between two rounds; 0: no rounds."""
        self._reactor = reactor
        self._clock = clock
        self._flush = flush
        self._stopwatch = stopwatch
        self._measured = clock.seconds(), stopwatch()
        self._round: IDelayedCall | None = None  # the next one
        self._watched = False  # by the reactor
        self._more = False  # to read than has been read
        self._read_at = 0.0
        self._reading = False
        self._epoll = select.epoll()
        self._files: dict[Reader, int] = {}
        self._readers: dict[int, tuple[Callable[[int], bytes], Reader]] = {}

    def __contains__(self, reader: object) -> bool:
        return reader in self._files

    def add(self, reader: Reader) -> None:
        """From now on reads for the reader, in place of its transport. Safe to call again.

        Where the kernel does not let that be (the files that a user may watch are limited, and so is memory), its
        transport goes on reading.
        """
        if reader in self._files:
            return
        transport = reader.transport
        file = transport.fileno()
        receive = transport.getHandle().recv
        try:
            self._epoll.register(file, select.EPOLLIN)
        except OSError as error:
            _log.warn("a publisher is read by itself: {error}", error=error)
            transport.resumeProducing()
            return
        transport.pauseProducing()
        self._files[reader] = file
        self._readers[file] = receive, reader
        if len(self._readers) == 1:
            self._measured = self._clock.seconds(), self._stopwatch()
            self._settle()

    def remove(self, reader: Reader) -> None:
        """Does not read for the reader any more; nobody does. Safe to call for any reader, also a closed one."""
        file = self._files.pop(reader, None)
        if file is None:
            return
        del self._readers[file]
        with suppress(OSError, ValueError):  # the kernel has dropped it when it was closed
            self._epoll.unregister(file)
        if not self._readers:
            self.interval = 0.0
            self._settle()

    def poll_if_due(self) -> None:
        """Reads publishers if the reactor has been busy with others for a while, so that viewers do not wait for
        that. Called between pieces of work of which there may be many in one turn, such as starting a player."""
        if self._readers and not self._reading and self._clock.seconds() - self._read_at >= PATIENCE_SECONDS:
            self.doRead()

    # What the reactor calls

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "publishers"

    def doRead(self) -> None:
        self._reading = True
        self._more = False
        try:
            # A single one is simply read: to ask first would be one system call more for each frame.
            files = list(self._readers) if len(self._readers) == 1 else self._ready()
            for file in files:
                entry = self._readers.get(file)
                if entry is None:  # removed by what another one sent
                    continue
                receive, reader = entry
                try:
                    self._read(receive, reader)
                except Exception as error:
                    self._end(reader, error)
        except Exception:
            _log.failure("a bug, while publishers were read")
        finally:
            self._reading = False
            now = self._read_at = self._clock.seconds()
            self._flush()
            if now - self._measured[0] >= LOAD_SECONDS:
                self._measure(now)
            if self.interval or not self._watched:
                self._settle()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped; or `doRead` has raised after all, which the reactor takes for the end."""
        if reason.check(ConnectionDone, ConnectionLost):
            self._epoll.close()
        elif self._readers:
            self._watched = False
            self._settle()

    def _ready(self) -> list[int]:
        ready = [file for file, _ in self._epoll.poll(0, AT_ONCE)]
        self._more = len(ready) == AT_ONCE
        return ready

    def _measure(self, now: float) -> None:
        """Chooses the interval. Half of the last one stays, for it has an effect on the load itself."""
        used = self._stopwatch()
        load = (used - self._measured[1]) / (now - self._measured[0])
        self._measured = now, used
        wanted = _round_seconds(load) if len(self._readers) > 1 else 0.0
        interval = (self.interval + wanted) / 2
        self.interval = interval if interval >= LEAST_SECONDS else 0.0

    def _settle(self) -> None:
        """Has the reactor, or the clock, call for the next time."""
        in_rounds = bool(self.interval and self._readers)
        watched = bool(self._readers) and not in_rounds
        if watched != self._watched:
            self._watched = watched
            (self._reactor.addReader if watched else self._reactor.removeReader)(self)
        if in_rounds and self._round is None:
            self._round = self._clock.callLater(0.0 if self._more else self.interval, self._next_round)
        elif not in_rounds and self._round is not None:
            self._round.cancel()
            self._round = None

    def _next_round(self) -> None:
        self._round = None
        self.doRead()

    def _read(self, receive: Callable[[int], bytes], reader: Reader) -> None:
        try:
            data = receive(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._more = self._more or len(data) == READ_SIZE
            reader.receive(data)
        else:  # the end, which its transport is to find
            self.remove(reader)
            reader.transport.resumeProducing()

    def _end(self, reader: Reader, error: Exception) -> None:
        """An exception that one reader has raised ends that one only."""
        self.remove(reader)
        try:
            reader.fail(error)
        except Exception:
            _log.failure("a publisher could not be ended")


def _round_seconds(load: float) -> float:
    """Returns the seconds from one round to the next at a load, 0 for none."""
    for (lower, least), (upper, most) in pairwise(ROUNDS):
        if load <= upper:
            return max(0.0, least + (most - least) * (load - lower) / (upper - lower))
    return ROUNDS[-1][1]
