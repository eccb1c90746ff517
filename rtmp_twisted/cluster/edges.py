"""What a worker pulls from the others, or a machine's node from other nodes, for viewers of its own: one pull of a
channel, whoever wants it. Made by worker.py and tap.py.

A pull is relay/'s. Between workers it goes over a socket pair of which the supervisor gives one end to each of the two;
so nobody else can be at the other end. Between machines it is nodes.py's. It begins with the first player here of a
channel that is elsewhere, goes where the channel goes, and ends some seconds after the last player.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from zope.interface import implementer

from rtmp_twisted.cluster.directory import EdgeDirectory, Node
from rtmp_twisted.cluster.handover import adopt
from rtmp_twisted.live.channel import Channel
from rtmp_twisted.live.path import CLAIM, PATH, read_path
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay.pull import Pull
from rtmp_twisted.relay.pulls import KEEP_SECONDS
from rtmp_twisted.relay_rules import PORTS, Address
from rtmp_twisted.wire import amf0

WORKER: Final = "worker-"
"""What the host of another worker's address begins with; its number follows."""

PUBLISHED: Final = "NetStream.Play.PublishNotify"

RETRY_SECONDS: Final = 0.25
"""From a pull that has failed to the next one."""

MAX_SHOWN: Final = 100
"""Pulls that a node tells the others of, for their operators."""


class EdgePull(Pull):
    """``worker``, which is a worker or a node, has the channel, or will have it. ``key`` is that of the player here
    that wants it, or None."""

    max_delay = 1.0

    def __init__(self, options: RelayOptions, worker: Any, channel: str, address: Address, key: str | None) -> None:
        super().__init__(options, f"edge-{channel}", channel, address, key, True, False)
        self.worker = worker
        self.epoch = 0

    # Pull

    def told(self, code: str, info: dict[str, amf0.Value]) -> None:
        if code == PUBLISHED and self.publication is not None:
            # Its publisher was lost, and is there again. So it is here.
            self._end_publication(lost=True)
            if self._session is not None:
                self._session.connection.sink = self
        super().told(code, info)

    def publish(self, peer: str) -> Publication:
        return self.options.broker.pull(self.channel, "", peer, self, self._path, edge=True)

    def delay(self, attempts: int) -> float:
        return RETRY_SECONDS * min(attempts, 4)


class WorkerPull(EdgePull):
    """From another worker, which is the same server."""

    internal = True

    def __init__(self, options: RelayOptions, worker: int, channel: str, key: str | None) -> None:
        address = Address("rtmp", f"{WORKER}{worker}", PORTS["rtmp"], channel, key or "")
        super().__init__(options, worker, channel, address, key)

    # Pull

    def _waiting_path(self) -> tuple[str, ...]:
        return tuple(server for server in super()._waiting_path() if server != self.options.server_id)

    def _note_path(self, info: dict[str, amf0.Value]) -> None:
        path = read_path(info.get(PATH))
        self._path = tuple(server for server in path if server != self.options.server_id)
        claim = info.get(CLAIM)
        if isinstance(claim, float):
            # What came before may have been an earlier publish than the place that it was given.
            self.epoch = int(claim) - 1


