"""rtmp_twisted.live.channel, log and player: what each player gets, byte by byte."""

from __future__ import annotations

import gc
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import cursor as cursor_module
from rtmp_twisted.live.audience import (
    CHEAP_SECONDS,
    FEW_READERS,
    FREE_SECONDS,
    FULL_SHARE,
    HALF_COUNTS_BYTES,
    PUSH_SECONDS,
    SHARE,
    USUAL_SECONDS,
    FlushScheduler,
)
from rtmp_twisted.live.log import Block, Format
from rtmp_twisted.live.player import Cache
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.media import tags
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO, Message
from tests.support.live import Stage, Viewer, join, make_channel
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, aac, avc

METADATA = messages.data(0, "onMetaData", amf0.ECMAArray(width=640.0))


def on_air(channel: Stage) -> Stage:
    channel.begin("key")
    channel.publish(METADATA)
    for message in AVC_HEADER, AAC_HEADER:
        channel.publish(message)
    return channel


def blocks() -> list[Block]:
    """All there are."""
    gc.collect()
    return [block for block in gc.get_objects() if isinstance(block, Block)]


def pass_round(clock: Clock) -> None:
    """Lets pushes be handed what they wait for."""
    for seconds in (PUSH_SECONDS, 0, 0, 0):
        clock.advance(seconds)


def group(channel: Stage, number: int, frames: int = 5, size: int = 100) -> list[bytes]:
    """Publishes a group of pictures with sound; returns its bodies."""
    bodies = []
    for frame in range(frames):
        time = number * 1000 + frame * 40
        for message in (
            avc(time, frame == 0, b"%d.%d" % (number, frame) + bytes(size)),
            aac(time + 5, b"%d.%d" % (number, frame)),
        ):
            channel.publish(message)
            bodies.append(message.body)
    channel.flush()
    return bodies


HEADERS = [AVC_HEADER.body, AAC_HEADER.body]


class ReaderCase(SynchronousTestCase):
    """What holds for the readers of any log. `tests.live.test_renditions` runs the same with another ``form``."""

    form: type[Format] | None = None

    def make(self, **options: Any) -> Stage:
        return make_channel(form=self.form, **options)


