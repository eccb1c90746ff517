"""Several video tracks on one channel (Enhanced RTMP v2, "Multitrack"), and the headers of all tracks."""

from __future__ import annotations

import itertools

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import cursor as cursor_module
from rtmp_twisted.live import headers as headers_module
from rtmp_twisted.live.player import Cache
from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support.fakes import Log
from tests.support.live import Stage, Viewer, join, make_channel
from tests.support.rtmp_client import AAC_HEADER, aac, avc

ONE, MANY = 0x00, 0x10
NANOSECONDS = b"\x02\0\0\x01"
"""A ModEx's data; the packet type it stands before follows."""


def multitrack(timestamp: int, keyframe: bool, kind: int, packet_type: int, rest: bytes) -> Message:
    return Message(VIDEO, 1, timestamp, bytes((0x96 if keyframe else 0xA6, kind | packet_type)) + b"avc1" + rest)


def one(track: int, timestamp: int, keyframe: bool) -> Message:
    """A frame of one track."""
    return multitrack(timestamp, keyframe, ONE, 1, bytes((track,)) + b"\0\0\0frame")


def many(tracks: tuple[int, ...], timestamp: int, keyframe: bool) -> Message:
    """A frame of each of several tracks."""
    rest = b"".join(bytes((track, 0, 0, 8)) + b"\0\0\0frame" for track in tracks)
    return multitrack(timestamp, keyframe, MANY, 1, rest)


def header(content: bytes, *tracks: int) -> Message:
    """A SequenceStart of one or of several tracks."""
    if len(tracks) == 1:
        return multitrack(0, True, ONE, 0, bytes(tracks) + content)
    rest = b"".join(bytes((track, 0, 0, len(content))) + content for track in tracks)
    return multitrack(0, True, MANY, 0, rest)


def with_offset(message: Message) -> Message:
    """The same with an offset in nanoseconds."""
    first = message.body[0]
    return message._replace(body=bytes((first | 7,)) + NANOSECONDS + bytes((first & 15,)) + message.body[1:])


def publish(channel: Stage, *sent: Message) -> list[bytes]:
    for message in sent:
        channel.publish(message)
    channel.flush()
    return [message.body for message in sent]


class TrackCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.channel = make_channel()
        self.channel.begin("key")

    def assert_gets(self, viewer: Viewer, *expected: Message) -> None:
        self.assertEqual(viewer.bodies(), [message.body for message in expected])


class KeyframeTests(TrackCase):
    """A player gets a keyframe of each track first, wherever the tracks' keyframes are."""

    def test_a_track_that_is_late(self) -> None:
        for late in one, lambda *frame: with_offset(one(*frame)):
            self.setUp()
            group = [avc(0, True), late(1, 0, True), avc(40, False), late(1, 40, False)]
            publish(self.channel, *group)
            begin = [avc(80, True), late(1, 80, False), aac(90), avc(120, False)]
            publish(self.channel, *begin)
            viewer = join(self.channel)
            self.assert_gets(viewer, begin[0], begin[2], begin[3])
            more = [late(1, 120, False), late(1, 160, True), avc(160, False), late(1, 200, False)]
            publish(self.channel, *more)
            self.assert_gets(viewer, begin[0], *begin[2:], *more[1:])
            self.assertTrue(viewer.plain)

    def test_no_keyframe_in_the_whole_group(self) -> None:
        publish(self.channel, avc(0, True), one(1, 0, True))
        second = [avc(40, True), one(1, 40, False)]
        publish(self.channel, *second)
        viewer = join(self.channel)
        third = [avc(80, True), one(1, 80, False), one(1, 120, True), one(1, 160, False)]
        publish(self.channel, *third)
        self.assert_gets(viewer, second[0], third[0], *third[2:])

    def test_frames_before_the_first_keyframe(self) -> None:
        viewer = join(self.channel)
        early, keyframe, late = one(1, 0, False), avc(0, True), one(1, 40, False)
        publish(self.channel, early, keyframe, late, one(1, 80, True))
        self.assert_gets(viewer, keyframe, one(1, 80, True))
        self.assertEqual(self.channel.publication.dropped, 2)

    def test_a_track_that_came_later(self) -> None:
        group = [avc(0, True), avc(40, False)]
        publish(self.channel, *group)
        early = join(self.channel)
        added = [one(1, 80, True), avc(80, False), one(1, 120, False)]
        publish(self.channel, *added)
        self.assert_gets(early, *group, *added)
        self.assert_gets(join(self.channel), *group, *added)

    def test_all_tracks_in_each_message(self) -> None:
        group = [many((0, 1, 2), 0, True), many((0, 1, 2), 40, False)]
        publish(self.channel, *group)
        viewer = join(self.channel)
        self.assert_gets(viewer, *group)
        self.assertTrue(viewer.plain)

    def test_the_leading_track_is_not_track_0(self) -> None:
        publish(self.channel, one(3, 0, True), one(5, 0, True))
        second = [one(3, 40, True), one(5, 40, False), one(3, 80, False), one(5, 80, True)]
        publish(self.channel, *second)
        self.assert_gets(join(self.channel), second[0], *second[2:])

    def test_without_the_cache(self) -> None:
        publish(self.channel, avc(0, True), one(1, 0, True))
        viewer = join(self.channel, Cache.NO)
        frames = [
            one(1, 40, True),
            avc(40, False),
            avc(80, True),
            one(1, 80, False),
            one(1, 120, True),
            avc(120, False),
        ]
        publish(self.channel, *frames)
        self.assert_gets(viewer, frames[2], *frames[4:])

    def test_video_turned_on(self) -> None:
        group = [avc(0, True), one(1, 0, True)]
        publish(self.channel, *group)
        viewer = join(self.channel)
        viewer.player.enable(video=False)
        publish(self.channel, one(1, 40, False))
        viewer.player.enable(video=True)
        publish(self.channel, one(1, 80, True))
        frames = [avc(120, True), one(1, 120, False), one(1, 160, True), one(1, 200, False)]
        publish(self.channel, *frames)
        self.assert_gets(viewer, *group, frames[0], *frames[2:])
        self.assertTrue(viewer.plain)

    def test_a_slow_player(self) -> None:
        self.patch(cursor_module, "MAX_LAG", 500)
        publish(self.channel, avc(0, True), one(1, 0, True))
        viewer = join(self.channel, room=50)
        for n in range(1, 40):
            publish(self.channel, avc(n * 80, True, bytes(100)), one(1, n * 80, False), one(1, n * 80 + 40, n % 3 == 0))
        viewer.take()
        self.assertGreater(viewer.player.skips, 0)
        places = [message.timestamp for message in viewer.media() if message.body[0] in (0x96, 0xA6)]
        keyframes = {message.timestamp for message in viewer.media() if message.body[0] == 0x96}
        for before, place in itertools.pairwise(places):
            self.assertTrue(place - before == 40 or place in keyframes, (before, place))

    def test_a_track_that_does_not_come_back(self) -> None:
        publish(self.channel, avc(0, True), one(1, 0, True))
        publish(self.channel, avc(40, True))
        viewer = join(self.channel)
        self.assertFalse(viewer.plain)
        self.channel.end(lost=True)
        self.channel.begin("key")
        publish(self.channel, avc(0, True))
        publish(self.channel, avc(40, False))
        self.assertTrue(viewer.plain)

    def test_to_another_message_stream(self) -> None:
        publish(self.channel, avc(0, True), one(1, 0, True))
        second = [avc(40, True), one(1, 40, False), one(1, 80, True)]
        publish(self.channel, *second)
        self.assert_gets(join(self.channel, stream_id=5), second[0], second[2])


