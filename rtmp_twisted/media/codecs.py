"""What a codec header says about its stream, for the operators' pages: best effort, bounded, never raises.

Called once for each header, never for a frame. The layouts of the records are in ISO/IEC 14496-15 (AVC, HEVC), AV1 in
ISOBMFF, section 5.5 of the AV1 bitstream, VP9 in ISOBMFF, ISO/IEC 14496-3 (AAC), RFC 7845 (Opus) and RFC 9639 (FLAC).
The codec strings are those of RFC 6381, in the form that browsers accept.
"""

from __future__ import annotations

import contextlib
from typing import Final, TypeAlias

from rtmp_twisted.media import tags
from rtmp_twisted.wire.messages import AUDIO

Details: TypeAlias = dict[str, str | int | float]
"""Some of: codec, codec_string, width, height, frame_rate (per second), sample_rate (Hz), channels, track."""

MAX_RECORD: Final = 16_384
"""Bytes of a header that are looked at."""

MAX_PARAMETER_SET: Final = 1024
"""Bytes of an H.264 or HEVC sequence parameter set that are looked at. The fields that are read come before them."""

MAX_DIMENSION: Final = 65_536
"""Pixels of width or height. A larger one is taken for damage, and left out."""

MAX_FRAME_RATE: Final = 1000
"""Frames per second. A larger rate is taken for damage, and left out."""

_AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_AAC_CHANNELS: Final = (0, 1, 2, 3, 4, 5, 6, 8)
AAC_WITH_SBR: Final = (5, 29)
_H264_WITH_CHROMA_FORMAT: Final = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
_HEVC_SPS: Final = 33
_AV1_SEQUENCE_HEADER: Final = 1
_AV1_TEMPORAL_DELIMITER: Final = b"\x12"
_VP9_SYNC_CODE: Final = 0x498342
_VP9_RGB: Final = 7
_STREAMINFO_HEADER: Final = b"\x80\x00\x00\x22"  # the last block
_STREAMINFO_SIZE: Final = 34


def describe_header(type_id: int, body: bytes) -> Details:
    """Returns what a header message says about its first track; nothing where it is no configuration of a codec."""
    if not any(kind == "sequence" for _, _, kind in tags.header_slots(type_id, body)):
        return {}
    codec = tags.codec_name(type_id, body)
    details: Details = {"codec": codec}
    packet = tags.parse(type_id, body)
    if packet is not None:
        track = packet.tracks[0]
        if packet.packet_type == tags.MPEG2_TS_SEQUENCE_START:
            return details
        details["track"] = track.track_id
        record = body[track.start : min(track.stop, track.start + MAX_RECORD)]
    else:
        start = 2 if type_id == AUDIO else 5
        details["track"] = 0
        record = body[start : start + MAX_RECORD]
    return details | describe_record(codec, record)


def describe_record(codec: str, record: bytes) -> Details:
    """Returns what a codec's configuration says. ``codec`` is its name, as `tags.codec_name` returns it."""
    details: Details = {}
    describe = _DESCRIBERS.get(codec)
    if describe is not None:
        with contextlib.suppress(IndexError):  # The record is cut: what was found so far is returned.
            describe(record[:MAX_RECORD], details)
    return details


def describe_keyframe(codec: str, frame: bytes) -> Details:
    """Returns the width and height that a keyframe of VP9 or AV1 itself states."""
    details: Details = {}
    with contextlib.suppress(IndexError):
        if codec == "VP9":
            _vp9_frame(Bits(frame[:16]), details)
        elif codec == "AV1":
            _av1_units(frame[:MAX_PARAMETER_SET], details)
    return details