class JoinTests(ReaderCase):
    def test_gop(self) -> None:
        channel = on_air(self.make())
        group(channel, 1)
        second = group(channel, 2)
        self.assertEqual(join(channel).bodies(), HEADERS + second)

    def test_headers_have_the_time_of_the_media(self) -> None:
        channel = on_air(self.make())
        group(channel, 7)
        received = join(channel).messages()
        self.assertEqual([m.type_id for m in received[:3]], [DATA_AMF0, VIDEO, AUDIO])
        self.assertEqual([m.timestamp for m in received[:4]], [0, 7000, 7000, 7000])  # metadata has no time

    def test_a_second_track_in_messages_of_its_own(self) -> None:
        """A track's keyframe does not put another's out of the group of pictures."""

        def second_track(timestamp: int, keyframe: bool) -> Message:
            return Message(VIDEO, 1, timestamp, (b"\x96" if keyframe else b"\xa6") + b"\x01avc1\x01\0\0\0frame")

        channel = on_air(self.make())
        sent = [avc(0, True), second_track(0, True), avc(40, False), second_track(40, False)]
        for message in sent:
            channel.publish(message)
        channel.flush()
        self.assertEqual(join(channel).bodies(), HEADERS + [message.body for message in sent])
        again = [second_track(80, True), avc(80, False)]  # no keyframe of the first track: the same group goes on
        for message in again:
            channel.publish(message)
        channel.flush()
        self.assertEqual(join(channel).bodies(), HEADERS + [message.body for message in sent + again])
        late = second_track(100_000, True)  # the first track does not have keyframes any more
        channel.publish(late)
        channel.flush()
        self.assertEqual(join(channel).bodies(), [*HEADERS, late.body])

    def test_no(self) -> None:
        channel = on_air(self.make())
        group(channel, 1)
        viewer = join(channel, Cache.NO)
        channel.publish(avc(1900, False))
        channel.publish(aac(1910))
        channel.flush()
        self.assertEqual(viewer.bodies(), HEADERS)
        self.assertEqual(group(channel, 2), viewer.bodies()[2:])
        self.assertEqual(viewer.bodies()[:2], HEADERS)

    def test_no_cache_at_all(self) -> None:
        channel = on_air(self.make(cache_bytes=0))
        group(channel, 1)
        viewer = join(channel)
        self.assertEqual(viewer.bodies(), HEADERS)
        second = group(channel, 2)
        self.assertEqual(viewer.bodies(), HEADERS + second)

    def test_sound_alone_keeps_its_headers_only(self) -> None:
        channel = self.make()
        channel.begin("key")
        channel.publish(AAC_HEADER)
        for n in range(100):
            channel.publish(aac(n))
        channel.flush()
        viewer = join(channel)
        self.assertEqual(viewer.bodies(), [AAC_HEADER.body])
        channel.publish(aac(200))
        channel.flush()
        self.assertEqual(viewer.bodies(), [AAC_HEADER.body, aac(200).body])

    def test_a_group_larger_than_the_cache_goes_whole(self) -> None:
        channel = on_air(self.make(cache_bytes=5000))
        group(channel, 1)
        self.assertEqual(len(channel.log.groups), 1)
        group(channel, 2, frames=10, size=1000)
        self.assertEqual(len(channel.log.groups), 0)
        viewer = join(channel)
        self.assertEqual(viewer.bodies(), HEADERS)
        self.assertEqual(group(channel, 3), viewer.bodies()[2:])

    def test_frames_before_the_first_keyframe_are_dropped(self) -> None:
        channel = self.make()
        viewer = join(channel)
        on_air(channel)
        channel.publish(avc(0, False))
        channel.publish(avc(40, True))
        channel.flush()
        self.assertEqual(viewer.bodies(), [*HEADERS, avc(40, True).body])
        self.assertEqual(channel.publication.dropped, 1)

    def test_changed_headers(self) -> None:
        channel = on_air(self.make())
        early = join(channel)
        group(channel, 1)
        changed = Message(VIDEO, 1, 1500, b"\x17\x00\0\0\0another configuration")
        channel.publish(changed)
        last = group(channel, 2)
        self.assertEqual(early.bodies()[-len(last) - 1 :], [changed.body, *last])
        self.assertEqual(join(channel).bodies(), [AAC_HEADER.body, changed.body, *last])

    def test_keyframe_that_a_player_waited_for_never_comes(self) -> None:
        channel = on_air(self.make())
        group(channel, 1)
        viewer = join(channel, Cache.NO)
        channel.end()
        on_air(channel)
        second = group(channel, 2)
        self.assertEqual(viewer.bodies(), HEADERS + HEADERS + second)


class SlowTests(ReaderCase):
    def setUp(self) -> None:
        self.patch(cursor_module, "MAX_LAG", 4000)

    def test_skips_whole_groups(self) -> None:
        channel = on_air(self.make())
        quick, slow = join(channel), join(channel, room=300)
        everything = [body for n in range(30) for body in group(channel, n)]
        self.assertEqual(quick.bodies(), HEADERS + everything)
        slow.take()
        received = slow.bodies()
        self.assertEqual(received[:2], HEADERS)
        self.assertGreater(slow.player.skips, 0)
        self.assert_gaps_end_at_keyframes(received[2:], everything)
        more = group(channel, 31)
        self.assertEqual(slow.bodies()[-len(more) :], more)
        self.assertEqual(slow.player.delivered() + slow.player.skipped_bytes, quick.player.delivered())

    def assert_gaps_end_at_keyframes(self, received: list[bytes], everything: list[bytes]) -> None:
        place = -1
        for body in received:
            found = everything.index(body)
            self.assertGreater(found, place)
            if found != place + 1:
                self.assertEqual(tags.classify_video(body), tags.KEYFRAME)
            place = found

    def test_any_place_to_stop(self) -> None:
        for room in range(0, 2500, 37):
            channel = on_air(self.make(chunk_size=128))
            slow = join(channel, room=room)
            everything = [body for n in range(20) for body in group(channel, n, frames=3, size=150)]
            slow.take()
            received = [m.body for m in slow.media(128)]
            self.assertEqual(received[: len(HEADERS)], HEADERS)
            self.assert_gaps_end_at_keyframes(received[2:], everything)

    def test_little_by_little(self) -> None:
        channel = on_air(self.make())
        slow = join(channel, room=0)
        everything = []
        for n in range(40):
            everything += group(channel, n)
            for _ in range(10):
                slow.take(30)
        slow.take()
        self.assert_gaps_end_at_keyframes([body for body in slow.bodies() if body not in HEADERS], everything)

    def test_memory_is_bounded(self) -> None:
        others = blocks()
        channel = on_air(self.make())
        slow = join(channel, room=10)
        for n in range(200):
            group(channel, n)
            if n % 10 == 9:
                kept = sum(len(block.data) for block in blocks()) - sum(len(block.data) for block in others)
                self.assertLess(kept, 4000 + 2 * 1000)  # the lag, a group that is kept, and one that comes in
                self.assertGreater(kept, 500)  # that is, a group that is kept
            self.assertLess(len(slow.writer.waiting), 1500)

    def test_a_changed_header_is_sent_with_the_skip(self) -> None:
        channel = on_air(self.make())
        slow = join(channel, room=200)
        for n in range(10):
            group(channel, n)
        changed = Message(VIDEO, 1, 15000, b"\x17\x00\0\0\0another configuration")
        channel.publish(changed)
        for n in range(20, 30):
            group(channel, n)
        slow.take()
        bodies = slow.bodies()
        keyframe = next(i for i, body in enumerate(bodies) if body.startswith(b"\x17\1\0\0\0" + b"2"))
        self.assertIn(changed.body, bodies[:keyframe])

    def test_without_a_cache(self) -> None:
        channel = on_air(self.make(cache_bytes=0))
        first = group(channel, 0)
        slow = join(channel, room=500)
        everything = [body for n in range(1, 30) for body in group(channel, n)]
        slow.take()
        everything += group(channel, 31)
        received = slow.bodies()
        self.assert_gaps_end_at_keyframes([body for body in received if body not in HEADERS], first + everything)
        self.assertGreater(slow.player.skips, 0)


