"""What a player needs before its first frame: metadata and codec headers. Used by channel, log and player."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from rtmp_twisted.media import tags
from rtmp_twisted.wire import chunks
from rtmp_twisted.wire.messages import AUDIO, COMMAND_AMF0, DATA_AMF0, DATA_AMF3, USER_CONTROL, VIDEO, Message

PLAYER_STREAM_ID: Final = 1
"""The message stream id that the log's chunks carry: what createStream gives a connection first."""

CHUNK_STREAM_IDS: Final = {USER_CONTROL: 2, COMMAND_AMF0: 3, AUDIO: 4, DATA_AMF0: 5, DATA_AMF3: 5, VIDEO: 6}
"""Chunk stream by message type; 2 is prescribed for control messages (section 5.4), the others are free.
All fit a one-byte basic header, so a message's stream id stands at a fixed place (`restream`)."""

MAX_KEPT: Final = 1024 * 1024
"""Bytes of metadata and codec headers that are kept at most; a hundred times what any known encoder sends."""

_log = Logger(__name__)


class Headers:
    """Metadata and codec headers as they were at some moment. Never changes."""

    __slots__ = ("_chunk_size", "_chunks", "messages")

    def __init__(self, messages: tuple[Message, ...], chunk_size: int) -> None:
        self.messages = messages
        self._chunk_size = chunk_size
        self._chunks: tuple[int, bytes] | None = None

    def chunks(self, timestamp: int, stream_id: int) -> bytes:
        """Their chunks, all at ``timestamp`` (milliseconds); those that most joiners get are made once."""
        if stream_id != PLAYER_STREAM_ID:
            return self._encode(timestamp, stream_id)
        if self._chunks is None or self._chunks[0] != timestamp:
            self._chunks = timestamp, self._encode(timestamp, stream_id)
        return self._chunks[1]

    def _encode(self, timestamp: int, stream_id: int) -> bytes:
        return b"".join(
            chunks.encode(
                message._replace(stream_id=stream_id, timestamp=timestamp),
                CHUNK_STREAM_IDS[message.type_id],
                self._chunk_size,
            )
            for message in self.messages
        )


class KeptHeaders:
    """The headers of one publish on channel ``name``, as they come in and replace each other. `MAX_KEPT` at most."""

    def __init__(self, name: str, chunk_size: int) -> None:
        self._name = name
        self._chunk_size = chunk_size
        self._metadata: Message | None = None
        self._codecs: dict[tags.Slot, Message] = {}
        self._now: Headers | None = None
        self._overflowed = False

    def keep_metadata(self, message: Message) -> None:
        """Keeps an ``onMetaData`` message in place of the one before."""
        self._metadata = None
        if self._fits(message):
            self._metadata = message
        self._now = None

    def keep(self, message: Message) -> None:
        """Keeps a message that `media` calls a header, in place of those for the same tracks."""
        slots = tags.header_slots(message.type_id, message.body)
        for slot in slots:
            self._codecs.pop(slot, None)
        if self._fits(message):
            # Behind all others: one of those may have had some of these tracks among its own.
            self._codecs.update(dict.fromkeys(slots, message))
        self._now = None

    def now(self) -> Headers:
        """The headers at this moment; the same object until one changes."""
        if self._now is None:
            self._now = Headers(tuple(self._kept()), self._chunk_size)
        return self._now

    def _kept(self) -> list[Message]:
        kept = [] if self._metadata is None else [self._metadata]
        # One message may configure several tracks, yet is sent once.
        return kept + list({id(message): message for message in self._codecs.values()}.values())

    def _fits(self, message: Message) -> bool:
        size = len(message.body)
        if size + sum(len(kept.body) for kept in self._kept()) <= MAX_KEPT:
            return True
        if not self._overflowed:
            self._overflowed = True
            _log.warn(
                "channel {name!r}: {size} bytes of headers or metadata are passed on, but not kept for joining players",
                name=self._name,
                size=size,
            )
        return False
