"""The directory as a worker sees it: a copy of the supervisor's, which alone decides. Made by worker.py.

The supervisor tells every worker of each claim and each release (`changed`). So where a channel is, and whether a key
is right, a worker knows without asking. It asks for a claim only. In a cluster it says as well which channels somebody
here wants, and asks who is on air before a publish: other machines' channels are told to those that want them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.cluster.control import Control, Failed, Gone
from rtmp_twisted.cluster.keys import KeyDigest
from rtmp_twisted.live.authority import Refused, RightKey
from rtmp_twisted.live.directory import Claim, IDirectory, Key, Taken, Watched
from rtmp_twisted.live.publication import Publication

MAX_WANTED: Final = 100_000
"""Channels of other machines that a worker has itself told about."""


@frozen
class Node:
    """Another machine: its name, and where it is reached, as CLUSTER_ADDRESS has it."""

    name: str
    address: str


@frozen
class Place:
    """Where a channel is: ``worker``, a worker's number or another machine's `Node`, has claimed it. ``key`` is what
    its players have to give, None for any."""

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
    """Who pulls from another worker. ``epoch`` is that of a claim which came before that of what it pulls next."""

    epoch: int


class EdgeClaims:
    """What is pulled here from elsewhere. Each such publish has the place of the one that it pulls, as soon as the
    directory knows of a later one than its owner has pulled last."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._waiting: dict[str, tuple[Deferred[Claim], Publication]] = {}

    def get(self, channel: str) -> Claim | None:
        return self._claims.get(channel)

    def claim(self, holder: Publication, place: Place | None) -> Deferred[Claim]:
        """``place`` is where the channel is, as far as is known."""
        claimed: Deferred[Claim] = Deferred()
        self._give_up(holder.name)
        self._take(claimed, holder, place)
        return claimed

    def moved(self, channel: str, place: Place | None) -> None:
        """The channel is elsewhere, at another place than before."""
        waiting = self._waiting.pop(channel, None)
        if waiting is not None:
            self._take(*waiting, place)

    def release(self, claim: Claim) -> bool:
        """Returns whether it was one of these."""
        if self._claims.get(claim.channel) is not claim:
            return False
        del self._claims[claim.channel]
        return True

    def forget_ended(self) -> None:
        """Lets go of pulls that wait for a place, and whose connections are lost."""
        for channel in [one for one, (_, holder) in self._waiting.items() if holder.ended]:
            self._give_up(channel)

    def _give_up(self, channel: str) -> None:
        waiting = self._waiting.pop(channel, None)
        if waiting is not None:
            waiting[0].callback(Claim(channel, 0, waiting[1], True))

    def _take(self, claimed: Deferred[Claim], holder: Publication, place: Place | None) -> None:
        owner = cast(EdgeOwner, holder.owner)
        if place is None or place.epoch <= owner.epoch:
            self._waiting[holder.name] = claimed, holder
            return
        owner.epoch = place.epoch
        holder.play_key = place.key
        claim = self._claims[holder.name] = Claim(holder.name, place.epoch, holder, True)
        claimed.callback(claim)


