"""One player: a position in a channel's log, and what may be written to it right now.

A player that keeps up has no position of its own: it is at the log's head, and the channel writes to it. One that
does not (it just joined, its connection is full, or it needs messages changed or left out) advances on its own
here. Used by channel and broker; made by whoever serves the player's connection.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from rtmp_twisted.live.headers import PLAYER_STREAM_ID, Headers
from rtmp_twisted.live.log import Block, MediaLog, restream
from rtmp_twisted.wire.messages import AUDIO, VIDEO

if TYPE_CHECKING:
    from rtmp_twisted.live.channel import Channel

MAX_LAG = 8 * 1024 * 1024
"""Bytes that a player may fall behind, counted from where it joined, before it loses groups of pictures."""

MAX_GATHER: Final = 128
"""Blocks handed over in one call when catching up."""


class Cache(enum.Enum):
    """What a joining player wants of the past: the ``cache=`` of a play request."""

    GOP = "gop"
    NO = "no"
    CLEAR = "clear"
    ALL = "all"


class Writer(Protocol):
    """Where a player's bytes go. Whoever makes it calls `Player.resume` when ``blocked`` becomes False."""

    @property
    def blocked(self) -> bool:
        """Whether something waits to leave."""

    def offer(self, data: bytes) -> int:
        """Takes what can leave at once, from the beginning of ``data``, and returns how much that is."""

    def offer_all(self, buffers: list[bytes | memoryview]) -> int:
        """The same for several buffers, one behind the other."""

    def write(self, data: bytes) -> None:
        """Takes all of ``data``."""


class PlayerOwner(Protocol):
    """Who is told what happens to a player."""

    def play_accepted(self, player: Player, on_air: bool) -> None:
        """Its media follows, now or when there is any."""

    def play_refused(self, player: Player, reason: str) -> None:
        """A publisher came whose key is another. The player has left its channel."""

    def play_skipped(self, player: Player, skipped: int) -> None:
        """The player was too slow, and loses ``skipped`` bytes of the stream."""


