"""The programs once more, over RTMPS. Both sides of the relays speak TLS; a program meets the server's own."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.ssl import optionsForClientTLS

from rtmp_twisted.rtmp.tls import Certificates
from tests.interop import test_programs
from tests.support.certificates import Authority
from tests.support.fakes import reactor
from tests.support.programs import Server, free_port


class RTMPSCase(test_programs.ProgramCase):
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
        tls = Certificates(reactor, str(self._issued.certificate), str(self._issued.key), check_seconds=0)
        return (
            wrapClientTLS(checks, TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)),
            SSL4ServerEndpoint(reactor, 0, tls, interface="127.0.0.1"),
        )


class PublisherTests(RTMPSCase, test_programs.PublisherTests):
    pass


class PlayerTests(RTMPSCase, test_programs.PlayerTests):
    pass
