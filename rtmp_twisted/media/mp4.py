"""MP4 boxes: what a track of each codec looks like there, and initialisation sections. Used by ``fmp4``.

A `TrackForm` is made once for each configuration of a track; an initialisation section once for each set of tracks.
Nothing here is called for a frame.

Sources: ISO/IEC 14496-12 (boxes), 14496-14 and 14496-1, section 7.2.6 (AAC, MP3), 14496-15 (H.264, HEVC); AV1 in
ISOBMFF, section 2; VP9 in ISOBMFF; Opus in ISOBMFF, section 4.3; FLAC in ISOBMFF, section 3.3; ETSI TS 102 366, annex F
(AC-3, E-AC-3).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from rtmp_twisted.media import audio
from rtmp_twisted.media.codecs import Details, describe_keyframe, describe_record, flac_blocks
from rtmp_twisted.media.tags import CODEC_NAMES

MAX_RECORD: Final = 4096
"""Bytes of a codec's configuration. A track with a longer one is left out."""

VIDEO_TIMESCALE: Final = 1000
"""Video is counted in milliseconds, which is all that RTMP says."""

Description: TypeAlias = dict[str, "str | int | float"]

_MATRIX: Final = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_UNDETERMINED: Final = 0x55C4  # the language "und"
_FTYP: Final = b"iso6" + struct.pack(">I", 0) + b"iso6mp41"
_SYNC_SAMPLE: Final = 0x02000000
_DEFAULT_OPUS: Final = b"OpusHead\x01\x02\x00\x00\x80\xbb\x00\x00\x00\x00\x00"


class TrackForm(NamedTuple):
    """A track as MP4 has it. ``timescale`` is its units per second. ``counter`` is None for video."""

    video: bool
    entry: bytes
    timescale: int
    counter: audio.Counter | None
    details: Details


class Entry(NamedTuple):
    """A fragment, or (``type_id`` 0) an initialisation section. Its bytes are ``head`` and ``frame``.

    ``timestamp`` is the message's, in milliseconds modulo 2**32. ``leads`` is whether decoding of the whole program can
    begin with it: a keyframe of the first video track.
    """

    type_id: int
    track_id: int
    timestamp: int
    keyframe: bool
    leads: bool
    head: bytes
    frame: memoryview


def box(kind: bytes, *parts: bytes) -> bytes:
    """ISO/IEC 14496-12, section 4.2."""
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def track_form(fourcc: bytes, record: bytes, frame: bytes) -> TrackForm | None:
    """Returns what a track is in MP4, by its codec's configuration and its first frame, which has to be a keyframe (its
    first `MAX_RECORD` bytes are enough). None where that cannot be told, or the codec has no place in MP4."""
    if len(record) > MAX_RECORD:
        return None
    details = describe_record(CODEC_NAMES.get(fourcc, ""), record)
    if fourcc in _VIDEO:
        return _video(fourcc, record, frame, details)
    found = _sound(fourcc, record, frame)
    if found is None:
        return None
    sound, name, special = found
    if not 0 < sound.rate <= audio.MAX_RATE:
        return None
    details.setdefault("codec_string", sound.codec_string)
    details["channels"] = sound.channels
    details.setdefault("sample_rate", sound.rate)
    rate = sound.rate
    while rate > 0xFFFF:  # FLAC in ISOBMFF, section 3.3.1: the largest that divides it
        rate //= 2
    entry = box(name, struct.pack(">6xH8xHHIHH", 1, sound.channels, 16, 0, rate, 0), special)
    return TrackForm(False, entry, sound.rate, sound.counter, details)


