"""The service of all pushes and pulls. Made by tap.py.

It hears of channels from the broker, has pushes and pulls begin and end, and does what operators ask (live/relays.py).
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList

from rtmp_twisted.live.publication import Publication
from rtmp_twisted.live.relays import RelayStatus
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay.pulls import Pulls
from rtmp_twisted.relay.pushes import Pushes
from rtmp_twisted.relay_rules import Rule


class RelayService(Service):
    """A `ChannelObserver` for the broker, and `Relays` for operators.

    ``mine`` says whether a channel is one that this process pulls: with several workers, each channel has one that
    does. ``stopService`` ends all of them, and fires when their connections are gone.
    """

    def __init__(
        self,
        options: RelayOptions,
        push: tuple[Rule, ...] = (),
        pull: tuple[Rule, ...] = (),
        mine: Callable[[str], bool] = lambda channel: True,
    ) -> None:
        self._broker = options.broker
        self._pushes = Pushes(options, push)
        self._pulls = Pulls(options, pull, mine)

    def startService(self) -> None:
        super().startService()
        self._broker.notices.observers.append(self)
        self._pulls.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._broker.notices.observers.remove(self)
        gone = [*self._pushes.stop(), *self._pulls.stop()]
        return DeferredList(gone, consumeErrors=True).addCallback(lambda _: None)

    def moved(self, channel: str, elsewhere: bool) -> None:
        """A channel has come to another worker, or (not ``elsewhere``) is there no more."""
        if self.running and elsewhere:
            self._pulls.taken(channel)
        elif self.running:
            self._pulls.went_off_air(channel)

    # ChannelObserver

    def went_on_air(self, publication: Publication) -> None:
        if not publication.edge:  # else it is pushed by the worker that has it
            self._pushes.went_on_air(publication.name)
        self._pulls.went_on_air(publication)

    def went_off_air(self, channel: str) -> None:
        self._pushes.went_off_air(channel)
        self._pulls.went_off_air(channel)

    def player_came(self, channel: str, key: str | None) -> None:
        self._pulls.player_came(channel, key)

    def player_left(self, channel: str) -> None:
        self._pulls.player_left(channel)

    # Relays

    def statuses(self, channel: str | None = None) -> list[RelayStatus]:
        return self._pushes.statuses(channel) + self._pulls.statuses(channel)

    def add_push(self, channel: str, url: str, id: str = "") -> RelayStatus:
        return self._pushes.add(channel, url, id)

    def remove_push(self, channel: str, id: str) -> bool:
        return self._pushes.remove(channel, id)