class HeaderTests(TrackCase):
    def test_the_newest_of_each_track(self) -> None:
        """One message may have several tracks' headers; a newer one for some of them is sent behind it."""
        for newer in header(b"new", 0), header(b"new", 1), header(b"new", 1, 2):
            self.setUp()
            first = header(b"old", 0, 1)
            publish(self.channel, first, newer, avc(0, True))
            self.assert_gets(join(self.channel), first, newer, avc(0, True))
        self.setUp()
        both = header(b"new", 0, 1)
        publish(self.channel, header(b"old", 0), header(b"old", 1), both, avc(0, True))
        self.assert_gets(join(self.channel), both, avc(0, True))

    def test_of_all_kinds(self) -> None:
        kinds = [
            header(b"configuration", 0),
            header(b"configuration", 7),
            Message(VIDEO, 1, 0, b"\x94avc1\x02\x00\x09colorInfo\x05"),
            multitrack(0, True, ONE, 4, b"\x07\x02\x00\x09colorInfo\x05"),
            Message(AUDIO, 1, 0, b"\x90Opusconfiguration"),
            Message(AUDIO, 1, 0, b"\x94Opus\x01\x02\0\0\0\x03"),
            Message(AUDIO, 1, 0, b"\x95\x00mp4a\x04configuration"),
        ]
        publish(self.channel, *kinds, avc(0, True), one(7, 0, True))
        self.assert_gets(join(self.channel), *kinds, avc(0, True), one(7, 0, True))
        mpeg2ts = Message(VIDEO, 1, 0, b"\x95avc1\x80\x04")  # in place of a SequenceStart
        publish(self.channel, mpeg2ts, avc(40, True))
        self.assert_gets(join(self.channel), *kinds[1:], mpeg2ts, avc(40, True))

    def test_as_many_as_fit(self) -> None:
        """What does not fit is relayed and not kept, and the old one is not, either; with one line in the log."""
        log = Log(self)
        viewer = join(self.channel)
        old, large = header(b"old", 2), header(bytes(headers_module.MAX_KEPT_BYTES), 2)
        publish(self.channel, AAC_HEADER, old, large)
        publish(self.channel, large, avc(0, True))
        self.assertEqual(
            [body[:9] for body in viewer.bodies()], [m.body[:9] for m in (AAC_HEADER, old, large, large, avc(0, True))]
        )
        self.assert_gets(join(self.channel), AAC_HEADER, avc(0, True))
        self.channel.publish(messages.data(0, "onMetaData", "x" * headers_module.MAX_KEPT_BYTES))
        self.assertEqual(len(log.lines()), 1)
        self.assertIn("channel 'channel': 1048583 bytes of headers", log.lines()[0])

    def test_very_many(self) -> None:
        """Their number and their size are bounded."""
        for size in headers_module.MAX_KEPT_BYTES // 50, 10:
            self.setUp()
            for number in range(256):
                publish(self.channel, header(bytes(size), number))
            publish(self.channel, avc(0, True))
            kept = [len(body) for body in join(self.channel).bodies()][:-1]
            if size > 10:
                self.assertLess(sum(kept), headers_module.MAX_KEPT_BYTES + 100)
                self.assertGreater(sum(kept), headers_module.MAX_KEPT_BYTES - 2 * size)
            else:
                self.assertEqual(len(kept), headers_module.MAX_KEPT_HEADERS)
