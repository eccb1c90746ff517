"""The broker: which channels there are, who publishes on each, and who may. Used by server/ and outside/.

    publish -> (channel free, or its publisher silent: taken over) -> the authority says yes -> on air -> end
                                                                                                      -> authority told

Whatever ends a publish ends it here, once: its owner, a command, a take-over or the server's end.
"""

from __future__ import annotations

import enum
from typing import Protocol

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from rtmp_twisted.live.channel import Channel, ChannelOptions, same_key
from rtmp_twisted.live.commands import ICommandTarget
from rtmp_twisted.live.cursor import Player
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.wire.messages import Message

STOP_PATIENCE = 5.0
"""Seconds that a take-over waits for the authority to learn of the old publish's end, before it asks for the new."""

RETURN_SECONDS = 5.0
"""How long a publisher that was lost without a word may take to come back, before its players hear of an end."""


class PublicationOwner(Protocol):
    """Who publishes, and is told what becomes of it. Neither is called for an end that the owner asked for."""

    def publish_started(self, publication: Publication) -> None:
        """On air: `Publication.publish` may be called."""

    def publish_refused(self, publication: Publication, reason: str) -> None:
        """It may not start."""

    def publish_ended(self, publication: Publication, reason: str) -> None:
        """It was ended from elsewhere."""


class State(enum.Enum):
    ASKING = "asking"
    ON_AIR = "on air"
    ENDED = "ended"


@define(eq=False)
class Publication:
    """One publish, from the request on. ``stream_id`` is empty until it is on air; times are the clock's seconds."""

    name: str
    key: str = field(repr=False)
    client_ip: str
    owner: PublicationOwner = field(repr=False)
    _broker: Broker = field(repr=False)
    heard_at: float
    """When its publisher sent something last."""
    stream_id: str = field(default="", repr=False)  # may be the key
    state: State = State.ASKING
    on_air_since: float | None = None
    received_bytes: int = 0
    received_messages: int = 0
    channel: Channel | None = None
    challenge: Deferred[None] | None = field(default=None, repr=False)
    """Somebody waits to take its place. Fires when that may be, fails with Refused when not."""

    @property
    def ended(self) -> bool:
        return self.state is State.ENDED

    def defend(self) -> None:
        """Its publisher has been heard while another one asked for its place."""
        if self.challenge is not None:
            challenge, self.challenge = self.challenge, None
            challenge.errback(Refused("the channel has a live publisher"))

    def settle(self) -> None:
        """Its place may be taken."""
        if self.challenge is not None:
            challenge, self.challenge = self.challenge, None
            challenge.callback(None)

    def publish(self, message: Message) -> None:
        """One audio, video or data message; metadata has its own way in. Ignored once the publish has ended."""
        if self.channel is not None:
            self.channel.publish(message)

    def publish_metadata(self, message: Message) -> None:
        if self.channel is not None:
            self.channel.publish_metadata(message)

    def flush_when_due(self) -> None:
        if self.channel is not None:
            self.channel.flush_when_due()

    def end(self, lost: bool = False) -> None:
        """The owner has had enough, or is ``lost``: it did not say so, and may come back. Safe to call again."""
        self._broker.end(self, lost)


@define(eq=False)
class _Place:
    """What the broker knows of a name: its channel, who publishes or asks to, and who waits to take over."""

    channel: Channel
    publication: Publication | None = None
    challenger: Publication | None = None
    farewell: IDelayedCall | None = None
    """When the players of a lost publisher hear of the end."""

    def cancel_farewell(self) -> None:
        if self.farewell is not None and self.farewell.active():
            self.farewell.cancel()
        self.farewell = None