class Edges:
    """A `ChannelObserver`. ``make`` makes a pull from a worker, of a channel, for a player with a key. ``home`` says
    which worker would pull a channel for such a player from another server, by the rules of PULL; None where no rule
    does."""

    def __init__(
        self,
        options: RelayOptions,
        directory: EdgeDirectory,
        home: Callable[[str, str | None], int | None] = lambda channel, key: None,
        make: Callable[[RelayOptions, Any, str, str | None], EdgePull] = WorkerPull,
    ) -> None:
        self._options = options
        self._broker = options.broker
        self._clock = options.factory.options.clock
        self._directory = directory
        self._home = home
        self._make = make
        self._pulls: dict[str, EdgePull] = {}
        self._checks: dict[str, IDelayedCall] = {}
        self._running = True

    def __len__(self) -> int:
        return len(self._pulls)

    @property
    def pulled(self) -> dict[str, Any]:
        """From whom each channel is pulled."""
        return {channel: pull.worker for channel, pull in self._pulls.items()}

    def said(self) -> dict[str, Any]:
        """What a node tells the others of its players and its pulls from them, or a worker of its part."""
        pulled = {channel: node for channel, node in self.pulled.items() if isinstance(node, Node)}
        shown = islice(pulled.items(), MAX_SHOWN)
        return {
            "draining": self._broker.draining,
            "players": sum(len(channel.players) for channel, _ in self._broker.channels()),
            "pulling": len(pulled),
            "pulls": [{"channel": channel, "from": node.name, "address": node.address} for channel, node in shown],
        }

    def stop(self) -> list[Deferred[None]]:
        self._running = False
        for check in self._checks.values():
            check.cancel()
        self._checks.clear()
        return [pull.stop() for pull in self._pulls.values()]

    def moved(self, channel: str) -> None:
        """The channel's place is another one, or there is none any more."""
        pull = self._pulls.get(channel)
        place = self._directory.found(channel)
        if place is not None:
            if pull is not None and (place.worker != pull.worker or not (pull.connected or pull.opening)):
                self._end(pull, lost=True)  # what waits for its next attempt is made anew, at once
            self._look(channel)
        elif pull is not None:
            self._check_later(channel)

    def renew(self) -> None:
        """Pulls everything anew, after this process has stood still: what it has of a publish, and what is on its way,
        may be older than what others have seen of the next one."""
        for channel, pull in list(self._pulls.items()):
            self._end(pull, lost=True)
            self._look(channel)

    # ChannelObserver

    def went_on_air(self, publication: Publication) -> None:
        pull = self._pulls.get(publication.name)
        if pull is not None and not publication.edge:
            self._end(pull, lost=False)

    def went_off_air(self, channel: str) -> None:
        self._look(channel)

    def player_came(self, channel: str, key: str | None) -> None:
        self._look(channel)

    def player_left(self, channel: str) -> None:
        if channel in self._pulls:
            self._check_later(channel)

    # Inside

    def _look(self, channel: str) -> None:
        """Begins to pull what players here want, if it is elsewhere."""
        found = self._broker.channel(channel)
        if found is None or channel in self._pulls or not self._running:
            return
        on_air = found[1]
        if on_air is not None and found[0].on_air:
            return
        place = self._directory.found(channel)
        if place is not None:
            self._broker.judge(channel, place.key)
            if _is_wanted(found[0], place.worker):
                self._begin(place.worker, channel, None)
            return
        if self._directory.place(channel) is None:
            for key in dict.fromkeys(player.key for player in found[0].players):
                home = self._home(channel, key)
                if home is not None and home != self._directory.number:
                    self._begin(home, channel, key)
                    return

    def _begin(self, worker: Any, channel: str, key: str | None) -> None:
        pull = self._pulls[channel] = self._make(self._options, worker, channel, key)
        pull.on_lost = partial(self._clock.callLater, 0, self._lost, pull)
        pull.start()

    def _lost(self, pull: EdgePull) -> None:
        """Its connection is lost: it tries again, unless the channel is elsewhere by now, or nowhere."""
        if self._pulls.get(pull.channel) is pull:
            self._check(pull.channel, at_once=True)

    def _check_later(self, channel: str) -> None:
        if channel not in self._checks and self._running:
            self._checks[channel] = self._clock.callLater(KEEP_SECONDS, self._check, channel)

    def _check(self, channel: str, at_once: bool = False) -> None:
        """Ends a pull that nobody needs."""
        if not at_once:
            self._checks.pop(channel, None)
        pull = self._pulls.get(channel)
        if pull is None:
            return
        found = self._broker.channel(channel)
        place = self._directory.found(channel)
        waits_for_rule = pull.key is not None and self._directory.place(channel) is None
        if found is None or not _is_wanted(found[0], pull.worker):
            if not at_once or pull.connection is None:
                self._end(pull, lost=False)
        elif place is None and pull.publication is None and not waits_for_rule:
            self._end(pull, lost=True)
        elif place is not None and place.worker != pull.worker:
            self._end(pull, lost=True)
            self._look(channel)

    def _end(self, pull: EdgePull, lost: bool) -> None:
        if self._pulls.get(pull.channel) is pull:
            del self._pulls[pull.channel]
        pull.stop(lost)


def _is_wanted(channel: Channel, worker: Any) -> bool:
    """Whether there is anybody for whom a channel is to be pulled from a worker or node. Another node is, and another
    worker where this one pulls from a node for both. Else a worker is nobody: it asks who has the channel by itself."""
    peers = (push for push in channel.pushes if push.peer)
    return bool(channel.players) or any(isinstance(worker, Node) or peer.path for peer in peers)


@implementer(IStreamClientEndpoint)
class WorkerEndpoint:
    """Connects to another worker: ``reach`` has the supervisor hand a socket to both."""

    def __init__(self, reactor: Any, reach: Callable[[int], Deferred[int]], host: str) -> None:
        self._reactor = reactor
        self._reach = reach
        self._worker = int(host.removeprefix(WORKER))

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        def connected(descriptor: int) -> Any:
            protocol = protocolFactory.buildProtocol(None)
            adopt(self._reactor, descriptor, protocol)
            return protocol

        return self._reach(self._worker).addCallback(connected)