class Bits:
    """Reads numbers of any count of bits. Raises IndexError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Reads ue(v), of at most 32 bits (H.264, section 9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise IndexError
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        """Reads se(v) (H.264, section 9.1.1)."""
        number = self.golomb()
        return (number + 1) // 2 if number & 1 else -(number // 2)


def _without_emulation_prevention(nal_unit: bytes) -> bytes:
    return nal_unit[:MAX_PARAMETER_SET].replace(b"\x00\x00\x03", b"\x00\x00")


def _set_size(details: Details, width: int, height: int) -> None:
    if 0 < width <= MAX_DIMENSION and 0 < height <= MAX_DIMENSION:
        details["width"] = width
        details["height"] = height


def _h264(record: bytes, details: Details) -> None:
    """AVCDecoderConfigurationRecord: ISO/IEC 14496-15, section 5.3.3.1."""
    details["codec_string"] = f"avc1.{record[1]:02x}{record[2]:02x}{record[3]:02x}"
    if not record[5] & 0x1F:
        return
    length = record[6] << 8 | record[7]
    _h264_sps(_without_emulation_prevention(record[9 : 8 + length]), details)


def _h264_sps(sps: bytes, details: Details) -> None:
    """H.264, section 7.3.2.1.1, behind the header byte of the NAL unit."""
    bits = Bits(sps)
    profile = bits.read(8)
    bits.read(16)
    bits.golomb()
    chroma_format, separate_planes = 1, 0
    if profile in _H264_WITH_CHROMA_FORMAT:
        chroma_format = bits.golomb()
        if chroma_format == 3:
            separate_planes = bits.read(1)
        bits.golomb()
        bits.golomb()
        bits.read(1)
        if bits.read(1):
            _skip_scaling_lists(bits, 12 if chroma_format == 3 else 8)
    bits.golomb()
    _skip_picture_order_count(bits)
    bits.golomb()
    bits.read(1)
    width = 16 * (bits.golomb() + 1)
    map_units = bits.golomb() + 1
    frames_only = bits.read(1)
    height = 16 * map_units * (2 - frames_only)
    if not frames_only:
        bits.read(1)
    bits.read(1)
    if bits.read(1):
        crop_x = 2 if chroma_format in (1, 2) and not separate_planes else 1
        crop_y = (2 if chroma_format == 1 else 1) * (2 - frames_only)
        left, right, top, bottom = (bits.golomb() for _ in range(4))
        width -= crop_x * (left + right)
        height -= crop_y * (top + bottom)
    _set_size(details, width, height)
    if bits.read(1):
        _h264_frame_rate(bits, details)


def _skip_scaling_lists(bits: Bits, count: int) -> None:
    for index in range(count):
        if not bits.read(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.signed_golomb()) % 256
            last = following or last


def _skip_picture_order_count(bits: Bits) -> None:
    match bits.golomb():
        case 0:
            bits.golomb()
        case 1:
            bits.read(1)
            bits.golomb()
            bits.golomb()
            for _ in range(min(bits.golomb(), 255)):
                bits.golomb()


def _h264_frame_rate(bits: Bits, details: Details) -> None:
    """H.264, section E.1.1, up to the timing information."""
    if bits.read(1) and bits.read(8) == 255:  # Extended_SAR
        bits.read(32)
    if bits.read(1):
        bits.read(1)
    if bits.read(1):
        bits.read(4)
        if bits.read(1):
            bits.read(24)
    if bits.read(1):
        bits.golomb()
        bits.golomb()
    if bits.read(1):
        units, scale = bits.read(32), bits.read(32)
        if units and 0 < scale <= 2 * units * MAX_FRAME_RATE:
            details["frame_rate"] = round(scale / (2 * units), 3)


def _hevc(record: bytes, details: Details) -> None:
    """HEVCDecoderConfigurationRecord: ISO/IEC 14496-15, section 8.3.2.1, and its section E.3 for the string."""
    space = ("", "A", "B", "C")[record[1] >> 6]
    tier = "H" if record[1] & 0x20 else "L"
    compatibility = int(f"{int.from_bytes(record[2:6], 'big'):032b}"[::-1], 2)
    constraints = "".join(f".{byte:x}" for byte in record[6:12].rstrip(b"\x00"))
    details["codec_string"] = f"hvc1.{space}{record[1] & 0x1F}.{compatibility:x}.{tier}{record[12]}{constraints}"
    rate = record[19] << 8 | record[20]
    if rate:
        details["frame_rate"] = round(rate / 256, 3)
    offset = 23
    for _ in range(record[22]):
        nal_type = record[offset] & 0x3F
        count = record[offset + 1] << 8 | record[offset + 2]
        offset += 3
        for _ in range(count):
            length = record[offset] << 8 | record[offset + 1]
            offset += 2
            if nal_type == _HEVC_SPS:
                _hevc_sps(_without_emulation_prevention(record[offset + 2 : offset + length]), details)
                return
            offset += length


def _hevc_sps(sps: bytes, details: Details) -> None:
    """H.265, section 7.3.2.2.1, behind the two header bytes of the NAL unit."""
    bits = Bits(sps)
    bits.read(4)
    sub_layers = bits.read(3)
    bits.read(1 + 96)
    if sub_layers:
        present = [bits.read(2) for _ in range(8)]
        for flags in present[:sub_layers]:
            bits.read((88 if flags & 2 else 0) + (8 if flags & 1 else 0))
    bits.golomb()
    chroma_format = bits.golomb()
    if chroma_format == 3:
        bits.read(1)
    width, height = bits.golomb(), bits.golomb()
    if bits.read(1):
        left, right, top, bottom = (bits.golomb() for _ in range(4))
        width -= (2 if chroma_format in (1, 2) else 1) * (left + right)
        height -= (2 if chroma_format == 1 else 1) * (top + bottom)
    _set_size(details, width, height)


def _av1(record: bytes, details: Details) -> None:
    """AV1CodecConfigurationRecord: AV1 in ISOBMFF, section 2.3; the string: section 5."""
    level, flags = record[1] & 0x1F, record[2]
    depth = 12 if flags & 0x20 else 10 if flags & 0x40 else 8
    tier = "H" if flags & 0x80 else "M"
    details["codec_string"] = f"av01.{record[1] >> 5}.{level:02d}{tier}.{depth:02d}"
    _av1_units(record[4:], details)


def _av1_units(data: bytes, details: Details) -> None:
    """AV1, section 5.3: the sequence header, which only a temporal delimiter (which is empty) may be before."""
    offset = 2 if data[:1] == _AV1_TEMPORAL_DELIMITER else 0
    header = data[offset]
    offset += 2 if header & 4 else 1
    if header & 2:  # obu_has_size_field: leb128, whose last byte has no upper bit.
        while data[offset] & 0x80:
            offset += 1
        offset += 1
    if header >> 3 & 0x0F == _AV1_SEQUENCE_HEADER:
        _av1_sequence_header(Bits(data[offset : offset + 256]), details)


def _av1_sequence_header(bits: Bits, details: Details) -> None:
    """AV1, section 5.5.1, up to the size of the frame."""
    bits.read(4)
    if bits.read(1):  # reduced_still_picture_header
        bits.read(5)
    else:
        delay_length = _skip_av1_timing(bits)
        delays_present = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if delay_length and bits.read(1):
                bits.read(2 * delay_length + 1)
            if delays_present and bits.read(1):
                bits.read(4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    _set_size(details, bits.read(width_bits) + 1, bits.read(height_bits) + 1)


def _skip_av1_timing(bits: Bits) -> int:
    """Returns the length in bits of the delays in the decoder model, or 0 where there is no decoder model."""
    if not bits.read(1):
        return 0
    bits.read(64)
    if bits.read(1):
        bits.golomb()
    if not bits.read(1):
        return 0
    length = bits.read(5) + 1
    bits.read(42)
    return length


def _vp9(record: bytes, details: Details) -> None:
    """VPCodecConfigurationRecord: VP9 in ISOBMFF. ffmpeg leaves out the box's version and flags."""
    start = 4 if record[:4] == b"\x01\x00\x00\x00" else 0
    if len(record) >= start + 8:
        details["codec_string"] = f"vp09.{record[start]:02d}.{record[start + 1]:02d}.{record[start + 2] >> 4:02d}"


