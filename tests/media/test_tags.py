"""rtmp_twisted.media.tags: tables of messages, messages that are cut, and any bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.media import tags
from rtmp_twisted.media.tags import FRAME, HEADER, KEYFRAME, MAX_MODEX, OTHER, Slot
from rtmp_twisted.wire.messages import AUDIO, VIDEO

KEY, INTER, DISPOSABLE, GENERATED, COMMAND = 1, 2, 3, 4, 5
DATA = b"coded data"
NANOSECONDS = b"\x02\x01\x02\x03"
"""The size of a ModEx prefix and its three bytes. Its type (0) and the next packet type follow."""

ONE, MANY, MANY_CODECS = 0x00, 0x10, 0x20

IDR = b"\x00\x00\x00\x03\x65\x88\x84"
INTER_SLICE = b"\x00\x00\x00\x03\x41\x9a\x24"
"""The beginnings of frames of H.264, each one NAL unit behind its length."""


def legacy(frame_type: int, codec_id: int, rest: bytes) -> bytes:
    return bytes((frame_type << 4 | codec_id,)) + rest


def video(frame_type: int, packet_type: int, rest: bytes) -> bytes:
    """Enhanced RTMP video."""
    return bytes((0x80 | frame_type << 4 | packet_type,)) + rest


def audio(packet_type: int, rest: bytes) -> bytes:
    """Enhanced RTMP audio."""
    return bytes((0x90 | packet_type,)) + rest


def track(track_id: int, data: bytes, fourcc: bytes = b"") -> bytes:
    return fourcc + bytes((track_id,)) + len(data).to_bytes(3, "big") + data


def modex(count: int, packet_type: int) -> bytes:
    """``count`` ModEx prefixes behind the first byte. The last one has ``packet_type``."""
    return (NANOSECONDS + b"\x07") * (count - 1) + NANOSECONDS + bytes((packet_type,))


VIDEO_TABLE: list[tuple[str, bytes, int]] = [
    ("nothing", b"", OTHER),
    ("AVC keyframe", legacy(KEY, 7, b"\x01\x00\x00\x00" + DATA), KEYFRAME),
    ("AVC generated keyframe", legacy(GENERATED, 7, b"\x01\x00\x00\x00" + DATA), KEYFRAME),
    ("AVC inter frame", legacy(INTER, 7, b"\x01\x00\x00\x00" + DATA), FRAME),
    ("AVC disposable frame", legacy(DISPOSABLE, 7, b"\x01\x00\x00\x00" + DATA), FRAME),
    ("AVC sequence header", legacy(KEY, 7, b"\x00\x00\x00\x00\x01d\x00\x1f"), HEADER),
    ("AVC sequence header as inter frame", legacy(INTER, 7, b"\x00\x00\x00\x00\x01d\x00\x1f"), HEADER),
    ("AVC end of sequence", legacy(KEY, 7, b"\x02\x00\x00\x00"), OTHER),
    ("AVC end of sequence with more", legacy(KEY, 7, b"\x02\x00\x00\x00" + DATA), OTHER),
    ("AVC packet type 3", legacy(KEY, 7, b"\x03\x00\x00\x00" + DATA), OTHER),
    ("AVC keyframe of nothing", legacy(KEY, 7, b"\x01\x00\x00\x00"), OTHER),
    ("AVC sequence header of nothing", legacy(KEY, 7, b"\x00\x00\x00\x00"), OTHER),
    ("AVC one byte", legacy(KEY, 7, b""), OTHER),
    ("AVC command", legacy(COMMAND, 7, b"\x00"), OTHER),
    ("AVC command with more", legacy(COMMAND, 7, b"\x00\x00\x00\x00" + DATA), OTHER),
    ("AVC frame type 0", legacy(0, 7, b"\x01\x00\x00\x00" + DATA), OTHER),
    ("AVC frame type 7", legacy(7, 7, b"\x01\x00\x00\x00" + DATA), OTHER),
    ("HEVC sequence header", legacy(KEY, 12, b"\x00\x00\x00\x00\x01"), HEADER),
    ("HEVC keyframe", legacy(KEY, 12, b"\x01\x00\x00\x00" + DATA), KEYFRAME),
    ("HEVC inter frame", legacy(INTER, 12, b"\x01\x00\x00\x00" + DATA), FRAME),
    ("AV1 before Enhanced RTMP", legacy(KEY, 13, b"\x00\x00\x00\x00\x81"), HEADER),
    ("VVC before Enhanced RTMP", legacy(KEY, 14, b"\x00\x00\x00\x00\x81"), HEADER),
    ("MPEG-4 header", legacy(KEY, 9, b"\x00\x00\x00\x00\x01"), HEADER),
    ("H.263 keyframe", legacy(KEY, 2, b"\x00" + DATA), KEYFRAME),
    ("H.263 disposable frame", legacy(DISPOSABLE, 2, b"\x00" + DATA), FRAME),
    ("VP6 keyframe", legacy(KEY, 4, b"\x00" + DATA), KEYFRAME),
    ("VP6 inter frame", legacy(INTER, 5, b"\x02" + DATA), FRAME),
    ("Screen Video 2 keyframe", legacy(KEY, 6, b"\x00" + DATA), KEYFRAME),
    ("an unknown codec's keyframe", legacy(KEY, 15, b"\x00" + DATA), KEYFRAME),
    ("Enhanced: SequenceStart", video(KEY, 0, b"hvc1\x01"), HEADER),
    ("Enhanced: SequenceStart of nothing", video(KEY, 0, b"vp08"), HEADER),
    ("Enhanced: SequenceStart cut", video(KEY, 0, b"vp0"), OTHER),
    ("Enhanced: SequenceStart of an unknown codec", video(KEY, 0, b"zzzz\x01"), HEADER),
    ("Enhanced: SequenceStart as command", video(COMMAND, 0, b"\x00\x00\x00\x00"), OTHER),
    ("Enhanced: CodedFrames, key", video(KEY, 1, b"avc1\x00\x00\x00" + DATA), KEYFRAME),
    ("Enhanced: CodedFrames, inter", video(INTER, 1, b"hvc1\x00\x00\x00" + DATA), FRAME),
    ("Enhanced: CodedFrames, unknown codec", video(KEY, 1, b"zzzz" + DATA), KEYFRAME),
    ("Enhanced: CodedFrames cut", video(KEY, 1, b"avc1"), OTHER),
    ("Enhanced: CodedFrames, frame type 7", video(7, 1, b"avc1" + DATA), OTHER),
    ("frame type 0: H.264 keyframe", video(0, 1, b"avc1\x00\x00\x00" + IDR), KEYFRAME),
    ("frame type 0: H.264 keyframe, CodedFramesX", video(0, 3, b"avc1" + IDR), KEYFRAME),
    ("frame type 0: H.264 inter frame", video(0, 1, b"avc1\x00\x00\x00" + INTER_SLICE), FRAME),
    ("frame type 0: not understood", video(0, 1, b"avc1" + DATA), FRAME),
    ("frame type 0: unknown codec", video(0, 1, b"zzzz\x00\x00\x00" + IDR), FRAME),
    ("frame type 0: nothing behind the codec", video(0, 3, b"avc1") + b"\x00", FRAME),
    ("frame type 0: VP8 has no composition time", video(0, 1, b"vp08\x10\x02\x00\x9d\x01\x2a\x40\x00"), KEYFRAME),
    ("frame type 0: ModEx", video(0, 7, modex(1, 1) + b"avc1\x00\x00\x00" + IDR), KEYFRAME),
    ("frame type 0: one track", video(0, 6, b"\x01avc1\x05\x00\x00\x00" + IDR), KEYFRAME),
    (
        "frame type 0: the first track counts",
        video(0, 6, b"\x13avc1" + track(1, IDR) + track(0, INTER_SLICE)),
        KEYFRAME,
    ),
    (
        "frame type 0: each track has its own codec",
        video(0, 6, b"\x23" + track(1, INTER_SLICE, b"avc1") + track(0, b"\x82\x49\x83\x42", b"vp09")),
        FRAME,
    ),
    ("frame type 0: SequenceStart", video(0, 0, b"avc1\x01\x64"), HEADER),
    ("frame type 0: SequenceEnd", video(0, 2, b"avc1\x00\x00"), OTHER),
    ("frame type 0: Metadata", video(0, 4, b"avc1\x02\x00\x09colorInfo\x06"), HEADER),
    ("Enhanced: CodedFramesX, key", video(KEY, 3, b"av01" + DATA), KEYFRAME),
    ("Enhanced: CodedFramesX, inter", video(INTER, 3, b"vp09" + DATA), FRAME),
    ("Enhanced: SequenceEnd", video(KEY, 2, b"av01"), OTHER),
    ("Enhanced: SequenceEnd with more", video(KEY, 2, b"av01" + DATA), OTHER),
    ("Enhanced: Metadata", video(KEY, 4, b"hvc1\x02\x00\x09colorInfo\x06"), HEADER),
    ("Enhanced: Metadata ignores the frame type", video(COMMAND, 4, b"hvc1\x02\x00\x09colorInfo\x06"), HEADER),
    ("Enhanced: MPEG2TSSequenceStart", video(KEY, 5, b"av01\x80\x04"), HEADER),
    ("Enhanced: packet type 8", video(KEY, 8, b"av01" + DATA), OTHER),
    ("Enhanced: command", video(COMMAND, 1, b"\x00"), OTHER),
    ("ModEx: keyframe", video(KEY, 7, modex(1, 1) + b"avc1" + DATA), KEYFRAME),
    ("ModEx: inter frame", video(INTER, 7, modex(1, 3) + b"avc1" + DATA), FRAME),
    ("ModEx: header", video(KEY, 7, modex(2, 0) + b"avc1" + DATA), HEADER),
    ("ModEx: as many as allowed", video(KEY, 7, modex(MAX_MODEX, 1) + b"avc1" + DATA), KEYFRAME),
    ("ModEx: one too many", video(KEY, 7, modex(MAX_MODEX + 1, 1) + b"avc1" + DATA), OTHER),
    ("ModEx: very many", video(KEY, 7, modex(100_000, 1) + b"avc1" + DATA), OTHER),
    ("ModEx: 256 bytes", video(KEY, 7, b"\xff\x00\xff" + bytes(256) + b"\x01avc1" + DATA), KEYFRAME),
    ("ModEx: 65536 bytes", video(KEY, 7, b"\xff\xff\xff" + bytes(65536) + b"\x01avc1" + DATA), KEYFRAME),
    ("ModEx: past the end", video(KEY, 7, b"\xff\xff\xff" + bytes(65535)), OTHER),
    ("ModEx: nothing behind it", video(KEY, 7, NANOSECONDS), OTHER),
    ("ModEx: no codec behind it", video(KEY, 7, modex(1, 1) + b"avc"), OTHER),
    ("ModEx: command", video(COMMAND, 7, modex(1, 1) + b"\x00"), OTHER),
    ("ModEx: multitrack", video(KEY, 7, modex(1, 6) + b"\x01avc1\x05" + DATA), KEYFRAME),
    ("one track: keyframe", video(KEY, 6, bytes((ONE | 1,)) + b"hvc1\x02" + DATA), KEYFRAME),
    ("one track: CodedFramesX", video(KEY, 6, bytes((ONE | 3,)) + b"hvc1\x02" + DATA), KEYFRAME),
    ("one track: inter frame", video(INTER, 6, bytes((ONE | 1,)) + b"hvc1\x02" + DATA), FRAME),
    ("one track: header", video(KEY, 6, bytes((ONE,)) + b"hvc1\x02" + DATA), HEADER),
    ("one track: end", video(KEY, 6, bytes((ONE | 2,)) + b"hvc1\x02"), OTHER),
    ("one track: without its id", video(KEY, 6, bytes((ONE | 1,)) + b"hvc1"), OTHER),
    ("one track: multitrack in multitrack", video(KEY, 6, bytes((ONE | 6,)) + b"hvc1\x02" + DATA), OTHER),
    ("one track: ModEx in multitrack", video(KEY, 6, bytes((ONE | 7,)) + b"hvc1\x02" + DATA), OTHER),
    ("one track: command", video(COMMAND, 6, bytes((ONE | 1,)) + b"hvc1\x02" + DATA), OTHER),
    ("many: keyframe", video(KEY, 6, bytes((MANY | 1,)) + b"hvc1" + track(0, DATA) + track(1, DATA)), KEYFRAME),
    ("many: inter frame", video(INTER, 6, bytes((MANY | 3,)) + b"hvc1" + track(0, DATA) + track(1, b"")), FRAME),
    ("many: header", video(KEY, 6, bytes((MANY,)) + b"hvc1" + track(0, DATA) + track(1, DATA)), HEADER),
    ("many: no track", video(KEY, 6, bytes((MANY | 1,)) + b"hvc1"), OTHER),
    ("many: a size past the end", video(KEY, 6, bytes((MANY | 1,)) + b"hvc1" + track(0, DATA)[:-1]), OTHER),
    (
        "many: the second size past the end",
        video(KEY, 6, bytes((MANY,)) + b"hvc1" + track(0, DATA) * 2 + b"\x01"),
        OTHER,
    ),
    ("many: more tracks than ids", video(KEY, 6, bytes((MANY,)) + b"hvc1" + track(0, b"") * 257), OTHER),
    ("codecs: keyframe", video(KEY, 6, bytes((MANY_CODECS | 1,)) + track(0, DATA, b"avc1")), KEYFRAME),
    ("codecs: header", video(KEY, 6, bytes((MANY_CODECS,)) + track(0, DATA, b"avc1") + track(1, b"", b"av01")), HEADER),
    ("codecs: no track", video(KEY, 6, bytes((MANY_CODECS | 1,)) + b"avc1"), OTHER),
    ("codecs: cut in the codec", video(KEY, 6, bytes((MANY_CODECS,)) + track(0, DATA, b"avc1") + b"av0"), OTHER),
    ("a fourth kind of multitrack", video(KEY, 6, b"\x31hvc1\x02" + DATA), OTHER),
]

AUDIO_TABLE: list[tuple[str, bytes, int]] = [
    ("silence", b"", OTHER),
    ("one byte", b"\xaf", OTHER),
    ("AAC header", b"\xaf\x00\x12\x10", HEADER),
    ("AAC header of nothing", b"\xaf\x00", OTHER),
    ("AAC frame", b"\xaf\x01\x21", FRAME),
    ("AAC packet type 2", b"\xaf\x02\x21", OTHER),
    ("MP3 frame", b"\x2f\xff\xfb", FRAME),
    ("MP3 8 kHz frame", b"\xef\x00\x00", FRAME),
    ("G.711 frame", b"\x72\x00\x00", FRAME),
    ("Speex frame", b"\xb2\x00", FRAME),
    ("a reserved format", b"\xc2\x00", FRAME),
    ("Enhanced: SequenceStart", audio(0, b"OpusOpusHead"), HEADER),
    ("Enhanced: SequenceStart of nothing", audio(0, b".mp3"), HEADER),
    ("Enhanced: SequenceStart cut", audio(0, b"Opu"), OTHER),
    ("Enhanced: CodedFrames", audio(1, b"mp4a" + DATA), FRAME),
    ("Enhanced: CodedFrames, unknown codec", audio(1, b"zzzz" + DATA), FRAME),
    ("Enhanced: CodedFrames cut", audio(1, b"mp4"), OTHER),
    ("Enhanced: SequenceEnd", audio(2, b"mp4a"), OTHER),
    ("Enhanced: packet type 3", audio(3, b"mp4a" + DATA), OTHER),
    ("Enhanced: MultichannelConfig", audio(4, b"Opus\x01\x02\x00\x00\x00\x03"), HEADER),
    ("Enhanced: packet type 6", audio(6, b"mp4a" + DATA), OTHER),
    ("ModEx: frame", audio(7, modex(1, 1) + b"mp4a" + DATA), FRAME),
    ("ModEx: header", audio(7, modex(3, 0) + b"mp4a" + DATA), HEADER),
    ("ModEx: past the end", audio(7, b"\x05\x00"), OTHER),
    ("ModEx: multitrack", audio(7, modex(1, 5) + b"\x00mp4a\x01" + DATA), HEADER),
    ("one track: frame", audio(5, bytes((ONE | 1,)) + b"mp4a\x03" + DATA), FRAME),
    ("one track: header", audio(5, bytes((ONE,)) + b"mp4a\x03" + DATA), HEADER),
    ("one track: channels", audio(5, bytes((ONE | 4,)) + b"mp4a\x03\x00\x02"), HEADER),
    ("one track: multitrack in multitrack", audio(5, bytes((ONE | 5,)) + b"mp4a\x03" + DATA), OTHER),
    ("many: frame", audio(5, bytes((MANY | 1,)) + b"mp4a" + track(0, DATA) + track(1, DATA)), FRAME),
    ("many: no track", audio(5, bytes((MANY | 1,)) + b"mp4a"), OTHER),
    ("codecs: header", audio(5, bytes((MANY_CODECS,)) + track(0, DATA, b"mp4a") + track(1, b"", b"ac-3")), HEADER),
    ("codecs: a size past the end", audio(5, bytes((MANY_CODECS,)) + b"mp4a\x00\xff\xff\xff" + DATA), OTHER),
]

SLOTS: list[tuple[int, bytes, tuple[Slot, ...]]] = [
    (VIDEO, legacy(KEY, 7, b"\x00\x00\x00\x00\x01"), (("video", 0, "sequence"),)),
    (VIDEO, video(KEY, 0, b"av01\x81"), (("video", 0, "sequence"),)),
    (VIDEO, video(KEY, 5, b"av01\x81"), (("video", 0, "sequence"),)),
    (VIDEO, video(KEY, 4, b"av01\x81"), (("video", 0, "metadata"),)),
    (VIDEO, video(KEY, 7, modex(1, 4) + b"av01\x81"), (("video", 0, "metadata"),)),
    (VIDEO, video(KEY, 6, b"\x00av01\x05\x81"), (("video", 5, "sequence"),)),
    (VIDEO, video(KEY, 6, b"\x04av01\xff\x81"), (("video", 255, "metadata"),)),
    (
        VIDEO,
        video(KEY, 6, b"\x20" + track(3, DATA, b"avc1") + track(1, DATA, b"av01") + track(3, DATA, b"avc1")),
        (("video", 3, "sequence"), ("video", 1, "sequence")),
    ),
    (AUDIO, b"\xaf\x00\x12\x10", (("audio", 0, "sequence"),)),
    (AUDIO, audio(0, b"Opus"), (("audio", 0, "sequence"),)),
    (AUDIO, audio(4, b"Opus\x01"), (("audio", 0, "channels"),)),
    (
        AUDIO,
        audio(5, b"\x14mp4a" + track(1, DATA) + track(2, DATA)),
        (("audio", 1, "channels"), ("audio", 2, "channels")),
    ),
    (VIDEO, legacy(KEY, 7, b"\x01\x00\x00\x00" + DATA), ()),
    (VIDEO, video(KEY, 4, b"av01"), ()),
    (AUDIO, b"\xaf\x01" + DATA, ()),
    (VIDEO, b"", ()),
    (AUDIO, b"", ()),
]

TRACKS: list[tuple[int, bytes, tuple[int, ...]]] = [
    (VIDEO, b"", (0,)),
    (AUDIO, b"", (0,)),
    (VIDEO, legacy(KEY, 7, b"\x01\x00\x00\x00" + DATA), (0,)),
    (VIDEO, video(KEY, 1, b"av01" + DATA), (0,)),
    (VIDEO, video(KEY, 7, modex(1, 1) + b"av01" + DATA), (0,)),
    (VIDEO, video(KEY, 6, b"\x01av01\x07" + DATA), (7,)),
    (VIDEO, video(KEY, 7, modex(1, 6) + b"\x01av01\x07" + DATA), (7,)),
    (VIDEO, video(KEY, 6, b"\x11av01" + track(2, DATA) + track(0, DATA) + track(2, DATA)), (2, 0)),
    (VIDEO, video(KEY, 6, b"\x11av01" + track(2, DATA)[:-1]), ()),
    (AUDIO, b"\xaf\x01" + DATA, (0,)),
    (AUDIO, audio(1, b"Opus" + DATA), (0,)),
    (AUDIO, audio(5, b"\x01Opus\x09" + DATA), (9,)),
    (AUDIO, audio(5, b"\x21" + track(2, DATA, b"Opus") + track(4, DATA, b"mp4a")), (2, 4)),
]

CODECS: list[tuple[int, bytes, str]] = [
    (VIDEO, b"", "unknown"),
    (AUDIO, b"", "unknown"),
    (VIDEO, legacy(KEY, 7, b"\x01\x00\x00\x00" + DATA), "H.264"),
    (VIDEO, legacy(KEY, 12, b""), "HEVC"),
    (VIDEO, legacy(KEY, 2, b""), "H.263"),
    (VIDEO, legacy(KEY, 4, b""), "VP6"),
    (VIDEO, legacy(KEY, 15, b""), "unknown"),
    (VIDEO, video(KEY, 0, b"avc1"), "H.264"),
    (VIDEO, video(KEY, 1, b"hvc1" + DATA), "HEVC"),
    (VIDEO, video(KEY, 1, b"av01" + DATA), "AV1"),
    (VIDEO, video(KEY, 1, b"vp09" + DATA), "VP9"),
    (VIDEO, video(KEY, 1, b"vp08" + DATA), "VP8"),
    (VIDEO, video(KEY, 1, b"vvc1" + DATA), "VVC"),
    (VIDEO, video(KEY, 1, b"\x1b[2J" + DATA), "unknown"),
    (VIDEO, video(KEY, 1, b"av0"), "unknown"),
    (VIDEO, video(KEY, 6, b"\x21" + track(2, DATA, b"av01") + track(4, DATA, b"hvc1")), "AV1"),
    (AUDIO, b"\xaf\x01", "AAC"),
    (AUDIO, b"\x2f\x01", "MP3"),
    (AUDIO, b"\x72\x01", "G.711 A-law"),
    (AUDIO, b"\x82\x01", "G.711 mu-law"),
    (AUDIO, b"\xb2\x01", "Speex"),
    (AUDIO, b"\xd2\x01", "unknown"),
    (AUDIO, audio(0, b"Opus"), "Opus"),
    (AUDIO, audio(1, b"fLaC" + DATA), "FLAC"),
    (AUDIO, audio(1, b"ac-3" + DATA), "AC-3"),
    (AUDIO, audio(1, b"ec-3" + DATA), "E-AC-3"),
    (AUDIO, audio(1, b".mp3" + DATA), "MP3"),
    (AUDIO, audio(5, b"\x01mp4a\x01" + DATA), "AAC"),
]


AVC_HEADER = legacy(KEY, 7, b"\x00\x00\x00\x00\x01d\x00\x1f")
SEQUENCE_0, METADATA_0 = ("video", 0, "sequence"), ("video", 0, "metadata")

# Messages one after the other, and the slots that each ends.
ENDED: dict[str, list[tuple[int, bytes, tuple[Slot, ...]]]] = {
    "the same codec again, before Enhanced RTMP or with it": [
        (VIDEO, AVC_HEADER, ()),
        (VIDEO, video(KEY, 4, b"avc1\x02\x00\x09colorInfo\x06"), ()),
        (VIDEO, AVC_HEADER, ()),
        (VIDEO, video(KEY, 0, b"avc1\x01"), ()),
        (VIDEO, legacy(KEY, 12, b"\x00\x00\x00\x00\x01"), (METADATA_0,)),
        (VIDEO, video(KEY, 0, b"hvc1\x01"), ()),
        (VIDEO, legacy(KEY, 13, b"\x00\x00\x00\x00\x81"), (METADATA_0,)),
        (VIDEO, video(KEY, 5, b"av01\x80"), ()),
        (VIDEO, legacy(KEY, 9, b"\x00\x00\x00\x00\x01"), (METADATA_0,)),
        (VIDEO, legacy(KEY, 9, b"\x00\x00\x00\x00\x01"), ()),
    ],
    "another codec": [
        (VIDEO, video(KEY, 0, b"hvc1\x01"), ()),
        (VIDEO, video(KEY, 0, b"av01\x81"), (METADATA_0,)),
        (VIDEO, video(KEY, 0, b"av01\x81"), ()),
        (VIDEO, video(KEY, 0, b"zzzz\x81"), (METADATA_0,)),
    ],
    "metadata before the configuration stays": [
        (VIDEO, video(KEY, 4, b"hvc1\x02\x00\x09colorInfo\x06"), ()),
        (VIDEO, video(KEY, 0, b"hvc1\x01"), ()),
    ],
    "the end": [
        (VIDEO, video(KEY, 0, b"hvc1\x01"), ()),
        (VIDEO, video(KEY, 2, b"hvc1"), (SEQUENCE_0, METADATA_0)),
        (VIDEO, video(KEY, 4, b"av01\x02\x00\x09colorInfo\x06"), ()),
        (VIDEO, video(KEY, 0, b"av01\x01"), ()),
        (VIDEO, video(KEY, 7, modex(1, 2) + b"av01"), (SEQUENCE_0, METADATA_0)),
    ],
    "the end before Enhanced RTMP": [
        (VIDEO, AVC_HEADER, ()),
        (VIDEO, legacy(KEY, 7, b"\x02\x00\x00\x00"), (SEQUENCE_0, METADATA_0)),
        (VIDEO, legacy(INTER, 12, b"\x02"), (SEQUENCE_0, METADATA_0)),
        (VIDEO, legacy(COMMAND, 7, b"\x02\x00\x00\x00"), ()),
        (VIDEO, legacy(KEY, 2, b"\x02\x00\x00\x00"), ()),
        (VIDEO, legacy(KEY, 7, b"\x03\x00\x00\x00"), ()),
        (VIDEO, legacy(KEY, 7, b""), ()),
        (VIDEO, b"", ()),
    ],
    "each track for itself": [
        (VIDEO, video(KEY, 0, b"avc1\x01"), ()),
        (VIDEO, video(KEY, 6, b"\x20" + track(1, DATA, b"hvc1") + track(2, DATA, b"av01")), ()),
        (VIDEO, video(KEY, 6, b"\x10hvc1" + track(2, DATA) + track(1, DATA)), (("video", 2, "metadata"),)),
        (VIDEO, video(KEY, 6, b"\x02hvc1\x02"), (("video", 2, "sequence"), ("video", 2, "metadata"))),
        (VIDEO, video(KEY, 0, b"avc1\x01"), ()),
    ],
    "sound": [
        (AUDIO, b"\xaf\x00\x12\x10", ()),
        (AUDIO, audio(4, b"mp4a\x01"), ()),
        (AUDIO, audio(0, b"mp4a\x12\x10"), ()),
        (AUDIO, audio(0, b"Opus"), (("audio", 0, "channels"),)),
        (AUDIO, audio(2, b"Opus"), (("audio", 0, "sequence"), ("audio", 0, "channels"))),
        (AUDIO, b"\xaf\x02", ()),
        (AUDIO, b"\xaf\x01" + DATA, ()),
        (AUDIO, b"", ()),
    ],
    "sound and pictures": [
        (VIDEO, video(KEY, 0, b"avc1\x01"), ()),
        (AUDIO, audio(0, b"Opus"), ()),
        (AUDIO, audio(2, b"Opus"), (("audio", 0, "sequence"), ("audio", 0, "channels"))),
    ],
}


class Media(SynchronousTestCase):
    def test_classify_video(self) -> None:
        for name, body, expected in VIDEO_TABLE:
            self.assertEqual(tags.classify_video(body), expected, name)

    def test_classify_audio(self) -> None:
        for name, body, expected in AUDIO_TABLE:
            self.assertEqual(tags.classify_audio(body), expected, name)

    def test_header_slots(self) -> None:
        for type_id, body, expected in SLOTS:
            self.assertEqual(tags.header_slots(type_id, body), expected, body)

    def test_ended_slots(self) -> None:
        for name, messages in ENDED.items():
            codecs = tags.TrackCodecs()
            for number, (type_id, body, expected) in enumerate(messages):
                self.assertEqual(codecs.ended_slots(type_id, body), expected, f"{name}, message {number}")

    def test_tracks(self) -> None:
        for type_id, body, expected in TRACKS:
            self.assertEqual(tags.tracks(type_id, body), expected, body)

    def test_codec_name(self) -> None:
        for type_id, body, expected in CODECS:
            self.assertEqual(tags.codec_name(type_id, body), expected, body)

    def test_parse(self) -> None:
        body = video(KEY, 7, modex(2, 6) + b"\x20" + track(3, b"ab", b"avc1") + track(1, b"", b"av01"))
        packet = tags.parse(VIDEO, body)
        assert packet is not None
        self.assertEqual(packet.packet_type, tags.SEQUENCE_START)
        found = [(track.track_id, track.fourcc, body[track.start : track.stop]) for track in packet.tracks]
        self.assertEqual(found, [(3, b"avc1", b"ab"), (1, b"av01", b"")])
        self.assertIsNone(tags.parse(VIDEO, legacy(KEY, 7, DATA)))
        self.assertIsNone(tags.parse(VIDEO, b""))

    def test_every_cut(self) -> None:
        """A message that is cut anywhere raises nothing, and the functions agree about it."""
        for table, type_id in ((VIDEO_TABLE, VIDEO), (AUDIO_TABLE, AUDIO)):
            for _, body, _ in table:
                for stop in range(min(len(body), 300)):
                    self.check(type_id, body[:stop])

    @given(st.sampled_from([AUDIO, VIDEO]), st.binary(max_size=100))
    def test_any_bytes(self, type_id: int, body: bytes) -> None:
        self.check(type_id, body)

    @given(st.sampled_from([b"\x96", b"\x97", b"\xa6"]), st.lists(st.sampled_from([0, 1, 2, 3, 5, 6, 7, 17, 33])))
    def test_any_small_numbers(self, first: bytes, rest: list[int]) -> None:
        self.check(VIDEO, first + bytes(rest))
        self.check(AUDIO, first + bytes(rest))

    def check(self, type_id: int, body: bytes) -> None:
        kind = (tags.classify_video if type_id == VIDEO else tags.classify_audio)(body)
        slots = tags.header_slots(type_id, body)
        tracks = tags.tracks(type_id, body)
        ended = tags.TrackCodecs().ended_slots(type_id, body)
        self.assertTrue(kind == OTHER or not ended, "frames and headers of unknown tracks end nothing")
        self.assertLessEqual({track_id for _, track_id, _ in ended}, set(tracks))
        self.assertIn(kind, (FRAME, KEYFRAME, HEADER, OTHER))
        self.assertFalse(type_id == AUDIO and kind == KEYFRAME)
        self.assertEqual(kind == HEADER, bool(slots))
        if slots:
            self.assertEqual(tuple(track_id for _, track_id, _ in slots), tracks)
        if kind != OTHER:
            self.assertTrue(tracks)
        self.assertLessEqual(len(tracks), tags.MAX_TRACKS)
        self.assertTrue(tags.codec_name(type_id, body).isascii())
