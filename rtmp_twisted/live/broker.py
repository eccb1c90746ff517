"""The broker: which channels there are, who publishes on each, and who may. Used by rtmp/, web/ and integrations/.

    publish -> a publisher is on air? (another key, or live: refused; silent: it is ended) -> the authority is asked
            -> accepted: claims the channel -> on air -> end -> the authority is told

Many may ask for a free channel at a time; the first one that is accepted gets it. Every publish ends here, once,
whatever ends it: its owner, a command, a take-over or the end of the server.
"""

from __future__ import annotations

from typing import Any, Final, cast

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import IPublishAuthority, Refused, RightKey
from rtmp_twisted.live.channel import Channel, ChannelOptions
from rtmp_twisted.live.commands import ICommandTarget
from rtmp_twisted.live.directory import Claim, IDirectory, Key, LocalDirectory, Taken
from rtmp_twisted.live.memory import NO_LIMIT, Memory
from rtmp_twisted.live.notices import Notices
from rtmp_twisted.live.player import Player, same_key
from rtmp_twisted.live.publication import Publication, PublicationOwner, PublishState
from rtmp_twisted.live.questions import Questions
from rtmp_twisted.live.traffic import Traffic

STOP_SECONDS: Final = 5.0
"""How long a publish waits for the authority to learn of the previous one's end, before it is asked for."""

LISTEN_SECONDS: Final = 0.25
"""How often a publish that waits to take over looks whether the other one has been heard."""

LATE_SECONDS: Final = 1.5
"""After so long between two of these looks, the process has not run: it was stopped, or had no CPU."""

CLOCK_SECONDS: Final = 0.001
"""It waits no shorter than that: rounding may leave less than the clock can tell."""


@define(eq=False)
class _Entry:
    """What the broker knows of a name."""

    channel: Channel
    on_air: Publication | None = None
    claim: Claim | None = None
    """Of the publication on air."""
    asking: dict[Publication, None] = field(factory=dict)
    """Those that want to publish, oldest first."""
    questions: Questions = field(factory=Questions)
    challenger: Publication | None = None
    """The one of them that waits to take over."""
    lost: Publication | None = None
    """The one whose players are held."""
    unpublish: IDelayedCall | None = None
    """When the players of that one hear of its end."""


