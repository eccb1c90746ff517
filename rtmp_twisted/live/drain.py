"""Sends the clients of a server away, which goes on. Operators command it (web/operations.py).

New publishes and players are turned away from then on. Those that are there go in steps, so that the servers that they
go to do not get all of them at once. Who publishes, and does not understand that it is to go, stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.turns import ITEMS_PER_TURN

STEPS: Final = 10
"""Seconds that it takes to send all clients away, as many in each."""

_log = Logger()

Client = Callable[[], object]
"""Sends one client away. Safe to call when it is gone."""


class Drain:
    """``clients``, functions that other modules add, return those that may have to go."""

    def __init__(self, clock: IReactorTime, broker: Broker) -> None:
        self.clients: list[Callable[[], Iterable[Client]]] = []
        self._clock = clock
        self._broker = broker
        self._left: deque[Client] = deque()
        self._next: IDelayedCall | None = None

    def turn(self, on: bool) -> None:
        """Begins to drain, or lets clients come again."""
        if on == self._broker.draining:
            return
        self._broker.draining = on
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._left = deque(client for clients in self.clients for client in clients()) if on else deque()
        if on:
            self._step(-(-len(self._left) // STEPS))

    def left(self) -> dict[str, int]:
        """How many publish here, and how many play."""
        found = self._broker.channels()
        return {
            "publishers": sum(one is not None and not one.pulled and not one.edge for _, one in found),
            "players": sum(len(channel.players) for channel, _ in found),
        }

    def _step(self, count: int) -> None:
        """Sends ``count`` clients away in each second, not more of them at a time than one turn handles."""
        some = [self._left.popleft() for _ in range(min(count, len(self._left), ITEMS_PER_TURN))]
        self._next = self._clock.callLater(len(some) / count, self._step, count) if self._left else None
        for client in some:
            try:
                client()
            except Exception:
                _log.failure("a bug, while a client was sent away")
