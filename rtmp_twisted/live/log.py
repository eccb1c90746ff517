"""A channel's log: what was published, chunked once, as the bytes that go to every player.

The log is a linked list of blocks. A player is a position in it; whoever holds a block keeps it, and all after it,
alive, and nobody else does: there is no bookkeeping of who still needs what. Used by channel and player only::

    … -> block -> block -> block -> tail        sealed blocks never change; the tail is open
                           ^ head               players that keep up stand here: what follows is not sent yet
         ^ groups[-1]                           the newest keyframe, where a joining player starts
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from rtmp_twisted.live.headers import CHUNK_STREAM_IDS, PLAYER_STREAM_ID, Headers
from rtmp_twisted.wire import chunks
from rtmp_twisted.wire.messages import USER_CONTROL

Tracks: TypeAlias = tuple[tuple[int, ...], bool]
"""Ids of video tracks, and whether a message is a keyframe of them."""

_TRACK_0: Tracks = (0,), True
"""Of messages that were alone on track 0: the first of them in a group of pictures is its keyframe."""


class Block:
    """A run of whole messages. ``data`` is empty until it is sealed.

    ``ends`` are the offsets in ``data`` just behind each message, ``types`` their message type ids (0 for a header,
    which is for all players, also those that want no audio or video), ``position`` the bytes of log before it,
    ``number`` the messages before it, ``timestamp`` that of its first message (before there is one: of the last
    before it).
    A keyframe is always the first message of its block; such a block (``headers`` is not None) begins a group of
    pictures. ``tracks`` has, by their place in the block, the video messages since there was more than one track, and
    those of any track but 0.
    """

    __slots__ = ("data", "ends", "following", "headers", "number", "position", "timestamp", "tracks", "types")

    def __init__(self, position: int, timestamp: int, number: int) -> None:
        self.data = b""
        self.ends: list[int] = []
        self.types = bytearray()
        self.following: Block | None = None
        self.headers: Headers | None = None
        self.number = number
        self.position = position
        self.timestamp = timestamp
        self.tracks: dict[int, Tracks] | None = None

    def tracks_of(self, number: int) -> Tracks:
        """The video tracks of the message at a place, and whether it can be the first of them that is decoded."""
        return _TRACK_0 if self.tracks is None else self.tracks.get(number, _TRACK_0)


class MediaLog:
    """One channel's log. ``cache_bytes`` is the most that is kept for joiners, ``whole`` whether that is all that
    was published since `restart` (else one group of pictures)."""

    def __init__(self, chunk_size: int, cache_bytes: int, whole: bool) -> None:
        self._chunk_size = chunk_size
        self._cache_bytes = cache_bytes
        self._parts: list[bytes | memoryview] = []
        self._length = 0
        self.timestamp = 0
        self.whole = whole
        self.tail = self.head = Block(0, 0, 0)
        self.groups: deque[Block] = deque()

    @property
    def position(self) -> int:
        """Bytes of log so far, also those that are not sealed."""
        return self.tail.position + self._length

    @property
    def pending(self) -> int:
        """Messages that are not sealed."""
        return len(self.tail.ends)

    def append(self, type_id: int, timestamp: int, body: bytes, header: bool = False) -> int:
        """Adds a message, for `PLAYER_STREAM_ID` (a User Control message for stream 0, as all of them).

        Returns how many are not sealed now.
        """
        tail = self.tail
        if not tail.ends:
            tail.timestamp = timestamp
        self.timestamp = timestamp
        stream_id = PLAYER_STREAM_ID if type_id != USER_CONTROL else 0
        self._length += chunks.append_chunks(
            self._parts, CHUNK_STREAM_IDS[type_id], self._chunk_size, type_id, stream_id, timestamp, body
        )
        tail.ends.append(self._length)
        tail.types.append(0 if header else type_id)
        return len(tail.ends)

    def note_tracks(self, tracks: tuple[int, ...], keyframe: bool) -> None:
        """What the next message is for."""
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
        self.tail = tail.following = Block(tail.position + self._length, self.timestamp, tail.number + len(tail.ends))
        self._length = 0
        if self.groups:
            self._trim()

    def begin_group(self, headers: Headers) -> None:
        """The next message begins a group of pictures; ``headers`` are those in force before it."""
        self.seal()
        self.tail.headers = headers
        if self._cache_bytes == 0:
            return
        if not self.whole:
            self.groups.clear()
        self.groups.append(self.tail)

    def keep_one_group(self) -> None:
        """From here on keeps one group of pictures, whatever the mode was."""
        self.whole = False
        while len(self.groups) > 1:
            self.groups.popleft()

    def restart(self, whole: bool) -> None:
        """Nothing that was published so far is kept for joiners."""
        self.seal()
        self.groups.clear()
        self.whole = whole

    def _trim(self) -> None:
        # Oldest groups first; a group that alone is too large goes whole: a cache never begins without its keyframe.
        groups = self.groups
        while groups and self.tail.position - groups[0].position > self._cache_bytes:
            groups.popleft()


def restream(chunk_data: bytearray, stream_id: int) -> bytearray:
    """Gives one message out of the log another message stream id, in place, and returns it.

    The log's chunks have one-byte basic headers and begin with a type 0 header: the id is in bytes 8 to 11
    (section 5.3.1.2.1). A User Control message names the stream in its event data instead (section 7.1.7), which
    ends it.
    """
    if chunk_data[7] == USER_CONTROL:
        chunk_data[-4:] = stream_id.to_bytes(4, "big")
    else:
        chunk_data[8:12] = stream_id.to_bytes(4, "little")
    return chunk_data
