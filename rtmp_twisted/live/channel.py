"""A channel: the log of what is published on it, its players, and what they are told. Made and used by the broker.

It lives as long as somebody publishes or plays, and outlives each publish: players stay while an encoder goes and comes
back. What a publisher sends is written by its `Publication`.
"""

from __future__ import annotations

from typing import Protocol

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from rtmp_twisted.live.audience import Audience, FlushScheduler
from rtmp_twisted.live.directory import Key
from rtmp_twisted.live.fragments import FragmentContents, FragmentForm, FragmentRendition
from rtmp_twisted.live.headers import Program
from rtmp_twisted.live.log import Block, Contents, Format, MediaLog
from rtmp_twisted.live.memory import Memory
from rtmp_twisted.live.path import CLAIM, PATH
from rtmp_twisted.live.player import Cache, Form, Player
from rtmp_twisted.live.rendition import Rendition
from rtmp_twisted.live.timestamps import Timestamps
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.chunks import LOG_STREAM_ID, ChunkFormat
from rtmp_twisted.wire.messages import Message


@frozen
class ChannelOptions:
    """``chunk_size`` (bytes) of what players get; ``cache_bytes`` kept for joiners at most, 0 none;
    ``whole_stream``: keep all that was published, not one group of pictures; ``merge_messages``: most messages that
    one write gathers."""

    chunk_size: int = 4096
    cache_bytes: int = 256 * 1024 * 1024
    whole_stream: bool = False
    merge_messages: int = 8


class Store(Protocol):
    """Somebody who keeps a part of a channel's media, on the channel's account."""

    def held(self) -> int:
        """Bytes of memory."""

    def shrink(self) -> None:
        """Memory is short: keeps only what has to be kept."""


