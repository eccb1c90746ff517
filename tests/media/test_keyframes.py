"""rtmp_twisted.media.keyframes: what encoders write, bytes from the specifications, and any bytes."""

from __future__ import annotations

from pathlib import Path

import av
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.media import tags
from rtmp_twisted.media.keyframes import MAX_UNITS, WITH_COMPOSITION_TIME, is_keyframe
from tests.support.clips import current_ffmpeg


def units(*nal_units: bytes) -> bytes:
    """NAL units, each behind its length."""
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in nal_units)


def obu(kind: int, payload: bytes, extension: bytes = b"") -> bytes:
    """An OBU with its size (AV1, section 5.3)."""
    assert len(payload) < 128
    return bytes((kind << 3 | (4 if extension else 0) | 2,)) + extension + bytes((len(payload),)) + payload


H264_SPS, H264_PPS, H264_SEI, H264_AUD = b"\x67\x64", b"\x68\xeb", b"\x06\x05", b"\x09\xf0"
HEVC_VPS, HEVC_SEI = b"\x40\x01\x0c", b"\x4e\x01\x05"
VVC_SPS, VVC_PICTURE_HEADER = b"\x00\x79\x00", b"\x00\x99\x40"
DELIMITER, SEQUENCE_HEADER = obu(2, b""), obu(1, b"\x00\x00\x00")

TABLE: list[tuple[str, bytes, bytes, bool]] = [
    ("IDR", b"avc1", units(b"\x65\x88"), True),
    ("IDR behind others", b"avc1", units(H264_AUD, H264_SPS, H264_PPS, H264_SEI, b"\x25\x88"), True),
    ("a slice that is no IDR", b"avc1", units(H264_AUD, b"\x41\x9a"), False),
    ("the first slice decides", b"avc1", units(b"\x01\x9a", b"\x65\x88"), False),
    ("a data partition", b"avc1", units(b"\x42\x9a"), False),
    ("no slice", b"avc1", units(H264_SPS, H264_PPS), False),
    ("an empty NAL unit first", b"avc1", units(b"", b"\x65\x88"), True),
    ("a NAL unit that is cut", b"avc1", units(b"\x65\x88")[:-1], False),
    ("a length that is cut", b"avc1", units(H264_SPS) + b"\x00\x00\x00", False),
    ("as many units as are looked at", b"avc1", units(*[H264_SEI] * (MAX_UNITS - 1), b"\x65\x88"), True),
    ("one too many", b"avc1", units(*[H264_SEI] * MAX_UNITS, b"\x65\x88"), False),
    *((f"HEVC NAL unit type {n}", b"hvc1", units(bytes((n << 1, 1))), 16 <= n <= 23) for n in range(32)),
    ("HEVC: IDR behind others", b"hvc1", units(HEVC_VPS, HEVC_SEI, b"\x26\x01\xaf"), True),
    ("HEVC: inter behind others", b"hvc1", units(HEVC_SEI, b"\x02\x01\xd0"), False),
    *((f"VVC NAL unit type {n}", b"vvc1", units(bytes((0, n << 3 | 1))), n in (7, 8, 9)) for n in range(12)),
    ("VVC: CRA behind others", b"vvc1", units(VVC_SPS, VVC_PICTURE_HEADER, b"\x00\x49\x00"), True),
    ("VVC: a NAL unit of one byte", b"vvc1", units(b"\x00", b"\x00\x39"), True),
    ("AV1: shown key frame", b"av01", obu(6, b"\x10\x00"), True),
    ("AV1: behind a delimiter and a sequence header", b"av01", DELIMITER + SEQUENCE_HEADER + obu(6, b"\x10"), True),
    ("AV1: a frame header of its own", b"av01", obu(3, b"\x10") + obu(4, b"\xff"), True),
    ("AV1: with an extension", b"av01", obu(6, b"\x10", b"\x08"), True),
    ("AV1: without its size", b"av01", b"\x30\x10\x00", True),
    ("AV1: a size in two bytes", b"av01", b"\x32\x81\x00\x10", True),
    ("AV1: key frame that is not shown", b"av01", obu(6, b"\x00"), False),
    ("AV1: inter frame", b"av01", obu(6, b"\x30"), False),
    ("AV1: intra-only frame", b"av01", obu(6, b"\x50"), False),
    ("AV1: an existing frame is shown", b"av01", obu(3, b"\x90"), False),
    ("AV1: an empty frame", b"av01", obu(6, b""), False),
    ("AV1: an OBU that is cut", b"av01", obu(6, b"\x10\x00")[:-1], False),
    ("AV1: no frame", b"av01", DELIMITER + SEQUENCE_HEADER, False),
    ("AV1: a size without an end", b"av01", b"\x32" + b"\xff" * 20, False),
    ("AV1: as many OBUs as are looked at", b"av01", obu(5, b"") * (MAX_UNITS - 1) + obu(6, b"\x10"), True),
    ("AV1: one too many", b"av01", obu(5, b"") * MAX_UNITS + obu(6, b"\x10"), False),
    ("VP8: key frame", b"vp08", b"\x10\x02\x00\x9d\x01\x2a\x40", True),
    ("VP8: inter frame", b"vp08", b"\x11\x02\x00\x9d\x01\x2a\x40", False),
    ("VP8: without the start code", b"vp08", b"\x10\x02\x00\x9d\x01\x2b\x40", False),
    ("VP8: cut", b"vp08", b"\x10\x02\x00\x9d\x01\x2a", False),
    ("VP9: key frame", b"vp09", b"\x82\x49\x83\x42", True),
    ("VP9: inter frame", b"vp09", b"\x86\x00", False),
    ("VP9: an existing frame is shown", b"vp09", b"\x88", False),
    ("VP9 profile 2: key frame", b"vp09", b"\x92\x49\x83\x42", True),
    ("VP9 profile 3: key frame", b"vp09", b"\xb1\x24\xc1\xa1", True),
    ("VP9 profile 3: inter frame", b"vp09", b"\xb2", False),
    ("VP9 profile 3: an existing frame is shown", b"vp09", b"\xb4", False),
    ("VP9: no frame marker", b"vp09", b"\x02\x49\x83\x42", False),
    *(
        (f"nothing of {fourcc!r}", fourcc, b"", False)
        for fourcc in (b"avc1", b"hvc1", b"vvc1", b"av01", b"vp08", b"vp09")
    ),
    ("an unknown codec", b"zzzz", units(b"\x65\x88"), False),
]


