"""FLV over HTTP: what a viewer gets, when, and how it ends."""

from __future__ import annotations

from typing import Any

from twisted.logger import LogLevel

from rtmp_twisted.media.flv import FLVFormat
from rtmp_twisted.rtmp.connection import LINGER_SECONDS, STUCK_SECONDS
from rtmp_twisted.web import viewer as viewer_module
from rtmp_twisted.web.viewer import ENDING_SECONDS, MAX_IGNORED, WAIT_SECONDS
from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support.fakes import Log, until
from tests.support.rtmp_client import AAC_HEADER, avc
from tests.web.watch_case import HEADERS, STREAM_KEY, WatchCase

EVERY = (8, 9)
FLV = f"/tv/{STREAM_KEY}.flv"


class StreamTests(WatchCase):
    async def test_joining(self) -> None:
        """The newest group at once, with the headers at its time, and then what comes."""
        self.serve()
        publisher = self.on_air()
        self.group(publisher, 1)
        first = self.group(publisher, 2)
        viewer = await self.watch()
        await viewer.has(*HEADERS, *first)
        self.assertEqual(viewer.stream[:13], FLVFormat().preamble(EVERY))
        self.assertEqual([m.timestamp for m in viewer.messages()], [0, 2000, 2000, 2000, 2005, 2040])
        second = self.group(publisher, 3)
        await viewer.has(*HEADERS, *first, *second)
        head = viewer.head.decode().lower().splitlines()
        self.assertEqual(head[0], "http/1.1 200 ok")
        for line in (
            "content-type: video/x-flv",
            "access-control-allow-origin: *",
            "cache-control: no-store",
            "connection: close",
            "transfer-encoding: chunked",
            "accept-ranges: none",
            "x-accel-buffering: no",
        ):
            self.assertIn(line, head)

    async def test_versions_and_methods(self) -> None:
        """HTTP/1.0 knows no chunks; HEAD gets the same head, and nothing else; a range is not given."""
        self.serve()
        publisher = self.on_air()
        first = self.group(publisher, 1)
        old = await self.watch(version="1.0")
        await old.has(*HEADERS, *first)
        self.assertNotIn(b"chunked", old.head)
        head = await self.watch(method="HEAD")
        await head.gone()
        self.assertEqual((head.code, head.body), (200, b""))
        self.assertIn(b"video/x-flv", head.head)
        request = f"GET /tv/{STREAM_KEY}.flv HTTP/1.1\r\nHost: localhost\r\nRange: bytes=5-\r\n\r\n"
        ranged = type(old)(await self.open(request.encode()))
        await ranged.has(*HEADERS, *first)
        self.assertEqual(ranged.code, 200)

    async def test_end_of_a_publish(self) -> None:
        """The stream ends as a body ends, and the connection with it."""
        self.serve()
        log = Log(self)
        publisher = self.on_air()
        viewer, old = await self.answered(FLV), await self.answered(FLV, version="1.0")
        last = self.group(publisher, 1)
        publisher.call("closeStream", None, stream_id=1)
        for one in viewer, old:
            await one.gone()
            self.assertEqual(one.bodies(), HEADERS + last)
        self.assertTrue(viewer.ended)
        self.assertEqual(self.viewers.all, {})
        found = [line for line in log.lines(LogLevel.info) if line.startswith("stopped watching")]
        self.assertEqual(len(found), 2)
        self.assertRegex(found[0], r'stopped watching channel "tv" after 0\.0 s, \d+ B: the publish has ended')

    async def test_a_publisher_that_is_lost_and_returns(self) -> None:
        """Its viewers go on, at later times."""
        self.serve()
        publisher = self.on_air()
        viewer = await self.answered(FLV)
        first = self.group(publisher, 1)
        publisher.leave()
        self.world.clock.advance(2)
        late = await self.watch()
        await self.waiting(2)
        again = self.on_air()
        second = self.group(again, 0)
        await viewer.has(*HEADERS, *first, *HEADERS, *second)
        times = [m.timestamp for m in viewer.messages() if m.type_id != messages.DATA_AMF0]
        self.assertEqual(times, sorted(times))
        await late.has(*HEADERS, *second)
        again.leave()
        self.world.clock.advance(5)
        await viewer.gone()
        await late.gone()
        self.assertTrue(late.stream and late.ended)

    async def test_a_publisher_that_is_taken_over(self) -> None:
        self.serve()
        publisher = self.on_air()
        viewer = await self.answered(FLV)
        first = self.group(publisher, 1)
        again = self.world.connect().open("tv")
        again.publish(STREAM_KEY)
        for _ in range(16):
            self.world.clock.advance(0.25)
        second = self.group(again, 0)
        await viewer.has(*HEADERS, *first, *second)

    async def test_viewers_that_end_with_the_coordinators_streams(self) -> None:
        self.serve(end_players=True)
        publisher = self.on_air()
        viewer = await self.answered(FLV)
        last = self.group(publisher, 1)
        publisher.leave()
        self.world.turn()
        await viewer.gone()
        self.assertEqual((viewer.bodies(), viewer.ended), (HEADERS + last, True))

    async def test_only_sound(self) -> None:
        """What the file header says is true, since some players wait for it."""
        self.serve()
        publisher = self.publisher()
        publisher.send(AAC_HEADER)
        viewer = await self.answered(FLV)
        await until(lambda: len(viewer.stream) >= 13, "the file header")
        self.assertEqual(viewer.stream[4], 4)

    async def test_tracks(self) -> None:
        """Track 0 only; and such a viewer gets the rendition's own bytes."""
        self.serve()
        publisher = self.on_air()
        viewer = await self.answered(FLV)
        keyframe, frame = avc(0, True, b"k"), avc(40, False, b"f")
        other = [
            Message(VIDEO, 1, 0, b"\x96\x00avc1\x01configuration"),
            Message(VIDEO, 1, 0, b"\x96\x01avc1\x01\0\0\0keyframe"),
            Message(VIDEO, 1, 40, b"\xa6\x01avc1\x01\0\0\0frame"),
            Message(AUDIO, 1, 40, b"\x95\x01mp4a\x01sound"),
        ]
        wrapped = Message(VIDEO, 1, 80, b"\xa6\x01avc1\0\0\0\0frame of track 0")
        publisher.send(other[0], keyframe, other[1], frame, other[2], other[3], wrapped)
        unwrapped = b"\xa1avc1\0\0\0frame of track 0"
        await viewer.has(*HEADERS, keyframe.body, frame.body, unwrapped)
        late = await self.watch()
        await late.has(*HEADERS, keyframe.body, frame.body, unwrapped)
        players = [player for channel, _ in self.world.broker.channels() for player in channel.players]
        self.assertEqual([player.cursor is not None and player.cursor.plain for player in players], [True, True])


