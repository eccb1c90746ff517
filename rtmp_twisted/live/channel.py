"""A channel: one publisher, many players, and the log between them. Made and used by the broker.

A message that comes in is chunked once, into the log. A flush hands what is new to all players: those that keep up
get one call each with the same bytes; the others advance on their own, from where they are.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtmp_twisted.live.audience import FEW, FlushScheduler
from rtmp_twisted.live.cursor import Cache, Player
from rtmp_twisted.live.headers import PLAYER_STREAM_ID, Headers, KeptHeaders
from rtmp_twisted.live.log import Block, MediaLog
from rtmp_twisted.live.timestamps import Timestamps
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.media import tags
from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message

_TRACK_0: tuple[int, ...] = (0,)

LEAD_MILLISECONDS: Final = 60_000
"""After so long without a keyframe of the video track that leads, another one leads."""


@frozen
class ChannelOptions:
    """``chunk_size`` (bytes) of what players get; ``cache_bytes`` kept for joiners at most, 0 none;
    ``whole_stream``: keep all that was published, not one group of pictures; ``merge_messages``: most messages that
    one write gathers."""

    chunk_size: int = 4096
    cache_bytes: int = 256 * 1024 * 1024
    whole_stream: bool = False
    merge_messages: int = 8


class Channel:
    """``on_air`` is whether a publisher's media is let in: between `begin` and `end`."""

    def __init__(self, name: str, options: ChannelOptions, pacer: FlushScheduler, clock: IReactorTime) -> None:
        self.name = name
        self.log = MediaLog(options.chunk_size, options.cache_bytes, options.whole_stream)
        self.on_air = False
        self.key = ""
        self.dropped = 0
        """Video messages dropped because no keyframe had come yet, in this publish."""
        self.received_messages = 0
        self.received_bytes = 0
        self.keyframe_interval: int | None = None
        """Milliseconds between the publisher's last two keyframes, by its own clock; None until there were two."""
        self.video_tracks: set[int] = set()
        """Those that have had a keyframe, in this publish."""
        self.skips = 0
        self.skipped_bytes = 0
        self._past = Traffic()  # of publishes that have ended and players that have left
        self._options = options
        self._pacer = pacer
        self._clock = clock
        self._cost = 0.0
        self._due = 0.0
        self._timer: IDelayedCall | None = None
        self._headers = KeptHeaders(name, options.chunk_size)
        self._timeline = Timestamps()
        self._lost_at: float | None = None  # when its publisher was lost, until players are told or another comes
        self._held: set[Player] = set()  # who came since then
        self._has_video = False
        self._lead = 0  # the track whose keyframes begin groups of pictures
        self._led_at = 0
        self.players: set[Player] = set()
        self._keeping_up: dict[Player, Callable[[bytes], int]] = {}
        self._behind: set[Player] = set()
        self._waiting: set[Player] = set()

    # The publisher's side

    def begin(self, key: str) -> list[Player]:
        """A publish starts. Returns the players that waited with another key; they are not in the channel any more."""
        strangers = [player for player in self.players if not same_key(player.key, key)]
        for player in strangers:
            self.leave(player)
        self.key = key
        self.on_air = True
        if self._lost_at is None:
            self._timeline.restart()
        else:
            self._timeline.go_on(self.log.timestamp, int((self._clock.seconds() - self._lost_at) * 1000))
            self._lost_at = None
            self._release()
        self._past += Traffic(received_bytes=self.received_bytes, received_messages=self.received_messages)
        self.dropped = self.received_messages = self.received_bytes = 0
        self._forget()
        # A player that waits with cache=clear gets all of it now: nobody else needs it kept.
        whole = self._options.whole_stream and all(player.cache is not Cache.CLEAR for player in self.players)
        self.log.restart(whole)
        if whole:
            self.log.begin_group(self._headers.now())
        self._append(messages.user_control(messages.STREAM_BEGIN, PLAYER_STREAM_ID))
        self._append(self._status("NetStream.Play.PublishNotify", f"{self.name} is now published."))
        return strangers

    def publish(self, message: Message) -> None:
        """One audio, video or data message of the publisher, its data messages in the form players get."""
        type_id, _, timestamp, body = message
        self.received_messages += 1
        self.received_bytes += len(body)
        kind = tags.OTHER
        if type_id == VIDEO:
            kind = tags.classify_video(body)
            if kind == tags.HEADER:
                self._has_video = True
            elif kind != tags.OTHER and not self._begin_frame(body, timestamp, kind == tags.KEYFRAME):
                self.dropped += 1
                return
        elif type_id == AUDIO:
            kind = tags.classify_audio(body)
        header = kind == tags.HEADER
        if header:
            self._headers.keep(message)
        place = self._timeline.place if kind < tags.HEADER else self._timeline.place_beside
        timestamp = place(type_id, timestamp)
        if self.log.append(type_id, timestamp, body, header) >= self._options.merge_messages:
            self.flush()

    def publish_metadata(self, message: Message) -> None:
        """An ``onMetaData`` message: relayed, and kept for joiners."""
        self._headers.keep_metadata(message)
        self.publish(message)

    def end(self, lost: bool = False) -> None:
        """The publish has ended, and nothing of it is kept for joiners.

        The players are told, which makes most of them leave; but not, or not yet, where the publisher was lost without
        a word and may come back: until `farewell` is called.
        """
        self.on_air = False
        self.flush()
        for player in list(self._waiting):  # what they wait for will not come, and they hear of the end as well
            self._start(player, self.log.head, Headers((), self._options.chunk_size))
        self._forget()
        self._lost_at = self._clock.seconds()
        if lost:
            self.log.restart(self._options.whole_stream)
        else:
            self.farewell()

    def farewell(self) -> None:
        """The players are told that their publish has ended, unless they have been, or another one has begun."""
        if self._lost_at is None:
            return
        self._lost_at = None
        self._append(self._status("NetStream.Play.UnpublishNotify", f"{self.name} is now unpublished."))
        self._append(messages.user_control(messages.STREAM_EOF, PLAYER_STREAM_ID))
        self.flush()
        self.log.restart(self._options.whole_stream)
        self._release()

    def flush_when_due(self) -> None:
        """To be called when the publisher has nothing more to say at the moment."""
        if not self.log.pending:
            return
        interval = self._pacer.interval if len(self.players) > FEW else 0.0
        wait = self._due - self._clock.seconds() if interval else 0.0
        if wait <= 0.0:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(min(wait, interval), self.flush)

    def flush(self) -> None:
        """Hands all that is new to the players."""
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None
        pacer = self._pacer
        if len(self.players) <= FEW:
            self._deliver()
            if self._cost:
                pacer.forget(self._cost)
                self._cost = 0.0
            return
        began = pacer.stopwatch()
        size = self._deliver()
        self._cost = pacer.account(self._cost, pacer.stopwatch() - began, size)
        if pacer.interval:
            self._due = self._clock.seconds() + pacer.interval

    def _deliver(self) -> int:
        """Returns how many bytes of the log that were."""
        log = self.log
        log.seal()
        first, log.head = log.head, log.tail
        if first is log.tail:
            return 0
        if self._keeping_up:
            self._fan_out(first)
        if self._behind:
            for player in list(self._behind):
                self._advance(player)
        return log.head.position - first.position

    # Whoever operates the server

    @property
    def headers(self) -> tuple[Message, ...]:
        """Metadata and codec headers as they are now."""
        return self._headers.now().messages

    def traffic(self) -> Traffic:
        """All that has gone through since the channel was made. Takes a moment for each player."""
        now = Traffic(self.received_bytes, self.received_messages, skips=self.skips, skipped_bytes=self.skipped_bytes)
        delivered = sum(player.delivered() for player in self.players)
        messages = sum(player.delivered_messages() for player in self.players)
        return self._past + now + Traffic(delivered_bytes=delivered, delivered_messages=messages)

    def close(self) -> None:
        """The channel is not used any more."""
        self._pacer.forget(self._cost)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # The players' side

    def join(self, player: Player) -> None:
        """Gives the player what its ``cache`` says, and what comes. Its key has been checked."""
        player.channel = self
        self.players.add(player)
        self.start(player)

    def start(self, player: Player) -> None:
        """Starts a player, at first or after a pause: from the cache, the next keyframe, or now."""
        player.paused = False
        if self._lost_at is not None:  # what has been lost is none of its business
            self._remove(player)
            self._held.add(player)
            return
        groups = self.log.groups
        cache = player.cache
        # A whole stream is kept from its beginning on, which is no keyframe: not what a cache of one group gives.
        if cache is Cache.NO or not groups or (cache is Cache.GOP and not self.video_tracks):
            self.start_next(player)
            return
        self.start_at_group(player, groups[-1] if cache is Cache.GOP else groups[0])
        if cache is Cache.CLEAR:
            if self.video_tracks:
                self.log.keep_one_group()
            else:
                self.log.restart(whole=False)
        player.cache = Cache.GOP

    def start_next(self, player: Player) -> None:
        """Starts a player without the cache: from the next keyframe, or now where there is no video."""
        if self._has_video:
            self._remove(player)
            self._waiting.add(player)
        else:
            self._start(player, self.log.head)

    def pause(self, player: Player) -> None:
        """The player gets nothing until `start`."""
        player.paused = True
        self._remove(player)
        player.stop()

    def send_headers(self, player: Player) -> None:
        """Sends the headers as they are now, whatever the player got before."""
        player.send_headers(self._headers.now(), self.log.timestamp)

    def leave(self, player: Player) -> None:
        """The player has gone, or has to go."""
        self.pause(player)
        if player in self.players:
            self.players.discard(player)
            self._past += _delivered(player)
        player.channel = None

    def reconsider(self, player: Player) -> None:
        """What the player wants to get has changed."""
        if player.waits_for_video and len(self.video_tracks) > 1:
            player.lacks(self.video_tracks)
        if player in self._keeping_up and not player.plain:
            del self._keeping_up[player]
            player.place(self.log.head, 0)
            self._behind.add(player)

    def resumed(self, player: Player) -> None:
        if player in self._behind:
            self._advance(player)

    def start_at_group(self, player: Player, group: Block) -> None:
        assert group.headers is not None
        self._start(player, group, group.headers)

    def _start(self, player: Player, block: Block, headers: Headers | None = None) -> None:
        self._remove(player)
        self._behind.add(player)
        player.start(block, headers or self._headers.now(), self.log)
        if len(self.video_tracks) > 1:
            player.lacks(self.video_tracks.difference(block.tracks_of(0)[0]))
        self._advance(player)

    def _advance(self, player: Player) -> None:
        if player.advance() and player in self._behind:
            self._behind.discard(player)
            self._keeping_up[player] = player.offer

    def _remove(self, player: Player) -> None:
        self._keeping_up.pop(player, None)
        self._behind.discard(player)
        self._waiting.discard(player)
        self._held.discard(player)

    # Inside

    def _release(self) -> None:
        """Starts who came while a publisher was lost."""
        for player in list(self._held):
            self.start(player)

    def _fan_out(self, first: Block) -> None:
        """One call for each player that keeps up: this loop is where a live server's time goes."""
        if first.following is self.log.tail:
            data = first.data
        else:
            blocks: list[bytes] = []
            block: Block | None = first
            while block is not None:
                blocks.append(block.data)
                block = block.following
            data = b"".join(blocks)
        size = len(data)
        full: list[tuple[Player, int]] = []
        for player, offer in self._keeping_up.items():
            taken = offer(data)
            if taken != size:
                full.append((player, taken))
        for player, taken in full:
            del self._keeping_up[player]
            self._behind.add(player)
            player.place(first, taken)
            self._advance(player)  # at once: others on its connection must find it between two messages

    def _begin_frame(self, body: bytes, timestamp: int, keyframe: bool) -> bool:
        """Whether a video frame can be of use: its track has had a keyframe, in this publish."""
        multitrack = tags.may_be_multitrack(body)
        tracks = tags.tracks(VIDEO, body) if multitrack else _TRACK_0
        leads = keyframe and self._leads(tracks, timestamp)
        if leads:
            self._has_video = True
            self.log.begin_group(self._headers.now())
        if keyframe:
            self.video_tracks.update(tracks)
        elif self.video_tracks.isdisjoint(tracks):
            return False
        if multitrack or len(self.video_tracks) > 1:
            self.log.note_tracks(tracks, keyframe)
        if leads:
            for player in list(self._waiting):
                self.start_at_group(player, self.log.tail)
        return True

    def _leads(self, tracks: tuple[int, ...], timestamp: int) -> bool:
        """Whether a keyframe begins a group of pictures: one of the track that had the first.

        Where each track comes in messages of its own, the other tracks' keyframes follow that one, in its group.
        """
        if self._lead not in tracks:
            if self.video_tracks and timestamp - self._led_at < LEAD_MILLISECONDS:
                return False
            self._lead = tracks[0]
        if self.video_tracks:
            self.keyframe_interval = timestamp - self._led_at & 0xFFFFFFFF
        self._led_at = timestamp
        return True

    def _forget(self) -> None:
        """Nothing of a publish is known any more."""
        self._headers = KeptHeaders(self.name, self._options.chunk_size)
        self._has_video = False
        self.video_tracks.clear()
        self.keyframe_interval = None

    def _append(self, message: Message) -> None:
        """A message of the server's own, in its place in the stream."""
        self.log.append(message.type_id, self.log.timestamp, message.body)

    def _status(self, code: str, description: str) -> Message:
        return messages.status(PLAYER_STREAM_ID, "status", code, description)


def same_key(one: str, other: str) -> bool:
    """Compares two keys in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def _delivered(player: Player) -> Traffic:
    return Traffic(delivered_bytes=player.delivered(), delivered_messages=player.delivered_messages())
