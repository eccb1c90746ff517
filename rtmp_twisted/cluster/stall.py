"""A clock that notices when the process stood still: it was stopped, or had no CPU; and what a node of a cluster does
then. Made by nodes.py and worker.py.

Such a process may have been replaced. It withholds what its publishers send until Redis has answered, or has had time
enough for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.publication import Publication, PublishState

STALL_SECONDS: Final = 3.0
"""A process that stood still for so long may have lost its places. They live for 6 s (store.py), and the last refresh
was up to 2 s before, and a little more."""

_log = Logger()


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


class Withholding:
    """``check`` fires when Redis has said whether the places of what is published here are still this node's, or has
    had time enough for it. ``renew`` has pulled anew what is pulled here (edges.py)."""

    def __init__(
        self, broker: Broker, check: Callable[[], Deferred[Any]], renew: Callable[[], None] = lambda: None
    ) -> None:
        self._broker = broker
        self._renew = renew
        self._check = check
        self._checks = 0
        self._withheld: dict[Publication, None] = {}

    def begin(self) -> None:
        """The process has stood still."""
        publications = [publication for _, publication in self._broker.channels() if publication is not None]
        on_air = [one for one in publications if one.state is PublishState.ON_AIR]
        for publication in on_air:
            self._broker.withhold(publication)
        own = [one for one in on_air if not one.edge]
        if len(own) < len(on_air):
            self._broker.clock.callLater(0, self._renew)  # perhaps a connection is being read
        if not own:
            return
        _log.warn("the process stood still: media is withheld until Redis has answered")
        self._withheld.update(dict.fromkeys(own))
        self._checks += 1
        self._check().addBoth(lambda _: self._checked())

    def _checked(self) -> None:
        self._checks -= 1
        if not self._checks:
            withheld, self._withheld = self._withheld, {}
            for publication in withheld:
                self._broker.go_on(publication)
