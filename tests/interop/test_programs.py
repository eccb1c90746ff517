"""Publishing and playing with the programs that people use."""

from __future__ import annotations

from tests.interop import programs, results
from tests.interop.exchange import ExchangeCase
from tests.interop.programs import Player, Publisher


class ProgramCase(ExchangeCase):
    async def check_publisher(self, publisher: Publisher) -> None:
        found = await self.exchange(publisher, programs.CURRENT_PLAYER)
        results.record(table="publishers", program=publisher.name, scheme=self.scheme, **found)

    async def check_player(self, player: Player) -> None:
        found = await self.exchange(programs.DEBIAN_FFMPEG, player)
        results.record(table="players", program=player.name, scheme=self.scheme, leaves=player.leaves, **found)


class PublisherTests(ProgramCase):
    """Each publishes to ffmpeg."""

    async def test_debian_ffmpeg(self) -> None:
        await self.check_publisher(programs.DEBIAN_FFMPEG)

    async def test_current_ffmpeg(self) -> None:
        await self.check_publisher(programs.CURRENT)

    async def test_pyav(self) -> None:
        await self.check_publisher(programs.PYAV)

    async def test_gstreamer_rtmp2sink(self) -> None:
        await self.check_publisher(programs.RTMP2SINK)

    async def test_gstreamer_rtmpsink(self) -> None:
        await self.check_publisher(programs.RTMPSINK)


class PlayerTests(ProgramCase):
    """ffmpeg publishes to each."""

    async def test_debian_ffmpeg(self) -> None:
        await self.check_player(programs.DEBIAN_FFMPEG_PLAYER)

    async def test_current_ffmpeg(self) -> None:
        await self.check_player(programs.CURRENT_PLAYER)

    async def test_pyav(self) -> None:
        await self.check_player(programs.PYAV_PLAYER)

    async def test_rtmpdump(self) -> None:
        await self.check_player(programs.RTMPDUMP)

    async def test_gstreamer_rtmp2src(self) -> None:
        await self.check_player(programs.RTMP2SRC)

    async def test_gstreamer_rtmpsrc(self) -> None:
        await self.check_player(programs.RTMPSRC)
