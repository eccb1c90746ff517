"""Programs that join late and end by themselves, and sources whose keyframes are not marked, as gortmplib writes them.

The publisher is the tests' own client, which sends a clip's messages at their times: no program sends its metadata more
than once, nor frames with frame type 0.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall

from rtmp_twisted.media import tags
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.messages import DATA_AMF0, VIDEO, Message
from tests.interop.exchange import ExchangeCase
from tests.support import clips
from tests.support.clips import CURRENT_FFMPEG, QUIET
from tests.support.fakes import reactor, until, within
from tests.support.flv import read_flv
from tests.support.programs import Program, Server
from tests.support.relay import is_header, is_keyframe
from tests.support.rtmp_client import RTMPClient, client

FFMPEGS = ("ffmpeg", CURRENT_FFMPEG)

LATE = 2000
"""Milliseconds of the stream that have passed when the programs join."""

LENGTH = 3
"""Seconds that they record."""

STEP = 0.02


class LiveSource:
    """Sends messages to a server at their times, until it is stopped."""

    def __init__(self, publisher: RTMPClient, clip: list[Message]) -> None:
        self.sent: list[Message] = []
        self._publisher = publisher
        self._clip = clip
        self._began = reactor.seconds()
        self._loop = LoopingCall(self._send)
        self._loop.start(STEP)

    @property
    def now(self) -> float:
        """The stream's time, in milliseconds."""
        return float(reactor.seconds() - self._began) * 1000

    def _send(self) -> None:
        due = [message for message in self._clip[len(self.sent) :] if message.timestamp <= self.now]
        self._publisher.send(*due)
        self.sent += due

    def stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
            self._publisher.transport.loseConnection()


class JoinerCase(ExchangeCase):
    async def source(self, server: Server, clip: list[Message]) -> LiveSource:
        """Publishes a clip, and fires when it is time to join."""
        publisher = await client(server.port)
        await publisher.open()
        publisher.set_chunk_size(65536)
        await publisher.publish()
        source = LiveSource(publisher, clip)
        self.addCleanup(lambda: publisher.lost)
        self.addCleanup(source.stop)
        await until(lambda: source.now > LATE, "some seconds of the stream")
        return source

    async def run_program(self, *command: str) -> None:
        """Runs a program, which has to end by itself, content."""
        program = Program(self, *command)
        self.assertEqual(await within(program.ended), 0, str(program))
        if "ffmpeg" in command[0]:
            self.assertEqual(program.lines, [])

    async def tracks(self, path: Path) -> list[str]:
        """What a recording has, for example "video" and "audio"."""
        program = Program(
            self, "ffprobe", "-v", "error", "-show_entries", "stream=codec_type", "-of", "csv=p=0", str(path)
        )
        self.assertEqual(await within(program.ended), 0, str(program))
        return sorted({line.strip(",") for line in program.lines if line})


