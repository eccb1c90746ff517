"""Viewers over HTTP: ffmpeg of two ages and GStreamer read each format, and nginx is a proxy and cache in between."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import treq
from attrs import frozen
from twisted.internet.defer import gatherResults

from tests.interop.test_ffmpeg import AAC, AUDIO, H264, QUIET, VIDEO, FFmpegCase, deferred
from tests.support.certificates import Authority
from tests.support.clips import CURRENT_FFMPEG
from tests.support.fakes import within
from tests.support.playlists import parse
from tests.support.programs import Program, Server, free_port

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from benchmark import caches

VIEWERS = 60
"""How many watch at a time behind caches."""

PICTURES = 60
"""How many pictures of HLS GStreamer takes before it ends."""

ANNEX_B = "h264parse ! video/x-h264,stream-format=byte-stream,alignment=au"
"""GStreamer: H.264 as it is in a file of its own."""

PARTS = 10
"""How many parts of HLS each of them gets."""

FFMPEGS = ("ffmpeg", CURRENT_FFMPEG)
AT_END = "Error during demuxing: Input/output error"
"""What ffmpeg 9 says of an FLV stream over HTTP that has ended in good order: it reads once more, from a connection
that it has closed itself."""

MILLISECOND = 0.001001
"""In seconds, with what floating point adds."""


@frozen
class Packet:
    """Times in seconds; ``content`` is the size and a checksum."""

    decoded: float
    shown: float
    content: tuple[str, ...]


class WebCase(FFmpegCase):
    """``serve`` starts a server with the web server on ``web``."""

    async def serve(self, **settings: str) -> Server:
        self.web = free_port()
        self.http = free_port()
        server = Server(
            self, web_port=str(self.web), web_bind_address="127.0.0.1", http_port=str(self.http), **settings
        )
        await server.up()
        return server

    def url(self, suffix: str, port: int = 0, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{port or self.web}/channel/key{suffix}"

    async def publish(self, server: Server, clip: Path, *options: str) -> Program:
        """Publishes a clip as if it were live."""
        publisher = Program(
            self, "ffmpeg", *QUIET, "-re", *options, "-i", str(clip), "-c", "copy", "-f", "flv", server.url()
        )
        await server.until("publishing channel")
        return publisher

    async def timed(
        self, source: str, *options: str, program: str = "ffmpeg", seconds: int = 3600
    ) -> dict[str, list[Packet]]:
        """Each stream's packets, as an ffmpeg reads them. It must have nothing to complain about."""
        reading = (*QUIET, "-copyts", *options, "-i", source)
        reader = Program(self, program, *reading, "-t", str(seconds), "-c", "copy", "-f", "framecrc", "-")
        self.assertEqual(await within(reader.ended), 0, str(reader))
        self.assertEqual([line for line in reader.lines if line[:1] not in "#0123456789" and AT_END not in line], [])
        bases = dict(re.findall(r"(?m)^#tb (\d+): (\S+)$", "\n".join(reader.lines)))
        found: dict[str, list[Packet]] = {}
        for line in reader.lines:
            if line[0].isdigit():
                stream, decoded, shown, _, *content = (field.strip() for field in line.split(",")[:6])
                numerator, denominator = map(int, bases[stream].split("/"))
                base = numerator / denominator
                packet = Packet(int(decoded) * base, int(shown) * base, tuple(content))
                found.setdefault(stream, []).append(packet)
        return found

    def assert_same(self, received: dict[str, list[Packet]], sent: dict[str, list[Packet]]) -> None:
        """The same packets, from the first to the last, at times that differ by the same for all streams."""
        self.assertEqual(received.keys(), sent.keys())
        shift = received["0"][0].decoded - sent["0"][0].decoded
        for stream, packets in sent.items():
            self.assertEqual([one.content for one in received[stream]], [one.content for one in packets], stream)
            for one, other in zip(received[stream], packets, strict=True):
                self.assertLess(abs(one.decoded - other.decoded - shift), MILLISECOND)
                self.assertLess(abs(one.shown - other.shown - shift), MILLISECOND)

    async def answered(self, status: int) -> int:
        """How many answers with a status the web server has given."""
        text = await within((await within(treq.get(f"http://127.0.0.1:{self.http}/metrics"))).text())
        found = re.search(rf'rtmp_web_answers_total{{status="{status}"}} (\S+)', text)
        return int(float(found[1])) if found else 0