@implementer(ICommandTarget)
class Broker(Service):
    """``takeover_seconds``: how long a publisher must have been silent to be replaced by one with its key; 0 never.

    ``stopService`` ends every publish, and fires when the authority has been told of each.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        authority: IPublishAuthority,
        pacer: FlushScheduler,
        options: ChannelOptions | None = None,
        takeover_seconds: float = 3.0,
    ) -> None:
        self.clock = clock
        self._authority = authority
        self._pacer = pacer
        self._options = options or ChannelOptions()
        self._takeover_seconds = takeover_seconds
        self._places: dict[str, _Place] = {}
        self._ending: dict[str, Deferred[None]] = {}
        self._telling: set[Deferred[None]] = set()
        self._past = Traffic()  # of channels that are gone

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.kill_all("the server is stopping")
        return DeferredList([_when_fired(telling) for telling in self._telling]).addCallback(lambda _: None)

    # Publishing

    def publish(self, name: str, key: str, client_ip: str, owner: PublicationOwner) -> Publication:
        """Asks to publish on channel ``name``. The owner is told the outcome, perhaps before this returns."""
        publication = Publication(name, key, client_ip, owner, self, self.clock.seconds())
        Deferred.fromCoroutine(self._start(publication)).addErrback(self._failed, publication)
        return publication

    async def _start(self, publication: Publication) -> None:
        place = self._place(publication.name)
        try:
            await self._claim(place, publication)
            if publication.ended:
                self._tidy(place)
                return
            stream_id = await self._authority.start(publication.name, publication.key, publication.client_ip)
        except Refused as refusal:
            self._refuse(place, publication, str(refusal))
            return
        publication.stream_id = stream_id
        if publication.ended:
            self._tell_end(publication)
            return
        publication.state = State.ON_AIR
        publication.on_air_since = self.clock.seconds()
        publication.channel = place.channel
        place.cancel_farewell()
        for player in place.channel.begin(publication.key):
            player.owner.play_refused(player, "the publisher that came has another key")
        publication.owner.publish_started(publication)

    def _failed(self, failure: Failure, publication: Publication) -> None:
        self._log.failure("a publish on channel {name!r} failed", failure, name=publication.name)
        if publication.state is State.ON_AIR:
            self._end(publication, "internal error")
        else:
            self._refuse(self._place(publication.name), publication, "internal error")

    async def _claim(self, place: _Place, publication: Publication) -> None:
        """Makes ``publication`` the one of its place. Raises Refused where another one holds it."""
        incumbent = place.publication
        if incumbent is not None:
            if not self._takeover_seconds or not same_key(incumbent.key, publication.key) or place.challenger:
                raise Refused("the channel has a publisher")
            place.challenger = publication
            try:
                await self._silence(incumbent)
                if publication.ended:
                    return
                self._end(incumbent, "taken over by a new connection", lost=True)
            finally:
                place.challenger = None  # not before: a place that nobody uses is forgotten
        place.publication = publication
        telling = self._ending.get(publication.name)
        if telling is not None:
            patience: Deferred[None] = deferLater(self.clock, STOP_PATIENCE)
            patience.addErrback(lambda failure: failure.trap(CancelledError) and None)
            await DeferredList([_when_fired(telling), patience], fireOnOneCallback=True)
            patience.cancel()

    async def _silence(self, incumbent: Publication) -> None:
        """Returns when the incumbent has been silent for long enough or has ended, or its challenger has ended;
        raises Refused as soon as the incumbent is heard."""
        challenge: Deferred[None] = Deferred()
        incumbent.challenge = challenge
        silent_for = self.clock.seconds() - incumbent.heard_at
        timer = self.clock.callLater(max(0.0, self._takeover_seconds - silent_for), incumbent.settle)
        try:
            await challenge
        finally:
            if timer.active():
                timer.cancel()

    def _refuse(self, place: _Place, publication: Publication, reason: str) -> None:
        if place.publication is publication:
            place.publication = None
        self._tidy(place)
        if not publication.ended:
            publication.state = State.ENDED
            publication.owner.publish_refused(publication, reason)
        publication.settle()

    def end(self, publication: Publication, lost: bool = False) -> None:
        """Ends a publish for its owner, which may come back if it is ``lost``. Safe to call again."""
        if publication.ended:
            return
        was_on_air = publication.state is State.ON_AIR
        publication.state = State.ENDED
        place = self._places[publication.name]
        if place.challenger is publication and place.publication is not None:
            place.publication.settle()
        if place.publication is publication:
            place.publication = None
        if was_on_air:
            publication.channel = None
            publication.received_bytes = place.channel.received_bytes
            publication.received_messages = place.channel.received_messages
            place.channel.end(lost)
            if lost:
                place.farewell = self.clock.callLater(RETURN_SECONDS, place.channel.farewell)
            self._tell_end(publication)
        publication.settle()  # last: the next one may go on air in this call
        self._tidy(place)

    def _end(self, publication: Publication, reason: str, lost: bool = False) -> None:
        if not publication.ended:
            self.end(publication, lost)
            publication.owner.publish_ended(publication, reason)

    def _tell_end(self, publication: Publication) -> None:
        name = publication.name
        telling = self._authority.end(name, publication.key, publication.stream_id, publication.client_ip)
        self._telling.add(telling)
        self._ending[name] = telling

        def told(_: object) -> None:
            self._telling.discard(telling)
            if self._ending.get(name) is telling:
                del self._ending[name]

        telling.addBoth(told)

    # Playing

    def play(self, name: str, player: Player) -> None:
        """The player gets what is on air on channel ``name``, or waits for it. Raises Refused where its key is not
        the publisher's."""
        place = self._place(name)
        if place.channel.on_air and not same_key(player.key, place.channel.key):
            raise Refused("the key is not the publisher's")
        player.owner.play_accepted(player, place.channel.on_air)
        place.channel.join(player)

    def leave(self, player: Player) -> None:
        """The player has gone. Safe to call again."""
        channel = player.channel
        if channel is not None:
            channel.leave(player)
            self._tidy(self._places[channel.name])

    # Commands

    def kill(self, channel: str, stream_id: str | None, reason: str) -> bool:
        place = self._places.get(channel)
        publication = place.publication if place is not None else None
        if publication is None or (stream_id is not None and not self._is(publication, stream_id)):
            return False
        self._end(publication, reason)
        return True

    def kill_all(self, reason: str) -> int:
        publications = [
            publication
            for place in self._places.values()
            for publication in (place.challenger, place.publication)  # else the challenger would take over first
            if publication is not None
        ]
        for publication in publications:
            self._end(publication, reason)
        for place in self._places.values():
            place.cancel_farewell()
            place.channel.farewell()
        return len(publications)

    def _is(self, publication: Publication, stream_id: str) -> bool:
        return publication.state is State.ON_AIR and publication.stream_id == stream_id

    # Whoever operates the server

    def channels(self) -> list[tuple[Channel, Publication | None]]:
        """Each channel that is used, with its publish (perhaps one that waits for its answer); oldest first."""
        return [(place.channel, place.publication) for place in self._places.values()]

    def channel(self, name: str) -> tuple[Channel, Publication | None] | None:
        """The same for one channel; None where nobody uses it."""
        place = self._places.get(name)
        return None if place is None else (place.channel, place.publication)

    def traffic(self) -> Traffic:
        """All that has gone through. Takes a moment for each channel and player."""
        total = self._past
        for place in self._places.values():
            total += place.channel.traffic()
        return total

    @property
    def merge_interval(self) -> float:
        """Seconds that media is held back now, on channels that many watch."""
        return self._pacer.interval

    # Places

    def _place(self, name: str) -> _Place:
        place = self._places.get(name)
        if place is None:
            place = _Place(Channel(name, self._options, self._pacer, self.clock))
            self._places[name] = place
        return place

    def _tidy(self, place: _Place) -> None:
        """Forgets a place that nobody uses."""
        channel = place.channel
        unused = place.publication is None and place.challenger is None and not channel.players
        if unused and self._places.get(channel.name) is place:
            del self._places[channel.name]
            self._past += channel.traffic()
            place.cancel_farewell()
            channel.close()


def _when_fired(deferred: Deferred[None]) -> Deferred[None]:
    """A Deferred that fires when another does, and leaves that one's result alone."""
    fired: Deferred[None] = Deferred()

    def tell(result: object) -> object:
        if not fired.called:
            fired.callback(None)
        return result

    deferred.addBoth(tell)
    return fired
