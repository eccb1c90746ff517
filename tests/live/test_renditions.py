"""rtmp_twisted.live.rendition: another form of a channel's media, made while somebody reads it."""

from __future__ import annotations

import weakref
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import rendition
from rtmp_twisted.media.flv import FLVFormat
from rtmp_twisted.wire.messages import VIDEO, Message
from tests.live import test_channel
from tests.live.test_channel import HEADERS, METADATA, group, on_air
from tests.support.fakes import Log
from tests.support.live import PLENTY, join, make_channel
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, aac, avc
from tests.support.turns import TurnClock


class FLVJoinTests(test_channel.JoinTests):
    form = FLVFormat

    def test_a_second_track_in_messages_of_its_own(self) -> None:
        """It is left out, and nobody waits for it."""
        channel = on_air(self.make())
        viewer = join(channel)
        sent = [avc(0, True), avc(40, False)]
        second = [Message(VIDEO, 1, 0, b"\x96\x01avc1\x01\0\0\0k"), Message(VIDEO, 1, 40, b"\xa6\x01avc1\x01\0\0\0f")]
        for message in sent[0], second[0], sent[1], second[1]:
            channel.publish(message)
        channel.flush()
        for one in viewer, join(channel):
            self.assertEqual(one.bodies()[-2:], [message.body for message in sent])
            self.assertTrue(one.plain)


class FLVSlowTests(test_channel.SlowTests):
    form = FLVFormat


class RenditionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = on_air(make_channel(form=FLVFormat))

    def renditions(self) -> list[Any]:
        """What follows the channel's own log."""
        return [weakref.ref(follower.__self__) for follower in self.stage.audience.followers]

    def test_made_by_its_first_reader_and_gone_with_its_last(self) -> None:
        group(self.stage, 1)
        self.assertEqual(self.renditions(), [])
        second = group(self.stage, 2)
        first, other = join(self.stage), join(self.stage)
        [made] = self.renditions()
        self.assertEqual(first.bodies(), HEADERS + second)  # from the cached group on
        self.stage.leave(first.player)
        self.assertEqual(len(self.renditions()), 1)
        self.stage.leave(other.player)
        self.assertEqual(self.renditions(), [])
        self.assertIsNone(made())
        group(self.stage, 3)

    def test_the_bytes(self) -> None:
        """An FLV file: the header, the headers at the joining time, metadata at 0, and the tags as they came."""
        group(self.stage, 7)
        viewer = join(self.stage)
        self.assertEqual(bytes(viewer.writer.taken[:13]), FLVFormat().preamble((8, 9)))
        received = viewer.messages()
        self.assertEqual(
            [(m.type_id, m.timestamp) for m in received[:5]],
            [(18, 0), (VIDEO, 7000), (8, 7000), (VIDEO, 7000), (8, 7005)],
        )
        self.assertEqual([m.body for m in received[:3]], [METADATA.body, AVC_HEADER.body, AAC_HEADER.body])

    def test_with_players_of_the_channel_itself(self) -> None:
        """Both get the same messages, and each is muxed once for all."""
        viewers = [join(self.stage) for _ in range(3)]
        self.stage.form = None
        player = join(self.stage)
        bodies = group(self.stage, 1) + group(self.stage, 2)
        for viewer in *viewers, player:
            self.assertEqual(viewer.bodies()[-len(bodies) :], bodies)
        self.assertEqual(len(self.renditions()), 1)

    def test_writes_are_merged_as_for_players(self) -> None:
        """The scheduler sees its readers' rounds, and holds media back when they cost much."""
        clock = Clock()
        self.stage = on_air(make_channel(longest=0.1, cost=0.01, clock=clock, form=FLVFormat, merge_messages=100))
        viewers = [join(self.stage) for _ in range(10)]
        for number in range(20):
            self.stage.publish(aac(number))
            self.stage.flush_when_due()
        calls = viewers[0].writer.calls
        self.assertGreater(self.stage.scheduler.interval, 0.0)
        for number in range(20, 25):
            self.stage.publish(aac(number))
            self.stage.flush_when_due()
        self.assertEqual(viewers[0].writer.calls, calls)
        clock.advance(0.1)
        self.assertEqual(viewers[0].writer.calls, calls + 1)
        self.assertEqual(viewers[0].bodies()[-1], aac(24).body)

    def test_what_players_are_told_is_not_media(self) -> None:
        viewer = join(self.stage)
        first = group(self.stage, 1)
        self.stage.end()
        on_air(self.stage)
        second = group(self.stage, 0)
        self.assertEqual(viewer.bodies(), HEADERS + first + HEADERS + second)
        self.assertEqual({m.type_id for m in viewer.messages()}, {8, 9, 18})

    def test_joining_while_the_publisher_is_lost(self) -> None:
        early = join(self.stage)
        first = group(self.stage, 1)
        self.stage.end(lost=True)
        late = join(self.stage)
        self.assertEqual(late.bodies(), [])
        on_air(self.stage)
        second = group(self.stage, 0)
        self.assertEqual(early.bodies(), HEADERS + first + HEADERS + second)
        self.assertEqual(late.bodies(), HEADERS + second)

    def test_a_large_cached_group_is_taken_over_in_several_turns(self) -> None:
        self.patch(rendition, "TURN_BYTES", 3000)
        clock = TurnClock()
        self.stage = on_air(make_channel(clock=clock, form=FLVFormat))
        bodies = [avc(0, True, b"k").body]
        self.stage.publish(avc(0, True, b"k"))
        for number in range(100):
            self.stage.publish(aac(number, bytes(200)))
            bodies.append(aac(number, bytes(200)).body)
        self.stage.channel.audience.flush()
        viewer = self.stage.join(turns=False)
        counts = []
        while len(viewer.bodies()) < len(HEADERS + bodies):
            counts.append(len(viewer.bodies()))
            clock.turn()
        self.assertEqual(len(counts), 6)  # of 3 kB each, in whole blocks
        self.assertEqual(viewer.bodies(), HEADERS + bodies)

    def test_very_many_messages_are_taken_over_in_several_turns(self) -> None:
        """Also where they are one block."""
        self.patch(rendition, "TURN_MESSAGES", 10)
        clock, bodies = self.many_small_messages()
        viewer = self.stage.join(turns=False)
        counts = []
        while len(viewer.bodies()) < len(HEADERS + bodies):
            counts.append(len(viewer.bodies()) - len(HEADERS))
            clock.turn()
        self.assertEqual(counts, list(range(10, 101, 10)))
        self.assertEqual(viewer.bodies(), HEADERS + bodies)
        self.stage.publish(aac(200, b"next"))
        self.stage.flush()
        self.assertEqual(viewer.bodies()[-1], aac(200, b"next").body)

    def test_the_end_of_a_publish_that_is_far_from_taken_over(self) -> None:
        """What takes too long is left out, with a line in the log, and the next publish is as any."""
        self.patch(rendition, "TURN_MESSAGES", 10)
        log = Log(self)
        _, bodies = self.many_small_messages()
        viewer = self.stage.join(turns=False)
        self.stage.end()
        self.assertEqual(viewer.bodies(), HEADERS + bodies[:20])
        [line] = [line for line in log.lines() if "too late" in line]
        self.assertIn("up to 87 messages", line)  # 103 with the two that say that it ended, without a block of 16
        on_air(self.stage)
        second = group(self.stage, 0)
        self.assertEqual(viewer.bodies(), HEADERS + bodies[:20] + HEADERS + second)

    def many_small_messages(self) -> tuple[TurnClock, list[bytes]]:
        """A channel on air with one group of 101 messages, and what they are."""
        clock = TurnClock()
        self.stage = on_air(make_channel(clock=clock, form=FLVFormat))
        bodies = [avc(0, True, b"k").body]
        self.stage.publish(avc(0, True, b"k"))
        for number in range(100):
            self.stage.publish(aac(number, b""))
            bodies.append(aac(number, b"").body)
        self.stage.channel.audience.flush()
        return clock, bodies

    def test_changes_of_a_reader(self) -> None:
        """Sound or video is left out message by message, as for any reader."""
        viewer = join(self.stage)
        viewer.player.enable(audio=False)
        bodies = group(self.stage, 1)
        self.assertEqual(viewer.bodies(), HEADERS + [body for body in bodies if body[0] in (0x17, 0x27)])
        viewer.take(PLENTY)

    def test_a_changed_header(self) -> None:
        viewer = join(self.stage)
        group(self.stage, 1)
        changed = Message(VIDEO, 1, 1500, b"\x17\x00\0\0\0another configuration")
        self.stage.publish(changed)
        last = group(self.stage, 2)
        self.assertEqual(viewer.bodies()[-len(last) - 1 :], [changed.body, *last])
        self.assertEqual(join(self.stage).bodies(), [AAC_HEADER.body, changed.body, *last])
