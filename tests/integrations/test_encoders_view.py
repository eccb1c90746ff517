"""The coordinator's HLS encoder joins some time after the publish was accepted, and gets it from the first frame on.

ffmpeg is on both sides, behind relays that record what passes. All times are those of the stream.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import Deferred

from rtmp_twisted.wire.messages import Message
from tests.interop import programs
from tests.interop.exchange import ENOUGH, ExchangeCase
from tests.interop.test_ffmpeg import AAC, AUDIO, QUIET, VIDEO, FFmpegCase, Packets, read_framecrc
from tests.support.coordinator import Coordinator
from tests.support.fakes import until, within
from tests.support.programs import Program, Server
from tests.support.relay import Leg, Relay, is_header, is_keyframe

SECRET = "a secret of more than thirty-two bytes"

LATE = 2000
"""Milliseconds of the stream that have passed when the encoder joins."""

GROUP = 500
"""Milliseconds from one keyframe to the next."""

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-sc_threshold", "0", "-g", str(30 * GROUP // 1000))

SECONDS = 60
"""Length of the clip. It is longer than what is played: the publisher is stopped at the end of the test."""


@frozen
class Viewer:
    program: Program
    leg: Leg

    @property
    def media(self) -> list[Message]:
        """The media that it has been sent so far."""
        return self.leg.to_program.media


class EncodersViewTests(ExchangeCase, FFmpegCase):
    async def coordinated_server(self) -> Server:
        self.coordinator = Coordinator(SECRET)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.coordinator.stop()))
        self.coordinator.listen()
        server = await self.server(control_use="YES", control_base_url=self.coordinator.base_url, control_secret=SECRET)
        await server.until("connected to the coordinator")
        return server

    async def long_clip(self) -> Path:
        path = Path(self.mktemp() + ".flv")
        await self.ffmpeg(*VIDEO, *AUDIO, *H264, *AAC, "-t", str(SECONDS), "-f", "flv", str(path))
        return path

    async def view(self, server: Server, query: str) -> Viewer:
        """Starts an ffmpeg that plays the channel and stops at any error. Fires when it has had a second of it."""
        relay, url = await self.relay(server)
        play = ("-xerror", "-copyts", "-i", url + query, "-c", "copy", "-f", "framecrc", "-")
        program = Program(self, "ffmpeg", *QUIET, *play)
        await relay.until_received(ENOUGH)
        return Viewer(program, relay.legs[-1])

    async def until_passed(self, viewer: Viewer, milliseconds: int) -> None:
        """Fires when the viewer has been sent so much more of the stream."""
        end = viewer.media[-1].timestamp + milliseconds
        await until(lambda: viewer.leg.to_program.messages[-1].timestamp > end, f"{milliseconds} ms of the stream")

    async def assert_played(self, viewer: Viewer, clip: Packets) -> Packets:
        """The program has ended without an error, and its packets are the clip's, without a gap."""
        self.assertEqual(await within(viewer.program.ended), 0, str(viewer.program))
        packets = read_framecrc(viewer.program.lines)
        self.assert_received(packets, clip, to_the_end=False)
        return packets

    async def test_from_the_first_frame(self) -> None:
        clip = await self.long_clip()
        server = await self.coordinated_server()
        publisher, relay = await self.publisher(server, programs.DEBIAN_FFMPEG, clip)
        await relay.until_sent(1)
        sent = relay.legs[0].to_server
        await until(lambda: sent.messages[-1].timestamp >= LATE, "two seconds of the stream")
        first = [await self.view(server, "?cache=all"), await self.view(server, "?cache=clear")]
        later = []
        for query in "?cache=all", "?cache=clear", "":
            await self.until_passed(first[0], 2 * GROUP)
            newest = max(message.timestamp for message in first[0].media if is_keyframe(message))
            later.append((await self.view(server, query), newest))
        publisher.signal(signal.SIGINT)
        await within(publisher.ended)

        self.assertEqual(len(self.coordinator.heard("PUBLISH-REQUEST")), 1)
        packets = await self.packets(str(clip))
        for viewer in first:
            played = await self.assert_played(viewer, packets)
            for stream in "0", "1":
                self.assertEqual(played[stream][0], packets[stream][0])
            self.assertEqual(viewer.media, sent.media)
        for viewer, newest in later:
            await self.assert_played(viewer, packets)
            self.assert_all_arrived(sent.media, viewer.media)
            begin = next(message for message in viewer.media if not is_header(message))
            self.assertTrue(is_keyframe(begin))
            self.assertGreaterEqual(begin.timestamp, newest)

    async def check_next_publish(self, end: Callable[[Program, Relay], object]) -> None:
        """The encoder is ended with its publish, and the next one gets the next publish from its first frame on."""
        clip = await self.long_clip()
        server = await self.coordinated_server()
        program, first = await self.publisher(server, programs.DEBIAN_FFMPEG, clip)
        await first.until_sent(1)
        encoder = await self.view(server, "?cache=clear")
        viewer = await self.view(server, "")
        end(program, first)
        publisher, second = await self.publisher(server, programs.DEBIAN_FFMPEG, clip)
        await second.until_sent(ENOUGH)
        packets = await self.packets(str(clip))
        for player in encoder, viewer:
            await self.assert_played(player, packets)
            self.assertEqual(player.leg.to_program.codes[-1], "NetStream.Play.UnpublishNotify")
        sent = first.legs[0].to_server.media
        self.assertEqual(encoder.media, sent[: len(encoder.media)])
        following = await self.view(server, "?cache=clear")
        publisher.signal(signal.SIGINT)
        await within(publisher.ended)
        played = await self.assert_played(following, packets)
        self.assertEqual(played["0"][0], packets["0"][0])
        self.assertEqual(following.media, second.legs[0].to_server.media)
        await until(lambda: len(self.coordinator.heard("PUBLISH-END")) == 2, "both ends")
        self.assertEqual(
            [name for name, _ in self.coordinator.messages if name.startswith("PUBLISH")],
            ["PUBLISH-REQUEST", "PUBLISH-END"] * 2,
        )

    async def test_after_the_end(self) -> None:
        await self.check_next_publish(lambda program, _: program.signal(signal.SIGINT))

    async def test_after_a_loss(self) -> None:
        await self.check_next_publish(lambda program, _: program.signal(signal.SIGKILL))

    async def test_after_a_take_over(self) -> None:
        """The publisher's network is gone, and the server has not noticed when it publishes again."""
        await self.check_next_publish(lambda _, relay: relay.go_dead())

    async def test_after_a_kill(self) -> None:
        def kill(program: Program, _: Relay) -> None:
            self.coordinator.visit.say("STREAM-KILL\nStream-Channel:channel\nStream-ID:*\n")

        await self.check_next_publish(kill)