@implementer(ICommandTarget)
class Broker(Service):
    """``takeover_seconds``: how long a publisher must have been silent to be replaced by one with its key; 0 never.
    ``return_seconds``: how long a publisher that was lost without a word may take to come back, before its players hear
    of an end. ``end_players``: the players of a publish end with it, whatever ended it, and none waits for its
    publisher to come back. ``server_id`` names this process to others of its kind (path.py); empty: it has no name.

    ``stopService`` ends every publish. The authority stops after that, and waits for what it has been told.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        authority: IPublishAuthority,
        scheduler: FlushScheduler,
        options: ChannelOptions | None = None,
        takeover_seconds: float = 3.0,
        directory: IDirectory | None = None,
        end_players: bool = False,
        memory: Memory | None = None,
        return_seconds: float = 5.0,
        server_id: str = "",
    ) -> None:
        self.notices = Notices(scheduler.turns)
        self.server_id = server_id
        self.draining = False
        """Whether new publishes and players are to go to another server. Those who let them in look at this."""
        self.clock = clock
        self.scheduler = scheduler
        self.authority = authority
        self._options = options or ChannelOptions()
        self._takeover_seconds = takeover_seconds
        self._directory: IDirectory = directory or LocalDirectory()
        self._end_players = end_players
        self._return_seconds = return_seconds
        self.memory = Memory(NO_LIMIT, scheduler.turns) if memory is None else memory
        self._entries: dict[str, _Entry] = {}
        self._ending: dict[str, Deferred[None]] = {}
        self._past = Traffic()  # of publishes that have ended and channels that are gone

    def stopService(self) -> None:
        super().stopService()
        self.kill_all("the server is stopping")

    # Publishing

    def publish(self, name: str, key: str, client_ip: str, owner: PublicationOwner, begin: bool = True) -> Publication:
        """Asks to publish on channel ``name``; without ``begin``, not before `begin` is called. The owner is told the
        outcome in a later turn of the reactor."""
        publication = Publication(name, key, client_ip, owner)
        self._entry(name).asking[publication] = None
        if begin:
            self.begin(publication)
        return publication

    def pull(
        self,
        name: str,
        key: str | None,
        address: str,
        owner: PublicationOwner,
        path: tuple[str, ...],
        edge: bool = False,
    ) -> Publication:
        """Asks to publish what the server at ``address`` plays, for players with ``key`` (None: with any). The
        authority is not asked, and a publish of this server's own takes its place. ``edge``: it is another worker that
        plays it; the directory knows the key."""
        publication = Publication(name, key or "", address, owner, True, key is None, path, edge)
        self._entry(name).asking[publication] = None
        self.begin(publication)
        return publication

    def begin(self, publication: Publication) -> None:
        """Asks for a publish that has waited. Does nothing if it has ended."""
        self.clock.callLater(0, self._begin, publication)

    def end(self, publication: Publication, lost: bool = False) -> None:
        """Ends a publish for its owner, which may come back if it is ``lost``. Safe to call again."""
        if publication.ended:
            return
        entry = self._entries[publication.name]
        dismissed: list[Player] = []
        if publication.state is not PublishState.ON_AIR:
            publication.close(PublishState.ENDED)
        else:
            if self._end_players:
                lost = False
                dismissed = entry.channel.dismiss()
            entry.on_air = None
            if entry.claim is not None:
                self._directory.release(entry.claim)
                entry.claim = None
            entry.channel.end(lost)
            publication.close(PublishState.LOST if lost else PublishState.ENDED)
            self._past += _received(publication)
            if lost:
                entry.lost = publication
                entry.unpublish = self.clock.callLater(self._return_seconds, self._unpublish, entry)
            self._tell_end(publication)
            if entry.challenger is not None and entry.challenger.wake is not None:
                entry.challenger.wake()
            if not lost:
                self._went_off_air(entry)
        entry.asking.pop(publication, None)
        self._tidy(entry)
        self.notices.dismissed(dismissed)
        if publication.state is PublishState.ENDED and publication.on_air_since is not None:
            self.notices.publish_ended(entry.channel)

    def _begin(self, publication: Publication) -> None:
        if publication.ended:
            return
        Deferred.fromCoroutine(self._admit(publication)).addErrback(self._failed, publication)

    async def _admit(self, publication: Publication) -> None:
        entry = self._entry(publication.name)
        try:
            stream_id = "" if publication.pulled else await self._ask(entry, publication)
            if stream_id is None:
                return
            publication.stream_id = stream_id
            publication.key_accepted = True
            if publication.ended:
                self._tell_end(publication)
                return
            await self._claim(entry, publication)
        except Refused as refusal:
            _let_go(refusal)
            self._refuse(entry, publication, str(refusal))
            return
        self._go_on_air(entry, publication)

    async def _ask(self, entry: _Entry, publication: Publication) -> str | None:
        """The authority's answer, or None where the publish has ended before it was asked. Raises Refused."""
        questions, address = entry.questions, publication.client_ip
        while True:
            await self._take_over(entry, publication)
            turn = questions.begin(address)
            publication.wake = turn.cancel
            try:
                await turn
            except CancelledError as cancelled:
                _let_go(cancelled)
                return None
            finally:
                publication.wake = None
            try:
                await self._previous_end(publication.name)
                if publication.ended:
                    return None
                if await self._incumbent(publication.name) is None:
                    return await self.authority.start(publication.name, publication.key, address)
            finally:
                questions.finish(address)

    async def _take_over(self, entry: _Entry, publication: Publication) -> None:
        """Returns when nobody is on air on the channel, or ``publication`` has ended. Raises Refused."""
        claim = await self._incumbent(publication.name)
        if claim is None or publication.ended:
            return
        publication.enter(PublishState.WAITING)
        try:
            if isinstance(claim.holder, Publication):
                await self._replace(entry, claim.holder, publication)
            else:
                await self._directory.make_room(claim, publication.key)
        except RightKey:
            publication.key_accepted = True
            raise
        publication.key_accepted = True
        if not publication.ended:
            publication.enter(PublishState.ASKING)

    async def _replace(self, entry: _Entry, incumbent: Publication, challenger: Publication) -> None:
        """Ends a publish that is silent, for another one with its key. Raises Refused, or RightKey."""
        if not same_key(challenger.key, incumbent.key):
            raise Refused("the channel has a publisher")
        if not self._takeover_seconds or entry.challenger is not None:
            raise RightKey("the channel has a publisher")
        entry.challenger = challenger
        try:
            await self._silence(incumbent, challenger)
        finally:
            entry.challenger = None
        if not challenger.ended:
            self._end(incumbent, "taken over by a new connection", lost=True)

    async def make_room(self, name: str, epoch: int, key: str) -> None:
        """A publish with ``key`` wants the place that one here has claimed with ``epoch``: on another worker, for
        which the directory asks. Returns when it is free. Raises Refused, or RightKey."""
        entry = self._entries.get(name)
        if entry is None or entry.on_air is None or entry.claim is None or entry.claim.epoch != epoch:
            return
        if entry.on_air.pulled:
            self._end(entry.on_air, "an encoder publishes on the channel", lost=True)
        else:
            await self._replace(entry, entry.on_air, Publication(name, key, "", cast(Any, None)))

    def lose(self, publication: Publication, reason: str) -> None:
        """Ends a publish that goes on elsewhere, or comes back: its players are held."""
        self._end(publication, reason, lost=True)

    def withhold(self, publication: Publication) -> None:
        """What a publish sends goes to nobody until `go_on`, and joiners get nothing older."""
        entry = self._entries.get(publication.name)
        if entry is not None and entry.on_air is publication:
            publication.withhold()
            entry.channel.forget()

    def go_on(self, publication: Publication) -> None:
        """What was withheld goes to the players. Does nothing if the publish has ended."""
        if publication.go_on():
            publication.owner.publish_goes_on(publication)
            self.scheduler.flush_pending()

    async def _incumbent(self, name: str) -> Claim | None:
        """The claim of a publisher on air; a pull makes room for any that is accepted."""
        claim = await self._directory.locate(name)
        return None if claim is None or claim.pulled else claim

    async def _silence(self, incumbent: Publication, challenger: Publication) -> None:
        """Returns when the incumbent has been silent for long enough, or one of both has ended. Raises Refused when the
        incumbent is heard."""
        heard = incumbent.owner.bytes_received
        looked_at = self.clock.seconds()
        while not incumbent.ended and not challenger.ended:
            if incumbent.owner.bytes_received != heard:
                raise RightKey("the channel has a live publisher")
            now = self.clock.seconds()
            left = self._takeover_seconds - (now - incumbent.owner.heard_at)
            if left <= 0 and now - looked_at < LATE_SECONDS:
                return
            # After a pause of the process, what the incumbent has sent in the meantime has to be read first.
            looked_at = now
            wait = min(max(left, CLOCK_SECONDS), LISTEN_SECONDS) if left > 0 else LISTEN_SECONDS
            await self._pause(challenger, wait)

    async def _pause(self, publication: Publication, seconds: float) -> None:
        """Returns after some seconds, or when the publish has ended or is woken up."""
        pause: Deferred[None] = deferLater(self.clock, seconds)
        publication.wake = pause.cancel
        try:
            await pause
        except CancelledError as cancelled:
            _let_go(cancelled)
        finally:
            publication.wake = None

    async def _previous_end(self, name: str) -> None:
        """Returns when the authority has been told of the channel's last end, or has had time enough for it."""
        telling = self._ending.get(name)
        if telling is not None:
            limit: Deferred[None] = deferLater(self.clock, STOP_SECONDS)
            limit.addErrback(lambda failure: failure.trap(CancelledError) and None)
            await DeferredList([when_fired(telling), limit], fireOnOneCallback=True)
            limit.cancel()

    async def _claim(self, entry: _Entry, publication: Publication) -> None:
        """Takes the channel for an accepted publish. Raises Refused where somebody else has it by now."""
        try:
            claim = await self._directory.claim(publication.name, publication)
        except Taken as taken:
            _let_go(taken)
            if taken.claim.pulled and not publication.pulled:
                if isinstance(taken.claim.holder, Publication):
                    self._end(taken.claim.holder, "an encoder publishes on the channel", lost=True)
                else:
                    await self._directory.make_room(taken.claim, publication.key)
                await self._claim(entry, publication)
                return
            self._tell_end(publication)
            raise Refused("the channel has a publisher") from None
        if publication.ended:
            self._directory.release(claim)
            self._tell_end(publication)
        else:
            entry.claim = claim

    def _go_on_air(self, entry: _Entry, publication: Publication) -> None:
        if publication.ended:
            return
        entry.asking.pop(publication, None)
        self._end_lost(entry)
        strangers = entry.channel.begin(publication.play_key, self._path(publication), _epoch(entry))
        publication.open(entry.channel, self.clock.seconds())
        entry.on_air = publication
        self.notices.refused(strangers, "the publisher that came has another key")
        self.notices.publish_began(entry.channel)
        publication.owner.publish_started(publication)
        self.scheduler.flush_pending()
        self.notices.went_on_air(publication)

    def _failed(self, failure: Failure, publication: Publication) -> None:
        self._log.failure("a publish on channel {name!r} failed", failure, name=publication.name)
        if publication.state is PublishState.ON_AIR:
            self._end(publication, "internal error")
        else:
            self._refuse(self._entry(publication.name), publication, "internal error")

    def _refuse(self, entry: _Entry, publication: Publication, reason: str) -> None:
        entry.asking.pop(publication, None)
        self._tidy(entry)
        if not publication.ended:
            publication.close(PublishState.ENDED)
            publication.owner.publish_refused(publication, reason)

    def _end(self, publication: Publication, reason: str, lost: bool = False) -> None:
        if not publication.ended:
            self.end(publication, lost)
            publication.owner.publish_ended(publication, reason)

    def _tell_end(self, publication: Publication) -> None:
        if publication.pulled:
            return
        name = publication.name
        telling = self.authority.end(name, publication.key, publication.stream_id, publication.client_ip)
        self._ending[name] = telling

        def told(_: object) -> None:
            if self._ending.get(name) is telling:
                del self._ending[name]

        telling.addBoth(told)

    def _unpublish(self, entry: _Entry) -> None:
        """A lost publisher has not come back."""
        self._end_lost(entry)
        if entry.channel.unpublish():
            self.notices.publish_ended(entry.channel)
        self._went_off_air(entry)

    def _went_off_air(self, entry: _Entry) -> None:
        if entry.on_air is None:
            self.notices.went_off_air(entry.channel.name)

    def _end_lost(self, entry: _Entry) -> None:
        if entry.unpublish is not None and entry.unpublish.active():
            entry.unpublish.cancel()
        entry.unpublish = None
        if entry.lost is not None:
            entry.lost.enter(PublishState.ENDED)
            entry.lost = None

    # Playing

    def play(self, name: str, player: Player) -> bool:
        """Puts the player into channel ``name``, and returns whether that is on air: `start` gives it its media, now or
        when there is any. Raises Refused where its key is not the publisher's."""
        entry = self._entry(name)
        channel = entry.channel
        if not player.push and not self._accepts(channel, player):
            raise Refused("the key is not the publisher's")
        channel.add(player)
        self.notices.player_came(player)
        return channel.on_air

    def _accepts(self, channel: Channel, player: Player) -> bool:
        """Whether its key is right, as far as anybody knows."""
        if channel.on_air:
            return channel.accepts(player)
        taken, key = self._directory.elsewhere(channel.name)
        return not taken or key is None or player.admitted_by(key)

    def judge(self, name: str, key: Key | str | None) -> None:
        """Refuses the players of channel ``name`` that have another key than the publisher elsewhere, which is not
        pulled yet."""
        entry = self._entries.get(name)
        if entry is not None and entry.on_air is None:
            strangers = entry.channel.judge(key)
            self._tidy(entry)
            self.notices.refused(strangers, "the key is not the publisher's")

    def path(self, name: str) -> str:
        """What a player of channel ``name`` is told of the servers that its stream has passed."""
        entry = self._entries.get(name)
        return "" if entry is None or entry.on_air is None else self._path(entry.on_air)

    def refuse(self, name: str, key: str, reason: str) -> None:
        """Refuses the players that wait on channel ``name`` with this key."""
        entry = self._entries.get(name)
        if entry is None:
            return
        players = [*entry.channel.players, *(push for push in entry.channel.pushes if push.peer)]
        refused = [player for player in players if player.key is not None and player.admitted_by(key)]
        for player in refused:
            entry.channel.leave(player)
        self._tidy(entry)
        self.notices.refused(refused, reason)
        self.notices.player_left(name)

    def epoch(self, name: str) -> int:
        """The epoch of the claim by which channel ``name`` is on air here; 0 for none."""
        entry = self._entries.get(name)
        return 0 if entry is None else _epoch(entry)

    def _path(self, publication: Publication) -> str:
        return ",".join([*publication.path, self.server_id]) if self.server_id else ""

    def start(self, player: Player) -> None:
        """Gives the player its media, after `play` or a pause."""
        entry = self._entries.get(player.channel_name)
        if entry is not None:
            entry.channel.start(player)

    def leave(self, player: Player) -> None:
        """The player has gone. Safe to call again."""
        entry = self._entries.get(player.channel_name)
        if entry is not None:
            entry.channel.leave(player)
            self._tidy(entry)
            if player.peer or not player.push:
                self.notices.player_left(entry.channel.name)

    # Commands

    def kill(self, channel: str, stream_id: str | None, reason: str) -> bool:
        entry = self._entries.get(channel)
        if entry is None:
            return False
        on_air = [] if entry.on_air is None or entry.on_air.edge else [entry.on_air]
        if stream_id is None:
            doomed = [*entry.asking, *on_air]
        else:
            doomed = [publication for publication in on_air if publication.stream_id == stream_id]
        for publication in doomed:
            self._end(publication, reason)
        return bool(doomed)

    def kill_all(self, reason: str) -> int:
        # Those that ask come first: else one of them would take over.
        entries = list(self._entries.values())
        doomed = [publication for entry in entries for publication in entry.asking]
        doomed += [entry.on_air for entry in entries if entry.on_air is not None]
        for publication in doomed:
            self._end(publication, reason)
        for entry in entries:
            self._unpublish(entry)
        return len(doomed)

    # For operators

    def channels(self) -> list[tuple[Channel, Publication | None]]:
        """Each channel that is used, with its publish (perhaps one that asks or waits); oldest first."""
        return [(entry.channel, _publication(entry)) for entry in self._entries.values()]

    def channel(self, name: str) -> tuple[Channel, Publication | None] | None:
        """The same for one channel; None where nobody uses it."""
        entry = self._entries.get(name)
        return None if entry is None else (entry.channel, _publication(entry))

    def traffic(self) -> Traffic:
        """All that has gone through. Takes a moment for each channel and player."""
        total = self._past
        for entry in self._entries.values():
            total += entry.channel.traffic()
            if entry.on_air is not None:
                total += _received(entry.on_air)
        return total

    def settle(self) -> None:
        """Counts the memory of each channel anew. Called every second."""
        for entry in self._entries.values():
            entry.channel.account.settle()
        self.memory.check()

    @property
    def merge_interval(self) -> float:
        """Seconds that media is held back now, on channels that many watch."""
        return self.scheduler.interval

    # Entries

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            entry = _Entry(Channel(name, self._options, self.scheduler, self.memory, self.clock))
            self._entries[name] = entry
        return entry

    def _tidy(self, entry: _Entry) -> None:
        """Forgets a name that nobody uses."""
        channel = entry.channel
        unused = entry.on_air is None and not entry.asking and not channel.players and not channel.pushes
        if unused and self._entries.get(channel.name) is entry:
            del self._entries[channel.name]
            self._past += channel.traffic()
            was_lost = entry.lost is not None
            self._end_lost(entry)
            channel.close()
            if was_lost:
                self._went_off_air(entry)


def _publication(entry: _Entry) -> Publication | None:
    return entry.on_air or next(iter(entry.asking), None)


def _epoch(entry: _Entry) -> int:
    return 0 if entry.claim is None else entry.claim.epoch


def _received(publication: Publication) -> Traffic:
    if publication.edge:
        return Traffic()  # it was received by the worker that has it
    return Traffic(received_bytes=publication.received_bytes, received_messages=publication.received_messages)


def when_fired(deferred: Deferred[None]) -> Deferred[None]:
    """A Deferred that fires when another does, and leaves that one's result alone."""
    fired: Deferred[None] = Deferred()

    def tell(result: object) -> object:
        if not fired.called:
            fired.callback(None)
        return result

    deferred.addBoth(tell)
    return fired


def _let_go(error: Exception) -> None:
    """Drops the way that an awaited error has come. Twisted has it refer to its Failure, which refers to it: else it
    would keep the frames that it came through, and with them the connection, until the garbage collector comes."""
    error.__traceback__ = None
