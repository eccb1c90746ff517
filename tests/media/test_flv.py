"""rtmp_twisted.media.flv: against the bytes of the specification, a reader of its own, and ffmpeg."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.media import flv
from rtmp_twisted.wire.messages import AUDIO, COMMAND_AMF0, DATA_AMF0, DATA_AMF3, VIDEO, Message
from tests.support.clips import current_ffmpeg
from tests.support.fakes import within
from tests.support.flv import parse_flv, read_flv
from tests.support.programs import Program

MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from(sorted(flv.TAG_TYPES)),
        st.just(1),
        st.one_of(st.integers(0, 2**32 - 1), st.integers(0xFFFFF0, 0x100000F)),
        st.binary(max_size=300),
    ),
    max_size=8,
)


def mux(messages: list[Message]) -> bytes:
    parts: list[bytes | memoryview] = [flv.header()]
    for message in messages:
        flv.append_tag(parts, message.type_id, message.timestamp, message.body)
    return b"".join(parts)


class Muxing(SynchronousTestCase):
    def test_header(self) -> None:
        for audio, video, flags in ((True, True, 5), (True, False, 4), (False, True, 1), (False, False, 0)):
            expected = b"FLV\x01" + bytes((flags,)) + b"\0\0\0\x09" + b"\0\0\0\0"
            self.assertEqual(flv.header(audio=audio, video=video), expected)
        self.assertEqual(flv.header(), flv.header(audio=True, video=True))

    def test_tags(self) -> None:
        for type_id, timestamp, body, expected in (
            (AUDIO, 0, b"", "08 000000 000000 00 000000 0000000b"),
            (VIDEO, 0x123456, b"abc", "09 000003 123456 00 000000 616263 0000000e"),
            (DATA_AMF0, 0xFEDCBA98, b"\xff", "12 000001 dcba98 fe 000000 ff 0000000c"),
        ):
            parts: list[bytes | memoryview] = [b"before"]
            length = flv.append_tag(parts, type_id, timestamp, body)
            self.assertEqual(b"".join(parts), b"before" + bytes.fromhex(expected))
            self.assertEqual(length, len(bytes.fromhex(expected)))
            self.assertIs(parts[2], body, "the body is not copied")

    def test_the_longest(self) -> None:
        parts: list[bytes | memoryview] = []
        self.assertEqual(flv.append_tag(parts, VIDEO, 0, bytes(flv.MAX_BODY)), 11 + 0xFFFFFF + 4)
        self.assertEqual((parts[0][1:4], parts[2]), (b"\xff\xff\xff", b"\x01\x00\x00\x0a"))

    def test_no_flv_form(self) -> None:
        parts: list[bytes | memoryview] = []
        for type_id, body in (DATA_AMF3, b""), (COMMAND_AMF0, b""), (0, b""), (VIDEO, bytes(flv.MAX_BODY + 1)):
            self.assertRaises(ValueError, flv.append_tag, parts, type_id, 0, body)
        self.assertEqual(parts, [])

    @given(MESSAGES)
    def test_round_trip(self, messages: list[Message]) -> None:
        self.assertEqual(parse_flv(mux(messages)), messages)


class Programs(TestCase):
    """What ffmpeg wrote, muxed again."""

    async def clip(self, *codecs: str) -> Path:
        path = Path(self.mktemp() + ".flv")
        sources = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10", "-f", "lavfi", "-i", "sine=sample_rate=44100")
        await current_ffmpeg(self, *sources, "-t", "2", *codecs, "-c:a", "aac", str(path))
        return path

    async def test_the_same_bytes(self) -> None:
        for codecs in ("-c:v", "libx264", "-bf", "2"), ("-c:v", "libx265", "-x265-params", "log-level=none"):
            path = await self.clip(*codecs)
            self.assertGreater(len(read_flv(path)), 50)
            self.assertEqual(mux(read_flv(path)), path.read_bytes())

    async def times(self, path: Path) -> list[int]:
        """The decoding times of all packets, as ffprobe reads them."""
        options = ("-v", "error", "-show_entries", "packet=dts", "-of", "csv=print_section=0")
        program = Program(self, "ffprobe", *options, str(path))
        self.assertEqual(await within(program.ended), 0)
        return [int(line) for line in program.lines]

    async def test_times_of_more_than_24_bits(self) -> None:
        path = await self.clip("-c:v", "libx264", "-bf", "2")
        times = await self.times(path)
        self.assertGreater(len(times), 50)
        metadata, *media = read_flv(path)
        path.write_bytes(mux([metadata] + [tag._replace(timestamp=tag.timestamp + 0xFFFC00) for tag in media]))
        self.assertEqual(await self.times(path), [time + 0xFFFC00 for time in times])
        self.assertGreater(times[-1] + 0xFFFC00, 0x1000000)


class FormatTests(SynchronousTestCase):
    """The form of a stream: what its header says, and what has no place in it."""

    def test_the_header_tells_of_what_is_known(self) -> None:
        for types, flags in (((), 5), ((DATA_AMF0,), 5), ((AUDIO,), 4), ((DATA_AMF0, VIDEO), 1), ((AUDIO, VIDEO), 5)):
            self.assertEqual(flv.FLVFormat().preamble(types)[4], flags, types)

    def test_track_0_alone(self) -> None:
        """In the form that players know who know no tracks."""
        nano = b"\x02\0\0\x01"  # a ModEx prefix: its size less 1, and three bytes
        many = b"\0\0\0\x05first" + b"\x01\0\0\x06second"
        for type_id, body, expected in (
            (VIDEO, b"\x17\x01\0\0\0frame", b"\x17\x01\0\0\0frame"),
            (VIDEO, b"\x91avc1frame", b"\x91avc1frame"),
            (VIDEO, b"\x96\x01avc1\0frame", b"\x91avc1frame"),
            (VIDEO, b"\x96\x01avc1\x01frame", None),
            (VIDEO, b"\xa6\x11avc1" + many, b"\xa1avc1first"),
            (VIDEO, b"\xa6\x20avc1\0\0\0\x03one" + b"hvc1\x01\0\0\x03two", b"\xa0avc1one"),
            (VIDEO, b"\x97" + nano + b"\x01avc1frame", b"\x97" + nano + b"\x01avc1frame"),
            (VIDEO, b"\x97" + nano + b"\x06\x01avc1\x01frame", None),
            (VIDEO, b"\x96\x01av", b"\x96\x01av"),
            (AUDIO, b"\xaf\x01sound", b"\xaf\x01sound"),
            (AUDIO, b"\x95\x01mp4a\0sound", b"\x91mp4asound"),
            (AUDIO, b"\x95\x01mp4a\x02sound", None),
            (VIDEO, b"", b""),
        ):
            parts: list[bytes | memoryview] = []
            flv.FLVFormat().append(parts, type_id, 0, body)
            self.assertEqual(bytes(parts[1]) if parts else None, expected, body)