@implementer(IDirectory)
class WorkerDirectory(Watched):
    """An `EdgeDirectory`. ``number`` is this worker's, ``secret`` the supervisor's. ``cluster_secret`` is that of the
    digests of other machines; None where there are none."""

    def __init__(self, control: Control, number: int, secret: bytes, cluster_secret: bytes | None = None) -> None:
        super().__init__()
        self.number: Any = number
        self.moved: Callable[[str], None] = lambda channel: None
        self._control = control
        self._secret = secret
        self._cluster_secret = cluster_secret
        self._places: dict[str, Place] = {}
        self._own: dict[str, Claim] = {}  # of publishes here
        self._edges = EdgeClaims()
        self._wanted: set[str] = set()  # channels that the supervisor looks for elsewhere

    # What the supervisor tells

    def changed(self, channel: str, place: dict[str, Any] | None) -> None:
        """The channel's place is another one, or nobody has it any more."""
        if place is None:
            self._places.pop(channel, None)
        else:
            self._places[channel] = self._read(channel, **place)
            self._edges.moved(channel, self.found(channel))
        self.moved(channel)
        known = self._places.get(channel)
        self._changed(channel, None if known is None else _claim(known))

    def place(self, channel: str) -> Place | None:
        """Where a channel is."""
        return self._places.get(channel)

    def found(self, channel: str) -> Place | None:
        """Where a channel is, if that is another worker or node."""
        place = self._places.get(channel)
        if place is None:
            self._want(channel)
        return None if place is None or place.worker == self.number else place

    def forget(self, used: Callable[[str], bool]) -> None:
        """Has the supervisor not look any more for channels that nobody here uses."""
        for channel in [one for one in self._wanted if not used(one)]:
            self._wanted.discard(channel)
            self._control.tell("unwant", channel=channel)
        self._edges.forget_ended()

    def held(self, channel: str) -> Claim | None:
        """The claim of a publish here."""
        return self._own.get(channel)

    # IDirectory

    def claim(self, channel: str, holder: object) -> Deferred[Claim]:
        assert isinstance(holder, Publication)
        taken = self._own.get(channel) or self._edges.get(channel)
        if taken is not None:
            return fail(Taken(taken))
        if holder.edge:
            return self._edges.claim(holder, self.found(channel))
        asked = self._control.call(
            "claim",
            channel=channel,
            pulled=holder.pulled,
            key=holder.play_key,
            stream_id=holder.stream_id,
            client_ip=holder.client_ip,
        )
        return asked.addCallbacks(self._claimed, _unavailable, callbackArgs=(channel, holder))

    def locate(self, channel: str) -> Deferred[Claim | None]:
        own = self._own.get(channel)
        if own is not None:
            return succeed(own)
        if self._cluster_secret is None:
            return succeed(self._located(channel))
        self._wanted.add(channel)
        asked = self._control.call("locate", channel=channel)  # what it finds is told before it is answered
        asked.addErrback(lambda failure: failure.trap(Gone, Failed))
        return asked.addCallback(lambda _: self._located(channel))

    def elsewhere(self, channel: str) -> tuple[bool, Key | str | None]:
        place = self.found(channel)
        return (False, None) if place is None else (True, place.key)

    def make_room(self, claim: Claim, key: str) -> Deferred[None]:
        asked = self._control.call("make_room", channel=claim.channel, epoch=claim.epoch, key=key)
        return asked.addCallbacks(allowed, _unavailable)

    def release(self, claim: Claim) -> None:
        if not self._edges.release(claim) and self._own.get(claim.channel) is claim:
            del self._own[claim.channel]
            self._control.tell("release", channel=claim.channel, epoch=claim.epoch)

    # Inside

    def _read(
        self,
        channel: str,
        epoch: int,
        worker: int,
        pulled: bool,
        digest: str | None,
        node: tuple[str, str, int] | None = None,
    ) -> Place:
        """A place as places.py tells it."""
        if node is None:
            key = None if digest is None else KeyDigest(self._secret, channel, epoch, digest)
            return Place(channel, epoch, worker, pulled, key)
        name, address, its_epoch = node
        assert self._cluster_secret is not None
        key = None if digest is None else KeyDigest(self._cluster_secret, channel, its_epoch, digest)
        return Place(channel, epoch, Node(name, address) if worker == self.number else worker, pulled, key)

    def _want(self, channel: str) -> None:
        if self._cluster_secret is not None and channel not in self._wanted and len(self._wanted) < MAX_WANTED:
            self._wanted.add(channel)
            self._control.tell("want", channel=channel)

    def _located(self, channel: str) -> Claim | None:
        place = self.found(channel)
        return None if place is None else _claim(place)

    def _claimed(self, answer: dict[str, Any], channel: str, holder: Publication) -> Claim:
        taken = answer.get("taken")
        if taken is not None:
            raise Taken(Claim(channel, taken["epoch"], taken["worker"], taken["pulled"]))
        claim = self._own[channel] = Claim(channel, answer["epoch"], holder, holder.pulled)
        return claim


def _claim(place: Place) -> Claim:
    return Claim(place.channel, place.epoch, place.worker, place.pulled)


def _unavailable(failure: Any) -> Any:
    failure.trap(Gone, Failed)
    raise Refused("the supervisor does not answer")


def refusal(failure: Failure) -> dict[str, Any]:
    """What is answered where a place is not given up."""
    failure.trap(Refused)
    return {"refused": str(failure.value), "right": failure.check(RightKey) is not None}


def allowed(answer: dict[str, Any]) -> None:
    """Raises what such an answer says."""
    if "refused" in answer:
        raise (RightKey if answer["right"] else Refused)(answer["refused"])
