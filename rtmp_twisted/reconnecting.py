"""A client connection that is made again whenever it is lost: the base of the coordinator's client, of Redis's, and of
pushes and pulls.

`ReconnectingClient` is the service, `KeptConnection` is the connection it keeps. It logs an outage once, not each
attempt to end it.
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

from rtmp_twisted.peer_errors import describe

OPENING_TIMEOUT = 15.0
"""Seconds for one whole attempt: the name, TCP, TLS, and whatever the other side requires before the connection is
ready for use."""

FIRST_DELAY = 0.5
"""Seconds before the second attempt; doubled for each further one. Each delay is shortened by a random part of up to
a half, so that many servers do not come back at the same moment."""

MAX_DELAY = 10.0
"""Most seconds between two attempts."""

STABLE_SECONDS = 10.0
"""A connection that has lasted for so long resets the delay to `FIRST_DELAY`."""

CLOSING_TIMEOUT = 3.0
"""Seconds that a connection may take for an orderly close when the service stops."""

_MAX_REASONS = 5
"""Different reasons that are logged as warnings in one outage."""

_log = Logger()


class OneShotEvent:
    """An event that happens once, with a reason. Any number of callers may wait for it."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._waiters: list[Deferred[str]] = []

    def wait(self) -> Deferred[str]:
        """Fires with the reason; at once if the event has happened. May be cancelled."""
        if self.reason is not None:
            return succeed(self.reason)
        waiter: Deferred[str] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        return waiter

    def happen(self, reason: str) -> None:
        """Wakes all who wait. Only the first call counts."""
        if self.reason is not None:
            return
        self.reason = reason
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(reason)


class KeptConnection(Protocol):
    """The connection of a `ReconnectingClient`. ``lost`` happens when the transport is gone."""

    lost: OneShotEvent

    def close(self) -> None:
        """Begins an orderly close."""

    def abort(self) -> None:
        """Closes the connection at once. May be called at any time, and again."""


C = TypeVar("C", bound=KeptConnection)


class ReconnectingClient(Service, Generic[C]):
    """Keeps one connection for as long as the service runs. A subclass says how it is opened.

    ``clock`` measures all delays, ``random`` makes the jitter, and ``title`` names the other side in the log.
    """

    opening_timeout = OPENING_TIMEOUT
    max_delay = MAX_DELAY
    closing_timeout = CLOSING_TIMEOUT

    connection: C | None = None
    """The connection, while there is one that is ready for use."""

    opening = False
    """Whether an attempt is under way."""

    last_problem = ""
    """Why the last attempt has failed, or the last connection was lost; in words, without secrets."""

    losses = 0
    """How often a connection that was ready for use was lost."""

    def __init__(self, title: str, clock: IReactorTime, random: Random) -> None:
        self.title = title
        self.clock = clock
        self.random = random
        self._connecting: Deferred[None] | None = None
        self._reasons: set[str] = set()

    @property
    def connected(self) -> bool:
        return self.connection is not None

    async def open(self) -> C:
        """Returns a new connection that is ready for use. Leaves nothing open when it fails or is cancelled.

        Subclasses implement it.
        """
        raise NotImplementedError

    def startService(self) -> None:
        super().startService()
        self._connecting = Deferred.fromCoroutine(self._keep_connected())
        self._connecting.addErrback(self._log_failure)

    def stopService(self) -> Deferred[None]:
        """Stops connecting, and closes the connection. Fires when it is gone, within `closing_timeout`."""
        super().stopService()
        connecting, self._connecting = self._connecting, None
        if connecting is None:
            return succeed(None)
        connecting.cancel()
        return connecting

    def _log_failure(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("a bug: {title} is not connected to any more", failure, title=self.title)

    async def _keep_connected(self) -> None:
        attempts = 0
        while self.running:
            opened_at = await self._connect_once()
            if not self.running:
                return
            # A party that accepts connections only to drop them is not called more often than one that is away.
            stable = opened_at is not None and self.clock.seconds() - opened_at >= STABLE_SECONDS
            attempts = 1 if stable else attempts + 1
            await deferLater(self.clock, self.delay(attempts), lambda: None)

    async def _connect_once(self) -> float | None:
        """Opens one connection and waits for its end. Returns when it was ready for use, or None if it never was."""
        self.opening = True
        try:
            connection = await Deferred.fromCoroutine(self.open()).addTimeout(self.opening_timeout, self.clock)
        except Exception as error:
            if self.running:
                self._report("no connection to {title}, trying again: {reason}", describe(error))
            return None
        finally:
            self.opening = False
        opened_at = self.clock.seconds()
        self.connection = connection
        self._reasons.clear()
        _log.info("connected to {title}", title=self.title)
        try:
            reason = await connection.lost.wait()
        except CancelledError:
            await self._close(connection)
            return opened_at
        finally:
            self.connection = None
        self.losses += 1
        self._report("the connection to {title} was lost, trying again: {reason}", reason)
        return opened_at

    async def _close(self, connection: C) -> None:
        connection.close()
        limit = self.clock.callLater(self.closing_timeout, connection.abort)
        await connection.lost.wait()
        if limit.active():
            limit.cancel()

    def _report(self, line: str, reason: str) -> None:
        """Logs a warning, or a debug line if the same has been said in this outage."""
        self.last_problem = reason
        if reason in self._reasons or len(self._reasons) >= _MAX_REASONS:
            _log.debug(line, title=self.title, reason=reason)
        else:
            self._reasons.add(reason)
            _log.warn(line, title=self.title, reason=reason)

    def delay(self, attempts: int) -> float:
        """Returns the seconds until the next attempt, after so many in vain."""
        longest: float = min(self.max_delay, FIRST_DELAY * 2.0 ** min(attempts - 1, 10))
        return longest * self.random.uniform(0.5, 1.0)


async def abort_and_wait(connection: KeptConnection) -> None:
    """Aborts a connection that is not ready for use yet, and waits until it is gone."""
    connection.abort()
    await connection.lost.wait()
