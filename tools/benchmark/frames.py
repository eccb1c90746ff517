"""The synthetic stream: what is sent, and how a player recognises its frames. Bytes, and the clock.

H.264 and AAC in valid FLV framing, 30 video and 43 audio frames a second. Every frame holds the sender's monotonic
clock and a sequence number, from which the receiver sees latency, loss, repetition and reordering. All channels carry
the same frames.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from . import rtmp

VIDEO_RATE = 30
AUDIO_RATE = 43
AUDIO_PAYLOAD = 160
KEYFRAME_RATIO = 8
"""A keyframe is that many times as large as another video frame."""

clock = time.monotonic_ns
"""The clock of every stamp: the same in all processes of a machine."""

STAMP_AT = (10, 3)
"""Offset of the clock in a frame's body, by kind; the sequence number follows it."""

TAG_HEADER = (5, 2)
"""Bytes of a frame's body before the frame itself, by kind: what FLV says of it."""

HEAD = 22
"""Bytes from the start of a frame's body that identify it."""

SMALLEST_PAYLOAD = 32
VIDEO_CHUNK_STREAM = 6
AUDIO_CHUNK_STREAM = 4
FILL = 0x5A

AVC_HEADER = bytes.fromhex(
    "1700000000 0164001fffe1001a 6764001facd9405005bb01100000030010000003 03c0f183196001000668ebe3cb22c0"
)
AAC_HEADER = bytes.fromhex("af001210")


class Frame(NamedTuple):
    """What a player learns from a frame: ``kind`` 0 video, 1 audio; ``counted``: sent within the measured window."""

    kind: int
    sequence: int
    stamp: int
    counted: bool
    sound: bool


@dataclass
class Stream:
    """One synthetic stream of ``kbps`` kilobit a second, a keyframe every ``gop_seconds``."""

    kbps: int
    gop_seconds: int = 2
    start: int = 0
    """First and last moment of the measured window, in monotonic nanoseconds; equal: none."""
    end: int = 0
    _gop: int = field(init=False)
    _delta: int = field(init=False)

    def __post_init__(self) -> None:
        self._gop = VIDEO_RATE * self.gop_seconds
        mean = max(100.0, (self.kbps * 125 - AUDIO_RATE * AUDIO_PAYLOAD) / VIDEO_RATE)
        self._delta = max(SMALLEST_PAYLOAD, int(mean * self._gop / (self._gop + KEYFRAME_RATIO - 1)))

    def body(self, kind: int, sequence: int, stamp: int) -> bytes:
        """The frame's bytes: an FLV tag body."""
        mark = struct.pack("<QI", stamp, sequence)
        if kind:
            return b"\xaf\x01\x21" + mark + bytes([FILL]) * (AUDIO_PAYLOAD - 1 - len(mark))
        is_key = sequence % self._gop == 0
        size = self._delta * (KEYFRAME_RATIO if is_key else 1)
        head = struct.pack(">BIIB", 0x17 if is_key else 0x27, 1 << 24, size, 0x65 if is_key else 0x41)
        return head + mark + bytes([FILL]) * (size - 1 - len(mark))

    def size(self, kind: int, sequence: int) -> int:
        if kind:
            return 2 + AUDIO_PAYLOAD
        return 9 + self._delta * (KEYFRAME_RATIO if sequence % self._gop == 0 else 1)

    def message(self, kind: int, sequence: int, stream_id: int, chunk_size: int) -> tuple[bytearray, int]:
        """The frame as the publisher sends it, and the offset for ``put_stamp``. ``chunk_size`` is at least HEAD."""
        body, at = self.body(kind, sequence, 0), timestamp(kind, sequence)
        chunk_stream, type_id = (AUDIO_CHUNK_STREAM, rtmp.AUDIO) if kind else (VIDEO_CHUNK_STREAM, rtmp.VIDEO)
        message = bytearray(rtmp.chunks(chunk_stream, type_id, at, stream_id, body, chunk_size))
        return message, (16 if at >= rtmp.EXTENDED else 12) + STAMP_AT[kind]

    def identify(self, type_id: int, size: int, head: bytes) -> Frame | None:
        """Recognises a frame by the first HEAD bytes of its body; None for headers, metadata and what is not media."""
        if len(head) < HEAD:
            return None
        if type_id == rtmp.VIDEO and head[0] & 15 == 7 and head[1] == 1:
            kind = 0
        elif type_id == rtmp.AUDIO and head[0] >> 4 == 10 and head[1] == 1:
            kind = 1
        else:
            return None
        stamp, sequence = struct.unpack_from("<QI", head, STAMP_AT[kind])
        return Frame(kind, sequence, stamp, self.start <= stamp < self.end, size == self.size(kind, sequence))

    def identify_payload(self, size: int, head: bytes) -> Frame | None:
        """The same for a frame without its `TAG_HEADER`, by its first bytes."""
        for kind in (0, 1):
            at, whole = STAMP_AT[kind] - TAG_HEADER[kind], size + TAG_HEADER[kind]
            if len(head) >= at + 12 and (head[0] == 0x21) == bool(kind):
                stamp, sequence = struct.unpack_from("<QI", head, at)
                return Frame(kind, sequence, stamp, self.start <= stamp < self.end, whole == self.size(kind, sequence))
        return None


def put_stamp(message: bytearray, at: int) -> int:
    """Writes the current time into a message, right before it is sent, and returns it."""
    now = clock()
    struct.pack_into("<Q", message, at, now)
    return now


def timestamp(kind: int, sequence: int) -> int:
    """The frame's RTMP time, in milliseconds from the start of the stream."""
    return due(kind, sequence) // 1_000_000


def due(kind: int, sequence: int) -> int:
    """When the frame is to be sent, in nanoseconds from the start of the stream."""
    return sequence * 1_000_000_000 // (AUDIO_RATE if kind else VIDEO_RATE)


def headers(stream_id: int, chunk_size: int) -> bytes:
    """Metadata and the two codec headers, as a publisher sends them first."""
    facts: rtmp.Value = {"width": 1280.0, "height": 720.0, "videocodecid": 7.0, "audiocodecid": 10.0}
    metadata = rtmp.amf0("@setDataFrame", "onMetaData", facts)
    return b"".join(
        rtmp.chunks(chunk_stream, type_id, 0, stream_id, body, chunk_size)
        for chunk_stream, type_id, body in (
            (AUDIO_CHUNK_STREAM, rtmp.DATA, metadata),
            (VIDEO_CHUNK_STREAM, rtmp.VIDEO, AVC_HEADER),
            (AUDIO_CHUNK_STREAM, rtmp.AUDIO, AAC_HEADER),
        )
    )