class Channel:
    """``on_air`` is whether a publisher's media is let in: between `begin` and `end`."""

    def __init__(
        self, name: str, options: ChannelOptions, scheduler: FlushScheduler, memory: Memory, clock: IReactorTime
    ) -> None:
        self.name = name
        self.key: Key | str | None = ""
        """The key of the publish that is on air, or was last; None where any will do."""
        self.on_air = False
        self.options = options
        self.program = Program()
        self.account = memory.open(f"channel {name!r}", self._held, self._shrink)
        self._cache_bytes = min(options.cache_bytes, memory.channel_share)
        self.log = MediaLog(
            ChunkFormat(options.chunk_size),
            self.program,
            self._cache_bytes,
            options.whole_stream,
            self.account.add,
            scheduler.turns,
        )
        self.audience = Audience(self.log, scheduler, options.merge_messages)
        self.timestamps = Timestamps()
        self.players: set[Player] = set()
        self.pushes: set[Player] = set()
        """Other servers that it is published to, and workers that pull it: neither their number nor what they get
        counts with the players."""
        self._scheduler = scheduler
        self._clock = clock
        self._renditions: dict[Form, Rendition] = {}
        self._stores: set[Store] = set()
        self._lost_at: float | None = None  # when its publisher was lost, until players are told or another comes
        self._past = Traffic()  # of players that have left

    # The publisher's side

    def accepts(self, player: Player) -> bool:
        """Whether a player may have what is on air."""
        return self.key is None or player.admitted_by(self.key)

    def judge(self, key: Key | str | None) -> list[Player]:
        """It has this key from now on. Returns the players that have another one; they are not in the channel any
        more."""
        self.key = key
        strangers = [player for player in self.players if not self.accepts(player)]
        for player in strangers:
            self.leave(player)
        return strangers

    def begin(self, key: Key | str | None, path: str = "", epoch: int = 0) -> list[Player]:
        """A publish starts; ``path`` is what players are told of the servers that it has passed, with the ``epoch`` of
        its claim. Returns the players that waited with another key; they are not in the channel any more."""
        strangers = self.judge(key)
        self.on_air = True
        self.program.reset()
        if self._lost_at is None:
            self.timestamps.restart()
        else:
            self.timestamps.go_on(self.log.timestamp, int((self._clock.seconds() - self._lost_at) * 1000))
        self._lost_at = None
        # A player that waits with cache=clear gets all of it now: nobody else needs it kept.
        whole = self.options.whole_stream and all(player.cache is not Cache.CLEAR for player in self.players)
        self._restart(whole)
        for audience in self._audiences():
            audience.release()
        if whole:
            self.log.begin_group(self.program.headers)
        self._tell(messages.user_control(messages.STREAM_BEGIN, LOG_STREAM_ID))
        self._tell(_status("NetStream.Play.PublishNotify", f"{self.name} is now published.", path, epoch))
        self._scheduler.add(self.audience)
        return strangers

    def end(self, lost: bool = False) -> None:
        """The publish has ended, and nothing of it is kept for joiners.

        The players are told, which makes most of them leave. Where the publisher was ``lost`` without a word and may
        come back, they are not told before `unpublish` is called.
        """
        self.on_air = False
        self.audience.flush()
        self.program.reset()
        self._lost_at = self._clock.seconds()
        for audience in self._audiences():
            audience.hold()
        if lost:
            self._restart(self.options.whole_stream)
        else:
            self.unpublish()

    def unpublish(self) -> bool:
        """Tells the players that their publish has ended, unless they know or another one has begun; returns whether
        it did."""
        if self._lost_at is None:
            return False
        self._lost_at = None
        self._tell(_status("NetStream.Play.UnpublishNotify", f"{self.name} is now unpublished."))
        self._tell(messages.user_control(messages.STREAM_EOF, LOG_STREAM_ID))
        self.audience.flush()
        self._restart(self.options.whole_stream)
        for audience in self._audiences():
            audience.release()
        return True

    def forget(self) -> None:
        """Keeps nothing for joiners of what was published so far."""
        self._restart(self.log.whole)

    def dismiss(self) -> list[Player]:
        """Hands over all that is new, and returns the players; they are not in the channel any more."""
        self.audience.flush()
        self.audience.flush_pushes()
        players = [*self.players, *self.pushes]
        for player in players:
            self.leave(player)
        return players

    def close(self) -> None:
        """The channel is not used any more."""
        self.audience.close()
        self.account.close()

    # The players' side

    def add(self, player: Player) -> None:
        """The player is in the channel, and gets nothing before `start`. Its key has been checked."""
        audience = self.audience
        if player.form is not None:
            audience.flush()  # a rendition has what has been handed over
            audience = self._rendition(player.form).audience
        player.enter(self.name, audience)
        (self.pushes if player.push else self.players).add(player)

    def start(self, player: Player) -> None:
        """Starts a player, at first or after a pause: with what its ``cache`` says, and what comes."""
        audience, cursor = player.audience, player.cursor
        if audience is None or cursor is None:
            return
        player.paused = False
        player.started = True
        cache = player.cache
        group = self._first_group(audience.log, cache)
        audience.start(cursor, group, sound=cache is not Cache.NO)
        if group is None:
            return
        player.cache = Cache.GOP
        if cache is Cache.CLEAR and audience is self.audience:
            if self.program.video_tracks:
                self.log.keep_one_group()
            else:
                self.log.restart(whole=False)

    def leave(self, player: Player) -> None:
        """The player has gone, or has to go. Safe to call again."""
        if player in self.players:
            self.players.discard(player)
            player.leave()
            self._past += player.traffic()
            if player.form is not None:
                self._close_rendition(player.form)
        elif player in self.pushes:
            self.pushes.discard(player)
            player.leave()

    def watched(self, started: bool) -> list[Player]:
        """Players that have somebody who is to know of publishes: those that were started, or wait for one."""
        return [player for player in self.players if player.watcher is not None and player.started is started]

    def keep(self, store: Store) -> None:
        """Counts what somebody keeps of the channel's media as the channel's."""
        self._stores.add(store)

    def discard(self, store: Store) -> None:
        """Nothing is kept there any more."""
        self._stores.discard(store)

    # For operators

    def traffic(self) -> Traffic:
        """Returns what players have received since the channel was made. Its cost grows with the number of players."""
        return sum((player.traffic() for player in self.players), self._past)

    # Inside

    def _held(self) -> int:
        """Bytes of memory that its logs and headers take."""
        renditions = self._renditions.values()
        stored = sum(store.held() for store in self._stores)
        return (
            self.program.headers.size
            + self.audience.held()
            + sum(rendition.held() for rendition in renditions)
            + stored
        )

    def _shrink(self) -> None:
        for audience in self._audiences():
            audience.shrink()
        for store in self._stores:
            store.shrink()

    def _audiences(self) -> list[Audience]:
        return [self.audience, *(rendition.audience for rendition in self._renditions.values())]

    def _first_group(self, log: MediaLog, cache: Cache) -> Block | None:
        groups = log.groups
        # A whole stream is kept from its beginning on, which is no keyframe: not what a cache of one group gives.
        if cache is Cache.NO or not groups or (cache is Cache.GOP and not self.program.video_tracks):
            return None
        return groups[-1] if cache is Cache.GOP else groups[0]

    def _restart(self, whole: bool) -> None:
        self.log.restart(whole)
        for rendition in self._renditions.values():
            rendition.restart()

    def _rendition(self, form: Form) -> Rendition:
        rendition = self._renditions.get(form)
        if rendition is None:
            rendition = self._renditions[form] = self._make_rendition(form)
            if self._lost_at is not None:
                rendition.audience.hold()
        return rendition

    def _make_rendition(self, form: Form) -> Rendition:
        options = self.options
        common = self.audience, options.chunk_size, self._scheduler, options.merge_messages

        def log(format: Format, program: Contents) -> MediaLog:
            return MediaLog(format, program, self._cache_bytes, False, self.account.add, self._scheduler.turns)

        if isinstance(form, FragmentForm):
            format, contents = form.format, FragmentContents(self.program)
            return FragmentRendition(form, log(format, contents), format, contents, *common)
        return Rendition(log(form(), self.program), *common)

    def _close_rendition(self, form: Form) -> None:
        rendition = self._renditions[form]
        if not len(rendition.audience) and not any(player.form == form for player in self.players):
            del self._renditions[form]
            rendition.close()

    def _tell(self, message: Message) -> None:
        """Appends a message of the server's own, in its place in the stream."""
        self.log.append(message.type_id, self.log.timestamp, message.body)


def _status(code: str, description: str, path: str = "", epoch: int = 0) -> Message:
    more: dict[str, amf0.Value] = {PATH: path, CLAIM: float(epoch)} if path else {}
    return messages.status(LOG_STREAM_ID, "status", code, description, more)
