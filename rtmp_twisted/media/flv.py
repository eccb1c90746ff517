"""FLV: RTMP's audio, video and data messages as a file or an endless stream (FLV 10.1, sections E.2 to E.4).

An FLV tag has the same content as the RTMP message: only the header differs. A stream is what `header` returns,
followed by what `append_tag` appends for each message. What Enhanced RTMP adds to messages is part of their content.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Final

from rtmp_twisted.media.tags import track_0
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO

TAG_TYPES: Final = frozenset((AUDIO, VIDEO, DATA_AMF0))
"""The message types that have an FLV form (section E.4.1). Data of type 15 (AMF 3) has none."""

MAX_BODY: Final = 0xFFFFFF
"""Bytes of a tag's content at most; no RTMP message is longer."""

_AUDIO_FLAG: Final = 0x04
_VIDEO_FLAG: Final = 0x01
_HEADER_SIZE: Final = 9
_TAG_HEADER_SIZE: Final = 11

_file_header: Final = struct.Struct(">3sBBII").pack
_tag_header: Final = struct.Struct(">BBHHBBBH").pack
_uint32: Final = struct.Struct(">I").pack


def header(*, audio: bool = True, video: bool = True) -> bytes:
    """Returns the file header and the size of the tag before the first, which is 0 (sections E.2 and E.3).

    ``audio`` and ``video`` say which tags a reader may expect; readers take the flags as a hint.
    """
    flags = (_AUDIO_FLAG if audio else 0) | (_VIDEO_FLAG if video else 0)
    return _file_header(b"FLV", 1, flags, _HEADER_SIZE, 0)


def append_tag(parts: list[bytes | memoryview], type_id: int, timestamp: int, body: bytes) -> int:
    """Appends one tag and the field with its size to ``parts`` without copying its body (sections E.3 and E.4.1).

    ``timestamp`` is in milliseconds, from 0 to 2**32 - 1; readers may take it for a signed number. Returns the length
    in bytes of what was appended. Raises ValueError for a type that is not in `TAG_TYPES` and a body over `MAX_BODY`.
    """
    length = len(body)
    if type_id not in TAG_TYPES or length > MAX_BODY:
        raise ValueError(f"a message of type {type_id} and {length} bytes has no FLV form")
    # The length's and the timestamp's lower 24 bits, the timestamp's upper 8 bits, and a stream id of 24 bits: 0.
    parts.append(
        _tag_header(
            type_id,
            length >> 16,
            length & 0xFFFF,
            timestamp >> 8 & 0xFFFF,
            timestamp & 0xFF,
            timestamp >> 24,
            0,
            0,
        )
    )
    parts.append(body)
    parts.append(_uint32(_TAG_HEADER_SIZE + length))
    return _TAG_HEADER_SIZE + length + 4


class FLVFormat:
    """The form of a log that is an FLV stream, for players that know no tracks: it has track 0 only. Messages of other
    tracks, and those that have no FLV form, are left out."""

    all_tracks: Final = False

    def preamble(self, types: Collection[int]) -> bytes:
        """The file header. Some players wait for what it says, so that is what there are codec headers of, if any."""
        known = AUDIO in types or VIDEO in types
        return header(audio=AUDIO in types or not known, video=VIDEO in types or not known)

    def append(self, parts: list[bytes | memoryview], type_id: int, timestamp: int, body: bytes) -> int:
        """Appends one tag. Returns its length in bytes, or 0 for a message that is left out."""
        if type_id not in TAG_TYPES:
            return 0
        if type_id != DATA_AMF0 and body and (body[0] & 0x80):
            found = track_0(type_id, body)
            if found is None:
                return 0
            body = found
        return append_tag(parts, type_id, timestamp, body)
