"""rtmp_twisted.live.fragments: a channel's media as fragmented MP4, for readers like all others."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import cursor as cursor_module
from rtmp_twisted.live import rendition
from rtmp_twisted.live.fragments import FragmentForm
from rtmp_twisted.media import fmp4
from rtmp_twisted.wire.messages import Message
from tests.live.test_channel import group, on_air
from tests.media.test_fmp4 import AVC, OTHER_AVC, avc, on_track
from tests.support.live import Stage, Viewer, join, make_channel
from tests.support.mp4 import Init, parse_mp4
from tests.support.rtmp_client import AAC_HEADER, aac
from tests.support.turns import TurnClock


def words(viewer: Viewer) -> list[str]:
    """One word for each item that a viewer got; fails unless these are whole boxes."""
    items = parse_mp4(bytes(viewer.writer.taken))
    return ["init" if isinstance(item, Init) else item.data.rstrip(b"\0").decode() for item in items]


def widths(viewer: Viewer) -> list[int]:
    """The width of the first track in each initialisation section."""
    items = parse_mp4(bytes(viewer.writer.taken))
    return [item.description["tracks"][0].get("width", 0) for item in items if isinstance(item, Init)]


def publish(stage: Stage, *messages: Message) -> None:
    for message in messages:
        stage.publish(message)
    stage.flush()


def picture(time: int, word: str, key: bool = False) -> Message:
    return avc(time, key, word.encode())


def sound(time: int, word: str) -> Message:
    return aac(time, word.encode())


class FragmentTests(SynchronousTestCase):
    def make(self, track: int | None = 0, **options: Any) -> Stage:
        stage = make_channel(form=FragmentForm(track), **options)
        stage.begin("key")
        return stage

    def setUp(self) -> None:
        self.stage = self.make()
        publish(self.stage, AVC, AAC_HEADER)

    def renditions(self) -> int:
        return len(self.stage.audience.followers)

    def publish_group(self, time: int, name: str) -> None:
        """Three frames and two of sound."""
        publish(
            self.stage,
            *(picture(time, f"{name}K", True), sound(time + 5, f"{name}a"), picture(time + 40, f"{name}P")),
            *(sound(time + 50, f"{name}b"), picture(time + 80, f"{name}Q")),
        )

    def test_a_picture_at_once(self) -> None:
        """The cached group, but for the frame whose end is not known yet; and then what comes."""
        self.publish_group(1000, "1")
        self.publish_group(2000, "2")
        viewer = join(self.stage)
        self.assertEqual(words(viewer), ["init", "2K", "2a", "2P", "2b"])
        self.publish_group(3000, "3")
        self.assertEqual(words(viewer)[5:], ["2Q", "3K", "3a", "3P", "3b"])
        self.assertTrue(viewer.plain)

    def test_muxed_once_for_all_and_gone_with_the_last(self) -> None:
        self.publish_group(1000, "1")
        viewers = [join(self.stage) for _ in range(3)]
        self.publish_group(2000, "2")
        self.assertEqual(self.renditions(), 1)
        self.assertEqual([bytes(viewer.writer.taken) for viewer in viewers[1:]], [bytes(viewers[0].writer.taken)] * 2)
        for viewer in viewers:
            self.assertEqual(self.renditions(), 1)
            self.stage.leave(viewer.player)
        self.assertEqual(self.renditions(), 0)

    def test_before_the_first_picture(self) -> None:
        """The initialisation section comes with it."""
        viewer = join(self.stage)
        self.assertEqual(words(viewer), [])
        self.publish_group(0, "1")
        self.assertEqual(words(viewer), ["init", "1K", "1a", "1P", "1b"])

    def test_before_the_publisher(self) -> None:
        self.stage = make_channel(form=FragmentForm())
        viewer = join(self.stage)
        self.stage.begin("key")
        publish(self.stage, AVC, AAC_HEADER)
        self.publish_group(0, "1")
        self.assertEqual(words(viewer)[:2], ["init", "1K"])

    def test_without_a_cache(self) -> None:
        """Sound at once, the picture with the next keyframe."""
        self.stage = self.make(cache_bytes=0)
        publish(self.stage, AVC, AAC_HEADER)
        early = join(self.stage)
        self.publish_group(0, "1")
        late = join(self.stage)
        self.assertEqual(words(late), ["init"])
        publish(self.stage, sound(600, "s"), picture(640, "P"), picture(1000, "K", True), picture(1040, "Q"))
        self.assertEqual(words(late), ["init", "s", "K"])
        self.assertEqual(words(early)[-4:], ["1Q", "s", "P", "K"])

    def test_sound_alone(self) -> None:
        self.stage = self.make()
        publish(self.stage, AAC_HEADER, sound(0, "a"))
        early = join(self.stage)
        publish(self.stage, *(sound(time, str(time)) for time in range(100, fmp4.PATIENCE + 200, 100)))
        late = join(self.stage)
        publish(self.stage, sound(1000, "z"))
        self.assertEqual(words(early), ["init", "100", "200", "300", "400", "500", "600", "z"])
        self.assertEqual(words(late), ["init", "z"])

    def test_pictures_alone(self) -> None:
        self.stage = self.make()
        publish(self.stage, AVC, picture(0, "K", True), picture(300, "P"), picture(600, "Q"))
        viewer = join(self.stage)
        self.assertEqual(words(viewer), ["init", "K", "P"])
        publish(self.stage, picture(900, "R"))
        self.assertEqual(words(viewer), ["init", "K", "P", "Q"])

    def test_another_configuration(self) -> None:
        """Who watches gets it in its place in the stream; who joins later gets the new one only."""
        self.publish_group(0, "1")
        early = join(self.stage)
        publish(self.stage, OTHER_AVC)
        self.publish_group(1000, "2")
        late = join(self.stage)
        self.assertEqual(words(early), ["init", "1K", "1a", "1P", "1b", "1Q", "init", "2K", "2a", "2P", "2b"])
        self.assertEqual((widths(early), widths(late)), ([322, 1918], [1918]))
        self.assertEqual(words(late), ["init", "2K", "2a", "2P", "2b"])
        self.publish_group(2000, "3")
        self.assertEqual((widths(early), widths(late)), ([322, 1918], [1918]))

    def test_a_viewer_that_is_too_slow(self) -> None:
        """It goes on with an initialisation section that fits what follows, and a keyframe."""
        self.patch(cursor_module, "MAX_LAG", 3000)
        self.publish_group(0, "1")
        viewer = join(self.stage, room=1000)
        publish(self.stage, OTHER_AVC, picture(1000, "2K", True), *(aac(1000, bytes(200)) for _ in range(20)))
        self.publish_group(2000, "3")
        publish(self.stage, aac(2200, bytes(3000)), aac(2200, bytes(3000)), picture(2240, "3R"), picture(2280, "3S"))
        viewer.take()
        self.assertEqual(viewer.player.skips, 1)
        got = words(viewer)
        where = got.index("3K")
        self.assertEqual(got[where - 1], "init")
        self.assertEqual(widths(viewer)[-1], 1918)

    def test_a_publisher_that_returns(self) -> None:
        """What was held at its end is let out; with the same configuration, the stream goes on without a word."""
        self.publish_group(0, "1")
        early = join(self.stage)
        self.stage.end(lost=True)
        self.assertEqual(words(early)[-1], "1Q")
        late = join(self.stage)
        self.stage.begin("key")
        publish(self.stage, AVC, AAC_HEADER)
        self.publish_group(500, "2")
        self.assertEqual(words(early), ["init", "1K", "1a", "1P", "1b", "1Q", "2K", "2a", "2P", "2b"])
        self.assertEqual(words(late), ["init", "2K", "2a", "2P", "2b"])

    def test_tracks(self) -> None:
        forms = [FragmentForm(0), FragmentForm(1), FragmentForm(None)]
        messages = [
            *(AVC, on_track(OTHER_AVC, 1), AAC_HEADER, picture(0, "K0", True), on_track(picture(0, "K1", True), 1)),
            *(sound(0, "a"), picture(40, "P0"), on_track(picture(40, "P1"), 1)),
            *(picture(80, "Q0", True), on_track(picture(80, "Q1", True), 1), picture(120, "R0")),
        ]
        self.stage = self.make()
        publish(self.stage, *messages[:-3])
        viewers = []
        for form in forms:
            self.stage.form = form
            viewers.append(join(self.stage))
        self.assertEqual(self.renditions(), 3)
        publish(self.stage, *messages[-3:], on_track(picture(120, "R1"), 1))
        self.assertEqual(words(viewers[0]), ["init", "K0", "a", "P0", "Q0"])
        self.assertEqual(words(viewers[1]), ["init", "K1", "a", "P1", "Q1"])
        self.assertEqual(words(viewers[2]), ["init", "K0", "K1", "a", "P0", "P1", "Q0", "Q1"])
        self.assertEqual(words(join(self.stage)), ["init", "Q0", "Q1"])

    def test_memory(self) -> None:
        """What the muxer holds counts, and is given back with the last viewer."""
        viewer = join(self.stage)
        before = self.stage.channel._held()
        large = picture(0, "x" * 100_000, True)
        publish(self.stage, large)
        self.stage.audience.log.forget()
        self.assertGreaterEqual(self.stage.channel._held(), before + 100_000)
        self.stage.leave(viewer.player)
        self.assertLessEqual(self.stage.channel._held(), before)

    def test_a_large_cached_group_is_taken_over_in_several_turns(self) -> None:
        self.patch(rendition, "TURN_BYTES", 3000)
        clock = TurnClock()
        self.stage = on_air(make_channel(clock=clock, form=FragmentForm()))
        group(self.stage, 1, frames=60, size=300)
        viewer = self.stage.join(turns=False)
        counts = set()
        while len(words(viewer)) < 1 + 118:
            counts.add(len(words(viewer)))
            clock.turn()
        self.assertGreater(len(counts), 2)