class WholeStreamTests(ReaderCase):
    """What only players of the channel's own log may have."""

    def setUp(self) -> None:
        self.patch(cursor_module, "MAX_LAG", 4000)

    def test_all_and_clear_of_a_whole_stream(self) -> None:
        channel = on_air(self.make(whole_stream=True))
        bodies = HEADERS + group(channel, 1) + group(channel, 2)
        third = group(channel, 3)
        self.assertEqual(join(channel, Cache.ALL).bodies(), bodies + third)
        self.assertEqual(join(channel, Cache.GOP).bodies(), HEADERS + third)
        self.assertEqual(join(channel, Cache.CLEAR).bodies(), bodies + third)
        self.assertEqual(join(channel, Cache.ALL).bodies(), HEADERS + third)
        fourth = group(channel, 4)
        self.assertEqual(join(channel, Cache.ALL).bodies(), HEADERS + fourth)

    def test_clear_that_came_before_its_publisher(self) -> None:
        channel = self.make(whole_stream=True)
        viewer = join(channel, Cache.CLEAR)
        on_air(channel)
        bodies = HEADERS + group(channel, 1) + group(channel, 2)
        self.assertEqual(viewer.bodies(), bodies)
        self.assertEqual(len(channel.log.groups), 1)

    def test_whole_stream_before_the_first_keyframe(self) -> None:
        channel = on_air(self.make(whole_stream=True))
        channel.publish(aac(1))
        early = join(channel, Cache.ALL)
        channel.flush()
        for viewer in early, join(channel, Cache.ALL):
            self.assertEqual(viewer.bodies(), [*HEADERS, aac(1).body])

    def test_a_whole_stream_loses_its_oldest_groups(self) -> None:
        channel = on_air(self.make(cache_bytes=6000, whole_stream=True))
        groups = [group(channel, n) for n in range(10)]
        received = join(channel, Cache.ALL).bodies()
        kept = len(channel.log.groups)
        self.assertGreater(kept, 1)
        self.assertEqual(received, HEADERS + [body for bodies in groups[-kept:] for body in bodies])
        first = channel.log.groups[0]
        self.assertLessEqual(channel.log.tail.cost - first.cost, 6000)

    def test_other_streams(self) -> None:
        channel = on_air(self.make(chunk_size=128))
        bodies = group(channel, 1, size=500)
        for stream_id in 2, 0x01020304:
            viewer = join(channel, stream_id=stream_id)
            more = group(channel, 2, size=500)
            received = viewer.messages(128)
            self.assertEqual({m.stream_id for m in received}, {stream_id})
            self.assertEqual([m.body for m in viewer.media(128)], HEADERS + bodies + more)
            bodies = more

    def test_the_end_and_a_new_beginning(self) -> None:
        channel = on_air(self.make())
        viewer, other = join(channel), join(channel, stream_id=3)
        first = group(channel, 1)
        channel.end()
        late = join(channel)
        on_air(channel)
        second = group(channel, 0)
        for each in viewer, other:
            self.assertEqual(each.bodies(), HEADERS + first + HEADERS + second)
        self.assertEqual(late.bodies(), HEADERS + second)
        events = [m.body for m in other.messages() if m.type_id == messages.USER_CONTROL]
        begin, eof = messages.user_control(0, 3).body, messages.user_control(1, 3).body
        self.assertEqual(events, [eof, begin])

    def test_a_joiner_far_behind_the_live_edge_may_catch_up(self) -> None:
        channel = on_air(self.make(whole_stream=True))
        everything = [body for n in range(30) for body in group(channel, n)]
        viewer = join(channel, Cache.ALL, room=100)
        for n in range(30, 33):
            everything += group(channel, n)
            viewer.take(1000)
        viewer.take()
        self.assertEqual(viewer.bodies(), HEADERS + everything)
        self.assertEqual(viewer.player.skips, 0)

    def test_in_the_middle_of_a_merge(self) -> None:
        """A joiner gets nothing twice, and misses nothing, whatever is waiting to be written."""
        channel = on_air(self.make(longest=0.1, merge_messages=100))
        before = group(channel, 1)
        late = [avc(1900, False), aac(1910)]
        for message in late:
            channel.publish(message)
        viewer = join(channel)
        self.assertEqual(viewer.bodies(), HEADERS + before)
        channel.publish(avc(2000, True))
        third = join(channel)
        channel.flush()
        self.assertEqual(viewer.bodies(), HEADERS + before + [m.body for m in late] + [avc(2000, True).body])
        self.assertEqual(third.bodies(), [*HEADERS, avc(2000, True).body])


