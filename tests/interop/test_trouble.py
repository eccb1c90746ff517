"""Publishers that are cut off, die, or have a clock that jumps: what strict players make of it."""

from __future__ import annotations

import signal

import attrs
from twisted.internet.task import deferLater

from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.interop import programs
from tests.interop.exchange import ENOUGH, REORDERED, ExchangeCase, Viewer
from tests.support import clips
from tests.support.fakes import reactor, within
from tests.support.flv import read_flv
from tests.support.http_app import HTTPApp
from tests.support.programs import Server
from tests.support.relay import is_header
from tests.support.rtmp_client import client

# To FLV, since ffmpeg spoils an MKV file when a codec header comes again.
STRICT = (
    attrs.evolve(programs.DEBIAN_FFMPEG_PLAYER, recording="flv"),
    attrs.evolve(programs.CURRENT_PLAYER, recording="flv"),
    programs.RTMPDUMP,
    programs.RTMP2SRC,
)
PUBLISHED, UNPUBLISHED = "NetStream.Play.PublishNotify", "NetStream.Play.UnpublishNotify"
HOUR = 3_600_000


class TroubleCase(ExchangeCase):
    async def viewers(self, server: Server) -> list[Viewer]:
        """The strict players, waiting for a publisher."""
        viewers = [await self.viewer(server, player) for player in STRICT]
        for number, viewer in enumerate(viewers, 1):
            await server.until(rf"#{number} .*waiting for a publisher")
            await viewer.relay.until_connected()
        return viewers

    async def leave(self, viewers: list[Viewer]) -> None:
        """The publisher has said goodbye: each player ends by itself, content."""
        for viewer in viewers:
            await viewer.relay.legs[0].until_told(UNPUBLISHED)
            self.assertEqual(await within(viewer.program.ended), 0, str(viewer.program))
            self.assertEqual([line for line in viewer.program.lines if not line.startswith(("#", "0,"))], [])

    def assert_times(self, received: list[Message]) -> None:
        """Neither audio nor video goes back."""
        for kind in AUDIO, VIDEO:
            times = [message.timestamp for message in received if message.type_id == kind]
            self.assertEqual(times, sorted(times))


class ComeBackTests(TroubleCase):
    """A publisher is gone without a word, and another one publishes with the same key two seconds later."""

    async def check(self, dies: bool) -> None:
        clip = await clips.clip(self, "H.264", "AAC")
        app = HTTPApp("secret")
        app.listen()
        self.addCleanup(app.stop)
        server = await self.server(callback_url=app.url, jwt_secret="secret")
        viewers = await self.viewers(server)
        program, first = await self.publisher(server, programs.DEBIAN_FFMPEG, clip)
        for viewer in viewers:
            await viewer.until_received(ENOUGH)
        if dies:
            program.signal(signal.SIGKILL)
        else:
            first.go_dead()
        await deferLater(reactor, 2, lambda: None)
        program, second = await self.publisher(server, programs.DEBIAN_FFMPEG, clip)
        await second.until_sent(2 * ENOUGH)
        self.assertEqual(app.names("channel"), ["start", "stop", "start"])
        program.signal(signal.SIGINT)
        await within(program.ended)
        await self.leave(viewers)
        sent = [message for relay in (first, second) for message in relay.legs[0].to_server.media]
        for viewer in viewers:
            leg = viewer.relay.legs[0]
            received = leg.to_program.media
            told = [code for code in leg.to_program.codes if code in (PUBLISHED, UNPUBLISHED)]
            self.assertEqual(told, [PUBLISHED, PUBLISHED, UNPUBLISHED])
            self.assertEqual([m.body for m in received], [m.body for m in sent])
            self.assert_times(received)
            known = await clips.pictures(self, clip)
            places = [known.index(picture) for picture in await clips.pictures(self, viewer.recording)]
            self.assertEqual(places.count(0), 2)
            self.assertGreater(len(places), ENOUGH)

    async def test_cut_off(self) -> None:
        """Its network is gone: the server is told nothing, and its old connection looks alive."""
        await self.check(dies=False)

    async def test_killed(self) -> None:
        await self.check(dies=True)


class ClockTests(TroubleCase):
    async def check(self, *starts: int) -> None:
        """The clip, with a clock that is set to one of ``starts`` (ms) after each second."""
        clip = await clips.clip(self, "H.264", "AAC", kind="flv")
        server = await self.server()
        viewers = await self.viewers(server)
        publisher = await client(server.port)
        await publisher.open()
        await publisher.publish()
        tags = [tag for tag in read_flv(clip) if tag.timestamp < 1000 * len(starts) and tag.type_id in (AUDIO, VIDEO)]
        for tag in tags:
            start = starts[tag.timestamp // 1000]
            publisher.send(tag._replace(timestamp=(start + tag.timestamp % 1000) % 2**32))
        publisher.call("deleteStream", None, 1.0)
        await self.leave(viewers)
        publisher.transport.loseConnection()
        await publisher.lost
        known = await clips.pictures(self, clip)
        for viewer in viewers:
            received = viewer.relay.legs[0].to_program.media
            self.assertEqual([m.body for m in received], [m.body for m in tags])
            start = next(m for m in received if not is_header(m)).timestamp
            self.assert_times([m._replace(timestamp=(m.timestamp - start) % 2**32) for m in received])
            pictures = await clips.pictures(self, viewer.recording)
            self.assertEqual(len(pictures), len([m for m in tags if m.type_id == VIDEO and not is_header(m)]))
            self.assertEqual(pictures[:-REORDERED], known[: len(pictures) - REORDERED])

    async def test_jumps(self) -> None:
        await self.check(5 * HOUR, 5 * HOUR - 2000, 0, 20 * HOUR, HOUR, 2**32 - 500, 0)

    async def test_past_24_bits(self) -> None:
        """After 4.6 hours timestamps are extended (RTMP 1.0, section 5.3.1.3)."""
        await self.check(*range(2**24 - 1500, 2**24 + 1500, 1000))

    async def test_wraps(self) -> None:
        """After 49.7 days they begin at 0 again."""
        await self.check(*range(2**32 - 1500, 2**32 + 1500, 1000))
