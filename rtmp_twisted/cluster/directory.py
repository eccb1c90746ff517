"""The directory as a worker sees it: a copy of the supervisor's, which alone decides. Made by worker.py.

The supervisor tells every worker of each claim and each release (`changed`). So where a channel is, and whether a key
is right, a worker knows without asking. It asks for a claim only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from rtmp_twisted.cluster.control import Control, Failed, Gone
from rtmp_twisted.cluster.keys import KeyDigest
from rtmp_twisted.live.authority import Refused, RightKey
from rtmp_twisted.live.directory import Claim, IDirectory, Key, Taken, Watched
from rtmp_twisted.live.publication import Publication


@frozen
class Place:
    """Where a channel is: ``worker``, a worker's number or another machine's node, has claimed it. ``key`` is what its
    players have to give, None for any."""

    channel: str
    epoch: int
    worker: Any
    pulled: bool
    key: KeyDigest | None


class EdgeDirectory(Protocol):
    """A directory from which somebody pulls what is elsewhere (edges.py). ``moved`` is called with a channel whose
    place is another one, or none; ``number`` is who this one is."""

    moved: Callable[[str], None]

    @property
    def number(self) -> Any: ...

    def place(self, channel: str) -> Place | None:
        """Where a channel is."""

    def found(self, channel: str) -> Place | None:
        """Where a channel is, if that is elsewhere."""


class EdgeOwner(Protocol):
    """Who pulls from another worker. ``epoch`` is that of the claim whose publish it has pulled last."""

    epoch: int


@implementer(IDirectory)
class WorkerDirectory(Watched):
    """An `EdgeDirectory`. ``number`` is this worker's."""

    def __init__(self, control: Control, number: int, secret: bytes) -> None:
        super().__init__()
        self.number: Any = number
        self.moved: Callable[[str], None] = lambda channel: None
        self._control = control
        self._secret = secret
        self._places: dict[str, Place] = {}
        self._own: dict[str, Claim] = {}  # of publishes here, and of what is pulled from other workers
        self._edges: dict[str, tuple[Deferred[Claim], Publication]] = {}  # pulls that wait for their place

    # What the supervisor tells

    def changed(self, channel: str, place: dict[str, Any] | None) -> None:
        """The channel's place is another one, or nobody has it any more."""
        if place is None:
            self._places.pop(channel, None)
        else:
            epoch, text = place["epoch"], place["digest"]
            key = None if text is None else KeyDigest(self._secret, channel, epoch, text)
            self._places[channel] = Place(channel, epoch, place["worker"], place["pulled"], key)
            waiting = self._edges.pop(channel, None)
            if waiting is not None:
                self._claim_edge(*waiting)
        self.moved(channel)
        known = self._places.get(channel)
        self._changed(channel, None if known is None else _claim(known))

    def place(self, channel: str) -> Place | None:
        """Where a channel is."""
        return self._places.get(channel)

    def found(self, channel: str) -> Place | None:
        """Where a channel is, if that is another worker."""
        place = self._places.get(channel)
        return None if place is None or place.worker == self.number else place

    # IDirectory

    def claim(self, channel: str, holder: object) -> Deferred[Claim]:
        assert isinstance(holder, Publication)
        taken = self._own.get(channel)
        if taken is not None:
            return fail(Taken(taken))
        if holder.edge:
            claimed: Deferred[Claim] = Deferred()
            self._claim_edge(claimed, holder)
            return claimed
        key = holder.play_key
        asked = self._control.call("claim", channel=channel, pulled=holder.pulled, key=key, stream_id=holder.stream_id)
        return asked.addCallbacks(self._claimed, _unavailable, callbackArgs=(channel, holder))

    def locate(self, channel: str) -> Deferred[Claim | None]:
        own = self._own.get(channel)
        if own is not None and not (isinstance(own.holder, Publication) and own.holder.edge):
            return succeed(own)
        place = self.found(channel)
        return succeed(None if place is None else _claim(place))

    def elsewhere(self, channel: str) -> tuple[bool, Key | str | None]:
        place = self.found(channel)
        return (False, None) if place is None else (True, place.key)

    def make_room(self, claim: Claim, key: str) -> Deferred[None]:
        asked = self._control.call("make_room", channel=claim.channel, epoch=claim.epoch, key=key)
        return asked.addCallbacks(_allowed, _unavailable)

    def release(self, claim: Claim) -> None:
        if self._own.get(claim.channel) is claim:
            del self._own[claim.channel]
            if not (isinstance(claim.holder, Publication) and claim.holder.edge):
                self._control.tell("release", channel=claim.channel, epoch=claim.epoch)

    # Inside

    def _claimed(self, answer: dict[str, Any], channel: str, holder: Publication) -> Claim:
        taken = answer.get("taken")
        if taken is not None:
            raise Taken(Claim(channel, taken["epoch"], taken["worker"], taken["pulled"]))
        claim = self._own[channel] = Claim(channel, answer["epoch"], holder, holder.pulled)
        return claim

    def _claim_edge(self, claimed: Deferred[Claim], holder: Publication) -> None:
        """What another worker has, when this one knows that it has it."""
        channel = holder.name
        place = self.found(channel)
        if place is None or place.epoch <= cast(EdgeOwner, holder.owner).epoch:
            self._edges[channel] = claimed, holder
            return
        cast(EdgeOwner, holder.owner).epoch = place.epoch
        holder.play_key = place.key
        claim = self._own[channel] = Claim(channel, place.epoch, holder, True)
        claimed.callback(claim)


def _claim(place: Place) -> Claim:
    return Claim(place.channel, place.epoch, place.worker, place.pulled)


def _unavailable(failure: Any) -> Any:
    failure.trap(Gone, Failed)
    raise Refused("the supervisor does not answer")


def _allowed(answer: dict[str, Any]) -> None:
    if "refused" in answer:
        raise (RightKey if answer["right"] else Refused)(answer["refused"])