class PaceTests(SynchronousTestCase):
    def crowd(self, channel: Stage) -> list[Viewer]:
        return [join(channel) for _ in range(FEW_READERS + 1)]

    def test_at_once_while_it_is_cheap(self) -> None:
        clock = Clock()
        channel = on_air(make_channel(0.1, clock, cost=FREE_SECONDS))
        viewers = self.crowd(channel)
        group(channel, 1)
        for n in range(10):
            channel.publish(aac(2000 + n))
            channel.flush_when_due()
            self.assertEqual(viewers[0].bodies()[-1], aac(2000 + n).body)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_merges_where_it_is_dear(self) -> None:
        clock = Clock()
        channel = on_air(make_channel(0.1, clock, cost=0.5))
        viewers = self.crowd(channel)
        group(channel, 1)
        calls = viewers[0].writer.calls
        for n in range(5):
            channel.publish(aac(2000 + n))
            channel.flush_when_due()
        self.assertEqual(viewers[0].writer.calls, calls)
        clock.advance(0.099)
        self.assertEqual(viewers[0].writer.calls, calls)
        clock.advance(0.001)
        self.assertEqual(viewers[0].writer.calls, calls + 1)
        self.assertEqual(viewers[0].bodies()[-5:], [aac(2000 + n).body for n in range(5)])

    def test_pushes_have_rounds_of_their_own(self) -> None:
        """However many there are, viewers get everything at once; a push gets some frames at a time, in one write."""
        clock = Clock()
        channel = on_air(make_channel(0.1, clock, cost=0.5))
        pushes = [join(channel, stream_id=2, push=True) for _ in range(10 * FEW_READERS)]
        viewer = join(channel)
        group(channel, 1)
        pass_round(clock)
        calls = [push.writer.calls for push in pushes]
        for n in range(5):
            channel.publish(aac(2000 + n))
            channel.flush_when_due()
            self.assertEqual(viewer.bodies()[-1], aac(2000 + n).body)
        clock.advance(PUSH_SECONDS - 0.001)
        self.assertEqual([push.writer.calls for push in pushes], calls)
        pass_round(clock)
        self.assertEqual([push.writer.calls for push in pushes], [count + 1 for count in calls])
        for push in pushes:
            self.assertEqual(push.bodies()[-5:], [aac(2000 + n).body for n in range(5)])
        self.assertEqual((len(channel.audience), clock.getDelayedCalls()), (1, []))

    def test_what_pushes_wait_for(self) -> None:
        """Where the channel ends, or memory is short, a push that keeps up gets what it would have got later."""
        for end in "dismiss", "_shrink":
            clock = Clock()
            channel = on_air(make_channel(clock=clock))
            push = join(channel, stream_id=2, push=True)
            bodies = group(channel, 1)
            getattr(channel, end)()
            self.assertEqual(push.bodies()[-len(bodies) :], bodies)
            channel.leave(push.player)
            self.assertEqual((push.player.skips, clock.getDelayedCalls()), (0, []))

    def test_a_push_that_ends_at_a_keyframe(self) -> None:
        """It is not asked about a keyframe before all that lies before it has left (relay/push.py)."""
        asked: list[int] = []

        def change(data: bytes, start: int, end: int) -> list[bytes | memoryview]:
            asked.append(data[start + 12])
            return [memoryview(data)[start:end]]

        clock = Clock()
        channel = on_air(make_channel(clock=clock))
        push = join(channel, room=1000, push=True, change=change)
        for message in avc(0, True), avc(40, False, bytes(2000)), avc(80, False), avc(120, True):
            channel.publish(message)
            channel.flush()
        pass_round(clock)
        keyframe, other = avc(0, True).body[0], avc(0, False).body[0]
        self.assertEqual([kind for kind in asked if kind in (keyframe, other)][-3:], [keyframe, other, other])
        push.take()
        self.assertEqual(asked[-1], keyframe)
        self.assertEqual(push.bodies()[-3:], [avc(40, False, bytes(2000)).body, avc(80, False).body, avc(0, True).body])

    def test_a_timer_that_is_late(self) -> None:
        """The reactor is busy with something else: what comes after the time goes on without waiting for the timer."""
        clock = Clock()
        channel = on_air(make_channel(0.1, clock, cost=0.5))
        viewers = self.crowd(channel)
        group(channel, 1)
        calls = viewers[0].writer.calls
        channel.publish(aac(2000))
        channel.flush_when_due()
        clock.rightNow += 0.2
        self.assertEqual(viewers[0].writer.calls, calls)
        channel.publish(aac(2001))
        channel.flush_when_due()
        self.assertEqual(viewers[0].writer.calls, calls + 1)

    def test_never_more_messages_than_said(self) -> None:
        clock = Clock()
        channel = on_air(make_channel(0.1, clock, cost=0.5, merge_messages=3))
        viewers = self.crowd(channel)
        group(channel, 1)
        calls = viewers[0].writer.calls
        for n in range(7):
            channel.publish(aac(2000 + n))
            channel.flush_when_due()
        self.assertEqual(viewers[0].writer.calls, calls + 2)
        self.assertEqual(viewers[0].bodies()[-1], aac(2005).body)

    def test_zero_is_always_at_once(self) -> None:
        channel = on_air(make_channel(0, cost=0.5))
        viewers = self.crowd(channel)
        group(channel, 1)
        for n in range(5):
            channel.publish(aac(2000 + n))
            channel.flush_when_due()
            self.assertEqual(viewers[0].bodies()[-1], aac(2000 + n).body)

    def test_the_share_is_the_process_s(self) -> None:
        scheduler = FlushScheduler(Clock(), 10, lambda: 0, Turns(Clock()))
        costs = [0.0] * 20
        for _ in range(200):
            costs = [scheduler.charge(cost, FREE_SECONDS + 0.0003, 0) for cost in costs]
        self.assertAlmostEqual(scheduler.interval, (20 * 0.0003 - CHEAP_SECONDS) / SHARE)
        for cost in costs:
            scheduler.refund(cost)
        self.assertEqual(scheduler.interval, 0)

    def test_the_interval_grows_where_the_core_is_full(self) -> None:
        """Rounds of so many readers cost the seconds on the left; the interval is on the right."""
        for cost, interval in [
            (0.0085, 0.1),
            (USUAL_SECONDS * FULL_SHARE, USUAL_SECONDS),
            (0.05, 0.05 / FULL_SHARE),
            (0.07, 0.35),
            (0.5, 0.35),
        ]:
            scheduler = FlushScheduler(Clock(), 0.35, lambda: 0, Turns(Clock()))
            smoothed = 0.0
            for _ in range(200):
                smoothed = scheduler.charge(smoothed, FREE_SECONDS + cost, 0)
            self.assertAlmostEqual(scheduler.interval, interval)

    def test_bytes_are_not_what_merging_saves(self) -> None:
        """Twice the bytes in twice the time are no reason to write less often."""
        scheduler = FlushScheduler(Clock(), 10, lambda: 0, Turns(Clock()))
        calls = FREE_SECONDS + 0.002
        cost = 0.0
        for size in (0, HALF_COUNTS_BYTES, 3 * HALF_COUNTS_BYTES) * 60:
            cost = scheduler.charge(cost, calls * (1 + size / HALF_COUNTS_BYTES), size)
            self.assertLess(scheduler.interval, (0.002 - CHEAP_SECONDS) / SHARE + 1e-9)
        self.assertAlmostEqual(scheduler.interval, (0.002 - CHEAP_SECONDS) / SHARE)

    def test_the_bytes_of_a_round(self) -> None:
        """What channel tells the scheduler: bytes to each player, not to all of them."""
        channel = on_air(make_channel(0.1, Clock(), cost=0.005))
        self.crowd(channel)
        channel.flush()
        before = channel.log.position
        channel.publish(aac(0))
        channel.publish(aac(1))
        channel.flush()
        channel.flush()
        expected = FlushScheduler(Clock(), 0.1, lambda: 0, Turns(Clock()))
        cost = 0.0
        for size in before, channel.log.position - before, 0:
            cost = expected.charge(cost, 0.005, size)
        self.assertGreater(expected.interval, 0)
        self.assertAlmostEqual(channel.scheduler.interval, expected.interval)

    def test_one_call_for_each_player(self) -> None:
        channel = on_air(make_channel(merge_messages=100))
        viewers = self.crowd(channel)
        group(channel, 1)
        before = [viewer.writer.calls for viewer in viewers]
        group(channel, 2)
        self.assertEqual([viewer.writer.calls - calls for viewer, calls in zip(viewers, before, strict=True)], [1] * 4)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), st.integers(0, 400)),
        st.tuples(st.just("sound"), st.integers(0, 60)),
        st.tuples(st.just("join"), st.tuples(st.sampled_from(list(Cache)), st.sampled_from([1, 1, 2]))),
        st.tuples(st.just("take"), st.tuples(st.integers(0, 9), st.sampled_from([1, 50, 700, 10**6]))),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("wait"), st.just(0.2)),
    ),
    max_size=120,
)


class AnyScheduleTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(STEPS, st.sampled_from([0, 2000, 10**6]), st.booleans(), st.sampled_from([1, 3, 8]), st.integers(2, 12))
    def test_any(self, steps: list[tuple[str, Any]], cache: int, whole: bool, merge: int, gop: int) -> None:
        """Whatever happens, each player gets headers, then a keyframe, then frames in order; gaps end at keyframes."""
        self.patch(cursor_module, "MAX_LAG", 1500)
        clock = Clock()
        options: dict[str, Any] = {
            "cache_bytes": cache,
            "whole_stream": whole,
            "merge_messages": merge,
            "chunk_size": 128,
        }
        channel = on_air(make_channel(0.1, clock, cost=0.001, **options))
        viewers: list[Viewer] = []
        frames = time = 0
        sent: list[bytes] = []
        for step, argument in steps:
            time += 7
            if step == "frame":
                message = avc(time, frames % gop == 0, b"%06d" % len(sent) + bytes(argument))
                frames += 1
            elif step == "sound":
                message = aac(time, b"%06d" % len(sent) + bytes(argument))
            elif step == "join":
                kind, stream_id = argument
                viewers.append(join(channel, kind, room=500, stream_id=stream_id))
                continue
            elif step == "take":
                which, room = argument
                if viewers:
                    viewers[which % len(viewers)].take(room)
                continue
            elif step == "restart":
                channel.end()
                on_air(channel)
                frames = 0
                continue
            else:
                clock.advance(0.2)
                continue
            sent.append(message.body)
            channel.publish(message)
            channel.flush_when_due()
        channel.flush()
        for viewer in viewers:
            viewer.take()
            self.check(viewer.media(128), sent)

    def check(self, received: list[Message], sent: list[bytes]) -> None:
        place: int | None = None
        headed = keyed = False
        for message in received:
            if message.body in HEADERS:
                headed = headed or message.body == AVC_HEADER.body
                continue
            found = sent.index(message.body)
            self.assertTrue(headed)
            if message.type_id == VIDEO:
                keyframe = tags.classify_video(message.body) == tags.KEYFRAME
                self.assertTrue(keyed or keyframe)
                keyed = True
            if place is not None:
                self.assertGreater(found, place)
                if found != place + 1 and message.type_id == VIDEO:
                    skipped = [tags.classify_video(b) for b in sent[place + 1 : found] if b[0] in (0x17, 0x27)]
                    self.assertTrue(keyframe or not skipped)
            place = found