def _vp9_frame(bits: Bits, details: Details) -> None:
    """VP9 bitstream, section 6.2, up to the size of a key frame."""
    marker, low, high = bits.read(2), bits.read(1), bits.read(1)
    profile = high << 1 | low
    if marker != 2 or (profile == 3 and bits.read(1)):
        return
    if bits.read(2):  # show_existing_frame, or no key frame
        return
    bits.read(2)
    if bits.read(24) != _VP9_SYNC_CODE:
        return
    if profile >= 2:
        bits.read(1)
    if bits.read(3) != _VP9_RGB:
        bits.read(4 if profile & 1 else 1)
    elif profile & 1:
        bits.read(1)
    _set_size(details, bits.read(16) + 1, bits.read(16) + 1)


def _aac(record: bytes, details: Details) -> None:
    """AudioSpecificConfig: ISO/IEC 14496-3, section 1.6.2.1."""
    bits = Bits(record[:16])
    object_type = aac_object_type(bits)
    details["codec_string"] = f"mp4a.40.{object_type}"
    rate = aac_rate(bits)
    channels = bits.read(4)
    if channels and channels < len(_AAC_CHANNELS):
        details["channels"] = _AAC_CHANNELS[channels]
    if object_type in AAC_WITH_SBR:
        rate = aac_rate(bits)
    if rate:
        details["sample_rate"] = rate


def aac_object_type(bits: Bits) -> int:
    object_type = bits.read(5)
    return 32 + bits.read(6) if object_type == 31 else object_type


def aac_rate(bits: Bits) -> int:
    index = bits.read(4)
    if index == 15:
        return bits.read(24)
    return _AAC_RATES[index] if index < len(_AAC_RATES) else 0


def _opus(record: bytes, details: Details) -> None:
    """The identification header: RFC 7845, section 5.1. Opus is decoded at 48 kHz, whatever the rate of its source."""
    if record[:8] == b"OpusHead":
        details["codec_string"] = "opus"
        details["channels"] = record[9]
        details["sample_rate"] = 48000


def flac_blocks(record: bytes) -> bytes:
    """Returns the metadata blocks of a FLAC configuration, STREAMINFO first (RFC 9639, section 8.1), or nothing where
    there is none. ffmpeg leaves out the signature and the header of the block."""
    if record[:4] == b"fLaC":
        return record[4:] if len(record) >= 4 + len(_STREAMINFO_HEADER) + _STREAMINFO_SIZE else b""
    return _STREAMINFO_HEADER + record if len(record) == _STREAMINFO_SIZE else b""


def _flac(record: bytes, details: Details) -> None:
    """STREAMINFO: RFC 9639, section 8.2."""
    blocks = flac_blocks(record)
    if blocks:
        bits = Bits(blocks[14:22])
        details["codec_string"] = "flac"
        details["sample_rate"] = bits.read(20)
        details["channels"] = bits.read(3) + 1


_DESCRIBERS: Final = {
    "H.264": _h264,
    "HEVC": _hevc,
    "AV1": _av1,
    "VP9": _vp9,
    "AAC": _aac,
    "Opus": _opus,
    "FLAC": _flac,
}
