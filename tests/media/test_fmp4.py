"""rtmp_twisted.media.fmp4 and mp4: one rule after the other, any messages, and how ffmpeg reads the same media."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.media import fmp4, mp4
from rtmp_twisted.media.fmp4 import Muxer
from rtmp_twisted.media.mp4 import Entry
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO, Message
from tests.media.test_codecs import AV1_642X362, H264_322X242_BASELINE, H264_1918X1076_HIGH_422, HEVC_1918X1078, VP9
from tests.support.clips import current_ffmpeg
from tests.support.fakes import within
from tests.support.flv import read_flv
from tests.support.mp4 import Init, Sample, check_stream, inits, parse_mp4, samples
from tests.support.programs import Program
from tests.support.rtmp_client import AAC_HEADER, aac

AVC = Message(VIDEO, 1, 0, b"\x17\x00\x00\x00\x00" + H264_322X242_BASELINE)
OTHER_AVC = Message(VIDEO, 1, 0, b"\x17\x00\x00\x00\x00" + H264_1918X1076_HIGH_422)
END_OF_AVC = Message(VIDEO, 1, 0, b"\x17\x02\x00\x00\x00")
MP3_FRAME = bytes.fromhex("fffb9064") + b"layer III"


def avc(timestamp: int, keyframe: bool = False, content: bytes = b"frame", composition: int = 0) -> Message:
    body = (b"\x17\x01" if keyframe else b"\x27\x01") + composition.to_bytes(3, "big", signed=True) + content
    return Message(VIDEO, 1, timestamp, body)


def on_track(message: Message, track_id: int) -> Message:
    """An H.264 or AAC message of before Enhanced RTMP, for another track."""
    body = message.body
    if message.type_id == AUDIO:
        return message._replace(body=bytes((0x95, body[1])) + b"mp4a" + bytes((track_id,)) + body[2:])
    composition = body[2:5] if body[1] == 1 else b""
    head = bytes((0x86 | body[0] & 0x70, body[1])) + b"avc1" + bytes((track_id,))
    return message._replace(body=head + composition + body[5:])


def write(muxer: Muxer, *messages: Message) -> list[Entry]:
    return [entry for message in messages for entry in muxer.write(message.type_id, message.timestamp, message.body)]


def as_bytes(entries: list[Entry]) -> bytes:
    return b"".join(part for entry in entries for part in (entry.head, entry.frame))


def mux(*messages: Message, track: int | None = None) -> bytes:
    muxer = Muxer(track)
    return as_bytes(write(muxer, *messages) + muxer.flush())


def shape(data: bytes) -> list[str]:
    """One word for each item of a stream."""
    return ["init" if isinstance(item, Init) else item.data.decode() for item in parse_mp4(data)]


class Muxing(SynchronousTestCase):
    def test_the_stream(self) -> None:
        data = mux(
            *(AVC, AAC_HEADER, avc(1000, True, b"key", 80), aac(1010, b"s1"), aac(1033, b"s2")),
            *(avc(1040, False, b"P", 120), avc(1080, False, b"B", -40), aac(1056, b"s3")),
        )
        self.assertEqual(shape(data), ["init", "key", "s1", "s2", "P", "B", "s3"])
        init, *found = parse_mp4(data)
        assert isinstance(init, Init)
        self.assertEqual(init.tracks, {1: [b"vide", b"avc1", 1000], 2: [b"soun", b"mp4a", 44100]})
        first = 1010 * 441 // 10
        self.assertEqual(
            found,
            [
                Sample(1, 1000, 40, 80, True, b"key"),
                Sample(2, first, 1024, 0, True, b"s1"),
                Sample(2, first + 1024, 1024, 0, True, b"s2"),
                Sample(1, 1040, 40, 120, False, b"P"),
                Sample(1, 1080, 40, -40, False, b"B"),
                Sample(2, first + 2048, 1024, 0, True, b"s3"),
            ],
        )

    def test_a_fragment_s_own_reader(self) -> None:
        data = mux(AVC, avc(2**32 - 40, True, b"key", 80), avc(0, False, b"next", -7))
        offset = len(data) - 2 * fmp4.FRAGMENT_HEADER - len(b"keynext")
        first = fmp4.read_fragment(data, offset)
        self.assertEqual(first, fmp4.Fragment(1, 2**32 - 40, 40, 80, True, fmp4.FRAGMENT_HEADER + 3))
        second = fmp4.read_fragment(data, offset + first.size)
        self.assertEqual(second, fmp4.Fragment(1, 2**32, 40, -7, False, fmp4.FRAGMENT_HEADER + 4))

    def test_what_it_says_of_itself(self) -> None:
        [init] = inits(mux(AVC, AAC_HEADER, avc(0, True), aac(0)))
        self.assertEqual(
            init.description,
            {
                "type": 'video/mp4; codecs="avc1.42c00d,mp4a.40.2"',
                "tracks": [
                    {"id": 1, "kind": "video", "timescale": 1000, "codec": "avc1.42c00d"}
                    | {"width": 322, "height": 242, "frame_rate": 29.97},
                    {"id": 2, "kind": "audio", "timescale": 44100, "codec": "mp4a.40.2"}
                    | {"channels": 2, "sample_rate": 44100},
                ],
            },
        )

    def test_a_frame_waits_for_the_next_of_its_track(self) -> None:
        """And what comes behind it waits with it."""
        muxer = Muxer()
        self.assertEqual(write(muxer, AVC, AAC_HEADER, avc(0, True, b"key"), aac(0, b"s1"), aac(23, b"s2")), [])
        self.assertEqual(shape(as_bytes(write(muxer, avc(50, False, b"P")))), ["init", "key", "s1", "s2"])
        self.assertEqual(write(muxer, aac(46, b"s3")), [])
        self.assertEqual(shape(as_bytes(write(muxer, avc(90, False, b"P2")))), ["P", "s3"])

    def test_sound_does_not_wait_for_long(self) -> None:
        muxer = Muxer()
        write(muxer, AVC, AAC_HEADER, avc(0, True), aac(0), avc(40, content=b"last"))
        self.assertEqual(write(muxer, aac(40 + fmp4.HOLD - 1, b"s1")), [])
        found = samples(as_bytes(write(muxer, aac(40 + fmp4.HOLD, b"s2"))))
        self.assertEqual([sample.data for sample in found], [b"last", b"s1", b"s2"])
        self.assertEqual(found[0].duration, fmp4.STALLED)
        self.assertEqual(write(muxer, avc(2000)), [])
        self.assertEqual(samples(as_bytes(write(muxer, avc(2040))))[0].time, 2000)

    def test_the_beginning_waits_for_both_kinds(self) -> None:
        muxer = Muxer()
        self.assertEqual(write(muxer, AVC, avc(0, True), avc(40), avc(80)), [])
        [init, *_] = parse_mp4(as_bytes(write(muxer, AAC_HEADER, aac(80), avc(120))))
        assert isinstance(init, Init)
        self.assertEqual(list(init.tracks), [1, 2])

    def test_without_sound_and_without_video(self) -> None:
        for header, frame in (AVC, avc), (AAC_HEADER, lambda time, key: aac(time)):
            muxer = Muxer()
            self.assertEqual(write(muxer, header, *(frame(time, True) for time in range(0, fmp4.PATIENCE, 20))), [])
            found = parse_mp4(as_bytes(write(muxer, frame(fmp4.PATIENCE, True))))
            self.assertIsInstance(found[0], Init)
            self.assertEqual(len(found), 1 + fmp4.PATIENCE // 20 + (header is AAC_HEADER))

    def test_a_track_that_comes_late(self) -> None:
        data = mux(
            AVC, avc(0, True, b"key"), avc(600, content=b"P"), AAC_HEADER, aac(600, b"s"), avc(640, content=b"Q")
        )
        self.assertEqual(shape(data), ["init", "key", "P", "init", "s", "Q"])
        self.assertEqual([list(init.tracks) for init in inits(data)], [[1], [1, 2]])

    def test_a_track_without_frames_is_not_announced(self) -> None:
        data = mux(AVC, AAC_HEADER, avc(0, True), avc(600))
        self.assertEqual([list(init.tracks) for init in inits(data)], [[1]])

    def test_another_configuration(self) -> None:
        """What came before it leaves before it, and the new section comes with the first frame."""
        muxer = Muxer()
        write(muxer, AVC, AAC_HEADER, avc(0, True), aac(0), avc(40, content=b"old"))
        self.assertEqual(shape(as_bytes(write(muxer, OTHER_AVC))), ["old"])
        data = as_bytes(write(muxer, aac(46, b"s"), avc(80, True, b"key"), avc(120)))
        self.assertEqual(shape(data), ["s", "init", "key"])
        [init] = inits(data)
        self.assertEqual(init.description["tracks"][0]["width"], 1918)

    def test_the_same_configuration_again(self) -> None:
        data = mux(AVC, AAC_HEADER, avc(0, True, b"a"), aac(0, b"b"), AVC, AAC_HEADER, avc(40, True, b"c"))
        self.assertEqual(shape(data), ["init", "a", "b", "c"])

    def test_a_publish_that_returns(self) -> None:
        """With the same configuration the stream goes on; without sound it begins anew, without a track for it."""
        muxer = Muxer()
        write(muxer, AVC, AAC_HEADER, avc(0, True), aac(0))
        self.assertEqual(shape(as_bytes(muxer.flush())), ["init", "frame", "sound"])
        muxer.reset()
        again = write(muxer, AVC, AAC_HEADER, avc(500, True), aac(500)) + muxer.flush()
        self.assertEqual(shape(as_bytes(again)), ["frame", "sound"])
        muxer.reset()
        [init] = inits(as_bytes(write(muxer, AVC, avc(900, True)) + muxer.flush()))
        self.assertEqual(list(init.tracks), [1])

    def test_the_end_of_a_sequence(self) -> None:
        data = mux(
            AVC, AAC_HEADER, avc(0, True), aac(0), END_OF_AVC, avc(40, True), OTHER_AVC, aac(600), avc(620, True)
        )
        self.assertEqual(shape(data), ["init", "frame", "sound", "sound", "init", "frame"])

    def test_a_configuration_that_returns_at_an_earlier_time(self) -> None:
        """The track begins anew, for its times go back: also where the section is the same as the one before."""
        for between in OTHER_AVC, END_OF_AVC:
            data = mux(AVC, avc(500, True, b"a"), between, AVC, avc(100, True, b"b"))
            self.assertEqual(shape(data), ["init", "a", "init", "b"])
            self.assertEqual([sample.time for sample in samples(data)], [500, 100])

    def test_sound_is_counted_in_samples(self) -> None:
        """Rounded times are made exact; a gap and a step back are what they are; two frames at one time are not."""
        times = [1000, 1023, 1046, 1070, 1093, 1116, 1200, 1200, 1246, 1230, 900]
        found = [sample.time for sample in samples(mux(AAC_HEADER, *(aac(time) for time in times)))]
        self.assertEqual([time - 44100 for time in found[:6]], [1024 * number for number in range(6)])
        self.assertEqual([time - 52920 for time in found[6:9]], [0, 1024, 2048])
        self.assertEqual(found[9] - 52920, 3072 - 0)
        self.assertEqual(found[10], found[9] + 1)

    def test_pictures_are_decoded_one_after_the_other(self) -> None:
        """Of frames at the same time, and of earlier ones, the time of presentation stays."""
        found = samples(mux(AVC, avc(100, True), avc(100, composition=40), avc(90, composition=10), avc(140)))
        self.assertEqual(
            [(s.time, s.duration, s.time + s.composition) for s in found][:3],
            [(100, 1, 100), (101, 1, 140), (102, 38, 100)],
        )

    def test_times_that_wrap(self) -> None:
        found = samples(mux(AVC, avc(2**32 - 20, True), avc(20), avc(60)))
        self.assertEqual([sample.time for sample in found], [2**32 - 20, 2**32 + 20, 2**32 + 60])

    def test_nothing_before_a_keyframe(self) -> None:
        self.assertEqual(shape(mux(AVC, avc(0, content=b"P"), avc(40, True, b"key"))), ["init", "key"])

    def test_a_source_that_marks_no_keyframes(self) -> None:
        data = mux(AVC, *(avc(time, content=b"%d" % time) for time in range(0, fmp4.WITHOUT_KEYFRAMES + 2, 1000)))
        self.assertEqual(shape(data), ["init", "10000"])

    def test_what_begins_a_group(self) -> None:
        """Keyframes of the first video track."""
        second = [on_track(message, 1) for message in (AVC, avc(5, True), avc(45, True))]
        muxer = Muxer()
        entries = write(muxer, AVC, second[0], avc(0, True), second[1], avc(40), second[2], avc(80, True), aac(80))
        entries += muxer.flush()
        self.assertEqual(
            [(entry.track_id, entry.timestamp, entry.keyframe, entry.leads) for entry in entries if entry.type_id],
            [(0, 0, True, True), (1, 5, True, False), (0, 40, False, False), (1, 45, True, False), (0, 80, True, True)],
        )

    def test_all_tracks_or_one(self) -> None:
        messages = [
            *(AVC, on_track(OTHER_AVC, 1), AAC_HEADER, on_track(AAC_HEADER, 1)),
            *(avc(0, True, b"V0"), on_track(avc(0, True, b"V1", 40), 1), aac(0, b"A0"), on_track(aac(0, b"A1"), 1)),
        ]
        self.assertEqual(shape(mux(*messages)), ["init", "V0", "V1", "A0", "A1"])
        self.assertEqual([sample.track for sample in samples(mux(*messages))], [1, 3, 2, 4])
        self.assertEqual(samples(mux(*messages))[1].composition, 40)
        self.assertEqual(shape(mux(*messages, track=0)), ["init", "V0", "A0"])
        self.assertEqual(shape(mux(*messages, track=1)), ["init", "V1", "A0"])
        self.assertEqual(shape(mux(*messages, track=2)), ["init", "A0"])

    def test_several_tracks_in_one_message(self) -> None:
        header, frame = b"\x96\x10avc1", b"\xa6\x11avc1"
        for number, record in (0, H264_322X242_BASELINE), (2, H264_1918X1076_HIGH_422):
            header += bytes((number,)) + len(record).to_bytes(3, "big") + record
            frame += bytes((number, 0, 0, 5, 0, 0, 40)) + b"F%d" % number
        data = mux(Message(VIDEO, 1, 0, header), Message(VIDEO, 1, 10, b"\x96" + frame[1:]))
        self.assertEqual(
            [(s.track, s.time, s.composition, s.data) for s in samples(data)], [(1, 10, 40, b"F0"), (5, 10, 40, b"F2")]
        )

    def test_enhanced_rtmp(self) -> None:
        for fourcc, record, frame in (
            (b"hvc1", HEVC_1918X1078, b"\x93hvc1F"),
            (b"hvc1", HEVC_1918X1078, b"\x91hvc1\x00\x00\x50F"),
            (b"av01", AV1_642X362, b"\x91av01F"),
        ):
            header = Message(VIDEO, 1, 0, b"\x90" + fourcc + record)
            [sample] = samples(mux(header, Message(VIDEO, 1, 0, frame)))
            self.assertEqual((sample.data, sample.composition), (b"F", 0x50 if len(frame) == 9 else 0))

    def test_vp9_changes_its_size_at_a_keyframe(self) -> None:
        def key(timestamp: int, width: int, height: int) -> Message:
            bits = f"{0b10_0_0_0_0_1_0:08b}{0x498342:024b}001{0:01b}{width - 1:016b}{height - 1:016b}0000"
            return Message(VIDEO, 1, timestamp, b"\x91vp09" + int(bits, 2).to_bytes(len(bits) // 8, "big"))

        data = mux(Message(VIDEO, 1, 0, b"\x90vp09" + VP9), key(0, 640, 360), key(40, 640, 360), key(80, 320, 180))
        widths = [init.description["tracks"][0]["width"] for init in inits(data)]
        self.assertEqual((widths, len(samples(data))), ([640, 320], 3))

    def test_mp3_needs_no_configuration(self) -> None:
        for body in b"\x2f" + MP3_FRAME, b"\x91.mp3" + MP3_FRAME:
            data = mux(Message(AUDIO, 1, 0, body), Message(AUDIO, 1, 26, body))
            self.assertEqual([(s.time, s.duration) for s in samples(data)], [(0, 1152), (1152, 1152)])
            self.assertEqual(inits(data)[0].description["type"], 'audio/mp4; codecs="mp4a.6B"')

    def test_what_has_no_place(self) -> None:
        h263 = Message(VIDEO, 1, 0, b"\x12picture")
        speex = Message(AUDIO, 1, 0, b"\xb6sound")
        data = mux(Message(DATA_AMF0, 1, 0, b"\x02\x00\x01a"), h263, speex, AVC, avc(0, True, b""), avc(40, True, b"F"))
        self.assertEqual(shape(data), ["init", "F"])


class Bounds(SynchronousTestCase):
    def test_tracks(self) -> None:
        messages = [on_track(message, number) for number in range(40) for message in (AVC, avc(0, True))]
        self.assertEqual(len(inits(mux(*messages))[-1].tracks), fmp4.MAX_TRACKS)

    def test_a_long_configuration(self) -> None:
        long = AVC._replace(body=AVC.body + bytes(mp4.MAX_RECORD))
        self.assertEqual(mux(long, avc(0, True)), b"")

    def test_held_frames(self) -> None:
        muxer = Muxer()
        self.assertEqual(write(muxer, *[AVC, *[avc(0, True)] * fmp4.MAX_HELD]), [])
        self.assertGreater(len(write(muxer, avc(0, True))), fmp4.MAX_HELD)
        muxer = Muxer()
        large = avc(0, True, bytes(fmp4.MAX_HELD_BYTES // 2))
        self.assertEqual(write(muxer, AVC, large, large), [])
        self.assertGreater(len(as_bytes(write(muxer, large))), fmp4.MAX_HELD_BYTES)

    def test_initialisation_sections(self) -> None:
        """Beyond some, no more bytes of them than the source has sent."""
        muxer = Muxer()
        sent = size = 0
        for number in range(4000):
            changed = [OTHER_AVC if number % 2 else AVC, avc(number, True, b"F")]
            sent += sum(len(message.body) for message in changed)
            size += sum(len(entry.head) for entry in write(muxer, *changed) + muxer.flush() if not entry.type_id)
        self.assertGreater(size, fmp4.CREDIT)
        self.assertLessEqual(size, fmp4.CREDIT + sent)

    def test_frames_that_do_not_fit_their_codec(self) -> None:
        """A track's properties are not looked for in each frame."""
        broken = Message(AUDIO, 1, 0, b"\x2fbroken")
        right = Message(AUDIO, 1, 0, b"\x2f" + MP3_FRAME)
        self.assertNotEqual(mux(*[broken] * (fmp4.MAX_TRIES - 1), right), b"")
        self.assertEqual(mux(*[broken] * fmp4.MAX_TRIES, right), b"")


