"""How audio frames are counted in samples, and what their own headers say. Used by ``mp4``.

RTMP gives a frame's time in whole milliseconds. Containers that count samples need a frame's exact length. It follows
from the codec's configuration, or from the first bytes of the frame. Nothing here raises.

Sources: ISO/IEC 14496-3, section 4.4.1 (AAC); RFC 6716, section 3.1 (Opus); RFC 9639, section 9.1 (FLAC);
ISO/IEC 11172-3, section 2.4.2.3 (MP3); ETSI TS 102 366, sections 4.4 and E.1.3, and annex F (AC-3 and E-AC-3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from rtmp_twisted.media.codecs import AAC_WITH_SBR, Bits, aac_object_type, aac_rate

Counter: TypeAlias = Callable[[bytes], int]
"""Returns the samples of the frame that begins as the bytes do, of which 16 are enough; 0 where that is unknown."""

PREFIX: Final = 16
"""Bytes of a frame that are looked at."""

MAX_RATE: Final = 768_000
"""Samples per second. A configuration with more, or with none, is taken for damage."""


class Sound(NamedTuple):
    """``rate`` counts the samples per second in which frames are counted. ``box`` is what MP4 wants to have of the
    frame's header, where there is no configuration."""

    rate: int
    channels: int
    counter: Counter
    codec_string: str = ""
    box: bytes = b""


def aac(record: bytes) -> Sound | None:
    """Of an AudioSpecificConfig. The core coder's frames are counted, not those that SBR makes of them."""
    try:
        bits = Bits(record[:16])
        object_type = aac_object_type(bits)
        rate = aac_rate(bits)
        channels = bits.read(4)
        if object_type in AAC_WITH_SBR:
            aac_rate(bits)
            aac_object_type(bits)
        samples = 960 if bits.read(1) else 1024
    except IndexError:
        return None
    return Sound(rate, 8 if channels == 7 else channels or 2, lambda frame: samples)


def opus(frame: bytes) -> int:
    """Samples at 48 kHz, by the packet's first two bytes."""
    if not frame:
        return 0
    config, code = frame[0] >> 3, frame[0] & 3
    if config < 12:
        size = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        size = (480, 960)[config & 1]
    else:
        size = (120, 240, 480, 960)[config & 3]
    count = (1, 2, 2, frame[1] & 63 if len(frame) > 1 else 0)[code]
    return min(size * count, 5760)


def flac_counter(block_size: int) -> Counter:
    """``block_size`` is the largest one, from STREAMINFO: for frames that do not use one of the common sizes."""

    def count(frame: bytes) -> int:
        code = frame[2] >> 4 if len(frame) > 2 else 0
        if code == 1:
            return 192
        if 2 <= code <= 5:
            return 576 << code - 2
        return 256 << code - 8 if code >= 8 else block_size

    return count


def mp3(frame: bytes) -> Sound | None:
    """Of the header of a frame of layer III."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2 or frame[1] >> 3 & 3 == 1:
        return None
    version, index = frame[1] >> 3 & 3, frame[2] >> 2 & 3
    if index == 3:
        return None
    rate = (44100, 48000, 32000)[index] >> (0, 1, 2)[(3, 2, 0).index(version)]
    samples = 1152 if version == 3 else 576
    codec_string = "mp4a.6B" if version == 3 else "mp4a.69"
    return Sound(rate, 1 if frame[3] >> 6 == 3 else 2, lambda frame: samples, codec_string)


_AC3_RATES: Final = (48000, 44100, 32000)
_AC3_CHANNELS: Final = (2, 1, 2, 3, 3, 4, 4, 5)


def ac3(frame: bytes) -> Sound | None:
    """Of the header of a frame: its fields are those of an AC3SpecificBox."""
    if len(frame) < 8 or frame[:2] != b"\x0b\x77" or frame[4] >> 6 == 3:
        return None
    bits = Bits(frame[4:8])
    rate_code, size_code = bits.read(2), bits.read(6)
    stream_id, mode, channel_mode = bits.read(5), bits.read(3), bits.read(3)
    if stream_id > 10 or size_code > 37:
        return None
    if channel_mode & 1 and channel_mode != 1:
        bits.read(2)
    if channel_mode & 4:
        bits.read(2)
    if channel_mode == 2:
        bits.read(2)
    low_frequency = bits.read(1)
    fields = rate_code << 22 | stream_id << 17 | mode << 14 | channel_mode << 11 | low_frequency << 10
    box = (fields | (size_code >> 1) << 5).to_bytes(3, "big")
    channels = _AC3_CHANNELS[channel_mode] + low_frequency
    return Sound(_AC3_RATES[rate_code], channels, lambda frame: 1536, "ac-3", box)


def eac3(frame: bytes) -> Sound | None:
    """Of the header of a frame: an EC3SpecificBox with one independent substream."""
    if len(frame) < 6 or frame[:2] != b"\x0b\x77":
        return None
    bits = Bits(frame[2:6])
    bits.read(5)
    size, rate_code = 2 * (bits.read(11) + 1), bits.read(2)
    blocks = bits.read(2)
    channel_mode, low_frequency, stream_id = bits.read(3), bits.read(1), bits.read(5)
    if rate_code == 3 or not 10 < stream_id <= 16:
        return None
    rate = _AC3_RATES[rate_code]
    samples = 256 * (1, 2, 3, 6)[blocks]
    kilobits = min(size * 8 * rate // samples // 1000, 8191)
    fields = rate_code << 22 | stream_id << 17 | channel_mode << 9 | low_frequency << 8
    box = (kilobits << 3).to_bytes(2, "big") + fields.to_bytes(3, "big")
    return Sound(rate, _AC3_CHANNELS[channel_mode] + low_frequency, lambda frame: samples, "ec-3", box)
