"""rtmp_twisted.media.codecs: configurations that encoders wrote, whole, cut, and damaged."""

from __future__ import annotations

import random
from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.media.codecs import Details, describe_header
from rtmp_twisted.wire.messages import AUDIO, VIDEO

AVC = b"\x17\x00\x00\x00\x00"
HEVC = b"\x1c\x00\x00\x00\x00"

# Configurations that ffmpeg 5.1 wrote; each name says what was encoded. By x264:
H264_1918X1076_HIGH_422 = bytes.fromhex(
    "017a0028ffe1001c677a0028b6cd940780227a8dc044000003000400000300c83c60c65801000668ebe3cb22c0fefafa00"
)
H264_720X576_INTERLACED_SCALING_LISTS = bytes.fromhex(
    "0164001effe1001d6764001eacd940b424d82350502024000003000400000300c87c50a65801000768fba3cb3002c0fdf8f800"
)
H264_322X242_BASELINE = bytes.fromhex(
    "0142c00dffe100186742c00dd90150878888c04400000fa40003a9803c50a92001000568cb83cb20"
)
# By x265, cut behind the sequence parameter set:
HEVC_1918X1078 = bytes.fromhex(
    "01016000000090000000000078f000fcfdf8f800000f04"
    "a00001001840010c01ffff016000000300900000030000030078959809"
    "a10001002b420101016000000300900000030000030078a003c08010e75596566924caf0168080000003008000000c84"
)
HEVC_640X360_422_10 = bytes.fromhex(
    "0104080000009d08000000003ff000fcfefafa00001304"
    "a00001001b40010c02ffff0408000003009d0800000300003f00009598acc048"
    "a10001002e4201020408000003009d0800000300003f0000b0050201693659598acd24995e02d0100000030010000003019080"
)
AV1_642X362 = bytes.fromhex("81010c000a0b0000000cc5036936be4010")
AV1_1280X720_10_BITS = bytes.fromhex("81054c000a0b0000002d4cffb3c02f8404")
VP9 = bytes.fromhex("010000000015820202020000")
OPUS_STEREO = bytes.fromhex("4f707573486561640102380180bb0000000000")
FLAC_96000_6 = bytes.fromhex("664c6143000000222000200000032a0008a217700af000004b007465cbb5761941cddf95ae3b09e534ec")

