"""HLS playlists for a minute, of several kinds of streams at a time. Run by .ci/long."""

from __future__ import annotations

from tests.interop.test_ffmpeg import AAC, AUDIO, H264, VIDEO
from tests.interop.test_hls import PlaylistsCase

SECONDS = 60


class LongPlaylistTests(PlaylistsCase):
    async def test_sound_and_pictures(self) -> None:
        self.assertGreater(len(await self.follow(SECONDS, *VIDEO, *AUDIO, *H264, *AAC)), 150)

    async def test_sound_alone(self) -> None:
        self.assertGreater(len(await self.follow(SECONDS, *AUDIO, *AAC)), 150)

    async def test_cuts_of_scenes(self) -> None:
        """Keyframes at any time, at least every 4 seconds."""
        cuts = ("-vf", "drawbox=enable='lt(mod(t\\,3.7)\\,0.04)':t=fill", "-c:v", "libx264", "-preset", "ultrafast")
        keyframes = ("-g", "100", "-sc_threshold", "40")
        self.assertGreater(len(await self.follow(SECONDS, *VIDEO, *AUDIO, *cuts, *keyframes, *AAC)), 150)
