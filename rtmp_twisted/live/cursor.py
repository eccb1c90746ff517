"""A cursor: one reader's position in a log, and what may be written for it right now. Used by audience.

A reader that keeps up needs no position: it is at the log's head, and the audience writes to it. A reader that does not
(it has just joined, its connection is full, or it gets messages changed or left out) advances on its own, here.

Nothing of the log is copied for a cursor. Of a message that could be written only in part, the cursor remembers what is
left, as a view of its block; until that has left, others who write to the same connection have to wait (`Writer.hold`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeAlias

from rtmp_twisted.live.headers import Headers
from rtmp_twisted.live.log import Block, MediaLog
from rtmp_twisted.wire.messages import AUDIO, VIDEO

MAX_LAG = 8 * 1024 * 1024
"""Bytes that a reader may fall behind, counted from where it joined, before it loses groups of pictures."""

MAX_LAG_MESSAGES = 100_000
"""Messages that a reader may fall behind: small ones take more memory than their bytes."""

MAX_GATHER: Final = 64
"""Buffers that are handed to the writer in one call."""

TURN_MESSAGES: Final = 1024
"""Messages that are handed over, or looked at and left out, in one turn of the reactor; in whole blocks."""

TURN_BYTES: Final = 2 * 1024 * 1024
"""Bytes that are handed over in one turn of the reactor, and one call of the writer more."""

CAUGHT_UP: Final = 0
"""The reader stands at the head, and may stay there."""
WAITING: Final = 1
"""The writer takes nothing more, or the reader has all there is but cannot stay at the head."""
UNFINISHED: Final = 2
"""This turn's budget is used up."""

Change: TypeAlias = Callable[[bytes, int, int], list[bytes | memoryview]]
"""Gives the message between two offsets of a block's data as a reader gets it: nothing where it does not."""


class Writer(Protocol):
    """Where a reader's bytes go. Its owner calls `Audience.resume` when ``blocked`` becomes False, and
    `Audience.blocked` when it becomes True."""

    @property
    def blocked(self) -> bool:
        """Whether something waits to leave."""

    @property
    def holder(self) -> object | None:
        """Who has written a part of a message, and is the only one that may write on; None between messages."""

    @property
    def send(self) -> Callable[[bytes], int]:
        """Takes what can leave at once, from the beginning, and returns how much that is, or raises OSError for
        nothing. May be called only while the writer is not blocked and has no holder."""

    def try_writev(self, buffers: list[bytes | memoryview]) -> int:
        """Takes what can leave at once, one buffer behind the other, and returns how many bytes that is; 0 while it is
        blocked."""

    def write(self, data: bytes) -> None:
        """Takes all of ``data``, which is whole messages; behind the holder's message if there is a holder."""

    def hold(self, holder: object) -> None:
        """``holder`` has written a part of a message."""

    def release(self) -> None:
        """The holder's message has left."""

    def abandon(self, rest: list[bytes | memoryview]) -> None:
        """The holder leaves before its message has: takes the rest, or gives the connection up if that is long."""