class Frames(SynchronousTestCase):
    def test_table(self) -> None:
        for name, fourcc, frame, expected in TABLE:
            self.assertIs(is_keyframe(fourcc, frame, 0, len(frame)), expected, name)

    def test_in_the_middle_of_a_message(self) -> None:
        """Whatever is before or behind the frame makes no difference."""
        for name, fourcc, frame, expected in TABLE:
            for before, behind in (b"\xff" * 9, b"\x65" * 9), (bytes(9), bytes(9)), (b"", units(b"\x65")):
                body = before + frame + behind
                found = is_keyframe(fourcc, body, len(before), len(before) + len(frame))
                self.assertIs(found, expected, name)

    def test_every_cut(self) -> None:
        """A cut keyframe may still be one; no cut makes a keyframe of another frame, and none raises."""
        for name, fourcc, frame, expected in TABLE:
            for stop in range(len(frame)):
                self.assertLessEqual(is_keyframe(fourcc, frame[:stop], 0, stop), expected, name)

    @given(st.sampled_from([b"avc1", b"hvc1", b"vvc1", b"av01", b"vp08", b"vp09"]), st.binary(max_size=60), st.data())
    def test_any_bytes(self, fourcc: bytes, body: bytes, data: st.DataObject) -> None:
        stop = data.draw(st.integers(0, len(body)))
        self.assertIn(is_keyframe(fourcc, body, data.draw(st.integers(0, stop + 3)), stop), (False, True))


class Encoders(TestCase):
    """What encoders write, as Enhanced RTMP messages with frame type 0."""

    async def check(self, fourcc: bytes, kind: str, *codec: str) -> None:
        path = Path(self.mktemp() + kind)
        await current_ffmpeg(self, "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25", "-t", "3", *codec, str(path))
        with av.open(str(path)) as clip:
            frames = [(bytes(packet), packet.is_keyframe) for packet in clip.demux() if packet.size]
        self.assertEqual(len(frames), 75)
        self.assertIn(sum(key for _, key in frames), range(3, 10))
        composition_time = b"\x00\x00\x28" if fourcc in WITH_COMPOSITION_TIME else b""
        for frame, key in frames:
            for head in b"\x81" + fourcc + composition_time, b"\x83" + fourcc:
                self.assertEqual(tags.classify_video(head + frame), tags.KEYFRAME if key else tags.FRAME)

    async def test_h264(self) -> None:
        await self.check(b"avc1", ".mp4", "-c:v", "libx264", "-g", "10", "-bf", "2")

    async def test_h264_with_delimiters_and_many_slices(self) -> None:
        await self.check(b"avc1", ".mp4", "-c:v", "libx264", "-g", "10", "-x264-params", "aud=1:slices=4")

    async def test_hevc(self) -> None:
        for options in "open-gop=1", "open-gop=0:aud=1:repeat-headers=1":
            parameters = f"log-level=none:keyint=10:min-keyint=10:{options}"
            await self.check(b"hvc1", ".mp4", "-c:v", "libx265", "-x265-params", parameters)

    async def test_vvc(self) -> None:
        await self.check(b"vvc1", ".mp4", "-c:v", "libvvenc", "-preset", "faster", "-g", "32")

    async def test_av1(self) -> None:
        await self.check(b"av01", ".mp4", "-c:v", "libsvtav1", "-preset", "12", "-g", "10")
        await self.check(b"av01", ".mp4", "-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "10")

    async def test_vp8(self) -> None:
        await self.check(b"vp08", ".mkv", "-c:v", "libvpx", "-g", "10", "-auto-alt-ref", "1")

    async def test_vp9(self) -> None:
        await self.check(b"vp09", ".mkv", "-c:v", "libvpx-vp9", "-g", "10", "-deadline", "good", "-cpu-used", "8")

    async def test_vp9_profile_3(self) -> None:
        options = ("-g", "10", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv444p10le")
        await self.check(b"vp09", ".mkv", "-c:v", "libvpx-vp9", *options)
