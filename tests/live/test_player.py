"""rtmp_twisted.live.cursor and log: several players on one connection, sound alone, the end, changing headers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import cursor as cursor_module
from rtmp_twisted.live.player import Cache
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.messages import AUDIO, USER_CONTROL, VIDEO, Message
from tests.support.live import FakeWriter, Stage, join, make_channel
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, aac, avc, codes

UNPUBLISHED = "NetStream.Play.UnpublishNotify"


def on_air(channel: Stage, *headers: Message) -> Stage:
    channel.begin("key")
    for message in headers or (AVC_HEADER, AAC_HEADER):
        channel.publish(message)
    channel.flush()
    return channel


def publish(channel: Stage, *to_publish: Message) -> None:
    for message in to_publish:
        channel.publish(message)
    channel.flush()


class SoundAloneTests(SynchronousTestCase):
    def test_a_slow_listener_goes_on(self) -> None:
        """There is no keyframe to wait for."""
        self.patch(cursor_module, "MAX_LAG", 4000)
        channel = on_air(make_channel(), AAC_HEADER)
        slow, quick = join(channel, room=500), join(channel)
        for n in range(100):
            publish(channel, aac(n, b"%03d" % n + bytes(200)))
        slow.take()
        for n in range(100, 110):
            publish(channel, aac(n, b"%03d" % n + bytes(200)))
        numbers = [int(body[2:5]) for body in slow.bodies() if body != AAC_HEADER.body]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(numbers[-10:], list(range(100, 110)))
        self.assertEqual(slow.player.delivered() + slow.player.skipped_bytes, quick.player.delivered())

    def test_a_whole_stream_is_for_who_asks(self) -> None:
        channel = on_air(make_channel(whole_stream=True), AAC_HEADER)
        sounds = [aac(n) for n in range(100)]
        publish(channel, *sounds)
        everything = [AAC_HEADER.body, *(sound.body for sound in sounds)]
        self.assertEqual(join(channel).bodies(), [AAC_HEADER.body])
        self.assertEqual(join(channel, Cache.NO).bodies(), [AAC_HEADER.body])
        self.assertEqual(join(channel, Cache.ALL).bodies(), everything)
        self.assertEqual(join(channel, Cache.CLEAR).bodies(), everything)
        self.assertEqual(join(channel, Cache.ALL).bodies(), [AAC_HEADER.body])
        self.assertEqual(list(channel.log.groups), [])

    def test_clear_between_header_and_first_keyframe(self) -> None:
        channel = on_air(make_channel(whole_stream=True))
        clear = join(channel, Cache.CLEAR)
        pictures = [avc(0, True), avc(40, False)]
        publish(channel, *pictures)
        bodies = [AVC_HEADER.body, AAC_HEADER.body, *(picture.body for picture in pictures)]
        self.assertEqual(clear.bodies(), bodies)
        self.assertEqual(join(channel, Cache.ALL).bodies(), bodies)


class EndTests(SynchronousTestCase):
    def test_who_waits_for_a_keyframe_hears_of_the_end(self) -> None:
        channel = on_air(make_channel())
        publish(channel, avc(0, True))
        waiting = join(channel, Cache.NO)
        channel.publish(avc(40, False))  # not flushed yet
        channel.end()
        self.assertEqual(codes(waiting.messages()), [UNPUBLISHED])
        self.assertEqual(waiting.messages()[-1].body, messages.user_control(messages.STREAM_EOF, 1).body)
        headers = [AVC_HEADER.body, AAC_HEADER.body]
        self.assertEqual(waiting.bodies(), headers)
        channel.begin("key")
        publish(channel, AVC_HEADER, avc(0, True))
        self.assertEqual(waiting.bodies(), [*headers, AVC_HEADER.body, avc(0, True).body])

    def test_who_lost_too_much_hears_of_the_end(self) -> None:
        self.patch(cursor_module, "MAX_LAG", 4000)
        channel = on_air(make_channel(cache_bytes=0))
        slow = join(channel, room=100)
        publish(channel, avc(0, True, bytes(3000)))
        for n in range(10):
            publish(channel, avc(n, False, bytes(3000)))
        channel.end()
        slow.take()
        self.assertIn(UNPUBLISHED, codes(slow.messages()))
        self.assertEqual(slow.player.skips, 1)


class OneConnectionTests(SynchronousTestCase):
    def test_players_of_one_connection_never_cut_each_other(self) -> None:
        """One keeps up and is cut short in the middle of a message; the other may not write before that is whole."""
        for room in range(1, 3000, 53):
            channel = on_air(make_channel(chunk_size=128))
            writer = FakeWriter()
            viewers = []
            for stream_id in 1, 2, 3:
                viewers.append(join(channel, stream_id=stream_id, writer=writer))
            publish(channel, avc(0, True, bytes(100)))
            writer.room = room
            publish(channel, avc(40, False, bytes(300)), aac(45, bytes(300)))
            publish(channel, avc(80, False, bytes(300)))
            viewers[0].take()
            for stream_id in 1, 2, 3:
                times = [m.timestamp for m in viewers[0].media(128) if m.stream_id == stream_id]
                self.assertEqual(times[-4:], [0, 40, 45, 80])

    def test_events_name_the_stream(self) -> None:
        """Also behind the time from which timestamps are extended (RTMP 1.0, section 5.3.1.3)."""
        for time in 0, 0xFFFFFE, 0xFFFFFF, 0x1000000, 0xFFFFFFFF:
            channel = on_air(make_channel())
            viewer = join(channel, stream_id=0x01020304)
            publish(channel, avc(time, True))
            channel.end()
            events = [m for m in viewer.messages() if m.type_id == USER_CONTROL]
            self.assertEqual([m.body for m in events], [messages.user_control(messages.STREAM_EOF, 0x01020304).body])
            self.assertEqual({m.stream_id for m in viewer.messages() if m not in events}, {0x01020304})


class HeaderTests(SynchronousTestCase):
    def test_a_stuck_player_costs_no_more_for_changing_headers(self) -> None:
        """A publisher may change large headers with each group; whoever takes nothing must not collect them."""
        self.patch(cursor_module, "MAX_LAG", 20_000)
        channel = on_air(make_channel())
        stuck = join(channel, room=10)
        for n in range(100):
            changed = Message(VIDEO, 1, n, b"\x17\x00\0\0\0%02d" % n + bytes(10_000))
            publish(channel, changed, avc(n, True, b"%02d" % n), avc(n, False, bytes(1000)))
            self.assertLess(len(stuck.writer.waiting), 25_000)
        self.assertGreater(stuck.player.skips, 0)
        stuck.take()
        last = stuck.bodies()[-3:]
        self.assertEqual(
            [body[:7] for body in last], [b"\x17\0\0\0\x0099", b"\x17\1\0\0\x0099", avc(0, False).body[:5] + bytes(2)]
        )

    def test_headers_before_media_whenever_it_was_stuck(self) -> None:
        self.patch(cursor_module, "MAX_LAG", 3000)
        for room in range(0, 2000, 41):
            channel = on_air(make_channel())
            slow = join(channel, room=room)
            for n in range(12):
                header = Message(VIDEO, 1, n, b"\x17\x00\0\0\0%02d" % n)
                publish(channel, header, avc(n, True, b"%02d" % n + bytes(900)), aac(n, b"%02d" % n))
            slow.take()
            configuration = b""
            for message in slow.media():
                number = message.body[5:7]
                if message.type_id == VIDEO and message.body[1] == 0:
                    configuration = number
                elif message.type_id == VIDEO:
                    self.assertEqual(configuration, number)

    def test_sound_that_is_turned_on_while_nothing_leaves(self) -> None:
        channel = on_air(make_channel())
        player = join(channel)
        player.player.enable(audio=False)
        changed = Message(AUDIO, 1, 0, b"\xaf\x00\x13\x10")
        publish(channel, changed, avc(0, True))
        player.writer.room = 1
        publish(channel, avc(40, False))
        player.player.enable(audio=True)
        waiting = len(player.writer.waiting)
        for _ in range(100):
            player.player.enable(audio=False)
            player.player.enable(audio=True)
        self.assertEqual(len(player.writer.waiting), waiting)
        publish(channel, aac(50))
        player.take()
        self.assertIn(changed.body, player.bodies())
        self.assertEqual(player.bodies()[-1], aac(50).body)

    def test_sound_that_is_turned_on_while_an_answer_leaves(self) -> None:
        channel = on_air(make_channel())
        for stream_id in 1, 2:
            viewer = join(channel, stream_id=stream_id)
            viewer.player.enable(audio=False)
            changed = Message(AUDIO, 1, 0, b"\xaf\x00\x13" + bytes((stream_id,)))
            publish(channel, changed, avc(0, True))
            viewer.writer.room = 5
            viewer.writer.write(chunks.encode(messages.user_control(messages.PING_REQUEST, 0), 2, 4096))
            self.assertTrue(viewer.writer.blocked)
            viewer.player.enable(audio=True)
            viewer.take()
            publish(channel, aac(50))
            self.assertIn(changed.body, viewer.bodies())
            self.assertEqual(viewer.bodies()[-1], aac(50).body)


class LagTests(SynchronousTestCase):
    def test_whoever_has_caught_up_may_lag_no_more_than_others(self) -> None:
        self.patch(cursor_module, "MAX_LAG", 4000)
        channel = on_air(make_channel(whole_stream=True))
        for n in range(50):
            publish(channel, avc(n * 1000, True, bytes(1000)))
        viewer = join(channel, Cache.ALL)
        viewer.writer.room = 0
        for n in range(50, 60):
            publish(channel, avc(n * 1000, True, bytes(1000)))
        self.assertGreater(viewer.player.skips, 0)