MESSAGES = st.lists(
    st.one_of(
        st.sampled_from([AVC, OTHER_AVC, AAC_HEADER, END_OF_AVC, on_track(AVC, 1)]),
        st.builds(avc, st.integers(0, 2000), st.booleans(), st.binary(min_size=1, max_size=9), st.integers(-99, 99)),
        st.builds(aac, st.integers(0, 2000), st.binary(min_size=1, max_size=9)),
        st.builds(lambda time, key: on_track(avc(time, key), 1), st.integers(0, 2000), st.booleans()),
        st.builds(
            Message,
            st.sampled_from([AUDIO, VIDEO]),
            st.just(1),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=40),
        ),
    ),
    max_size=40,
)  # fmt: skip


class AnyMessages(SynchronousTestCase):
    @settings(max_examples=300)
    @given(MESSAGES)
    def test_the_stream_is_well_formed(self, messages: list[Message]) -> None:
        """Each frame is there once at most, and all are in the order in which they came."""
        found = parse_mp4(mux(*messages))
        check_stream(found)
        left = [message.body for message in messages]
        for item in found:
            if isinstance(item, Sample):
                while not left.pop(0).endswith(item.data):
                    pass

    @given(MESSAGES, st.integers(0, 40))
    def test_when_it_is_flushed_changes_nothing_but_durations(self, messages: list[Message], where: int) -> None:
        muxer = Muxer()
        entries = write(muxer, *messages[:where]) + muxer.flush() + write(muxer, *messages[where:]) + muxer.flush()
        one, other = samples(as_bytes(entries)), samples(mux(*messages))
        self.assertEqual([s._replace(duration=0) for s in one], [s._replace(duration=0) for s in other])


