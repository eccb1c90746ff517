"""The directory of machines: who of a cluster's nodes has a channel, as Redis has it (store.py). Made by tap.py.

A place is claimed with an epoch, and refreshed every 2 s. Whoever finds a later epoch in its place has lost it. While
Redis does not answer, what is on air stays on air, and a publish is let on air without a place; it claims one when
Redis is back. Messages on Pub/Sub only wake: what a place says decides.

A process that stood still may have been replaced. It withholds what its publishers send until Redis has answered, or
has had time enough for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final, Protocol, cast

from attrs import define
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.cluster import directory
from rtmp_twisted.cluster.secret import ClusterSecret
from rtmp_twisted.cluster.store import COMMAND_SECONDS, REFRESH_SECONDS, Place, Start, Store
from rtmp_twisted.cluster.takeover import TakeOvers
from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.broker import when_fired
from rtmp_twisted.live.directory import Claim, IDirectory, Key, Taken, Watched
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.redis_connection import RedisAddress, RedisSubscription

MAX_EVENT: Final = 8192
"""Bytes of the longest message that is read."""

SETTLED_SECONDS: Final = 10.0
"""How long Redis must have answered without a break before this node takes another one for dead: after an outage, all
need some time to come back."""

STOP_SECONDS: Final = 5.0
"""How long a stop waits for places to be given back."""

MAX_WATCHED: Final = 100_000
"""Channels elsewhere that this node keeps itself informed about."""

_log = Logger()


class Published(Protocol):
    """A publish here: a `Publication`, or one on a worker (node_of_workers.py)."""

    key: str
    stream_id: str
    client_ip: str
    pulled: bool
    play_key: Key | str | None


class Publishes(Protocol):
    """What the directory asks of those that publish here: the broker, or a supervisor's workers."""

    async def make_room(self, name: str, epoch: int, key: str) -> None:
        """As of `Broker`."""

    def lose(self, publication: Any, reason: str) -> None:
        """As of `Broker`."""

    def channel(self, name: str) -> object:
        """None where nobody here uses the channel."""


@define(eq=False)
class _Held:
    """A publish here. ``epoch`` is 0 until Redis knows of it."""

    claim: Claim
    publication: Published
    epoch: int = 0
    start: Start | None = None
    busy: bool = False