class EndByTimeTests(JoinerCase):
    """Ends by time, with metadata at the beginning and once a second after that, at the stream's time."""

    async def joined(self) -> Server:
        clip = read_flv(await clips.clip(self, "H.264", "AAC", kind="flv"))
        name, properties = amf0.decode(next(message.body for message in clip if message.type_id == DATA_AMF0))
        assert isinstance(properties, dict)
        properties["duration"] = 0.0  # a live stream has none, and rtmpdump would miss the rest
        metadata = [
            messages.data(time, "@setDataFrame", name, properties, stream_id=1)
            for time in range(0, 1000 * clips.SECONDS, 1000)
        ]
        media = [message for message in clip if message.type_id != DATA_AMF0]
        server = await self.server()
        await self.source(server, sorted([*metadata, *media], key=lambda message: message.timestamp))
        return server

    def path(self, name: str) -> Path:
        directory = Path(self.mktemp())
        directory.mkdir()
        return directory / name

    async def test_recordings(self) -> None:
        server = await self.joined()
        paths = [self.path("recording.mkv") for _ in FFMPEGS]
        await gatherResults(
            [
                self.deferred(program, *QUIET, "-i", server.url(), "-c", "copy", "-t", str(LENGTH), str(path))
                for program, path in zip(FFMPEGS, paths, strict=True)
            ]
        )
        for path in paths:
            self.assertEqual(await self.tracks(path), ["audio", "video"])
            self.assertGreater(len(await clips.pictures(self, path)), 20 * LENGTH)

    async def test_hls(self) -> None:
        server = await self.joined()
        paths = [self.path("list.m3u8") for _ in FFMPEGS]
        await gatherResults(
            [
                self.deferred(program, *QUIET, "-i", server.url(), *f"-c copy -t {LENGTH} -f hls".split(), str(path))
                for program, path in zip(FFMPEGS, paths, strict=True)
            ]
        )
        for path in paths:
            self.assertIn("#EXT-X-ENDLIST", path.read_text())
            self.assertEqual(await self.tracks(path), ["audio", "video"])

    async def test_rtmpdump(self) -> None:
        server = await self.joined()
        path = self.path("recording.flv")
        await self.run_program(
            *("rtmpdump", "--live", "--quiet", "--stop", str(LENGTH), "-r", server.url(), "-o", str(path))
        )
        await server.until(f"it has had the {LENGTH} s that it asked for")
        self.assertGreater(len(await clips.pictures(self, path)), 20 * LENGTH)

    def deferred(self, *command: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self.run_program(*command))


class UnmarkedKeyframeTests(JoinerCase):
    """gortmplib writes Enhanced RTMP frames with frame type 0: CodedFrames where an HEVC frame has a composition time,
    else CodedFramesX. Its addresses have the key in the app."""

    async def check(self, codec: str) -> None:
        clip = await clips.clip(self, codec, "AAC", kind="flv")
        marked = read_flv(clip)
        unmarked = [_as_gortmplib(message) for message in marked]
        self.assertEqual([is_keyframe(m) for m in marked], [is_keyframe(m) for m in unmarked])
        server = await self.server()
        relay, url = await self.relay(server)
        source = await self.source(server, unmarked)
        picture = Program(
            self, CURRENT_FFMPEG, *QUIET, *f"-xerror -i {url} -map 0:v:0 -frames:v 10 -f framemd5 -".split()
        )
        self.assertEqual(await within(picture.ended), 0, str(picture))
        shown = [line.rsplit(",", 1)[1].strip() for line in picture.lines if line.startswith("0,")]
        self.assertEqual(shown, (await clips.pictures(self, clip))[:10])
        received = relay.legs[0].to_program.media
        first = next(message for message in received if message.type_id == VIDEO and not is_header(message))
        self.assertTrue(is_keyframe(first))
        self.assertEqual(first.body[0] >> 4, 8)  # frame type 0, behind the bit that says Enhanced RTMP
        self.assertIn(first, source.sent)

    async def test_hevc(self) -> None:
        await self.check("HEVC")

    async def test_av1(self) -> None:
        await self.check("AV1")

    async def test_vp9(self) -> None:
        await self.check("VP9")


def _as_gortmplib(message: Message) -> Message:
    """A coded frame with frame type 0."""
    body = message.body
    if message.type_id != VIDEO or not body[0] & 0x80 or tags.classify_video(body) not in (tags.FRAME, tags.KEYFRAME):
        return message
    packet_type, fourcc, payload = body[0] & 0x0F, body[1:5], body[5:]
    if fourcc in (b"avc1", b"hvc1") and packet_type == tags.CODED_FRAMES and payload[:3] == b"\0\0\0":
        packet_type, payload = tags.CODED_FRAMES_X, payload[3:]
    elif fourcc not in (b"avc1", b"hvc1"):
        packet_type = tags.CODED_FRAMES_X
    return message._replace(body=bytes((0x80 | packet_type,)) + fourcc + payload)
