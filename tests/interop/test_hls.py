"""HLS playlists of a running server, as an encoder publishes: each keeps all rules, and those about the one before.

The same for a minute, and several kinds of streams: tests/interop/long.py, which .ci/long runs.
"""

from __future__ import annotations

import time
from typing import Any

import treq
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.interop.test_ffmpeg import AAC, AUDIO, H264, QUIET, VIDEO
from tests.support.fakes import within
from tests.support.mp4 import inits, samples
from tests.support.playlists import Playlist, broken_multivariant_rules, broken_rules, merge_delta, parse
from tests.support.programs import Program, Server, free_port


class PlaylistsCase(TestCase):
    timeout = 180

    async def get(self, file: str) -> bytes:
        response: Any = await within(treq.get(f"http://127.0.0.1:{self.web}/channel/key/{file}", persistent=False))
        self.assertEqual(response.code, 200, file)
        body: bytes = await within(response.content())
        return body

    async def follow(self, seconds: float, *encoder: str) -> list[Playlist]:
        """Publishes what an encoder makes, and reads playlists as a low-latency player does: each as soon as it has
        another part. Every part and segment is fetched as well."""
        self.web = free_port()
        server = Server(self, web_port=str(self.web), web_bind_address="127.0.0.1")
        await server.up()
        index: Deferred[bytes] = Deferred.fromCoroutine(self.get("index.m3u8"))  # before the publisher
        Program(self, "ffmpeg", *QUIET, "-re", *encoder, "-t", str(seconds + 10), "-f", "flv", server.url())
        text = (await within(index)).decode()
        self.assertEqual(list(broken_multivariant_rules(text)), [])
        name = text.splitlines()[-1]
        found = [parse((await self.get(name)).decode())]
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            segment, part = found[-1].next_part
            reload = f"{name}?_HLS_msn={segment}&_HLS_part={part}"
            playlist = parse((await self.get(reload)).decode())
            delta = (await self.get(f"{reload}&_HLS_skip=YES")).decode()
            self.assertEqual(broken_rules(playlist.text, found[-1].text), [], playlist.text)
            newest = playlist.segments[-1]
            self.assertGreaterEqual((newest.number, len(newest.parts)), (segment, part + 1))
            self.assertEqual(broken_rules(delta), [])
            self.assertGreaterEqual(len(merge_delta(playlist.text, delta)), len(playlist.complete))
            await self.check_media(found[-1], playlist)
            found.append(playlist)
        return found

    async def check_media(self, before: Playlist, playlist: Playlist) -> None:
        """What is new can be fetched, and lasts as long as the playlist says. A segment is its parts."""
        known = {part.uri for part in before.parts}
        for segment in playlist.segments:
            bodies = [await self.get(part.uri) for part in segment.parts if part.uri not in known]
            if segment.uri and segment.number not in {s.number for s in before.complete}:
                body = await self.get(segment.uri)
                self.assertTrue(body.endswith(b"".join(bodies)))
                [init] = inits(await self.get(segment.map))
                lead = min(init.tracks)
                length = sum(s.duration for s in samples(body) if s.track == lead) / init.tracks[lead][2]
                self.assertAlmostEqual(length, segment.duration, places=2)


class LivePlaylistTests(PlaylistsCase):
    async def test_ten_seconds(self) -> None:
        found = await self.follow(10, *VIDEO, *AUDIO, *H264, *AAC)
        self.assertGreater(len(found), 25)
        self.assertEqual({segment.duration for segment in found[-1].complete}, {2.0})
