"""Reads what publishers send: all of them first, then on to their players. Made by tap.py, used by client.

Publishers' frames come in bursts, since encoders keep the same times. The reactor would read one, send it on, read the
next; here all that is there is read before any of it is sent. The receiver of the first frame is not woken and put to
sleep again for each, and the way from a readable socket to its protocol is short. To the reactor all publishers are
one file: an epoll that has their sockets. All else about them, writing and how they end, stays with their transports.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

AT_ONCE: Final = 512
"""Sockets that are read in one call of the reactor."""

READ_SIZE: Final = 65536
"""Bytes that are read from a socket in one call of the reactor, as many as the reactor would."""

PATIENCE: Final = 0.002
"""Seconds after which publishers are looked after in between, while the reactor is busy with others."""


class Reader(Protocol):
    """Whose socket is read; a `Client`. Neither method may raise."""

    @property
    def transport(self) -> Any:
        """Its transport, TCP without TLS."""

    def receive(self, data: bytes) -> None:
        """Some bytes have come; may be called again before `received_all`."""

    def received_all(self) -> None:
        """That was all for the moment."""


@implementer(IReadDescriptor)
class PublisherPoller:
    """Is with the reactor as long as it has readers."""

    def __init__(self, reactor: IReactorFDSet, clock: IReactorTime) -> None:
        self._reactor = reactor
        self._clock = clock
        self._read_at = 0.0
        self._reading = False
        self._epoll = select.epoll()
        self._files: dict[Reader, int] = {}
        self._readers: dict[int, tuple[Callable[[int], bytes], Reader]] = {}

    def take(self, reader: Reader) -> None:
        """From now on reads for the reader, in place of its transport. Safe to call again."""
        if reader in self._files:
            return
        transport = reader.transport
        transport.pauseProducing()
        file = self._files[reader] = transport.fileno()
        self._readers[file] = transport.getHandle().recv, reader
        self._epoll.register(file, select.EPOLLIN)
        if len(self._readers) == 1:
            self._reactor.addReader(self)

    def drop(self, reader: Reader) -> None:
        """Does not read for the reader any more; nobody does. Safe to call for any reader, also one that is closed."""
        file = self._files.pop(reader, None)
        if file is None:
            return
        del self._readers[file]
        with suppress(OSError, ValueError):  # the kernel has dropped it when it was closed
            self._epoll.unregister(file)
        if not self._readers:
            self._reactor.removeReader(self)

    def glance(self) -> None:
        """To be called when something has been done that the reactor may have much of in one turn, such as starting a
        player: publishers, and so whoever watches, do not wait until all of that is done."""
        if self._readers and not self._reading and self._clock.seconds() - self._read_at >= PATIENCE:
            self.doRead()

    # What the reactor calls

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "intake"

    def doRead(self) -> None:
        self._reading = True
        try:
            self._read()
        finally:
            self._reading = False
            self._read_at = self._clock.seconds()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped."""
        self._epoll.close()

    def _read(self) -> None:
        heard: list[Reader] = []
        for file, _ in self._epoll.poll(0, AT_ONCE):
            entry = self._readers.get(file)
            if entry is None:  # dropped by what another one sent
                continue
            receive, reader = entry
            try:
                data = receive(READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                reader.receive(data)
                heard.append(reader)
            else:  # the end, which is its transport's to find
                self.drop(reader)
                reader.transport.resumeProducing()
        for reader in heard:
            reader.received_all()
