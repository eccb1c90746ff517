"""A clock that notices when the process stood still: it was stopped, or had no CPU. Made by tap.py for a node of a
cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer


@implementer(IReactorTime)
class StallClock:
    """The reactor's time, for those that read what publishers send: they ask for it before they hand anything on.

    ``stalled`` is called, from within `seconds`, where that was not asked for ``limit`` seconds. Somebody has to ask
    more often than that.
    """

    def __init__(self, reactor: IReactorTime, limit: float) -> None:
        self.stalled: Callable[[], None] = lambda: None
        self._reactor = reactor
        self._limit = limit
        self._asked_at = reactor.seconds()

    def seconds(self) -> float:
        now = self._reactor.seconds()
        since, self._asked_at = now - self._asked_at, now
        if since > self._limit:
            self.stalled()
        return now

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any, **kwargs: Any) -> IDelayedCall:
        return self._reactor.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Any:
        return self._reactor.getDelayedCalls()
