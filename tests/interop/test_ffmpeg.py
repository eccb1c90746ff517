"""ffmpeg to ffmpeg through the server, packet by packet."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from tests.support.fakes import within
from tests.support.flv import read_flv
from tests.support.programs import Program, Server
from tests.support.rtmp_client import client

QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin")
VIDEO = ("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30")
AUDIO = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100")
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "30")
AAC = ("-c:a", "aac")
SECONDS = 5


def deferred(coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)


Packets = dict[str, list[str]]


class FFmpegCase(TestCase):
    timeout = 120

    async def ffmpeg(self, *arguments: str) -> Program:
        """Runs ffmpeg to its end, which has to be a good one."""
        program = Program(self, "ffmpeg", *QUIET, *arguments)
        status = await within(program.ended)
        self.assertEqual(status, 0, str(program))
        return program

    async def clip(self, *arguments: str) -> Path:
        """A clip of `SECONDS`, made here."""
        path = Path(self.mktemp() + ".flv")
        await self.ffmpeg(*arguments, "-t", str(SECONDS), "-f", "flv", str(path))
        return path

    async def packets(self, source: str) -> Packets:
        """Each packet's times, size and checksum by stream, and the codec headers' under "extradata"."""
        program = await self.ffmpeg("-copyts", "-i", source, "-c", "copy", "-f", "framecrc", "-")
        return read_framecrc(program.lines)

    def assert_received(self, received: Packets, sent: Packets, to_the_end: bool = True) -> None:
        """What was received is, stream by stream, what was sent, without a gap and to the end."""
        self.assertEqual(received["extradata"], sent["extradata"])
        self.assertEqual(received.keys(), sent.keys())
        for stream, packets in received.items():
            self.assertGreater(len(packets), 0, stream)
            start = sent[stream].index(packets[0])
            expected = sent[stream][start:]
            self.assertEqual(packets, expected if to_the_end else expected[: len(packets)], stream)


def read_framecrc(lines: list[str]) -> Packets:
    """What ffmpeg's framecrc says."""
    found: Packets = {"extradata": [line for line in lines if line.startswith("#extradata")]}
    for line in lines:
        if line and line[0].isdigit():
            stream, _, rest = line.partition(",")
            found.setdefault(stream, []).append(rest.strip())
    return found


class FFmpegTests(FFmpegCase):
    async def through_the_server(self, clip: Path, players: int = 1, **settings: str) -> None:
        """Publishes a clip as if it were live; every player has to get all of it from its first packet on."""
        server = Server(self, **settings)
        await server.up()
        sent = await self.packets(str(clip))
        publisher = Program(self, "ffmpeg", *QUIET, "-re", "-i", str(clip), "-c", "copy", "-f", "flv", server.url())
        await server.until("publishing channel")
        received = await within(gatherResults([deferred(self.packets(server.url())) for _ in range(players)]))
        self.assertEqual(await within(publisher.ended), 0, str(publisher))
        for packets in received:
            self.assert_received(packets, sent)

    async def test_video_with_b_frames_and_audio(self) -> None:
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        for size in "128", "4096", "65536":
            await self.through_the_server(clip, rtmp_chunk_size=size)

    async def test_many_players_at_a_time(self) -> None:
        await self.through_the_server(await self.clip(*VIDEO, *AUDIO, *H264, *AAC), players=5)

    async def test_audio_alone(self) -> None:
        await self.through_the_server(await self.clip(*AUDIO, *AAC))

    async def test_video_alone(self) -> None:
        await self.through_the_server(await self.clip(*VIDEO, *H264))

    async def test_publishers_chunk_sizes(self) -> None:
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        sent = await self.packets(str(clip))
        tags = read_flv(clip)
        for size in 128, 4096, 65536:
            server = Server(self)
            await server.up()
            publisher = await client(server.port)
            await publisher.open()
            publisher.set_chunk_size(size)
            await publisher.publish()
            player = deferred(self.packets(server.url()))
            await server.until("playing channel")
            for tag in tags:
                publisher.send(tag)
            publisher.call("deleteStream", None, 1.0)
            self.assert_received(await within(player), sent)
            publisher.transport.loseConnection()
            await publisher.lost

    async def test_a_loop_without_end(self) -> None:
        """The README's command: the clip over and over, its time running on."""
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        server = Server(self)
        await server.up()
        publisher = Program(
            *(self, "ffmpeg", *QUIET, "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", "flv"),
            server.url(),
        )
        await server.until("publishing channel")
        length = str(SECONDS + 2)
        player = await self.ffmpeg(
            *("-xerror", "-i", server.url(), "-t", length, "-c", "copy", "-f", "framecrc", "-"),
        )
        times = [int(packet.split(",")[0]) for packet in read_framecrc(player.lines)["0"]]
        self.assertEqual(times, sorted(times))
        self.assertGreater(times[-1], SECONDS * 1000)
        publisher.signal(15)
        await server.until("stopped playing channel")