TABLE: Final[list[tuple[int, bytes, Details]]] = [
    (
        VIDEO,
        AVC + H264_1918X1076_HIGH_422,
        {
            "codec": "H.264",
            "codec_string": "avc1.7a0028",
            "width": 1918,
            "height": 1076,
            "frame_rate": 25.0,
            "track": 0,
        },
    ),
    (
        VIDEO,
        AVC + H264_720X576_INTERLACED_SCALING_LISTS,
        {"codec": "H.264", "codec_string": "avc1.64001e", "width": 720, "height": 576, "frame_rate": 25.0, "track": 0},
    ),
    (
        VIDEO,
        b"\x90avc1" + H264_322X242_BASELINE,
        {"codec": "H.264", "codec_string": "avc1.42c00d", "width": 322, "height": 242, "frame_rate": 29.97, "track": 0},
    ),
    (
        VIDEO,
        HEVC + HEVC_1918X1078,
        {"codec": "HEVC", "codec_string": "hvc1.1.6.L120.90", "width": 1918, "height": 1078, "track": 0},
    ),
    (
        VIDEO,
        b"\x96\x00hvc1\x03" + HEVC_640X360_422_10,
        {"codec": "HEVC", "codec_string": "hvc1.4.10.L63.9d.8", "width": 640, "height": 360, "track": 3},
    ),
    (
        VIDEO,
        b"\x90av01" + AV1_642X362,
        {"codec": "AV1", "codec_string": "av01.0.01M.08", "width": 642, "height": 362, "track": 0},
    ),
    (
        VIDEO,
        b"\x1d\x00\x00\x00\x00" + AV1_1280X720_10_BITS,
        {"codec": "AV1", "codec_string": "av01.0.05M.10", "width": 1280, "height": 720, "track": 0},
    ),
    (VIDEO, b"\x90vp09" + VP9, {"codec": "VP9", "codec_string": "vp09.00.21.08", "track": 0}),
    (VIDEO, b"\x90vp09" + VP9[4:], {"codec": "VP9", "codec_string": "vp09.00.21.08", "track": 0}),
    (VIDEO, b"\x90vvc1\x01", {"codec": "VVC", "track": 0}),
    (VIDEO, b"\x90zzzz\x01", {"codec": "unknown", "track": 0}),
    (VIDEO, b"\x95av01" + AV1_642X362, {"codec": "AV1"}),
    (
        AUDIO,
        b"\xaf\x00\x11\x90",
        {"codec": "AAC", "codec_string": "mp4a.40.2", "sample_rate": 48000, "channels": 2, "track": 0},
    ),
    (
        AUDIO,
        b"\x90mp4a\x12\x30\x56\xe5\x00",
        {"codec": "AAC", "codec_string": "mp4a.40.2", "sample_rate": 44100, "channels": 6, "track": 0},
    ),
    # HE-AAC with explicit signalling: 24 kHz, and the doubled rate behind the channels.
    (
        AUDIO,
        b"\xaf\x00\x2b\x11\x88",
        {"codec": "AAC", "codec_string": "mp4a.40.5", "sample_rate": 48000, "channels": 2, "track": 0},
    ),
    # An object type behind the escape value (42: xHE-AAC), and a rate in 24 bits.
    (
        AUDIO,
        b"\xaf\x00\xf9\x5e\x00\x56\x22\x20",
        {"codec": "AAC", "codec_string": "mp4a.40.42", "sample_rate": 11025, "channels": 1, "track": 0},
    ),
    (
        AUDIO,
        b"\x90Opus" + OPUS_STEREO,
        {"codec": "Opus", "codec_string": "opus", "sample_rate": 48000, "channels": 2, "track": 0},
    ),
    (AUDIO, b"\x90Opus", {"codec": "Opus", "track": 0}),
    (
        AUDIO,
        b"\x95\x00fLaC\x02" + FLAC_96000_6,
        {"codec": "FLAC", "codec_string": "flac", "sample_rate": 96000, "channels": 6, "track": 2},
    ),
    (AUDIO, b"\x90.mp3", {"codec": "MP3", "track": 0}),
    # Messages that are no configuration.
    (VIDEO, b"", {}),
    (VIDEO, b"\x17\x01\x00\x00\x00coded", {}),
    (VIDEO, b"\x94av01\x02\x00\x09colorInfo\x06", {}),
    (AUDIO, b"", {}),
    (AUDIO, b"\xaf\x01coded", {}),
    (AUDIO, b"\x94Opus\x01\x02\x00\x00\x00\x03", {}),
]


class DescribeHeader(SynchronousTestCase):
    def test_table(self) -> None:
        for type_id, body, expected in TABLE:
            self.assertEqual(describe_header(type_id, body), expected)

    def test_several_tracks(self) -> None:
        """The first one is described, from its own bytes only."""
        body = b"\x96\x20"
        for track_id, fourcc, record in ((4, b"av01", AV1_642X362), (1, b"hvc1", HEVC_1918X1078)):
            body += fourcc + bytes((track_id,)) + len(record).to_bytes(3, "big") + record
        self.assertEqual(
            describe_header(VIDEO, body),
            {"codec": "AV1", "codec_string": "av01.0.01M.08", "width": 642, "height": 362, "track": 4},
        )

    def test_every_cut(self) -> None:
        """A cut configuration tells less, but nothing else."""
        for type_id, body, expected in TABLE:
            for stop in range(len(body)):
                details = describe_header(type_id, body[:stop])
                self.assertLessEqual(details.items(), expected.items())

    def test_every_changed_byte(self) -> None:
        for type_id, body, _ in TABLE:
            for at in range(len(body)):
                for value in (0, 1, 0x7F, 0x80, 0xFF, body[at] ^ 1):
                    self.check(type_id, body[:at] + bytes((value,)) + body[at + 1 :])

    def test_long_headers(self) -> None:
        """Megabytes behind a good beginning are not looked at."""
        for type_id, body, expected in TABLE:
            if expected.get("width"):
                self.check(type_id, body[:40] + random.Random(0).randbytes(100_000) + bytes(1 << 22))

    @given(st.sampled_from([(t, body[:7]) for t, body, _ in TABLE]), st.binary(max_size=80))
    def test_any_bytes(self, start: tuple[int, bytes], data: bytes) -> None:
        self.check(start[0], start[1] + data)

    def check(self, type_id: int, body: bytes) -> None:
        details = describe_header(type_id, body)
        for name in ("width", "height"):
            self.assertIn(details.get(name, 1), range(1, 65_537))
        self.assertLessEqual(float(details.get("frame_rate", 0)), 1000)
        self.assertTrue(str(details.get("codec_string", "")).isprintable())
        self.assertLess(len(str(details)), 300)
