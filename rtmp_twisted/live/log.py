"""A log of media: what was published, encoded once, as the bytes that go to every reader.

The log is a linked list of blocks. A reader is a position in it (cursor.py). A block lives as long as the cache or a
cursor refers to it or to one before it; there is no bookkeeping of who still needs what. The channel's log holds RTMP
chunks; a rendition (rendition.py) is another log, whose `Format` is another::

    … -> block -> block -> block -> tail        sealed blocks never change; the tail is open
                           ^ head               readers that keep up stand here: what follows is not sent yet
         ^ groups[-1]                           the newest keyframe, where a joining reader starts

Used inside live/ only.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Protocol, TypeAlias

from rtmp_twisted.live.headers import Headers
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.wire.messages import DATA_AMF0, Message

Tracks: TypeAlias = tuple[tuple[int, ...], bool]
"""Ids of video tracks, and whether a message is a keyframe of them."""

ONLY_TRACK_0: Final[Tracks] = (0,), True
"""Of a message that was alone on track 0: the first of those in a group of pictures is its keyframe."""

TRACK_0: Final = frozenset((0,))

BLOCK_OVERHEAD: Final = 464
"""Bytes of memory that a block takes beside its data: its objects and their numbers."""

MESSAGE_OVERHEAD: Final = 12
"""Bytes of memory that a message takes in its block beside its data."""

REPORTED: Final = 256 * 1024
"""Bytes of memory after which an account is told; it is counted anew every second anyway."""

AT_ONCE = 2000
"""Blocks that are freed in one turn of the reactor."""

HEADER: Final = 0
"""What `Block.types` has for a header, in place of its message type id: every reader gets it."""


class Contents(Protocol):
    """What a log's readers have to know of what is on air: a channel's `Program`, or what a rendition makes of it."""

    @property
    def headers(self) -> Headers:
        """The headers in force; the same object until one changes."""

    @property
    def has_video(self) -> bool: ...

    @property
    def video_tracks(self) -> set[int]:
        """Ids of the video tracks that have had a keyframe, in this publish."""


class Format(Protocol):
    """How a log's messages are written."""

    @property
    def all_tracks(self) -> bool:
        """Whether it has a place for every video track, or for track 0 only."""

    def preamble(self, types: Collection[int]) -> bytes:
        """What a reader's bytes begin with; ``types`` are the message types of the headers that follow."""

    def append(self, parts: list[bytes | memoryview], type_id: int, timestamp: int, body: bytes) -> int:
        """Appends the bytes of one message, without copying ``body``; returns how many they are, 0 for a message that
        the format has no place for."""


class Block:
    """A run of whole messages. ``data`` is empty until it is sealed.

    ``ends`` are the offsets in ``data`` just behind each message; ``types`` their message type ids, or `HEADER`.
    ``position`` is the number of bytes of log before the block, ``number`` that of messages, and ``cost`` the memory in
    bytes that everything before it takes or took. ``timestamp`` is that of its first message (while there is none: of
    the last one before it). A keyframe is always the first message of its block; such a block (``headers`` is not None)
    begins a group of pictures. ``tracks`` has, by their place in the block, the video messages since there was more
    than one track, and those of any track but 0.
    """

    __slots__ = ("cost", "data", "ends", "following", "headers", "number", "position", "timestamp", "tracks", "types")

    def __init__(self, position: int, timestamp: int, number: int, cost: int) -> None:
        self.cost = cost
        self.data = b""
        self.ends: array[int] = array("Q")  # no object for each message
        self.types = bytearray()
        self.following: Block | None = None
        self.headers: Headers | None = None
        self.number = number
        self.position = position
        self.timestamp = timestamp
        self.tracks: dict[int, Tracks] | None = None

    def tracks_of(self, place: int) -> Tracks:
        """The video tracks of the message at a place, and whether it can be the first of them that is decoded."""
        return ONLY_TRACK_0 if self.tracks is None else self.tracks.get(place, ONLY_TRACK_0)


