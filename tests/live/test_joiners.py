"""Nobody who joins waits for ever, whatever the source is like; and metadata has the time 0 wherever it comes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.audience import KEYFRAME_SECONDS, READERS_PER_TURN
from rtmp_twisted.live.player import Cache
from rtmp_twisted.live.publication import KEYFRAME_MILLISECONDS
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO, Message
from tests.support.live import Stage, Viewer, join, make_channel
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, METADATA, aac, avc
from tests.support.turns import TurnClock

HEVC_HEADER = Message(VIDEO, 1, 0, b"\x90hvc1configuration")
IDR, TRAIL = b"\x26\x01", b"\x02\x01"
"""The NAL unit headers of an IDR picture and of a trailing one (H.265, section 7.3.1.2)."""


def unmarked(timestamp: int, unit: bytes, coded_frames: bool = False) -> Message:
    """An HEVC frame as gortmplib writes it: frame type 0, CodedFrames where it has a composition time, else
    CodedFramesX."""
    payload = (len(unit) + 5).to_bytes(4, "big") + unit + b"frame"
    return Message(VIDEO, 1, timestamp, (b"\x81hvc1\0\0\x21" if coded_frames else b"\x83hvc1") + payload)


class JoinerCase(SynchronousTestCase):
    def on_air(self, *headers: Message, cache_bytes: int = 10**6) -> Stage:
        stage = make_channel(cache_bytes=cache_bytes)
        stage.begin("key")
        for message in headers:
            stage.publish(message)
        return stage

    def second(self, stage: Stage, second: int, *frames: Message) -> list[bytes]:
        """A second of a live stream: sound, and these frames."""
        for message in (aac(second * 1000), *frames):
            stage.publish(message)
        stage.flush()
        stage.clock.advance(1)
        return [aac(0).body, *(message.body for message in frames)]

    def kinds(self, viewer: Viewer) -> list[int]:
        return [message.type_id for message in viewer.media() if message not in (AVC_HEADER, AAC_HEADER)]


class WaitingTests(JoinerCase):
    def test_a_group_larger_than_the_cache(self) -> None:
        """Sound at once, video from the next keyframe."""
        stage = self.on_air(AVC_HEADER, AAC_HEADER, cache_bytes=1000)
        self.second(stage, 0, avc(0, True))
        self.second(stage, 1, avc(1000, False, bytes(2000)))
        viewer = join(stage)
        self.second(stage, 2, avc(2000, False))
        self.assertEqual([m.type_id for m in viewer.media()], [VIDEO, AUDIO, AUDIO])
        before = len(viewer.bodies())
        sent = self.second(stage, 3, avc(3000, True), avc(3033, False))
        self.assertEqual([body for body in viewer.bodies()[before:] if body[1:2] != b"\0"], sent)

    def test_a_group_that_does_not_end(self) -> None:
        stage = self.on_air(AVC_HEADER, AAC_HEADER, cache_bytes=1000)
        self.second(stage, 0, avc(0, True))
        self.second(stage, 1, avc(1000, False, bytes(2000)))
        viewer, other = join(stage), join(stage, Cache.NO)
        seconds = int(KEYFRAME_SECONDS)
        for second in range(2, 2 + seconds):
            self.second(stage, second, avc(second * 1000, False))
        self.assertEqual([m.type_id for m in viewer.media()], [VIDEO] + [AUDIO] * (1 + seconds))
        self.assertEqual([m.type_id for m in other.media()], [VIDEO, AUDIO])
        self.second(stage, 2 + seconds, avc((2 + seconds) * 1000, False))
        sent = self.second(stage, 3 + seconds, avc((3 + seconds) * 1000, False))
        for one in viewer, other:
            self.assertEqual(one.bodies()[-2:], sent)

    def test_a_source_that_marks_no_keyframes(self) -> None:
        """Of a codec that is not known, with frame type 0."""
        frame = b"\x83test\0\0frame"
        stage = self.on_air(AAC_HEADER)
        stage.publish(Message(VIDEO, 1, 0, b"\x90testconfiguration"))
        early = join(stage)
        seconds = KEYFRAME_MILLISECONDS // 1000
        for second in range(seconds):
            self.second(stage, second, Message(VIDEO, 1, second * 1000, frame))
        self.assertNotIn(frame, early.bodies())
        late = join(stage)
        for second in range(seconds, 2 * seconds + 2):
            self.second(stage, second, Message(VIDEO, 1, second * 1000, frame))
        for viewer in early, late:
            self.assertEqual(viewer.bodies()[-2:], [aac(0).body, frame])
            self.assertGreater(viewer.bodies().count(aac(0).body), seconds)

    def test_a_video_header_without_video(self) -> None:
        stage = self.on_air(AVC_HEADER, AAC_HEADER)
        viewer = join(stage)
        self.second(stage, 0)
        self.assertEqual(self.kinds(viewer)[-1:], [AUDIO])
        self.assertEqual(viewer.bodies()[-1], aac(0).body)
        other = join(stage, Cache.NO)
        for second in range(1, int(KEYFRAME_SECONDS) + 2):
            self.second(stage, second)
        self.assertEqual(other.bodies()[-1], aac(0).body)

    def test_video_that_is_turned_on_again(self) -> None:
        stage = self.on_air(AVC_HEADER, AAC_HEADER)
        self.second(stage, 0, avc(0, True))
        viewer = join(stage)
        viewer.player.enable(video=False)
        self.second(stage, 1, avc(1000, False))
        viewer.player.enable(video=True)
        seconds = int(KEYFRAME_SECONDS)
        for second in range(2, 2 + seconds):
            self.second(stage, second, avc(second * 1000, False))
        self.assertEqual([m.timestamp for m in viewer.media() if m.type_id == VIDEO and m.body[1]], [0])
        self.second(stage, 2 + seconds, avc((2 + seconds) * 1000, False))
        sent = self.second(stage, 3 + seconds, avc((3 + seconds) * 1000, False))
        self.assertEqual(viewer.bodies()[-2:], sent)

    def test_many_begin_in_turns(self) -> None:
        """So that the frames of other channels never wait for all of them."""
        stage = make_channel(clock=(clock := TurnClock()))
        early = [join(stage) for _ in range(2 * READERS_PER_TURN)]
        stage.begin("key")
        stage.publish(AVC_HEADER)
        early += [join(stage, Cache.NO) for _ in range(2 * READERS_PER_TURN)]
        stage.publish(avc(0, True))
        stage.channel.audience.flush()
        begun = sum(avc(0, True).body in viewer.bodies() for viewer in early)
        # The others of those who waited for the publisher keep up, and get it in one call each.
        self.assertEqual(begun, 3 * READERS_PER_TURN)
        clock.turn()
        self.assertEqual([viewer.bodies() for viewer in early], [[AVC_HEADER.body, avc(0, True).body]] * len(early))

    def test_many_who_joined_while_the_publisher_was_lost(self) -> None:
        stage = make_channel(clock=(clock := TurnClock()))
        stage.begin("key")
        stage.end(lost=True)
        viewers = [join(stage) for _ in range(2 * READERS_PER_TURN)]
        stage.begin("key")
        stage.publish(aac(0))
        stage.channel.audience.flush()
        counts = [len(viewer.bodies()) for viewer in viewers]
        self.assertEqual(counts, [1] * READERS_PER_TURN + [0] * READERS_PER_TURN)
        clock.turn()
        self.assertEqual([viewer.bodies() for viewer in viewers], [[aac(0).body]] * len(viewers))


class UnmarkedTests(JoinerCase):
    """Keyframes whose frame type is 0."""

    def test_a_joiner_begins_with_one(self) -> None:
        for coded_frames in False, True:
            stage = self.on_air(METADATA, HEVC_HEADER, AAC_HEADER)
            waiting = join(stage, Cache.NO)
            self.second(stage, 0, unmarked(0, TRAIL, coded_frames))
            self.assertEqual(waiting.bodies(), [HEVC_HEADER.body, AAC_HEADER.body])
            for second in range(1, 4):
                key = unmarked(second * 1000, IDR, coded_frames)
                self.second(stage, second, key, unmarked(second * 1000 + 33, TRAIL, coded_frames))
            viewer = join(stage)
            expected = [unmarked(0, IDR, coded_frames).body, unmarked(0, TRAIL, coded_frames).body]
            self.assertEqual(viewer.bodies(), [HEVC_HEADER.body, AAC_HEADER.body, *expected])
            self.assertEqual([m.timestamp for m in viewer.media()], [3000, 3000, 3000, 3033])
            self.assertEqual([body for body in waiting.bodies() if body[:5] == expected[0][:5]], expected * 3)


class MetadataTests(JoinerCase):
    def test_its_time_is_0_wherever_it_comes(self) -> None:
        stage = self.on_air(METADATA, AVC_HEADER, AAC_HEADER)
        early = join(stage)
        for second in range(3):
            stage.publish(METADATA._replace(timestamp=second * 1000))
            self.second(stage, second, avc(second * 1000, True))
        viewers = [early, join(stage), join(stage, Cache.NO), join(stage, stream_id=2)]
        stage.publish(METADATA._replace(timestamp=3000))
        self.second(stage, 3, avc(3000, True))
        for viewer in viewers:
            found = [message.timestamp for message in viewer.messages() if message.type_id == DATA_AMF0]
            self.assertEqual(found, [0] * len(found))
            self.assertGreaterEqual(len(found), 2)
            self.assertEqual(viewer.media()[-1].timestamp, 3000)