def _video(fourcc: bytes, record: bytes, frame: bytes, details: Details) -> TrackForm | None:
    name, shortest = _VIDEO[fourcc]
    if fourcc == b"vp09" and record[:4] != b"\x01\x00\x00\x00":
        record = b"\x01\x00\x00\x00" + record
    if len(record) < shortest or "codec_string" not in details:
        return None
    details |= describe_keyframe(CODEC_NAMES[fourcc], frame)
    width, height = (min(int(details.get(side, 0)), 0xFFFF) for side in ("width", "height"))
    visual = struct.pack(">6xH16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 24, -1)
    return TrackForm(True, box(fourcc, visual, box(name, record)), VIDEO_TIMESCALE, None, details)


_VIDEO: Final = {b"avc1": (b"avcC", 7), b"hvc1": (b"hvcC", 23), b"av01": (b"av1C", 4), b"vp09": (b"vpcC", 12)}
"""The box of the configuration, and its length in bytes at least."""


def _sound(fourcc: bytes, record: bytes, frame: bytes) -> tuple[audio.Sound, bytes, bytes] | None:
    """How a track is counted, the name of its sample entry, and the box in there that is the codec's own."""
    sound: audio.Sound | None = None
    match fourcc:
        case b"mp4a":
            sound = audio.aac(record)
            return sound and (sound, fourcc, _esds(0x40, record))
        case b".mp3":
            sound = audio.mp3(frame)
            return sound and (sound, b"mp4a", _esds(0x6B if sound.codec_string.endswith("B") else 0x69, b""))
        case b"ac-3":
            sound = audio.ac3(frame)
            return sound and (sound, fourcc, box(b"dac3", sound.box))
        case b"ec-3":
            sound = audio.eac3(frame)
            return sound and (sound, fourcc, box(b"dec3", sound.box))
        case b"Opus":
            head = record or _DEFAULT_OPUS
            mapped = len(head) > 18 and (head[18] == 0 or len(head) >= 21 + head[9])
            if head[:8] != b"OpusHead" or not mapped:
                return None
            sound = audio.Sound(48000, head[9] or 2, audio.opus, "opus")
            skip, rate, gain = struct.unpack_from("<HIh", head, 10)
            mapping = head[18 : 21 + head[9]] if head[18] else b"\x00"
            fields = struct.pack(">BBHIh", 0, sound.channels, skip, rate, gain)
            return sound, fourcc, box(b"dOps", fields, mapping)
        case b"fLaC":
            blocks = flac_blocks(record)
            if not blocks:
                return None
            rate = int.from_bytes(blocks[14:17], "big") >> 4
            counter = audio.flac_counter(int.from_bytes(blocks[6:8], "big"))
            sound = audio.Sound(rate, (blocks[16] >> 1 & 7) + 1, counter)
            return sound, fourcc, full_box(b"dfLa", 0, 0, blocks)
    return None


def _esds(object_type: int, configuration: bytes) -> bytes:
    """ISO/IEC 14496-1, section 7.2.6: an ES_Descriptor for a stream of audio."""
    decoder = bytes((object_type, 0x15)) + bytes(11)
    if configuration:
        decoder += _descriptor(5, configuration)
    return full_box(b"esds", 0, 0, _descriptor(3, bytes(3) + _descriptor(4, decoder) + _descriptor(6, b"\x02")))


def _descriptor(tag: int, content: bytes) -> bytes:
    """ISO/IEC 14496-1, section 8.3.3: the length takes two bytes, with 7 bits in each."""
    return bytes((tag, 0x80 | len(content) >> 7, len(content) & 0x7F)) + content


def initialization(tracks: Sequence[tuple[int, TrackForm]]) -> bytes:
    """Returns the initialisation section of some tracks, by their ids.

    Behind the ``ftyp`` box stands a ``free`` box, which players skip. It holds JSON for the watch page: the media type,
    and of each track id, kind, timescale and codec.
    """
    text = json.dumps(_description(tracks)).encode()
    movie = full_box(
        b"mvhd", 0, 0, struct.pack(">IIIIIH10x", 0, 0, 1000, 0, 0x10000, 0x100), _MATRIX, bytes(24), b"\xff" * 4
    )
    extends = [full_box(b"trex", 0, 0, struct.pack(">IIIII", number, 1, 0, 0, _SYNC_SAMPLE)) for number, _ in tracks]
    moov = box(b"moov", movie, *[_track(number, form) for number, form in tracks], box(b"mvex", *extends))
    return box(b"ftyp", _FTYP) + box(b"free", text) + moov


def _description(tracks: Sequence[tuple[int, TrackForm]]) -> dict[str, object]:
    codecs = ",".join(str(form.details["codec_string"]) for _, form in tracks)
    kind = "video" if any(form.video for _, form in tracks) else "audio"
    keys = ("width", "height", "frame_rate", "channels", "sample_rate")
    described = [
        {"id": number, "kind": "video" if form.video else "audio", "timescale": form.timescale}
        | {"codec": form.details["codec_string"]}
        | {key: form.details[key] for key in keys if key in form.details}
        for number, form in tracks
    ]
    return {"type": f'{kind}/mp4; codecs="{codecs}"', "tracks": described}


def _track(number: int, form: TrackForm) -> bytes:
    """ISO/IEC 14496-12, section 8.3: a track without samples."""
    size = [int(form.details.get(side, 0)) << 16 & 0xFFFFFFFF for side in ("width", "height")] if form.video else [0, 0]
    volume = 0 if form.video else 0x100
    header = struct.pack(">IIIII8xHHHH", 0, 0, number, 0, 0, 0, 0, volume, 0)
    handler = struct.pack(">I4s12x", 0, b"vide" if form.video else b"soun") + b"\x00"
    media_header = full_box(b"vmhd", 0, 1, bytes(8)) if form.video else full_box(b"smhd", 0, 0, bytes(4))
    samples = box(
        b"stbl",
        full_box(b"stsd", 0, 0, struct.pack(">I", 1), form.entry),
        full_box(b"stts", 0, 0, bytes(4)),
        full_box(b"stsc", 0, 0, bytes(4)),
        full_box(b"stsz", 0, 0, bytes(8)),
        full_box(b"stco", 0, 0, bytes(4)),
    )
    data = box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), full_box(b"url ", 0, 1)))
    return box(
        b"trak",
        full_box(b"tkhd", 0, 7, header, _MATRIX, struct.pack(">II", *size)),
        box(
            b"mdia",
            full_box(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, form.timescale, 0, _UNDETERMINED, 0)),
            full_box(b"hdlr", 0, 0, handler),
            box(b"minf", media_header, data, samples),
        ),
    )