class ProgramTests(WebCase):
    async def test_ffmpeg(self) -> None:
        """Packets and times are those that were published, B-frames in order, and the stream ends well."""
        server = await self.serve()
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        sent = await self.timed(str(clip))
        viewers = [
            deferred(self.timed(self.url(suffix), program=program))
            for suffix in (".flv", ".mp4")
            for program in FFMPEGS
        ]
        for number in range(1, len(viewers) + 1):
            await server.until(f" #w{number} .* waiting for a publisher")
        publisher = await self.publish(server, clip)
        for received in await within(gatherResults(viewers)):
            self.assert_same(received, sent)
        self.assertEqual(await within(publisher.ended), 0, str(publisher))

    async def test_tls(self) -> None:
        """The RTMPS certificate's, checked by the client."""
        authority = Authority(self.mktemp())
        issued = authority.issue("127.0.0.1")
        secured = free_port()
        server = await self.serve(
            ssl_port=str(free_port()),
            ssl_cert=str(issued.certificate),
            ssl_key=str(issued.key),
            web_ssl_port=str(secured),
        )
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        sent = await self.timed(str(clip))
        checked = ("-tls_verify", "1", "-ca_file", str(authority.certificate))
        viewer = deferred(self.timed(self.url(".flv", secured, "https"), *checked))
        await server.until(" #w1 .* waiting for a publisher")
        await self.publish(server, clip)
        self.assert_same(await within(viewer), sent)

    async def test_hls(self) -> None:
        """What was published, from some packet on without a gap. GStreamer records as many pictures as it was asked."""
        server = await self.serve(max_ip_concurrent_connections="100")
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        sent = await self.timed(str(clip))
        await self.publish(server, clip, "-stream_loop", "5")
        index = self.url("/index.m3u8")
        recording, source = Path(self.mktemp()), f"souphttpsrc location={index} ! hlsdemux ! qtdemux name=d  d.video_0"
        pipeline = f"{source} ! queue ! {ANNEX_B} ! identity eos-after={PICTURES} ! filesink location={recording}"
        player = Program(self, "gst-launch-1.0", "-q", *pipeline.split())
        for received in await within(
            gatherResults([deferred(self.timed(index, program=program, seconds=4)) for program in FFMPEGS])
        ):
            for stream, packets in received.items():
                contents = [one.content for one in packets]
                round_trip = [one.content for one in sent[stream]] * 3
                start = round_trip.index(contents[0])
                self.assertEqual(contents, round_trip[start : start + len(contents)], stream)
                self.assertGreater(len(contents), 60)
        self.assertEqual(await within(player.ended), 0, str(player))
        self.assertEqual(len((await self.timed(str(recording), "-f", "h264"))["0"]), PICTURES - 1)

    async def test_gstreamer(self) -> None:
        """souphttpsrc and its demuxers take FLV and MP4."""
        server = await self.serve()
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        sent = await self.timed(str(clip))
        recordings = [Path(self.mktemp()) for _ in range(2)]
        players = []
        for number, (suffix, demuxer) in enumerate(((".flv", "flvdemux"), (".mp4", "qtdemux"))):
            pipeline = (
                f"souphttpsrc location={self.url(suffix)} ! {demuxer} name=d  d.video{'_0' * number} ! queue ! "
                f"{ANNEX_B} ! filesink location={recordings[number]}"
            )
            players.append(Program(self, "gst-launch-1.0", "-q", *pipeline.split()))
            await server.until(f" #w{number + 1} .* waiting for a publisher")
        await self.publish(server, clip)
        for player, recording in zip(players, recordings, strict=True):
            self.assertEqual(await within(player.ended), 0, str(player))
            pictures = await self.timed(str(recording), "-f", "h264")
            self.assertEqual(len(pictures["0"]), len(sent["0"]))


