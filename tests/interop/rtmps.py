"""The programs once more, over RTMPS. Both sides of the relays speak TLS, the one to the server as well.

Becomes ``test_rtmps.py``, and one of the modules in __main__, when the server has RTMPS.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.ssl import optionsForClientTLS

from tests.interop import programs
from tests.interop.test_programs import ProgramCase
from tests.support.certificates import Authority
from tests.support.fakes_outside import reactor
from tests.support.programs import Server, free_port


class RTMPSCase(ProgramCase):
    scheme = "rtmps"

    def setUp(self) -> None:
        self._vouches = Authority(self.mktemp())
        self._issued = self._vouches.issue("127.0.0.1", "localhost")
        self.authority = str(self._vouches.certificate.absolute())
        self._port = free_port()

    async def server(self, **settings: str) -> Server:
        certificate = {
            "ssl_cert": str(self._issued.certificate.absolute()),
            "ssl_key": str(self._issued.key.absolute()),
        }
        return await super().server(ssl_port=str(self._port), **certificate, **settings)

    def endpoints(self, server: Server) -> tuple[IStreamClientEndpoint, IStreamServerEndpoint]:
        checks: Any = optionsForClientTLS("localhost", trustRoot=self._vouches.trust_root)
        return (
            wrapClientTLS(checks, TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)),
            SSL4ServerEndpoint(reactor, 0, self._issued.options(), interface="127.0.0.1"),
        )


class PublisherTests(RTMPSCase):
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


class PlayerTests(RTMPSCase):
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
