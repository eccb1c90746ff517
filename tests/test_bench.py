"""``tools/bench``: its chunk walker reads all that the specification allows, a server's fault shows in the figures, and
the whole tool measures this project's own server."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.media.flv import FLVFormat, append_tag

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from benchmark import cli, client, frames, hls, http, peers, plot, process, report, rtmp, runner, scenarios, walker  # noqa: E402

TIMEOUT_S = 300
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = frames.Stream(2500)


class Reader:
    """A walker, and what it has reported."""

    def __init__(self, collect: bool, shared: walker.Plans | None = None) -> None:
        self.frames: list[tuple[int, int]] = []
        self.messages: list[tuple[int, int, bytes]] = []
        self.controls: list[int] = []
        self.walker = walker.Walker(
            STREAM.identify,
            {} if shared is None else shared,
            lambda frame, now: self.frames.append((frame.kind, frame.sequence)),
            lambda type_id, head: self.controls.append(type_id),
            lambda type_id, timestamp, body: self.messages.append((type_id, timestamp, body)),
        )
        self.walker.collect = collect

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            buffer = bytearray(walker.RESERVE) + piece
            self.walker.feed(buffer, walker.RESERVE, len(buffer), 0)


def video(sequence: int, timestamp: int = 0, chunk_size: int = 128, chunk_stream: int = 6) -> bytes:
    return rtmp.chunks(chunk_stream, rtmp.VIDEO, timestamp, 1, STREAM.body(0, sequence, 7), chunk_size)


def audio(sequence: int, timestamp: int = 0, chunk_size: int = 128) -> bytes:
    return rtmp.chunks(4, rtmp.AUDIO, timestamp, 1, STREAM.body(1, sequence, 7), chunk_size)


def long_form(chunk: bytes, chunk_stream: int) -> bytes:
    """A chunk with a basic header of two or three bytes in place of one (section 5.3.1.1)."""
    form = chunk[0] & 0xC0
    if chunk_stream < 320:
        return bytes([form, chunk_stream - 64]) + chunk[1:]
    return bytes([form | 1]) + struct.pack("<H", chunk_stream - 64) + chunk[1:]


def split_chunks(message: bytes, chunk_size: int = 128) -> list[bytes]:
    """The chunks of a message that was made by ``rtmp.chunks``, without extended time stamps."""
    first = 12 + chunk_size
    rest = message[first:]
    return [message[:first], *(rest[at : at + chunk_size + 1] for at in range(0, len(rest), chunk_size + 1))]


def long_stream() -> bytes:
    """Two frames on chunk streams 64 and 65,599, their chunks in turn."""
    one = [long_form(chunk, 64) for chunk in split_chunks(video(1))]
    two = [long_form(chunk, 65_599) for chunk in split_chunks(video(2))]
    return b"".join(chunk for pair in zip(one, two, strict=True) for chunk in pair)


def interleaved() -> bytes:
    """Audio in the middle of a video frame, between two of its chunks."""
    chunks = split_chunks(video(1))
    return b"".join([*chunks[:5], audio(0), *chunks[5:9], audio(1), *chunks[9:]])


def short_headers() -> bytes:
    """Type 1, 2 and 3 message headers, each of which takes fields from the one before (section 5.3.1.2)."""
    body = [STREAM.body(1, sequence, 7) for sequence in range(4)]
    size = struct.pack(">I", len(body[0]))[1:]

    def chunked(head: bytes, payload: bytes) -> bytes:
        return head + payload[:128] + b"\xc4" + payload[128:]

    return b"".join(
        (
            audio(0, 1000),
            chunked(b"\x44\x00\x00\x14" + size + b"\x08", body[1]),
            chunked(b"\x84\x00\x00\x19", body[2]),
            chunked(b"\xc4", body[3]),
        )
    )


def set_chunk_size(size: int) -> bytes:
    return rtmp.chunks(2, rtmp.SET_CHUNK_SIZE, 0, 0, struct.pack(">I", size), 128)


# name: (bytes, (kind, sequence) of each frame in them, their RTMP times)
STREAMS: dict[str, tuple[bytes, list[tuple[int, int]], list[int]]] = {
    "one chunk": (set_chunk_size(65_536) + video(1, 40, 65_536), [(0, 1)], [40]),
    "several chunks": (video(1) + audio(0), [(0, 1), (1, 0)], [0, 0]),
    "a keyframe of 571 chunks": (video(0, 5) + video(1, 6), [(0, 0), (0, 1)], [5, 6]),
    "a last chunk that is full": (
        set_chunk_size(STREAM.size(0, 1) // 3)
        + video(1, 0, STREAM.size(0, 1) // 3)
        + audio(0, 0, STREAM.size(0, 1) // 3),
        [(0, 1), (1, 0)],
        [0, 0],
    ),
    "extended time stamp": (video(1, 0xFFFFFF) + video(2, 0xFFFFFFFE), [(0, 1), (0, 2)], [0xFFFFFF, 0xFFFFFFFE]),
    "chunk size changes": (
        video(1) + set_chunk_size(4096) + video(2, 0, 4096) + set_chunk_size(200) + video(3, 0, 200),
        [(0, 1), (0, 2), (0, 3)],
        [0, 0, 0],
    ),
    "short headers": (short_headers(), [(1, 0), (1, 1), (1, 2), (1, 3)], [1000, 1020, 1045, 1070]),
    "interleaved chunks": (interleaved(), [(1, 0), (1, 1), (0, 1)], [0, 0, 0]),
    "long basic headers": (long_stream(), [(0, 1), (0, 2)], [0, 0]),
    "an aborted message": (
        b"".join(split_chunks(video(1))[:3]) + rtmp.chunks(2, rtmp.ABORT, 0, 0, struct.pack(">I", 6), 128) + video(2),
        [(0, 2)],
        [0],
    ),
    "an empty message": (rtmp.chunks(6, rtmp.VIDEO, 0, 1, b"", 128) + video(1), [(0, 1)], [0]),
    "what is not media": (
        rtmp.connect("h", 1, "a") + video(1) + frames.headers(1, 128) + video(2),
        [(0, 1), (0, 2)],
        [],
    ),
}


class WalkerTests(SynchronousTestCase):
    def test_reads_every_form(self) -> None:
        for name, (data, expected, _) in STREAMS.items():
            for collect in (False, True):
                reader = Reader(collect)
                reader.feed(data)
                self.assertEqual(expected, reader.frames, f"{name}, collect={collect}")

    def test_collects_bodies_and_times(self) -> None:
        for name, (data, expected, times) in STREAMS.items():
            reader = Reader(True)
            reader.feed(data)
            media = [message for message in reader.messages if len(message[2]) > 100 and message[0] in (8, 9)]
            bodies = [STREAM.body(kind, sequence, 7) for kind, sequence in expected]
            self.assertEqual(bodies, [body for _, _, body in media], name)
            if times:
                self.assertEqual(times, [timestamp for _, timestamp, _ in media], name)

    def test_every_split(self) -> None:
        """In two pieces, cut anywhere; the plans come from another walker that was fed the same."""
        for name in ("several chunks", "short headers", "interleaved chunks", "an aborted message"):
            data, expected, _ = STREAMS[name]
            shared: walker.Plans = {}
            for cut in range(len(data)):
                for collect in (False, True):
                    reader = Reader(collect, shared)
                    reader.feed(data[:cut], data[cut:])
                    self.assertEqual(expected, reader.frames, f"{name}, cut at {cut}, collect={collect}")

    def test_small_pieces(self) -> None:
        for name, (data, expected, _) in STREAMS.items():
            for size in (1, 2, 13, 129):
                for collect in (False, True):
                    reader = Reader(collect)
                    reader.feed(*(data[at : at + size] for at in range(0, len(data), size)))
                    self.assertEqual(expected, reader.frames, f"{name}, pieces of {size}, collect={collect}")

    def test_a_known_frame_is_still_walked(self) -> None:
        """Its first bytes are known from another player, but its chunks are not where they should be."""
        shared: walker.Plans = {}
        Reader(False, shared).feed(video(1))
        broken = bytearray(video(1))
        broken[12 + 128] ^= 1
        reader = Reader(False, shared)
        with self.assertRaises(walker.WalkError):
            reader.feed(bytes(broken), video(2), video(3))
        self.assertEqual([], reader.frames)

    def test_a_message_cut_short(self) -> None:
        reader = Reader(False)
        with self.assertRaises(walker.WalkError) as caught:
            reader.feed(b"".join(split_chunks(video(1))[:3]) + video(2))
        self.assertIn("after 384 of 9131 bytes", str(caught.exception))

    def test_a_chunk_stream_that_begins_in_the_middle(self) -> None:
        for head in (b"\xc6", b"\x86\x00\x00\x00"):
            with self.assertRaises(walker.WalkError):
                Reader(False).feed(head)

    def test_a_chunk_size_that_is_too_small(self) -> None:
        with self.assertRaises(walker.WalkError):
            Reader(False).feed(set_chunk_size(1))

    def test_reports_a_ping(self) -> None:
        heads: list[bytes] = []
        reader = Reader(False)
        reader.walker.on_control = lambda type_id, head: heads.append(head) if rtmp.is_ping(type_id, head) else None
        reader.feed(rtmp.chunks(2, rtmp.USER_CONTROL, 0, 0, struct.pack(">HI", rtmp.PING_REQUEST, 77), 128))
        self.assertEqual(rtmp.pong(heads[0])[12:], struct.pack(">HI", rtmp.PING_RESPONSE, 77))


class StreamTests(SynchronousTestCase):
    def test_bit_rate(self) -> None:
        for kbps in (500, 2500, 10_000):
            stream = frames.Stream(kbps)
            size = sum(stream.size(0, frame) for frame in range(60)) + sum(stream.size(1, frame) for frame in range(86))
            self.assertLess(abs(size * 8 / 2 / 1000 / kbps - 1), 0.02)

    def test_frames_are_recognised(self) -> None:
        stream = frames.Stream(2500, start=100, end=200)
        for kind, type_id in ((0, rtmp.VIDEO), (1, rtmp.AUDIO)):
            for chunk_size in (128, 4096):
                message, at = stream.message(kind, 60, 1, chunk_size)
                stamp = frames.put_stamp(message, at)
                body = message[12 : 12 + frames.HEAD]
                frame = stream.identify(type_id, stream.size(kind, 60), bytes(body))
                self.assertEqual(frames.Frame(kind, 60, stamp, False, True), frame)
            head = stream.body(kind, 1, 150)[: frames.HEAD]
            self.assertEqual(frames.Frame(kind, 1, 150, True, False), stream.identify(type_id, 50, head))


class PlayerTests(SynchronousTestCase):
    """A player that is fed by the test; nobody reads its socket."""

    def setUp(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.address = listener.getsockname()
        self.latencies: list[int] = []

    def player(self, is_sampled: bool, *messages: bytes) -> client.Player:
        stream = frames.Stream(2500, start=1, end=100)
        player = client.Player(self.address, "app", "key", stream, {}, is_sampled, self.latencies.append)
        self.addCleanup(player.socket.close)
        player.walker.collect = is_sampled
        for message in messages:
            buffer = bytearray(walker.RESERVE) + message
            player.walker.feed(buffer, walker.RESERVE, len(buffer), 50)
        return player

    def figures(self, player: client.Player) -> tuple[int, int, int, int]:
        return player.lost, player.dup, player.disorder, player.bad

    def test_no_faults(self) -> None:
        for is_sampled in (False, True):
            times = [frames.timestamp(0, sequence) + 500 for sequence in (7, 8, 9)]
            player = self.player(is_sampled, *(video(7 + index, time) for index, time in enumerate(times)))
            self.assertEqual((0, 0, 0, 0), self.figures(player))
        self.assertEqual([43] * 6, self.latencies)

    def test_faults_of_order(self) -> None:
        for sequences, expected in (
            ((1, 2, 5), (2, 0, 0, 0)),
            ((1, 2, 2, 3), (0, 1, 0, 0)),
            ((1, 2, 3, 1), (0, 0, 1, 0)),
        ):
            player = self.player(False, *map(video, sequences))
            self.assertEqual(expected, self.figures(player), sequences)

    def test_a_wrong_size(self) -> None:
        body = STREAM.body(0, 2, 7)[:-1]
        player = self.player(False, video(1), rtmp.chunks(6, rtmp.VIDEO, 0, 1, body, 128))
        self.assertEqual((0, 0, 0, 1), self.figures(player))

    def test_a_sampled_player_sees_a_wrong_byte_and_a_wrong_time(self) -> None:
        wrong = bytearray(video(2, 66))
        wrong[-1] ^= 1
        for message in (bytes(wrong), video(2, 67)):
            player = self.player(True, video(1, 33), message)
            self.assertEqual((0, 0, 0, 1), self.figures(player))

    def test_a_refusal(self) -> None:
        status: rtmp.Value = {"level": "error", "code": "NetStream.Play.BadName"}
        with self.assertRaises(rtmp.Refused) as caught:
            self.player(True, rtmp.command("onStatus", 0.0, None, status, stream_id=1))
        self.assertEqual("NetStream.Play.BadName", str(caught.exception))


class ViewerTests(SynchronousTestCase):
    """A viewer over HTTP that is fed by the test; nobody reads its socket."""

    def setUp(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.address = listener.getsockname()
        self.latencies: list[int] = []

    def viewer(self, format: str, is_sampled: bool, stream: bytes, piece: int, head: bytes = HEAD) -> http.Viewer:
        """One that gets ``stream`` in pieces of so many bytes."""
        source = frames.Stream(2500, start=1, end=100)
        viewer = http.Viewer(self.address, "app", "key", format, False, source, is_sampled, self.latencies.append)
        self.addCleanup(viewer.socket.close)
        data = head + stream
        for start in range(0, len(data), piece):
            viewer.feed(bytearray(data), start, min(start + piece, len(data)), 50)
        return viewer

    def messages(self, *bodies: tuple[int, bytes]) -> list[bytes]:
        """FLV, each tag with its time."""
        parts: list[bytes | memoryview] = []
        sizes = [append_tag(parts, rtmp.VIDEO, time, body) for time, body in bodies]
        data, tags = b"".join(parts), [FLVFormat().preamble((8, 9))]
        for size in sizes:
            tags.append(data[:size])
            data = data[size:]
        return tags

    def chunked(self, messages: list[bytes], size: int | None = None) -> bytes:
        """A chunk for each message, or chunks of a size."""
        data = b"".join(messages)
        pieces = messages if size is None else [data[at : at + size] for at in range(0, len(data), size)]
        return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)

    def figures(self, viewer: http.Viewer) -> tuple[int, int, int, int]:
        return viewer.lost, viewer.dup, viewer.disorder, viewer.bad

    def test_flv(self) -> None:
        """Whatever the chunks and the pieces are, every frame is seen once."""
        sent = [(frames.timestamp(0, number) + 500, STREAM.body(0, number, 7)) for number in (7, 8, 9)]
        tags = self.messages((0, frames.AVC_HEADER), *sent)
        for is_sampled in (False, True):
            for piece in (1, 7, 100, 1_000_000):
                for size in (None, 5, 5000):
                    self.latencies.clear()
                    viewer = self.viewer("flv", is_sampled, self.chunked(tags, size), piece)
                    self.assertEqual((self.figures(viewer), self.latencies), ((0, 0, 0, 0), [43] * 3))
        viewer = self.viewer("flv", True, b"".join(tags), 100, HEAD.replace(b"chunked", b"identity"))
        self.assertEqual((self.figures(viewer), viewer.is_ready), ((0, 0, 0, 0), True))

    def test_mp4(self) -> None:
        bodies = [STREAM.body(0, number, 7)[5:] for number in (1, 2, 4)] + [STREAM.body(1, 3, 7)[2:]]
        stream = [struct.pack(">I4s", 8 + size, kind) + bytes(size) for size, kind in ((16, b"ftyp"), (600, b"moov"))]
        for body in bodies:
            stream.append(struct.pack(">I4s96xI4s", 104, b"moof", 8 + len(body), b"mdat") + body)
        for is_sampled in (False, True):
            for piece in (1, 50, 1_000_000):
                viewer = self.viewer("mp4", is_sampled, self.chunked(stream), piece)
                self.assertEqual(self.figures(viewer), (1, 0, 0, 0))

    def test_a_sampled_viewer_sees_a_wrong_byte_and_a_wrong_time(self) -> None:
        sent = [(frames.timestamp(0, number), STREAM.body(0, number, 7)) for number in (1, 2)]
        wrong = bytearray(sent[1][1])
        wrong[-1] ^= 1
        for second in (sent[1][0], bytes(wrong)), (sent[1][0] + 1, sent[1][1]):
            viewer = self.viewer("flv", True, self.chunked(self.messages(sent[0], second)), 1000)
            self.assertEqual(self.figures(viewer), (0, 0, 0, 1))

    def test_a_refusal(self) -> None:
        with self.assertRaises(rtmp.Refused) as caught:
            self.viewer("flv", True, b"", 10, b"HTTP/1.1 403 Forbidden\r\n\r\n")
        self.assertIn("403", str(caught.exception))
        with self.assertRaises(walker.WalkError):
            self.viewer("flv", True, self.chunked([b"<!doctype html> and more"]), 100)


PLAYLIST = """\
#EXTM3U
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI="init.mp4"
#EXT-X-PART:DURATION=1,URI="p1"
#EXTINF:1,
s7
#EXT-X-PART:DURATION=1,URI="p2",INDEPENDENT=YES
#EXT-X-PART:DURATION=1,URI="p3"
#EXT-X-PRELOAD-HINT:TYPE=PART,URI="p4"
"""


class HLSViewerTests(SynchronousTestCase):
    """A viewer by HLS, whose server is the test."""

    def setUp(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)

    def fragment(self, number: int) -> bytes:
        body = STREAM.body(0, number, 7)[5:]
        return struct.pack(">I4s96xI4s", 104, b"moof", 8 + len(body), b"mdat") + body

    def watch(self, piece: int, *answers: tuple[str, bytes]) -> hls.HLSViewer:
        """One that asks for each path, and gets the answer in pieces of so many bytes."""
        source = frames.Stream(2500)
        viewer = hls.HLSViewer(self.listener.getsockname(), "app", "key", False, source, False, lambda _: None, {})
        self.addCleanup(viewer.socket.close)
        server, _ = self.listener.accept()
        self.addCleanup(server.close)
        for path, body in answers:
            request = server.recv(1000).split()
            self.assertEqual((request[0], request[1].decode()), (b"GET", f"/app/key/{path}"))
            data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            for start in range(0, len(data), piece):
                viewer.feed(bytearray(data), start, min(start + piece, len(data)), 50)
        return viewer

    def test_what_it_asks_for(self) -> None:
        """The newest segment's parts, and then each next one as soon as it is there."""
        init = struct.pack(">I4s16xI4s", 24, b"ftyp", 8, b"moov")
        more = PLAYLIST.replace("#EXT-X-PRELOAD", '#EXT-X-PART:DURATION=1,URI="p4"\n#EXTINF:3,\ns8\n#EXT-X-PRELOAD')
        for piece in 1, 1_000_000:
            viewer = self.watch(
                piece,
                ("index.m3u8", b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv0.m3u8\n"),
                ("v0.m3u8", PLAYLIST.encode()),
                ("init.mp4", init),
                ("p2", self.fragment(0)),
                ("p3", self.fragment(1)),
                ("v0.m3u8?_HLS_msn=8&_HLS_part=2", more.encode()),
                ("p4", self.fragment(3)),
                ("v0.m3u8?_HLS_msn=9&_HLS_part=0", b""),
            )
            self.assertEqual((viewer.is_ready, viewer.lost, viewer.dup, viewer.bad), (True, 1, 0, 0))

    def test_refusals(self) -> None:
        for answer in b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n":
            viewer = self.watch(1)
            with self.assertRaises(rtmp.Refused):
                viewer.feed(bytearray(answer), 0, len(answer), 50)
        with self.assertRaises(walker.WalkError):
            self.watch(100, ("index.m3u8", b"v0.m3u8\n"), ("v0.m3u8", b"#EXTM3U\n"))


class UsageTests(SynchronousTestCase):
    def test_counts_memory_that_is_held_and_not_mapped(self) -> None:
        before = process.Usage.of(os.getpid(), with_memory=True)
        fd = os.memfd_create("test")
        self.addCleanup(os.close, fd)
        os.write(fd, bytes(1 << 20))
        again = os.dup(fd)
        self.addCleanup(os.close, again)
        after = process.Usage.of(os.getpid(), with_memory=True)
        self.assertEqual(1 << 20, after.shared - before.shared)
        self.assertGreater(after.resident, 1 << 20)
        self.assertGreater(after.cpu_ns, 0)

    def test_counts_children(self) -> None:
        line = [sys.executable, "-c", "print(flush=True); input()"]
        alone = process.Usage.of(os.getpid(), with_memory=True)
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            both = process.Usage.of(os.getpid(), with_memory=True)
            child.communicate(b"\n")
        self.assertGreater(both.resident, alone.resident + (1 << 20))

    def test_a_file_limit_that_is_too_low(self) -> None:
        with mock.patch("resource.setrlimit", side_effect=ValueError):
            with self.assertRaises(process.BenchError) as caught:
                process.raise_file_limit(1 << 40)
        self.assertIn("ulimit -n", str(caught.exception))


def result(**changes: Any) -> runner.Result:
    """A run without faults."""
    values: dict[str, Any] = {
        field: 0 if kind == "int" else 1.0 if kind == "float" else "x"
        for field, kind in runner.Result.__annotations__.items()
    }
    return runner.Result(**{**values, **changes})


class ReportTests(SynchronousTestCase):
    def test_percentiles(self) -> None:
        latencies = Counter({9: 98, 99: 1, 999: 1})
        self.assertEqual([0.1, 1.0, 10.0], [runner.percentile_ms(latencies, share) for share in (0.5, 0.99, 1)])
        self.assertEqual(0, runner.percentile_ms(Counter(), 0.5))

    def test_medians_keep_faults(self) -> None:
        runs = [result(run=1), result(run=2, lost=3, delivered=0.9, lat_p50_ms=9.0), result(run=3, lat_p50_ms=2.0)]
        (row,) = report.medians(runs)
        self.assertEqual((3, 2.0, 3, 0.9), (row.run, row.lat_p50_ms, row.lost, row.delivered))
        self.assertFalse(row.is_right)
        self.assertTrue(runs[0].is_right)

    def test_comparison(self) -> None:
        """The ratio is the median of the pairs' ratios; a run whose partner failed does not count."""
        cpu = {"before": (10.0, 20.0, 30.0, 5.0), "after": (11.0, 20.0, 36.0)}
        runs = [
            result(server=server, scenario="s", run=run, server_cpu_pct=value, lat_p50_ms=0.0)
            for server, values in cpu.items()
            for run, value in enumerate(values, 1)
        ]
        lines = [line.split() for line in report.comparison(runs, "before", "after")]
        self.assertEqual(["s", "CPU", "%", "20.00", "20.00", "1.100", "1.00", "to", "1.20"], lines[1])
        self.assertEqual(["p50", "ms", "0.00", "0.00", "1.000", "1.00", "to", "1.00"], lines[2])
        self.assertEqual(1 + len(report.COMPARED), len(lines))
        noisy = [result(server=server, run=1, other_cpu_pct=60.0) for server in cpu]
        self.assertIn("took 60 % of a core", report.comparison(noisy, "before", "after")[-1])

    def test_markdown_lists_faults_and_doubts(self) -> None:
        path = Path(self.mktemp())
        rows = [result(server="a", lost=3), result(server="b", load_cpu_pct=97.0)]
        report.write_markdown(path, rows, ["x failed"], ["y is not here"], runner.Cores({0}, [1]))
        text = path.read_text()
        for expected in ("| lost 3 |", "| yes |", "x failed", "y is not here", "the load took 97 %", "load on core 1"):
            self.assertIn(expected, text)

    def test_plot_has_a_line_per_server(self) -> None:
        rows = [result(server=server, players=players) for server in ("a&b", "c") for players in (10, 100)]
        tree = ElementTree.fromstring(plot.svg(rows))
        lines = [element for element in tree.iter() if element.tag.endswith("polyline")]
        self.assertEqual(2 * 3, len(lines))
        self.assertIn("a&b", [element.text for element in tree.iter()])


class CommandLineTests(SynchronousTestCase):
    """The tool as its users start it."""

    def bench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(TOOLS / "bench"), "--output", self.mktemp(), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    def test_measures_this_server(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            done = self.bench(
                "--only", peers.OURS, "--players", "3", "--seconds", "2", "--settle", "1", "--repeat", "1",
                "--output", directory,
            )  # fmt: skip
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
            with open(Path(directory, "results.csv"), newline="") as file:
                (row,) = csv.DictReader(file)
            table, drawing = Path(directory, "results.md").read_text(), Path(directory, "results.svg").read_text()
        self.assertEqual((peers.OURS, "3", "1.0"), (row["server"], row["players"], row["delivered"]))
        for name in ("lost", "dup", "disorder", "closed", "bad", "no_video"):
            self.assertEqual("0", row[name], name)
        for name in ("server_cpu_pct", "lat_p50_ms", "memory_mb", "mbit_s"):
            self.assertGreater(float(row[name]), 0, name)
        self.assertIn("| 3-players | rtmp-twisted | yes |", table)
        self.assertEqual("svg", ElementTree.fromstring(drawing).tag.rpartition("}")[2])

    def test_measures_viewers_over_http(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for format, *secure in ("flv",), ("mp4",), ("hls",), ("flv", "--secure"), ("hls", "--secure"):
                done = self.bench(
                    "--only", peers.OURS, "--players", "3", "--format", format, *secure, "--seconds", "1",
                    "--settle", "1", "--repeat", "1", "--output", directory,
                )  # fmt: skip
                self.assertEqual(0, done.returncode, done.stdout + done.stderr)
                with open(Path(directory, "results.csv"), newline="") as file:
                    (row,) = csv.DictReader(file)
                name = f"3-{format}-viewers{'-https' if secure else ''}"
                self.assertEqual((name, "1.0"), (row["scenario"], row["delivered"]))

    def test_compares_two_checkouts(self) -> None:
        """Nothing is written into the other one, which may have no environment of its own."""
        with tempfile.TemporaryDirectory() as directory:
            other = Path(directory, "other")
            ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
            for name in "rtmp_twisted", "twisted":
                shutil.copytree(TOOLS.parent / name, other / name, ignore=ignored)
            for name in "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE":
                shutil.copy(TOOLS.parent / name, other)
            version = other / "rtmp_twisted/_version.py"
            version.write_text(version.read_text().replace('"0.', '"77.'))
            files = sorted(other.rglob("*"))
            done = self.bench(
                "--against", str(other), "--players", "2", "--seconds", "1", "--settle", "0.5", "--repeat", "1",
                "--output", directory,
            )  # fmt: skip
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
            self.assertEqual(files, sorted(other.rglob("*")))
            with open(Path(directory, "results.csv"), newline="") as file:
                rows = {row["server"]: row["version"] for row in csv.DictReader(file)}
        self.assertEqual({peers.BEFORE, peers.AFTER}, set(rows))
        self.assertTrue(rows[peers.BEFORE].startswith("77."), rows)
        self.assertRegex(done.stdout, r"(?m)^2-players +CPU % +\d")

    def test_pushes(self) -> None:
        """``tools/pushes``, for a moment: 16 of 20 targets receive everything, and the others are in their states."""
        line = [sys.executable, str(TOOLS / "pushes"), "--seconds", "12", "--no-latency"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"(?m)^targets: [1-9]\d+ frames to 16, {'lost': 0")

    def test_an_edge(self) -> None:
        """A server that pulls what another one is given."""
        self.addCleanup(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        self.enterContext(contextlib.redirect_stdout(io.StringIO()))
        with tempfile.TemporaryDirectory() as directory:
            scenario = scenarios.Scenario("edge", 3, edge=True)
            with mock.patch.object(scenarios, "SCENARIOS", [scenario]), mock.patch.object(cli, "SCENARIOS", [scenario]):
                arguments = ["--only", peers.OURS, "--seconds", "1", "--settle", "1", "--repeat", "1"]
                self.assertEqual(0, cli.main([*arguments, "--output", directory]))
            with open(Path(directory, "results.csv"), newline="") as file:
                (row,) = csv.DictReader(file)
        self.assertEqual(("edge", "1.0", "0"), (row["scenario"], row["delivered"], row["lost"]))

    def test_behind_caches(self) -> None:
        """The command of docs/watch.md: how many requests reach each cache, and the server."""
        with tempfile.TemporaryDirectory() as directory:
            requests = Path(directory, "requests.txt")
            command = f"env PYTHONPATH={TOOLS} python3 -m benchmark.caches {{port}} {{web_port}} {requests}"
            done = self.bench(
                "--players", "6", "--format", "hls", "--seconds", "1", "--settle", "1", "--repeat", "1",
                "--only", "caches", "--server", f"caches={command}",
                "--output", directory,
            )  # fmt: skip
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
            found = re.findall(r"\d+", requests.read_text())
        viewers, outer, inner = map(int, found)
        self.assertGreater(viewers, 4 * outer)
        self.assertTrue(5 < inner <= outer, found)

    def test_a_server_that_does_not_come_up(self) -> None:
        command = f"{sys.executable} -c 'import sys; sys.exit(\"no {{port}} today\")'"
        done = self.bench("--server", f"lazy={command}", "--only", "lazy", "--players", "1", "--repeat", "1")
        self.assertEqual(1, done.returncode)
        self.assertIn("lazy ended with status 1", done.stderr)
        self.assertRegex(done.stderr, r"no \d+ today")

    def test_wrong_uses(self) -> None:
        for arguments, reason in (
            (("--scenario", "none-such"), "there is no scenario none-such"),
            (("--only", "none-such"), "there is no server none-such"),
            (("--against", "/none/such"), "/none/such is no checkout of this project"),
            (("--server", "x=serve"), "is not NAME=COMMAND"),
            (("--server", "x=/none/such {port}", "--only", "x", "--players", "1"), "x cannot be started"),
        ):
            done = self.bench(*arguments)
            self.assertIn(reason, done.stderr)
            self.assertNotEqual(0, done.returncode)