class Player:
    """``key`` is what the publisher's has to be; ``stream_id`` the message stream it plays on."""

    __slots__ = (
        "_audio", "_block", "_due", "_first", "_headers", "_lacking", "_lag_limit", "_lost_at", "_offset", "_outlet",
        "_sent", "_sent_messages", "_stretch", "_video", "_video_held", "cache", "channel", "key", "owner", "paused",
        "stream_id",
    )  # fmt: skip

    def __init__(self, owner: PlayerOwner, outlet: Writer, stream_id: int, key: str, cache: Cache) -> None:
        self.owner = owner
        self.stream_id = stream_id
        self.key = key
        self.cache = cache
        self.channel: Channel | None = None
        self.paused = False
        self._outlet = outlet
        self._audio = self._video = True
        self._video_held = False  # until the next keyframe
        self._lacking: set[int] = set()  # video tracks whose next keyframe it waits for
        self._block: Block | None = None  # None: at the log's head, or without a place in it
        self._offset = 0
        self._headers: Headers | None = None  # sent last
        self._due: tuple[Headers, int] | None = None  # to be sent, at which time, before more of the log
        self._lag_limit = 0
        self._stretch: int | None = None  # where in the log it began what it receives without a gap
        self._lost_at: int | None = None  # where it had to stop because it was too slow
        self._sent = 0  # bytes before this stretch
        self._first = 0  # number of this stretch's first message
        self._sent_messages = 0  # before this stretch

    @property
    def offer(self) -> Callable[[bytes], int]:
        return self._outlet.offer

    @property
    def plain(self) -> bool:
        """Whether the log's own bytes are what this player gets."""
        whole = self._audio and self._video and not self._video_held and not self._lacking
        return whole and self.stream_id == PLAYER_STREAM_ID

    @property
    def waits_for_video(self) -> bool:
        """Whether its video has been turned on, and there has been no keyframe since then."""
        return self._video_held

    def lacks(self, tracks: Iterable[int]) -> None:
        """It gets nothing of these video tracks before a keyframe. Called by the channel."""
        self._lacking = set(tracks)

    def receive(self, audio: bool | None = None, video: bool | None = None) -> None:
        """What the player wants to get (None: as before). Video that is turned on waits for a keyframe."""
        if audio is not None:
            self._audio = audio
        if video is not None:
            self._video_held = video and (self._video_held or not self._video)
            self._video = video
        if self.channel is not None:
            self.channel.reconsider(self)

    def delivered(self) -> int:
        """Bytes of the stream that were handed over, without what was lost."""
        return self._sent if self._stretch is None else self._sent + self._position() - self._stretch

    def delivered_messages(self) -> int:
        """The same in messages."""
        if self._stretch is None or self.channel is None:
            return self._sent_messages
        block = self._block or self.channel.log.head
        return self._sent_messages - self._first + block.number + bisect_right(block.ends, self._offset)

    def start(self, block: Block, headers: Headers, log: MediaLog) -> None:
        """Receive from ``block`` on, before whose first message ``headers`` were in force. Called by the channel."""
        self._stretch = block.position
        self._first = block.number
        self._lag_limit = MAX_LAG + log.position - block.position
        self._block = block
        self._offset = 0
        self._due = (headers, block.timestamp) if headers is not self._headers else None
        if self._lost_at is not None:
            skipped = block.position - self._lost_at
            self._lost_at = None
            if self.channel is not None:
                self.channel.skips += 1
                self.channel.skipped_bytes += skipped
            self.owner.play_skipped(self, skipped)

    def send_headers(self, headers: Headers, timestamp: int) -> None:
        """Now, or, where something waits to leave, with what comes next: whoever takes nothing collects nothing."""
        if self._outlet.blocked:
            self._headers = None
            self._due = headers, timestamp
            return
        self._headers = headers
        self._due = None
        if headers.messages:
            self._outlet.write(headers.chunks(timestamp, self.stream_id))

    def stop(self) -> None:
        """Receive nothing until the next `start`. Called by the channel."""
        self._sent = self.delivered()
        self._sent_messages = self.delivered_messages()
        self._stretch = self._block = None

    def place(self, block: Block, offset: int) -> None:
        """The player is not at the head any more, but ``offset`` bytes behind the beginning of ``block``.

        Called by the channel, which lets it `advance` before anything else may be written.
        """
        while offset and offset >= len(block.data) and block.following is not None:
            offset -= len(block.data)
            block = block.following
        self._block = block
        self._offset = offset

    def advance(self) -> bool:
        """Hands over what can leave. Tells whether the player stands at the head now, and may stay there."""
        channel, outlet = self.channel, self._outlet
        assert channel is not None
        head = channel.log.head
        if self._due is not None and not outlet.blocked:
            self.send_headers(*self._due)
        while self._block is not None and self._block.position < head.position and not outlet.blocked:
            if self.plain:
                self._advance_plain(self._block, head)
            else:
                self._advance_changed(self._block)
        if self._lacking and self._block is head:
            self._lacking &= channel.video_tracks  # another one begins with a keyframe anyway
        if self._block is head and self.plain and not outlet.blocked:
            self._block = None
            self._lag_limit = MAX_LAG
            return True
        if self._block is not None and channel.log.position - self._position() > self._lag_limit:
            self._skip(channel)
        return False

    def resume(self) -> None:
        """The outlet is not blocked any more. Called by the outlet's owner."""
        if self.channel is not None:
            self.channel.resumed(self)

    def _position(self) -> int:
        assert self.channel is not None
        return self.channel.log.head.position if self._block is None else self._block.position + self._offset

    def _advance_plain(self, block: Block, head: Block) -> None:
        buffers: list[bytes | memoryview] = []
        following: Block | None = block
        while following is not None and following is not head and len(buffers) < MAX_GATHER:
            buffers.append(following.data)
            following = following.following
        if self._offset:
            buffers[0] = memoryview(block.data)[self._offset :]
        self.place(block, self._offset + self._outlet.offer_all(buffers))
        if self._block is not following and not self._outlet.blocked:
            self._finish_message()

    def _finish_message(self) -> None:
        """Queues what is left of the message under way: others may write to the outlet only between messages."""
        block = self._block
        assert block is not None
        end = block.ends[bisect_right(block.ends, self._offset)]
        self._outlet.write(block.data[self._offset : end])
        self.place(block, end)

    def _advance_changed(self, block: Block) -> None:
        """Hands over one block message by message: some left out, all with this player's stream id."""
        if block.headers is not None:
            self._video_held = False
        parts: list[bytearray] = []
        start = 0
        for number, (type_id, end) in enumerate(zip(block.types, block.ends, strict=True)):
            if type_id == VIDEO:
                wanted = self._video and not self._video_held and self._can_decode(block, number)
            else:
                wanted = self._audio or type_id != AUDIO
            if wanted and start >= self._offset:
                parts.append(restream(bytearray(block.data[start:end]), self.stream_id))
            start = end
        self._block = block.following
        self._offset = 0
        if parts:
            self._outlet.write(b"".join(parts))

    def _can_decode(self, block: Block, number: int) -> bool:
        """Whether a video message is of a track that the player has had a keyframe of, or is one."""
        if not self._lacking:
            return True
        tracks, keyframe = block.tracks_of(number)
        if keyframe:
            self._lacking.difference_update(tracks)
            return True
        return not self._lacking.issuperset(tracks)

    def _skip(self, channel: Channel) -> None:
        """Too far behind: on to the newest keyframe, or, where that is not kept, to what comes next."""
        groups = channel.log.groups
        position = self._position()
        if groups and groups[-1].position <= position:
            return  # what it needs is kept for joiners anyway
        self.stop()
        self._lost_at = position
        if groups:
            channel.start_at_group(self, groups[-1])
        else:
            channel.start_next(self)