class WaitingTests(WatchCase):
    async def test_no_answer_before_the_publisher(self) -> None:
        self.serve()
        right, wrong = await self.watch(), await self.watch("/tv/wrong.flv")
        await self.waiting(2)
        self.assertEqual(right.connection.answer + wrong.connection.answer, b"")
        publisher = self.on_air()
        first = self.group(publisher, 0)
        await right.has(*HEADERS, *first)
        await wrong.gone()
        self.assertEqual((wrong.code, wrong.body), (403, b"the key is not the publisher's\n"))
        self.assertEqual(self.world.factory.options.guessing.failures["play"], 1)

    async def test_nobody_comes(self) -> None:
        self.serve()
        viewer = await self.watch()
        await self.waiting()
        self.world.clock.advance(WAIT_SECONDS - 1)
        self.service.check()
        self.assertEqual(viewer.connection.answer, b"")
        self.world.clock.advance(1)
        self.service.check()
        await viewer.gone()
        self.assertEqual((viewer.code, viewer.body), (404, b"nobody publishes there now\n"))
        self.assertEqual(self.world.broker.channels(), [])

    async def test_viewers_that_leave(self) -> None:
        """While they wait, and while they watch."""
        self.serve()
        viewer = await self.watch()
        await self.waiting()
        viewer.connection.transport.loseConnection()
        await self.waiting(0)
        self.assertEqual(self.world.broker.channels(), [])
        self.on_air()
        viewer = await self.answered(FLV)
        viewer.connection.transport.loseConnection()
        await self.waiting(0)
        [(channel, _)] = self.world.broker.channels()
        self.assertEqual((channel.players, self.site.connections), (set(), {}))


