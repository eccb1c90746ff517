"""Whether a coded video frame is a keyframe, read from the frame itself.

For frames whose Enhanced RTMP header does not say so: gortmplib and MediaMTX write frame type 0. Used by ``tags`` only.
Nothing here raises. A frame that is cut, malformed or of an unknown codec is none.

A keyframe is one at which decoding can begin without delay: an IDR picture of H.264 (H.264, table 7-1), an IDR, BLA
or CRA picture of HEVC (H.265, table 7-1), an IDR or CRA picture of VVC (H.266, table 5), a shown key frame of AV1 (AV1,
section 5.9.2), a key frame of VP8 (RFC 6386, section 9.1) or of VP9 (VP9 bitstream, section 6.2). Gradual refresh,
whose first pictures have gaps, does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

MAX_UNITS: Final = 32
"""NAL units or OBUs of one frame that are looked at, which bounds the cost. The first slice or frame header decides;
encoders write fewer than 10 delimiters, parameter sets and units of supplemental information before it."""

WITH_COMPOSITION_TIME: Final = frozenset((b"avc1", b"hvc1", b"vvc1"))
"""The codecs whose CodedFrames begin with a composition time of 3 bytes (Enhanced RTMP v2, ExVideoTagBody)."""

_NAL_LENGTH_SIZE: Final = 4
"""Bytes of the length before each NAL unit. The configuration may announce fewer, but no known encoder does."""

_AV1_FRAME_HEADER: Final = 3
_AV1_FRAME: Final = 6
"""OBU types (AV1, section 6.2.2) that begin with an uncompressed header."""


def is_keyframe(fourcc: bytes, body: bytes, start: int, stop: int) -> bool:
    """Whether the frame in ``body[start:stop]``, behind any composition time, is a keyframe of the codec ``fourcc``."""
    reader = _READERS.get(fourcc)
    try:
        return reader is not None and reader(body, start, stop)
    except IndexError:
        return False


def _nal_units(
    type_offset: int, shift: int, mask: int, slices: range, keys: range, body: bytes, start: int, stop: int
) -> bool:
    """Whether the type of the first slice is one of ``keys``: all slices of a picture agree in that.

    The type is found in byte ``type_offset`` of a NAL unit, by ``shift`` and ``mask``.
    """
    position = start
    for _ in range(MAX_UNITS):
        unit = position + _NAL_LENGTH_SIZE
        length = int.from_bytes(body[position:unit], "big")
        position = unit + length
        if position > stop:
            return False
        if length > type_offset:
            kind = body[unit + type_offset] >> shift & mask
            if kind in slices:
                return kind in keys
    return False


def _av1(body: bytes, start: int, stop: int) -> bool:
    """Looks at the first frame header: one with the type KEY_FRAME, and shown, begins with the bits 0, 00 and 1."""
    position = start
    for _ in range(MAX_UNITS):
        if position >= stop:
            return False
        header = body[position]
        position += 2 if header & 4 else 1  # obu_extension_flag
        size = stop - position
        if header & 2:  # obu_has_size_field
            size, position = _leb128(body, position)
        if size > stop - position:
            return False
        if header >> 3 & 15 in (_AV1_FRAME_HEADER, _AV1_FRAME):
            return size > 0 and body[position] & 0xF0 == 0x10
        position += size
    return False


def _leb128(body: bytes, position: int) -> tuple[int, int]:
    """A number and the offset behind it (AV1, section 4.10.5)."""
    number = 0
    for shift in range(0, 56, 7):
        byte = body[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return number, position


def _vp8(body: bytes, start: int, stop: int) -> bool:
    """Looks at the frame tag and the start code that a key frame has behind it."""
    return stop - start > 6 and not body[start] & 1 and body[start + 3 : start + 6] == b"\x9d\x01\x2a"


def _vp9(body: bytes, start: int, stop: int) -> bool:
    """Looks at the uncompressed header: show_existing_frame and frame_type must be 0. Profile 3 has a bit before."""
    if start >= stop or body[start] >> 6 != 2:
        return False
    mask = 0x06 if body[start] & 0x30 == 0x30 else 0x0C
    return not body[start] & mask


_READERS: Final[dict[bytes, Callable[[bytes, int, int], bool]]] = {
    b"avc1": partial(_nal_units, 0, 0, 0x1F, range(1, 6), range(5, 6)),
    b"hvc1": partial(_nal_units, 0, 1, 0x3F, range(0, 32), range(16, 24)),
    b"vvc1": partial(_nal_units, 1, 3, 0x1F, range(0, 12), range(7, 10)),
    b"av01": _av1,
    b"vp08": _vp8,
    b"vp09": _vp9,
}
