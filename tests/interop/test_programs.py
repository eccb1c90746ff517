"""Publishing and playing with the programs that people use."""

from __future__ import annotations

from tests.interop import programs, results
from tests.interop.exchange import ExchangeCase
from tests.interop.programs import Player, Publisher


class PublisherTests(ExchangeCase):
    """Each publishes to ffmpeg."""

    async def check(self, publisher: Publisher) -> None:
        found = await self.exchange(publisher, programs.CURRENT_PLAYER)
        results.record(table="publishers", program=publisher.name, scheme=self.scheme, **found)

    async def test_debian_ffmpeg(self) -> None:
        await self.check(programs.DEBIAN_FFMPEG)

    async def test_current_ffmpeg(self) -> None:
        await self.check(programs.CURRENT)

    async def test_pyav(self) -> None:
        await self.check(programs.PYAV)

    async def test_gstreamer_rtmp2sink(self) -> None:
        await self.check(programs.RTMP2SINK)

    async def test_gstreamer_rtmpsink(self) -> None:
        await self.check(programs.RTMPSINK)


class PlayerTests(ExchangeCase):
    """ffmpeg publishes to each."""

    async def check(self, player: Player) -> None:
        found = await self.exchange(programs.DEBIAN_FFMPEG, player)
        results.record(table="players", program=player.name, scheme=self.scheme, leaves=player.leaves, **found)

    async def test_debian_ffmpeg(self) -> None:
        await self.check(programs.DEBIAN_FFMPEG_PLAYER)

    async def test_current_ffmpeg(self) -> None:
        await self.check(programs.CURRENT_PLAYER)

    async def test_pyav(self) -> None:
        await self.check(programs.PYAV_PLAYER)

    async def test_rtmpdump(self) -> None:
        await self.check(programs.RTMPDUMP)

    async def test_gstreamer_rtmp2src(self) -> None:
        await self.check(programs.RTMP2SRC)

    async def test_gstreamer_rtmpsrc(self) -> None:
        await self.check(programs.RTMPSRC)