class Packet(NamedTuple):
    """Times in milliseconds."""

    decoded: float
    presented: float
    checksum: str


class Programs(TestCase):
    """What ffmpeg wrote as FLV, muxed here, has the same packets for ffmpeg at the same times."""

    async def packets(self, path: Path) -> dict[int, list[Packet]]:
        """The packets of each stream as the current ffmpeg reads them."""
        lines = await current_ffmpeg(self, "-copyts", "-i", str(path), "-map", "0", "-c", "copy", "-f", "framemd5", "-")
        bases: dict[int, float] = {}
        found: dict[int, list[Packet]] = {}
        for line in lines:
            if line.startswith("#tb"):
                number, base = line.removeprefix("#tb ").split(": ")
                numerator, denominator = map(int, base.split("/"))
                bases[int(number)] = 1000 * numerator / denominator
            elif line and line[0].isdigit():
                stream, decoded, presented, _, _, checksum, *_ = (field.strip() for field in line.split(","))
                unit = bases[int(stream)]
                found.setdefault(int(stream), []).append(Packet(int(decoded) * unit, int(presented) * unit, checksum))
        return found

    async def check(self, video: str, audio: str, entries: list[str], pictures: int = 1, rate: int = 48000) -> None:
        path = Path(self.mktemp() + ".flv")
        sources: list[str] = []
        for number in range(pictures):
            sources += ["-f", "lavfi", "-i", f"testsrc2=size={320 >> number}x{192 >> number}:rate=25"]
        maps = [word for number in range(pictures + 1) for word in ("-map", str(number))]
        codecs = [*video.split(), "-g", "20", "-c:a", audio]
        sound = ["-f", "lavfi", "-i", f"sine=sample_rate={rate}"]
        await current_ffmpeg(self, *sources, *sound, *maps, "-t", "2", *codecs, str(path))
        muxed = path.with_suffix(".mp4")
        muxed.write_bytes(mux(*read_flv(path)))
        [init] = inits(muxed.read_bytes())
        self.assertEqual([track[1].decode() for track in init.tracks.values()], entries)
        before, after = await self.packets(path), await self.packets(muxed)
        self.assertEqual(len(before), len(after))
        found = {tuple(packet.checksum for packet in stream): stream for stream in after.values()}
        for stream in before.values():
            same = found[tuple(packet.checksum for packet in stream)]
            self.assertGreater(len(stream), 40)
            for one, other in zip(stream, same, strict=True):
                self.assertLessEqual(abs(one.decoded - other.decoded), 1.001)
                self.assertLessEqual(abs(one.presented - other.presented), 1.001)
        await self.decode(muxed)

    async def decode(self, path: Path) -> None:
        """Debian's ffmpeg decodes all of it without a word, and ffprobe finds the pictures in order."""
        program = Program(
            self, "ffmpeg", "-v", "warning", "-xerror", "-nostdin", "-i", str(path), "-map", "0", "-f", "null", "-"
        )
        self.assertEqual((await within(program.ended), program.lines), (0, []))
        options = ("-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts", "-of", "csv=print_section=0")
        program = Program(self, "ffprobe", *options, str(path))
        self.assertEqual(await within(program.ended), 0)
        times = [int(line.strip(",")) for line in program.lines if line]
        self.assertEqual({other - one for one, other in pairwise(times)}, {40})

    async def test_h264_with_b_frames_and_aac(self) -> None:
        await self.check("-c:v libx264 -bf 3", "aac", ["avc1", "mp4a"], rate=44100)

    async def test_hevc_and_opus(self) -> None:
        await self.check("-c:v libx265 -x265-params log-level=none", "libopus", ["hvc1", "Opus"])

    async def test_av1_and_flac(self) -> None:
        await self.check("-c:v libsvtav1 -preset 12", "flac", ["av01", "fLaC"])

    async def test_vp9_and_mp3(self) -> None:
        await self.check("-c:v libvpx-vp9 -deadline realtime -cpu-used 8", "libmp3lame", ["vp09", "mp4a"])

    async def test_ac3_and_e_ac3(self) -> None:
        await self.check("-c:v libx264 -preset ultrafast", "ac3", ["avc1", "ac-3"])
        await self.check("-c:v libx264 -preset ultrafast", "eac3", ["avc1", "ec-3"])

    async def test_three_video_tracks(self) -> None:
        await self.check("-c:v libx264 -preset ultrafast", "aac", ["avc1"] * 3 + ["mp4a"], pictures=3)