@implementer(IDirectory)
class RedisDirectory(Service, Watched):
    """An `EdgeDirectory` too. ``address`` is where other nodes reach this one. ``recorded``: accepted starts are kept
    in Redis, so that others can tell their ends. ``takeover_seconds``: how long a holder may listen to its publisher
    before it gives a place up. ``load`` is what this node says of itself. ``broker`` is set before the service
    starts."""

    broker: Publishes

    def __init__(
        self,
        reactor: Any,
        random: Random,
        redis: RedisAddress,
        address: str,
        secret: ClusterSecret,
        prefix: str,
        node: str,
        recorded: bool = True,
        takeover_seconds: float = 3.0,
        load: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        Watched.__init__(self)
        self.store = Store(reactor, random, redis, prefix, node)
        self.secret = secret
        self.moved: Callable[[str], None] = lambda channel: None
        """Called with a channel that another node has, or has not any more."""
        self.orphaned: Callable[[list[Start]], None] = lambda starts: None
        """Called with accepted starts of nodes that have died."""
        self.ticked = 0
        """How often Redis was asked about everything, and has answered."""
        self._reactor: IReactorTime = reactor
        self._address = address
        self._recorded = recorded
        self._take_overs = TakeOvers(reactor, self.store, secret, takeover_seconds, self._look)
        self._load = load
        self._events = RedisSubscription(reactor, random, redis, self.store.events, self._heard)
        self._events.max_delay = 1.0
        self._held: dict[str, _Held] = {}
        self._edges = directory.EdgeClaims()
        self._places: dict[str, Place | None] = {}  # of channels that somebody here wants
        self._starts = 0
        self._recorded_starts: dict[tuple[str, str, str], list[Start]] = {}
        self._tasks: set[Deferred[None]] = set()
        self._ticking = False
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = reactor
        self.store.opened = self._opened
        self._answered_since: float | None = None

    # Service

    def startService(self) -> None:
        super().startService()
        self.store.startService()
        self._events.startService()
        self._ticks.start(REFRESH_SECONDS, now=False).addErrback(self._bug)

    async def _stop(self) -> None:
        if self._ticks.running:
            self._ticks.stop()
        await wait_for(self._reactor, list(self._tasks), STOP_SECONDS)
        with suppress(PeerError):  # else the others find out
            await self.store.leave()
        await gatherResults([self.store.stopService(), self._events.stopService()])

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    @property
    def settled(self) -> bool:
        """Whether Redis has answered for long enough to take another node for dead."""
        since = self._answered_since
        return since is not None and self._reactor.seconds() - since >= SETTLED_SECONDS

    @property
    def node(self) -> str:
        return self.store.node

    # IDirectory

    def claim(self, channel: str, holder: object) -> Deferred[Claim]:
        if isinstance(holder, Publication) and holder.edge:
            own = self._own(channel)
            return self._edges.claim(holder, self.found(channel)) if own is None else fail(Taken(own))
        return Deferred.fromCoroutine(self._claim(channel, cast(Published, holder)))

    async def _claim(self, channel: str, holder: Published) -> Claim:
        own = self._own(channel)
        if own is not None:
            raise Taken(own)
        held = self._held[channel] = _Held(Claim(channel, 0, holder, holder.pulled), holder, busy=True)
        try:
            taken = await self._claim_place(held, None)
        except PeerError as error:
            # It goes on without a place, unless another node is known to have one.
            _log.warn("channel {channel!r} is on air here only: Redis: {error}", channel=channel, error=error)
            taken = self._places.get(channel)
        except BaseException:
            self._drop(held)
            raise
        if taken is not None:
            self._drop(held)
            raise Taken(_claim(taken))
        held.busy = False
        held.claim = Claim(channel, held.epoch, holder, holder.pulled)
        self._changed(channel, held.claim)
        return held.claim

    def locate(self, channel: str) -> Deferred[Claim | None]:
        return Deferred.fromCoroutine(self._locate(channel))

    async def _locate(self, channel: str) -> Claim | None:
        held = self._held.get(channel)
        if held is not None:
            return held.claim
        place = await self._look(channel)
        return None if place is None else _claim(place)

    def elsewhere(self, channel: str) -> tuple[bool, Key | str | None]:
        place = self.found(channel)
        return (False, None) if place is None else (True, place.key)

    def make_room(self, claim: Claim, key: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._take_overs.ask(claim, key))

    def release(self, claim: Claim) -> None:
        channel = claim.channel
        if self._edges.release(claim):
            return
        held = self._held.get(channel)
        if held is not None and held.claim is claim:
            self._drop(held)
            self._changed(channel, None)
            if held.epoch:
                self._spawn(self._release(channel, held.epoch))

    def take_start(self, channel: str, key: str, stream_id: str) -> Start | None:
        """What Redis knows of an accepted start that has ended here. Whoever calls this tells its end."""
        whose = channel, key, stream_id
        starts = self._recorded_starts.get(whose)
        if not starts:
            return None
        start = starts.pop(0)
        if not starts:
            del self._recorded_starts[whose]
        return start

    # EdgeDirectory

    @property
    def number(self) -> directory.Node:
        return directory.Node(self.node, self._address)

    def found(self, channel: str) -> directory.Place | None:
        """Where a channel is, if that is another node and this one knows; else it asks, and calls `moved`."""
        if channel in self._held:
            return None
        if channel not in self._places:
            if len(self._places) < MAX_WATCHED:
                self._places[channel] = None
                self._spawn(self._watch([channel]))
            return None
        place = self._places[channel]
        return None if place is None else self._elsewhere(place)

    def place(self, channel: str) -> directory.Place | None:
        return self.found(channel)

    async def learn(self, channel: str) -> None:
        """Looks where a channel is, before anybody is told that it is nowhere."""
        if channel not in self._held and (channel in self._places or len(self._places) < MAX_WATCHED):
            place = await self._look(channel)
            self._places.setdefault(channel, None)
            self._note(channel, place)

    def _elsewhere(self, place: Place) -> directory.Place:
        key = self.secret.key(place.channel, place.epoch, place.digest) if place.digest else None
        node = directory.Node(place.node, place.address)
        return directory.Place(place.channel, place.epoch, node, place.pulled, key)

    def _own(self, channel: str) -> Claim | None:
        held = self._held.get(channel)
        return held.claim if held is not None else self._edges.get(channel)

    # Asking Redis

    async def _claim_place(self, held: _Held, epoch: int | None) -> Place | None:
        """Claims a place: a new one, or once more with an ``epoch`` that Redis has forgotten. Returns who has it.
        Raises PeerError."""
        channel, publication = held.claim.channel, held.publication
        number = epoch or await self.store.next_epoch(channel)
        start = held.start
        if start is None and self._recorded and not publication.pulled:
            self._starts += 1
            id = f"{self.node}-{self._starts}"
            sealed = self.secret.seal(json.dumps([publication.key, publication.stream_id]), id)
            start = Start(id, self.node, channel, number, publication.client_ip, sealed)
        key = publication.play_key
        place = Place(
            channel,
            self.node,
            number,
            self._address,
            self.secret.digest(channel, number, key) if isinstance(key, str) else "",
            publication.pulled,
            self.secret.seal(publication.stream_id, channel),
        )
        taken = await self.store.claim(place, int(time.time()), epoch is not None, start)
        if taken is None:
            held.epoch = number
            if start is not None and held.start is None:
                held.start = start
                whose = channel, publication.key, publication.stream_id
                self._recorded_starts.setdefault(whose, []).append(start)
        return taken

    async def _look(self, channel: str) -> Place | None:
        """Who has a channel, of the other nodes; what was known last where Redis does not answer."""
        try:
            place = (await self.store.locate([channel]))[channel]
        except PeerError:
            return self._places.get(channel)
        return None if place is None or place.node == self.node else place

    async def _watch(self, channels: list[str]) -> None:
        """Looks where channels are, and tells of what has changed."""
        try:
            found = await self.store.locate(channels)
        except PeerError:
            return
        for channel, place in found.items():
            if channel in self._places:
                self._note(channel, None if place is None or place.node == self.node else place)

    def _note(self, channel: str, place: Place | None) -> None:
        before, self._places[channel] = self._places[channel], place
        if place is not None:
            self._edges.moved(channel, self._elsewhere(place))
        if before != place:
            self._changed(channel, None if place is None else _claim(place))
            self.moved(channel)

    async def _release(self, channel: str, epoch: int) -> None:
        with suppress(PeerError):  # else it ends by itself
            await self.store.release(channel, epoch)

    # Every two seconds

    def _opened(self) -> None:
        self._spawn(self._tick())

    async def _tick(self) -> None:
        if self._ticking:
            return
        self._ticking = True
        try:
            await self._refresh()
            await self._watch(self._wanted())
            now = self._reactor.seconds()
            if self._answered_since is None:
                self._answered_since = now
            self.ticked += 1
            if self._recorded and self.settled:
                self.orphaned(await self.store.take_orphans())
        except PeerError as error:
            self._answered_since = None
            _log.debug("Redis: {error}", error=error)
        except Exception:
            _log.failure("a bug in the cluster's directory")
        finally:
            self._ticking = False

    async def _refresh(self) -> None:
        """Renews what this node holds. Raises PeerError."""
        if not await self.store.beat(self._said()):
            self._buried()
        held = {one.claim.channel: one for one in self._held.values() if one.epoch and not one.busy}
        changed = await self.store.refresh([(channel, one.epoch) for channel, one in held.items()])
        for channel, later in changed.items():
            if self._held.get(channel) is held[channel] and not held[channel].busy:
                if later:
                    self._superseded(held[channel])
                else:
                    await self._restore(held[channel])
        for one in [one for one in self._held.values() if not one.epoch and not one.busy]:
            await self._restore(one)

    async def _restore(self, held: _Held) -> None:
        """Claims what Redis does not know of: it was emptied, or was not there. Raises PeerError."""
        held.busy = True
        known = held.start is not None
        try:
            taken = await self._claim_place(held, held.epoch or None)
        finally:
            held.busy = False
        current = self._held.get(held.claim.channel) is held
        if taken is not None and current:
            self._superseded(held)
        elif taken is None and not current:  # it ended in the meantime
            await self._release(held.claim.channel, held.epoch)
            if held.start is not None and not known:
                publication = held.publication
                self.take_start(held.claim.channel, publication.key, publication.stream_id)
                await self.store.forget(held.start)

    def _superseded(self, held: _Held) -> None:
        """Another node has the channel by a later claim: this one's publish ends, and its players go on there."""
        channel = held.claim.channel
        self._drop(held)
        _log.info("channel {channel!r} has been published on another node in the meantime", channel=channel)
        self.broker.lose(held.publication, "it is published on another node")

    def _buried(self) -> None:
        """The others have taken this node for dead, and tell the ends of all that it had accepted."""
        _log.warn("the other nodes have taken this one for dead: its publishes end")
        for held in list(self._held.values()):
            if held.start is not None:
                self.broker.lose(held.publication, "the other nodes have taken this one for dead")
        self.store.node = f"{self.store.node.partition('.')[0]}.{int(self._reactor.seconds())}"

    def _said(self) -> dict[str, Any]:
        return {"address": self._address, "channels": len(self._held), **self._load()}

    def _wanted(self) -> list[str]:
        """Channels elsewhere that somebody here wants; the others are forgotten."""
        for channel in [one for one in self._places if self.broker.channel(one) is None]:
            del self._places[channel]
        self._edges.forget_ended()
        return list(self._places)

    # Events

    def _heard(self, message: object) -> None:
        """Reads a message of another node. It is trusted with nothing: it says where to look."""
        if not isinstance(message, bytes) or len(message) > MAX_EVENT:
            return
        try:
            event = json.loads(message)
            channel, kind = event["channel"], event["event"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return
        if not isinstance(channel, str) or event.get("node") == self.node:
            return
        held = self._held.get(channel)
        if held is not None and self._take_overs.asks(event, channel, held.epoch):
            self._spawn(self._give_room(held))
        elif kind in ("up", "moved", "down", "live"):
            self._take_overs.heard(channel, kind)
            if held is not None and kind in ("up", "moved"):
                self._spawn(self._check(held))
            if channel in self._places:
                self._spawn(self._watch([channel]))

    async def _give_room(self, held: _Held) -> None:
        """Another node wants a place of this one's, for a publish with the same key."""
        channel = held.claim.channel
        try:
            await self.broker.make_room(channel, held.claim.epoch, held.publication.key)
        except Refused:
            with suppress(PeerError):  # else it waits in vain
                await self.store.tell(self.store.event("live", channel))

    async def _check(self, held: _Held) -> None:
        """Looks whether a place is still this node's."""
        if held.busy or not held.epoch:
            return
        channel = held.claim.channel
        try:
            changed = await self.store.refresh([(channel, held.epoch)])
        except PeerError:
            return
        if changed.get(channel) and self._held.get(channel) is held:
            self._superseded(held)

    # After a pause

    def check(self) -> Deferred[None]:
        """Fires when Redis has said whether all places here are still this node's, which their publishes have heard by
        then, or after `COMMAND_SECONDS`."""
        return self._spawn(self._check_all())

    async def _check_all(self) -> None:
        asked = Deferred.fromCoroutine(self._refresh_soon())
        await wait_for(self._reactor, [asked], COMMAND_SECONDS)
        asked.addErrback(lambda failure: failure.trap(CancelledError) and None)
        asked.cancel()

    async def _refresh_soon(self) -> None:
        """Refreshes as soon as there is a connection."""
        while True:
            try:
                await self._refresh()
                return
            except PeerError:
                await deferLater(self._reactor, 0.1, lambda: None)

    # Inside

    def _drop(self, held: _Held) -> None:
        if self._held.get(held.claim.channel) is held:
            del self._held[held.claim.channel]
            self._reactor.callLater(0, self._freed, held.claim.channel)  # when its publish has ended

    def _freed(self, channel: str) -> None:
        """Tells where a channel is that this node has given up: who wants it has heard nothing of that before."""
        if self.broker.channel(channel) is not None and self.found(channel) is not None:
            self.moved(channel)

    def _spawn(self, work: Any) -> Deferred[None]:
        """Runs a coroutine on its own; the service waits for it when it stops. Fires when it is done."""
        task: Deferred[None] = Deferred.fromCoroutine(work)
        self._tasks.add(task)
        task.addErrback(self._bug)
        return task.addBoth(lambda _: self._tasks.discard(task))

    def _bug(self, failure: Failure) -> None:
        _log.failure("a bug in the cluster's directory", failure)


async def wait_for(clock: IReactorTime, work: list[Deferred[None]], seconds: float) -> None:
    """Returns when all of it is done, or after some seconds."""
    limit: Deferred[Any] = deferLater(clock, seconds, lambda: None)
    limit.addErrback(lambda failure: failure.trap(CancelledError) and None)
    done: Deferred[Any] = DeferredList([when_fired(one) for one in work])
    await DeferredList([done, limit], fireOnOneCallback=True)
    limit.cancel()


def _claim(place: Place) -> Claim:
    return Claim(place.channel, place.epoch, place.node, place.pulled)
