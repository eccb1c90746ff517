"""rtmp_twisted.media.segments: where streams are cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.media import segments
from rtmp_twisted.media.fmp4 import Muxer
from rtmp_twisted.media.segments import Segmenter
from rtmp_twisted.wire.messages import Message
from tests.media.test_fmp4 import AVC, OTHER_AVC, as_bytes, avc, mux, write
from tests.support.mp4 import samples
from tests.support.rtmp_client import AAC_HEADER, aac

NOW = 1_700_000_000.0


def media(
    seconds: float,
    keyframes: float = 2.0,
    rate: float = 30,
    start: float = 0,
    video: bool = True,
    sound: bool = True,
    first: int = 0,
) -> Iterator[Message]:
    """Pictures, with a keyframe every so many seconds, and sound of 44.1 kHz. The first picture is a keyframe, unless
    there were ``first`` pictures before."""
    events = []
    if video:
        events += [(round(1000 * (start + n / rate)), 0, n) for n in range(round(seconds * rate))]
    if sound:
        events += [(int(1000 * (start + n * 1024 / 44100)), 1, n) for n in range(int(seconds * 44100 / 1024))]
    group = max(1, round(keyframes * rate))
    for time, kind, n in sorted(events):
        yield aac(time, b"sound") if kind else avc(time, (n + first) % group == 0, b"picture")


class SegmenterCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.muxer = Muxer(0)
        self.sent = b""

    def feed(self, segmenter: Segmenter, *messages: Message) -> None:
        """Each message arrives when it is due."""
        for message in messages:
            data = as_bytes(write(self.muxer, message))
            if data:
                self.sent += data
                segmenter.feed(data, NOW + message.timestamp / 1000)

    def cut(self, seconds: float, segment: float = 2, part: float = 0.3, **options: float | bool) -> Segmenter:
        segmenter = Segmenter(segment, part, 100)
        headers = [header for header, kind in ((AVC, "video"), (AAC_HEADER, "sound")) if options.get(kind, True)]
        self.feed(segmenter, *headers, *media(seconds, **options))  # type: ignore[arg-type]
        return segmenter


class CuttingTests(SegmenterCase):
    def test_at_keyframes(self) -> None:
        segmenter = self.cut(7)
        self.assertEqual([segment.number for segment in segmenter.segments], [100, 101, 102])
        for segment in segmenter.segments:
            self.assertAlmostEqual(segment.duration, 2.0)
            self.assertTrue(segment.independent)
            first = samples(b"".join(part.data for part in segment.parts))[0]
            self.assertTrue(first.keyframe)
            self.assertEqual(first.track, 1)
        self.assertEqual((segmenter.target, segmenter.part_target), (2, 0.3))

    def test_nothing_is_lost_or_twice(self) -> None:
        segmenter = self.cut(7)
        rest = as_bytes(self.muxer.flush())
        segmenter.feed(rest, NOW + 7)
        segmenter.end()
        parts = [part for segment in segmenter.segments for part in segment.parts]
        self.assertEqual([part.number for part in parts], list(range(10_000, 10_000 + len(parts))))
        init = segmenter.segments[0].init.data
        self.assertEqual(init + b"".join(part.data for part in parts), self.sent + rest)
        self.assertAlmostEqual(sum(segment.duration for segment in segmenter.segments), 7.0, places=2)

    def test_parts(self) -> None:
        """As long as they may be, in whole frames; the last one of a segment is shorter."""
        segmenter = self.cut(4.5)
        durations = [round(part.duration, 3) for part in segmenter.segments[0].parts]
        self.assertEqual(durations, [0.3] * 6 + [0.2])
        self.assertEqual([part.independent for part in segmenter.segments[0].parts], [True] + [False] * 6)

    def test_a_part_is_complete_with_its_last_frame(self) -> None:
        """As soon as another frame would make it too long, and the muxer knows how long the last one lasts."""
        segmenter = Segmenter(2, 0.3, 1, keyframe_seconds=2)
        self.feed(segmenter, AVC, AAC_HEADER, *media(0.3, sound=False))
        self.assertIsNone(segmenter.part(100))
        self.feed(segmenter, aac(290), avc(300))
        part = segmenter.part(100)
        assert part is not None
        self.assertAlmostEqual(part.duration, 0.3)

    def test_several_groups_make_a_segment(self) -> None:
        segmenter = self.cut(13, keyframes=0.5)
        self.assertEqual({round(segment.duration, 2) for segment in segmenter.segments}, {2.0})
        self.setUp()
        segmenter = self.cut(13, keyframes=1.5)
        self.assertEqual(({round(segment.duration, 2) for segment in segmenter.segments}, segmenter.target), ({3.0}, 3))

    def test_a_keyframe_that_comes_early(self) -> None:
        """At a cut of scenes, encoders begin a group early. A segment that would be too long with the next one ends."""
        segmenter = self.cut(4)
        self.feed(segmenter, *media(1.7, start=4), *media(6.3, start=5.7))
        self.assertEqual([round(segment.duration, 1) for segment in segmenter.segments][:4], [2.0, 2.0, 1.7, 2.0])
        self.assertEqual(segmenter.target, 2)

    def test_without_keyframes(self) -> None:
        """A segment ends without one, rather than be longer than its target."""
        segmenter = self.cut(30, keyframes=60)
        self.assertEqual(segmenter.target, segments.MAX_TARGET)
        self.assertEqual([segment.independent for segment in segmenter.segments], [True, False])
        self.assertLess(max(segment.duration for segment in segmenter.segments), segments.MAX_TARGET + 0.5)
        self.setUp()
        segmenter = self.cut(4)
        self.feed(segmenter, *media(8, start=4, keyframes=8))
        self.assertEqual(segmenter.target, 2)
        self.assertEqual([segment.independent for segment in segmenter.segments], [True, True, True, False, False])

    def test_sound_alone(self) -> None:
        segmenter = self.cut(7, video=False)
        self.assertEqual([round(segment.duration, 1) for segment in segmenter.segments], [1.9, 1.9, 1.9])
        parts = [part for segment in segmenter.segments for part in segment.parts]
        self.assertTrue(all(part.independent for part in parts))
        self.assertGreater(parts[0].duration, 0.85 * 0.3)

    def test_pictures_alone(self) -> None:
        segmenter = self.cut(5, sound=False)
        self.assertEqual([round(segment.duration, 2) for segment in segmenter.segments], [2.0, 2.0])

    def test_few_frames(self) -> None:
        """Parts of whole frames must not be much shorter than what is announced."""
        for rate, expected in (12.5, 0.244), (10, 0.304), (4, 0.252), (2, 0.502):
            self.setUp()
            segmenter = self.cut(9, rate=rate, sound=False)
            self.assertAlmostEqual(segmenter.part_target, expected)
            for segment in segmenter.segments:
                for part in segment.parts[:-1]:
                    self.assertLessEqual(part.duration, segmenter.part_target + 1e-9)
                    self.assertGreaterEqual(part.duration, segments.SHORTEST_PART * segmenter.part_target)

    def test_the_target_is_known_early(self) -> None:
        """Where the source has been on air for long enough."""
        for interval, target in ((None, None), (2.0, 2), (1.5, 3), (0.5, 2), (30.0, 10)):
            segmenter = Segmenter(2, 0.3, 1, interval)
            self.assertEqual(segmenter.target, target)

    def test_dates(self) -> None:
        """What was cached arrives late, but has its own time."""
        segmenter = Segmenter(2, 0.3, 1)
        data = mux(AVC, *media(3, start=50, sound=False))
        segmenter.feed(data, NOW)
        self.assertAlmostEqual(segmenter.segments[0].time, NOW - 3, places=1)
        [one, other] = [*segmenter.segments, segmenter.current]
        assert other is not None
        self.assertAlmostEqual(other.time - one.time, 2.0)

    def test_another_configuration(self) -> None:
        segmenter = self.cut(3)
        self.feed(segmenter, OTHER_AVC, *media(5, start=3))
        found = [(round(s.duration, 1), s.discontinuity, s.init.tracks[0]["width"]) for s in segmenter.segments]
        self.assertEqual(found, [(2.0, False, 322), (1.0, False, 322), (2.0, True, 1918), (2.0, False, 1918)])
        self.assertEqual([segment.init.number for segment in segmenter.segments], [100, 100, 102, 102])
        self.assertEqual(segmenter.init(102), segmenter.segments[2].init.data)

    def test_a_gap(self) -> None:
        """Where a publisher was away, the next segment does not go on where the last one ended."""
        segmenter = self.cut(3)
        before = segmenter.discontinuities
        self.muxer.flush()
        self.feed(segmenter, *media(5, start=10))
        self.assertEqual([s.discontinuity for s in segmenter.segments], [False, False, True, False])
        self.assertAlmostEqual(segmenter.segments[2].time, NOW + 10, places=1)
        segmenter.forget(1)
        self.assertEqual(segmenter.discontinuities, before + 1)

    def test_the_end(self) -> None:
        segmenter = self.cut(3)
        segmenter.end()
        self.assertEqual(round(sum(segment.duration for segment in segmenter.segments)), 3)
        self.assertIsNone(segmenter.current)
        held = segmenter.held
        self.feed(segmenter, *media(2, start=3))
        self.assertEqual(segmenter.held, held)

    def test_bounds(self) -> None:
        segmenter = self.cut(60)
        self.assertEqual(len(segmenter.segments), segments.MAX_SEGMENTS - 1)
        everything = sum(len(part.data) for segment in segmenter.segments for part in segment.parts)
        self.assertGreaterEqual(segmenter.held, everything)
        self.assertLess(segmenter.held, 2 * everything + 100_000)
        segmenter.forget(3)
        self.assertEqual(len(segmenter.segments), 3)
        self.assertLess(segmenter.held, everything)

    @settings(max_examples=50)
    @given(
        st.floats(0.3, 7), st.floats(5, 60), st.sampled_from([1.0, 2.0, 4.0]), st.sampled_from([0.1, 0.3, 1.0]),
        st.booleans(),
    )  # fmt: skip
    def test_any_source(self, keyframes: float, rate: float, segment: float, part: float, sound: bool) -> None:
        self.setUp()
        segmenter = self.cut(25, segment, part, keyframes=keyframes, rate=rate, sound=sound)
        assert segmenter.target is not None
        found = list(segmenter.segments)
        for one, other in pairwise(found):
            self.assertEqual(one.number + 1, other.number)
            self.assertAlmostEqual(one.begin + one.duration, other.begin, places=3)
        for one in found:
            self.assertLessEqual(int(one.duration + 0.5), segmenter.target)
            self.assertAlmostEqual(sum(p.duration for p in one.parts), one.duration, places=6)
            for p in one.parts[:-1]:
                self.assertGreaterEqual(p.duration, segments.SHORTEST_PART * segmenter.part_target - 0.001)
            for p in one.parts:
                self.assertLessEqual(p.duration, segmenter.part_target + 0.001)