class SlowViewerTests(WatchCase):
    BIG = 3_000_000

    async def blocked(self) -> tuple[Any, Any]:
        """A viewer that reads nothing, and a publisher that has sent it more than fits."""
        publisher = self.on_air()
        publisher.send(messages.set_chunk_size(65536))
        publisher.chunk_size = 65536
        viewer = await self.answered(FLV)
        viewer.connection.transport.pauseProducing()
        for number in range(3):
            publisher.send(avc(number * 40, number == 0, bytes(self.BIG)))
        await until(lambda: next(iter(self.viewers.all)).writer.blocked, "a viewer that is behind")
        return publisher, viewer

    async def test_too_slow(self) -> None:
        """It loses whole groups, and goes on with the newest."""
        self.serve()
        log = Log(self)
        publisher, viewer = await self.blocked()
        for number in range(3, 8):
            publisher.send(avc(number * 40, number == 6, bytes(self.BIG)))
        self.service.check()
        viewer.connection.transport.resumeProducing()
        await until(lambda: viewer.messages()[-1].timestamp == 280, "what is left")
        times = [m.timestamp for m in viewer.messages() if m.type_id == VIDEO]
        self.assertEqual(times[-2:], [240, 280])
        self.assertNotIn(200, times)
        self.assertTrue(any("too slow" in line for line in log.lines(LogLevel.info)))

    async def test_the_rest_of_a_publish(self) -> None:
        """One that is behind at the end of a publish gets the rest of it."""
        self.serve()
        publisher, viewer = await self.blocked()
        publisher.call("closeStream", None, stream_id=1)
        self.assertEqual(len(self.viewers.all), 1)
        viewer.connection.transport.resumeProducing()
        await viewer.gone()
        self.assertEqual([len(body) for body in viewer.bodies()[-3:]], [self.BIG + 5] * 3)
        self.assertTrue(viewer.ended)

    async def test_who_does_not_take_the_rest(self) -> None:
        self.serve()
        publisher, _ = await self.blocked()
        publisher.call("closeStream", None, stream_id=1)
        self.world.clock.advance(ENDING_SECONDS)
        self.service.check()
        self.assertEqual(len(self.viewers.all), 1)  # what was handed over may still arrive
        self.world.clock.advance(LINGER_SECONDS)
        self.service.check()
        await self.waiting(0)

    async def test_stuck(self) -> None:
        self.serve()
        await self.blocked()
        self.world.clock.advance(STUCK_SECONDS - 1)
        self.service.check()
        self.assertEqual(len(self.viewers.all), 1)
        self.world.clock.advance(1)
        self.service.check()
        await self.waiting(0)

    async def test_one_that_goes_on_sending(self) -> None:
        """A little is ignored, second by second."""
        self.serve()
        self.on_air()
        viewer = await self.answered(FLV)
        [server_side] = self.viewers.all
        for _ in range(2):
            viewer.connection.transport.write(bytes(MAX_IGNORED))
            await until(lambda: server_side._ignored == MAX_IGNORED, "what it sent")
            self.service.check()
        viewer.connection.transport.write(bytes(MAX_IGNORED + 1))
        await viewer.gone()
        await self.waiting(0)


class FaultTests(WatchCase):
    async def test_a_bug_ends_one_viewer(self) -> None:
        self.serve()
        log = Log(self)
        one, other = await self.watch(), await self.watch()
        await self.waiting(2)
        broken, accept = next(iter(self.viewers.all)), viewer_module.Viewer._accept
        self.patch(viewer_module.Viewer, "_accept", lambda one: 1 // 0 if one is broken else accept(one))
        publisher = self.on_air()
        first = self.group(publisher, 0)
        views = [one, other]
        await until(lambda: sum(view.connection.ended.called for view in views) == 1, "the end of one")
        [left] = [view for view in views if not view.connection.ended.called]
        await left.has(*HEADERS, *first)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("a bug, which ends this viewer", log.lines(LogLevel.critical))

    async def test_the_server_stops(self) -> None:
        """Viewers are told by the end of the body."""
        self.serve()
        publisher = self.on_air()
        viewer = await self.answered(FLV)
        first = self.group(publisher, 0)
        await viewer.has(*HEADERS, *first)
        waiting = await self.watch("/other/key.flv")
        await self.waiting(2)
        await self.stop(self.service)
        await viewer.gone()
        await waiting.gone()
        self.assertEqual((viewer.bodies(), viewer.ended), (HEADERS + first, True))
        self.assertEqual(waiting.connection.answer, b"")
        self.service.startService()  # for the cleanup