class Cursor:
    """A reader of ``log``. ``change``, if there is one, makes of each message what this reader gets. ``push``: it is no
    viewer; such a reader has a ``change``."""

    __slots__ = (
        "_audio",
        "_audio_held",
        "_block",
        "_change",
        "_due",
        "_first",
        "_greeted",
        "_headers",
        "_lacking",
        "_lag_limit",
        "_log",
        "_lost_at",
        "_message_limit",
        "_offset",
        "_rest",
        "_sent",
        "_sent_messages",
        "_skipped_at",
        "_stretch",
        "_video",
        "_video_held",
        "push",
        "skipped_bytes",
        "skips",
        "writer",
    )  # fmt: skip

    def __init__(self, log: MediaLog, writer: Writer, change: Change | None = None, push: bool = False) -> None:
        self.writer = writer
        self.push = push
        self.skips = 0
        """How often it was too slow and lost a part of the stream."""
        self.skipped_bytes = 0
        self._log = log
        self._change = change
        self._audio = self._video = True
        self._video_held = self._audio_held = False  # until the next group of pictures
        self._lacking: set[int] = set()  # video tracks whose next keyframe it waits for
        self._block: Block | None = None  # None: at the log's head, or without a place in it
        self._offset = 0  # in the block's data, at the beginning of a message
        self._rest: list[bytes | memoryview] = []  # of the message before that place
        self._greeted = False  # has the format's preamble
        self._headers: Headers | None = None  # sent last
        self._due: tuple[Headers, int] | None = None  # to be sent, at which time, before more of the log
        self._lag_limit = self._message_limit = 0
        self._stretch: int | None = None  # where in the log it began what it receives without a gap
        self._lost_at: int | None = None  # where it had to stop because it was too slow
        self._sent = 0  # bytes before this stretch
        self._skipped_at = -1  # how many these were at the last loss
        self._first = 0  # number of this stretch's first message
        self._sent_messages = 0  # before this stretch

    # What it gets

    @property
    def plain(self) -> bool:
        """Whether the log's own bytes are what this reader gets."""
        return (
            self._audio
            and self._video
            and not self._video_held
            and not self._audio_held
            and not self._lacking
            and self._change is None
        )

    @property
    def waits_for_video(self) -> bool:
        """Whether it gets no video before the next group of pictures."""
        return self._video_held

    def lack(self, tracks: Iterable[int]) -> None:
        """Leaves these video tracks out, each until its next keyframe."""
        self._lacking = set(tracks)

    def hold(self, sound: bool) -> None:
        """Leaves video out until the next group of pictures, and without ``sound`` audio as well."""
        self._video_held = True
        self._audio_held = not sound

    def release(self) -> None:
        """Leaves nothing out any longer, whether a group of pictures has come or not."""
        self._video_held = self._audio_held = False
        self._lacking.clear()

    def enable(self, audio: bool | None, video: bool | None) -> None:
        """Turns audio and video on or off (None: as before). Video that is turned on waits for a keyframe."""
        if audio is not None:
            self._audio = audio
        if video is not None:
            self._video_held = video and (self._video_held or not self._video)
            self._video = video

    # Where it is

    def delivered(self) -> int:
        """Bytes of the log that were handed over, without what was lost."""
        return (
            self._sent - sum(map(len, self._rest)) + (0 if self._stretch is None else self.position() - self._stretch)
        )

    def delivered_messages(self) -> int:
        """The same in messages; one that is under way counts."""
        if self._stretch is None:
            return self._sent_messages
        block = self._block or self._log.head
        return self._sent_messages - self._first + block.number + bisect_left(block.ends, self._offset + 1)

    def position(self) -> int:
        """Its position in the log, in bytes."""
        return self._log.head.position if self._block is None else self._block.position + self._offset

    def oldest_cost(self, cost: int) -> int:
        """The ``cost`` of the oldest block that it needs, or ``cost`` where it needs none."""
        return cost if self._block is None else min(cost, self._block.cost)

    def rest_size(self) -> int:
        """Bytes of a message that has been handed over in part, and is no longer at its position."""
        return sum(map(len, self._rest))

    def start(self, block: Block, headers: Headers) -> None:
        """Receives from ``block`` on, before whose first message ``headers`` were in force."""
        log = self._log
        self._stretch = block.position
        self._first = block.number
        self._lag_limit = MAX_LAG + log.position - block.position
        self._message_limit = MAX_LAG_MESSAGES + log.tail.number - block.number
        self._block = block
        self._offset = 0
        self._due = (headers, block.timestamp) if headers is not self._headers else None
        if self._lost_at is not None:
            self.skipped_bytes += block.position - self._lost_at
            self._lost_at = None

    def stop(self) -> None:
        """Receives nothing until the next `start`."""
        self._sent = self.delivered() + sum(map(len, self._rest))
        self._sent_messages = self.delivered_messages()
        self._stretch = self._block = None
        self._offset = 0

    def leave(self) -> None:
        """Ends it: nothing of the log is kept for it, and the connection is free for others."""
        self.stop()
        self._due = self._headers = None
        if self._rest:
            rest, self._rest = self._rest, []
            self.writer.abandon(rest)

    def fall_behind(self, block: Block, taken: int) -> None:
        """The reader does not keep up any more: of the log from ``block`` on its writer took ``taken`` bytes."""
        while taken and taken >= len(block.data) and block.following is not None:
            taken -= len(block.data)
            block = block.following
        self._block = block
        self._offset = 0
        if taken:
            end = block.ends[bisect_left(block.ends, taken)]
            self._offset = end
            if taken < end:
                self._rest = [memoryview(block.data)[taken:end]]
                self.writer.hold(self)

    def too_slow(self) -> bool:
        """Whether it is too far behind, and what it needs is not what is kept for joiners anyway."""
        position = self.position()
        groups = self._log.groups
        block, log = self._block, self._log
        if block is None or (groups and groups[-1].position <= position):
            return False
        return log.position - position > self._lag_limit or log.tail.number - block.number > self._message_limit

    def skip(self) -> None:
        """It is too slow: what lies between here and the next `start` is lost."""
        position = self.position()
        self.stop()
        self._lost_at = position
        if self._sent != self._skipped_at:  # else it has taken nothing since the last loss, which goes on
            self._skipped_at = self._sent
            self.skips += 1

    # What is handed over

    def send_headers(self, headers: Headers, timestamp: int) -> None:
        """Sends headers now, or with what comes next if something waits to leave: a blocked reader does not
        accumulate headers."""
        writer = self.writer
        if writer.blocked or writer.holder is not None:
            self._headers = None
            self._due = headers, timestamp
            return
        self._headers = headers
        self._due = None
        data = b""
        if not self._greeted:
            self._greeted = True
            data = self._log.format.preamble([message.type_id for message in headers.messages])
        change = self._change
        if change is None:
            data += self._log.encode(headers, timestamp)
        else:
            for message in headers.messages:
                encoded = self._log.encode_header(message, timestamp)
                data += b"".join(change(encoded, 0, len(encoded)))
        if data:
            writer.write(data)

    def advance(self) -> int:
        """Hands over what can leave now, within the budget of one turn: `CAUGHT_UP`, `WAITING` or `UNFINISHED`."""
        writer, log = self.writer, self._log
        messages = size = 0
        while self._rest:
            if writer.blocked:
                return WAITING
            if size >= TURN_BYTES:
                return UNFINISHED
            size += self._write_rest()
        if self._due is not None and not writer.blocked and writer.holder is None:
            self.send_headers(*self._due)
        while True:
            block = self._block
            if not self._rest and (block is None or block.position >= log.head.position):
                break  # a writer may have taken a part of the last message, and not be blocked
            if writer.blocked or writer.holder not in (None, self):
                return WAITING
            if messages >= TURN_MESSAGES or size >= TURN_BYTES:
                return UNFINISHED
            before = self.position()
            if self._rest:
                size += self._write_rest()
            elif block is not None and self.plain:
                messages += self._advance_plain(block)
            elif block is not None:
                messages += self._advance_changed(block)
            size += self.position() - before
        if self._lacking and self._block is log.head:
            self._lacking &= log.video_tracks  # another one begins with a keyframe anyway
        if self._block is log.head and self.plain and not writer.blocked and writer.holder is None:
            self._block = None
            self._lag_limit = MAX_LAG
            self._message_limit = MAX_LAG_MESSAGES
            return CAUGHT_UP
        return WAITING

    def finish_message(self) -> None:
        """Hands over the rest of a message, as far as the writer takes it."""
        while self._rest and not self.writer.blocked:
            self._write_rest()

    def _write_rest(self) -> int:
        """Hands over the rest of a message; returns how many bytes the writer took."""
        taken = self.writer.try_writev(self._rest)
        self._rest = _cut(self._rest, taken)
        if not self._rest:
            self.writer.release()
        return taken

    def _advance_plain(self, block: Block) -> int:
        """Hands over blocks as they are; returns how many messages they have."""
        buffers: list[bytes | memoryview] = []
        following = block
        while following is not self._log.head and len(buffers) < MAX_GATHER:
            buffers.append(following.data)
            assert following.following is not None
            following = following.following
        if self._offset:
            buffers[0] = memoryview(block.data)[self._offset :]
        self.fall_behind(block, self._offset + self.writer.try_writev(buffers))
        return following.number - block.number

    def _advance_changed(self, block: Block) -> int:
        """Hands over messages, some changed or left out; returns how many it has looked at. Ends before the next group
        of pictures: what lies before it must have left when it is looked at."""
        if block.headers is not None and not self._offset:
            self._video_held = self._audio_held = False
        head = self._log.head
        start = self._offset
        looked = 0
        buffers: list[bytes | memoryview] = []
        wanted: list[tuple[Block, int, int, int, list[bytes | memoryview]]] = []
        while True:
            place = bisect_left(block.ends, start + 1)
            while place < len(block.ends) and len(buffers) < MAX_GATHER:
                end = block.ends[place]
                looked += 1
                if self._wants(block, place):
                    parts: list[bytes | memoryview] = [memoryview(block.data)[start:end]]
                    size = end - start
                    if self._change is not None:
                        parts = self._change(block.data, start, end)
                        size = sum(map(len, parts))
                    buffers += parts
                    wanted.append((block, start, end, size, parts))
                start = end
                place += 1
            following = block.following
            if place < len(block.ends) or following is None or following is head or following.headers is not None:
                break
            if len(buffers) >= MAX_GATHER or looked >= TURN_MESSAGES:
                break
            block, start = following, 0
        taken = self.writer.try_writev(buffers) if buffers else 0
        for written, begin, end, size, parts in wanted:
            if taken < size:
                block, start = written, begin
                if taken:
                    start = end
                    self._rest = _cut(parts, taken)
                    self.writer.hold(self)
                break
            taken -= size
        self.fall_behind(block, start)
        return looked

    def _wants(self, block: Block, place: int) -> bool:
        """Whether this reader gets the message at a place in a block."""
        kind = block.types[place]
        if kind != VIDEO:
            return kind != AUDIO or (self._audio and not self._audio_held)
        return self._video and not self._video_held and self._can_decode(block, place)

    def _can_decode(self, block: Block, place: int) -> bool:
        """Whether a video message is of a track that the reader has had a keyframe of, or is one."""
        if not self._lacking:
            return True
        tracks, keyframe = block.tracks_of(place)
        if keyframe:
            self._lacking.difference_update(tracks)
            return True
        return not self._lacking.issuperset(tracks)


def _cut(buffers: list[bytes | memoryview], taken: int) -> list[bytes | memoryview]:
    """Returns the buffers without their first ``taken`` bytes."""
    rest: list[bytes | memoryview] = []
    for buffer in buffers:
        size = len(buffer)
        if taken < size:
            rest.append(memoryview(buffer)[taken:])
            taken = size
        taken -= size
    return rest
