"""What a player needs before its first frame: metadata and codec headers. Used inside live/, and shown by web/."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from rtmp_twisted.media import tags
from rtmp_twisted.wire.messages import Message

MAX_KEPT_BYTES: Final = 1024 * 1024
"""Bytes of metadata and codec headers that are kept at most; a hundred times what any known encoder sends."""

MAX_KEPT_HEADERS: Final = 64
"""Codec headers that are kept at most. Known encoders send two for each track, and up to six tracks."""

HEADER_OVERHEAD: Final = 200
"""Bytes of memory that a kept header takes beside its body."""

_log = Logger(__name__)


class Headers:
    """Metadata and codec headers as they were at some moment. Never changes."""

    __slots__ = ("messages", "size")

    def __init__(self, messages: tuple[Message, ...]) -> None:
        self.messages = messages
        self.size = sum(HEADER_OVERHEAD + len(message.body) for message in messages)
        """Bytes of memory that they take."""


NO_HEADERS: Final = Headers(())


class Program:
    """What is on air now: the headers in force, and what is known of the video. A channel's logs share one."""

    __slots__ = ("has_video", "kept", "video_tracks")

    def __init__(self) -> None:
        self.kept: KeptHeaders | None = None
        """The headers of the publish that is on air."""
        self.has_video = False
        self.video_tracks: set[int] = set()
        """Ids of the video tracks that have had a keyframe, in this publish."""

    @property
    def headers(self) -> Headers:
        """The headers in force; the same object until one changes."""
        return NO_HEADERS if self.kept is None else self.kept.now()

    def reset(self) -> None:
        """Forgets a publish."""
        self.kept = None
        self.has_video = False
        self.video_tracks.clear()


class KeptHeaders:
    """The headers of one publish on channel ``name``, as they come in and replace each other.

    Holds at most `MAX_KEPT_BYTES` and `MAX_KEPT_HEADERS`. What does not fit is relayed, but not kept for joining
    players, which is logged once.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._metadata: Message | None = None
        self._codecs: dict[tags.Slot, Message] = {}
        self._tracks = tags.TrackCodecs()
        self._size = 0
        self._now: Headers | None = NO_HEADERS
        self._overflowed = False

    def keep_metadata(self, message: Message) -> None:
        """Keeps an ``onMetaData`` message in place of the one before."""
        if self._metadata is not None:
            self._size -= len(self._metadata.body)
            self._metadata = None
        if self._fits(message, 1):
            self._size += len(message.body)
            self._metadata = message
        self._now = None

    def take(self, message: Message, header: bool) -> None:
        """Drops the headers that a message ends, and keeps it if it is a header itself (as `tags` says), in place of
        those for the same tracks."""
        for slot in self._tracks.ended_slots(message.type_id, message.body):
            self._drop(slot)
            self._now = None
        if header:
            self._keep(message)

    def _keep(self, message: Message) -> None:
        slots = tags.header_slots(message.type_id, message.body)
        for slot in slots:
            self._drop(slot)
        if self._fits(message, len(slots)):
            # Behind all others: one of those may configure some of these tracks as well.
            self._codecs.update(dict.fromkeys(slots, message))
            self._size += len(message.body) * len(slots)
        self._now = None

    def now(self) -> Headers:
        """The headers at this moment; the same object until one changes."""
        if self._now is None:
            kept = [] if self._metadata is None else [self._metadata]
            # One message may configure several tracks, yet is sent once.
            kept += {id(message): message for message in self._codecs.values()}.values()
            self._now = Headers(tuple(kept))
        return self._now

    def _drop(self, slot: tags.Slot) -> None:
        dropped = self._codecs.pop(slot, None)
        if dropped is not None:
            self._size -= len(dropped.body)

    def _fits(self, message: Message, slots: int) -> bool:
        size = self._size + slots * len(message.body)
        if size <= MAX_KEPT_BYTES and len(self._codecs) + slots <= MAX_KEPT_HEADERS:
            return True
        if not self._overflowed:
            self._overflowed = True
            _log.warn(
                "channel {name!r}: {size} bytes of headers or metadata are relayed, but not kept for joining players",
                name=self._name,
                size=len(message.body),
            )
        return False