class NginxTests(WebCase):
    async def proxy(self, upstream: int) -> int:
        """nginx as docs/watch.md configures it, in front of a port; returns its own."""
        directory, port = Path(self.mktemp()).absolute(), free_port()
        Program(self, *caches.start(directory, port, upstream))

        async def listens() -> bool:
            try:
                await treq.get(f"http://127.0.0.1:{port}{caches.STATUS}", persistent=False)
            except Exception:
                return False
            return True

        while not await listens():
            pass
        return port

    async def get(self, url: str) -> tuple[int, bytes, Any]:
        answer = await within(treq.get(url, persistent=False))
        return answer.code, await within(answer.content()), answer.headers

    async def test_a_stream(self) -> None:
        """It comes through as it is, at once, and is not kept."""
        server = await self.serve()
        port = await self.proxy(self.web)
        clip = await self.clip(*VIDEO, *AUDIO, *H264, *AAC)
        sent = await self.timed(str(clip))
        viewers = [deferred(self.timed(self.url(suffix, port))) for suffix in (".flv", ".mp4", ".flv")]
        await server.until(" #w3 .* waiting for a publisher")
        await self.publish(server, clip)
        for received in await within(gatherResults(viewers)):
            self.assert_same(received, sent)
        self.assertEqual(await self.answered(200), 3)

    async def test_hls_in_two_caches(self) -> None:
        """One cache behind the other: each file is asked for once, however many watch. Refusals are not kept."""
        server = await self.serve()
        port = await self.proxy(await self.proxy(self.web))
        await self.publish(server, await self.clip(*VIDEO, *AUDIO, *H264, *AAC), "-stream_loop", "5")
        index = self.url("/index.m3u8", port)
        code, text, headers = await self.get(index)
        self.assertEqual((code, text[:7]), (200, b"#EXTM3U"))
        self.assertEqual(headers.getRawHeaders("access-control-allow-origin"), ["*"])
        name = re.findall(r"(?m)^v\d+\.m3u8.*$", text.decode())[-1]
        _, text, _ = await self.get(index.replace("index.m3u8", name))
        first = parse(text.decode())
        before = await self.answered(200)
        asked: set[str] = set()

        async def fetch(file: str) -> tuple[bytes, Any]:
            asked.add(file)
            code, body, headers = await self.get(index.replace("index.m3u8", file))
            self.assertEqual(code, 200, file)
            return body, headers

        async def watch() -> bytes:
            """As a player with low latency does. Returns the media."""
            playlist, media = first, b""
            known = {part.uri for part in playlist.parts}
            for _ in range(PARTS):
                text, _ = await fetch("{}?_HLS_msn={}&_HLS_part={}".format(name, *playlist.next_part))
                playlist = parse(text.decode())
                for part in playlist.parts:
                    if part.uri not in known:
                        known.add(part.uri)
                        body, headers = await fetch(part.uri)
                        self.assertIn("immutable", headers.getRawHeaders("cache-control")[0])
                        media += body
            return media

        [media] = set(await within(gatherResults([deferred(watch()) for _ in range(VIEWERS)])))
        self.assertGreater(len(media), 10_000)
        self.assertGreaterEqual(len(asked), 2 * PARTS)
        self.assertEqual(await self.answered(200) - before, len(asked))
        for times in 1, 2:
            code, _, _ = await self.get(index.replace("/key/", "/wrong/"))
            self.assertEqual((code, await self.answered(403)), (403, times))