class MediaLog:
    """``cache_bytes`` is the most memory that is kept for joiners, ``whole`` whether that is all that was published
    since `restart` (else one group of pictures). ``added`` is told how many bytes of memory sealed blocks take."""

    def __init__(
        self,
        format: Format,
        program: Contents,
        cache_bytes: int,
        whole: bool,
        added: Callable[[int], None],
        turns: Turns,
    ) -> None:
        self.format = format
        self.program = program
        self.timestamp = 0
        self.whole = whole
        self.tail = self.head = Block(0, 0, 0, 0)
        self.groups: deque[Block] = deque()
        self._added = added
        self._unreported = 0
        self._turns = turns
        self._cache_bytes = cache_bytes
        self._headers: Headers | None = None  # of the newest group
        self._parts: list[bytes | memoryview] = []
        self._length = 0
        self._encoded: tuple[Headers, int, bytes] | None = None

    @property
    def position(self) -> int:
        """Bytes of log so far, also those that are not sealed."""
        return self.tail.position + self._length

    @property
    def video_tracks(self) -> set[int]:
        """Ids of the video tracks that have had a keyframe, in this publish, of those that it holds."""
        tracks = self.program.video_tracks
        return tracks if self.format.all_tracks else tracks & TRACK_0

    @property
    def pending(self) -> int:
        """Messages that are not sealed."""
        return len(self.tail.ends)

    def append(self, type_id: int, timestamp: int, body: bytes, header: bool = False) -> int:
        """Adds a message; returns how many are not sealed now."""
        tail = self.tail
        size = self.format.append(self._parts, type_id, timestamp, body)
        if size:
            self._appended(type_id, timestamp, size, header)
        elif tail.tracks is not None:
            tail.tracks.pop(len(tail.ends), None)
        return len(tail.ends)

    def append_encoded(
        self, type_id: int, timestamp: int, parts: tuple[bytes | memoryview, ...], header: bool = False
    ) -> None:
        """Adds a message that is in the log's format already, in some parts."""
        self._parts += parts
        self._appended(type_id, timestamp, sum(map(len, parts)), header)

    def _appended(self, type_id: int, timestamp: int, size: int, header: bool) -> None:
        tail = self.tail
        if not tail.ends:
            tail.timestamp = timestamp
        self.timestamp = timestamp
        self._length += size
        tail.ends.append(self._length)
        tail.types.append(HEADER if header else type_id)

    def append_metadata(self, body: bytes) -> int:
        """Adds an ``onMetaData`` message, whose time is always 0: ffmpeg takes one with another time for the first
        packet of a subtitle stream. Returns how many messages are not sealed now."""
        now = self.timestamp
        pending = self.append(DATA_AMF0, 0, body)
        self.timestamp = now
        if pending == 1:
            self.tail.timestamp = now
        return pending

    def note_tracks(self, tracks: tuple[int, ...], keyframe: bool) -> None:
        """Says which video tracks the next message is for."""
        if self.tail.tracks is None:
            self.tail.tracks = {}
        self.tail.tracks[len(self.tail.ends)] = tracks, keyframe

    def seal(self) -> None:
        """Closes the tail, if it holds anything, and opens a new one."""
        tail = self.tail
        if not tail.ends:
            return
        tail.data = b"".join(self._parts)
        self._parts.clear()
        messages = len(tail.ends)
        cost = BLOCK_OVERHEAD + MESSAGE_OVERHEAD * messages + self._length
        if tail.headers is not None and tail.headers is not self._headers:
            self._headers = tail.headers
            cost += tail.headers.size
        self.tail = tail.following = Block(
            tail.position + self._length, self.timestamp, tail.number + messages, tail.cost + cost
        )
        self._length = 0
        self._unreported += cost
        if self._unreported >= REPORTED:
            self._added(self._unreported)
            self._unreported = 0
        groups = self.groups
        if groups and self.tail.cost - groups[0].cost > self._cache_bytes:
            self._trim()

    def begin_group(self, headers: Headers) -> None:
        """The next message begins a group of pictures; ``headers`` are those in force before it."""
        self.seal()
        self.tail.headers = headers
        if self._cache_bytes == 0:
            return
        if not self.whole:
            self.forget()
        self.groups.append(self.tail)

    def keep_one_group(self) -> None:
        """Keeps one group of pictures from here on, whatever the mode was."""
        self.whole = False
        while len(self.groups) > 1:
            self._drop(self.groups.popleft(), self.groups[0])

    def restart(self, whole: bool) -> None:
        """Keeps nothing for joiners of what was published so far."""
        self.seal()
        self.forget()
        self.whole = whole

    def forget(self) -> None:
        """Keeps nothing for joiners of what was published before the tail."""
        if self.groups:
            first = self.groups[0]
            self.groups.clear()
            self._drop(first, self.tail)

    def _drop(self, first: Block, end: Block) -> None:
        """Lets go of blocks: many of them some at a time, since it takes time to free them."""
        if end.cost - first.cost > AT_ONCE * BLOCK_OVERHEAD:
            self._turns.add(_Release(first, end).go_on)

    def encode(self, headers: Headers, timestamp: int) -> bytes:
        """The bytes of headers, all at ``timestamp`` (milliseconds), metadata at 0. Those that most joiners get are
        made once."""
        made = self._encoded
        if made is None or made[0] is not headers or made[1] != timestamp:
            data = b"".join([self.encode_header(message, timestamp) for message in headers.messages])
            made = self._encoded = headers, timestamp, data
        return made[2]

    def encode_header(self, message: Message, timestamp: int) -> bytes:
        """The bytes of one of the headers."""
        parts: list[bytes | memoryview] = []
        time = 0 if message.type_id == DATA_AMF0 else timestamp
        self.format.append(parts, message.type_id, time, message.body)
        return b"".join(parts)

    def _trim(self) -> None:
        # Oldest groups first; a group that alone is too large goes whole: a cache never begins without its keyframe.
        groups = self.groups
        while groups and self.tail.cost - groups[0].cost > self._cache_bytes:
            first = groups.popleft()
            self._drop(first, groups[0] if groups else self.tail)


class _Release:
    """Holds the blocks from ``block`` to ``end``, and lets go of them little by little."""

    __slots__ = ("_block", "_end")

    def __init__(self, block: Block, end: Block) -> None:
        self._block: Block | None = block
        self._end = end.position

    def go_on(self) -> bool:
        """Lets go of some; returns whether there are more."""
        for _ in range(AT_ONCE):
            block = self._block
            if block is None or block.position >= self._end:
                self._block = None
                return False
            self._block = block.following
        return True
