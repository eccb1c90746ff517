"""A connection that is made again whenever it is lost: what Redis and the coordinator have in common.

`ReconnectingClient` is the service, `KeptConnection` what it keeps. It logs each outage once, not each try.
"""

from __future__ import annotations

from random import Random
from typing import Generic, Protocol, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtmp_twisted.integrations.errors import describe

#: Seconds for an attempt in all: name, TCP, TLS, and what the other side asks for before the connection is of use.
OPENING_TIMEOUT = 15.0

#: Seconds before the second try, doubled for each one after it, and the most between two tries. Each delay is cut
#: by a random share of up to a half, so that many servers do not come back in one moment.
FIRST_DELAY = 0.5
MAX_DELAY = 10.0

#: Seconds that a connection must have lasted for the next outage to begin with the first delay again.
LASTING = 10.0

#: Seconds that a connection has for closing in good order when the service stops.
CLOSING_TIMEOUT = 3.0

#: Different reasons logged in one outage; more of them say nothing new.
_MAX_REASONS = 5

_log = Logger()


class OneShotEvent:
    """Something that happens once, with a reason, and that any number of parties wait for."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._waiting: list[Deferred[str]] = []

    def wait(self) -> Deferred[str]:
        if self.reason is not None:
            return succeed(self.reason)
        waiter: Deferred[str] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def happen(self, reason: str) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(reason)


class KeptConnection(Protocol):
    """What a `ReconnectingClient` keeps: ``lost`` happens when the transport is gone."""

    lost: OneShotEvent

    def close(self) -> None:
        """Begin to end the connection in good order."""

    def abort(self) -> None:
        """End it at once; may be called at any time, and twice."""


C = TypeVar("C", bound=KeptConnection)


class ReconnectingClient(Service, Generic[C]):
    """Keeps one connection for as long as the service runs. A subclass says how it is opened.

    ``clock`` measures all delays; ``random`` gives the jitter; ``title`` names the other side in the log.
    """

    #: The connection, while there is one that is ready for use.
    connection: C | None = None

    def __init__(self, title: str, clock: IReactorTime, random: Random) -> None:
        self.title = title
        self.clock = clock
        self.random = random
        self._running: Deferred[None] | None = None
        self._reasons: set[str] = set()

    @property
    def connected(self) -> bool:
        return self.connection is not None

    async def open(self) -> C:
        """Make a connection that is ready for use. When cancelled, leaves nothing open. Subclasses implement it."""
        raise NotImplementedError

    def startService(self) -> None:
        super().startService()
        self._running = Deferred.fromCoroutine(self._keep_connected())
        self._running.addErrback(self._stopped)

    def stopService(self) -> Deferred[None]:
        """Stops trying, closes the connection, and fires when it is gone (within a few seconds)."""
        super().stopService()
        running, self._running = self._running, None
        if running is None:
            return succeed(None)
        running.cancel()
        return running

    def _stopped(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("the link to {title} has stopped", failure, title=self.title)

    async def _keep_connected(self) -> None:
        tries = 0
        while self.running:
            opened = await self._try_once()
            if not self.running:
                return
            # A party that takes connections only to drop them is not asked more often than one that is away.
            lasted = opened is not None and self.clock.seconds() - opened >= LASTING
            tries = 1 if lasted else tries + 1
            await deferLater(self.clock, self._delay(tries), lambda: None)

    async def _try_once(self) -> float | None:
        """One connection from its opening to its end; tells when it was ready, or None if it never was."""
        try:
            connection = await Deferred.fromCoroutine(self.open()).addTimeout(OPENING_TIMEOUT, self.clock)
        except Exception as error:
            if self.running:
                self._report("no connection to {title}, trying again: {reason}", describe(error))
            return None
        opened = self.clock.seconds()
        self.connection = connection
        self._reasons.clear()
        _log.info("connected to {title}", title=self.title)
        try:
            reason = await connection.lost.wait()
        except CancelledError:
            await self._close(connection)
            return opened
        finally:
            self.connection = None
        self._report("the connection to {title} was lost, trying again: {reason}", reason)
        return opened

    async def _close(self, connection: C) -> None:
        connection.close()
        limit = self.clock.callLater(CLOSING_TIMEOUT, connection.abort)
        await connection.lost.wait()
        if limit.active():
            limit.cancel()

    def _report(self, line: str, reason: str) -> None:
        if reason in self._reasons or len(self._reasons) >= _MAX_REASONS:
            _log.debug(line, title=self.title, reason=reason)
        else:
            self._reasons.add(reason)
            _log.warn(line, title=self.title, reason=reason)

    def _delay(self, tries: int) -> float:
        longest: float = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(tries - 1, 10))
        return longest * self.random.uniform(0.5, 1.0)


async def aborted(connection: KeptConnection) -> None:
    """Give a half-opened connection up and wait until it is gone."""
    connection.abort()
    await connection.lost.wait()
