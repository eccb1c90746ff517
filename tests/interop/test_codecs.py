"""Every codec that the current ffmpeg puts into RTMP, from it and to it."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from tests.interop import programs, results
from tests.interop.exchange import ExchangeCase

SOUNDS = ("AAC", "Opus", "FLAC")


class CodecTests(ExchangeCase):
    async def check(self, *codecs: str) -> None:
        found = await self.exchange(programs.CURRENT, programs.CURRENT_PLAYER, *codecs)
        results.record(table="codecs", codecs=codecs, scheme=self.scheme, **found)

    async def check_video(self, video: str, *sounds: str) -> None:
        """One video codec, with each audio codec at the same time."""
        checks = [Deferred.fromCoroutine(self.check(video, sound)) for sound in sounds or SOUNDS]
        await gatherResults(checks, consumeErrors=True)

    async def test_h264(self) -> None:
        await self.check_video("H.264")

    async def test_hevc(self) -> None:
        await self.check_video("HEVC")

    async def test_av1(self) -> None:
        await self.check_video("AV1")

    async def test_vp9(self) -> None:
        await self.check_video("VP9")

    async def test_surround(self) -> None:
        await self.check_video("H.264", "AC-3", "E-AC-3")

    async def test_old_sounds(self) -> None:
        await self.check_video("H.264", "MP3", "G.711")

    async def test_old_pictures(self) -> None:
        await self.check("H.263", "MP3")

    async def test_two_video_tracks(self) -> None:
        await self.check("H.264", "H.264", "AAC")

    async def test_two_audio_tracks(self) -> None:
        await self.check("H.264", "AAC", "Opus")
