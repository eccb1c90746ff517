"""RTMPS as a client: which certificates are taken, and what is said of the others."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.trial.unittest import TestCase

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import AcceptAll
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay.relays import RelayService
from rtmp_twisted.relay.tls import client_context
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.rtmp.tls import Certificates, SecuredFactory
from tests.support.certificates import Authority, IssuedCertificate
from tests.support.fakes import Log, reactor, until
from tests.support.live import Owner
from tests.support.rtmp_client import AVC_HEADER, avc


def server() -> tuple[Broker, RTMPFactory]:
    broker = Broker(reactor, AcceptAll(), FlushScheduler(reactor, 0, reactor.seconds, Turns(reactor)))
    return broker, RTMPFactory(SessionOptions(broker=broker, clock=reactor))


class CertificateTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.authority = Authority(self.mktemp())
        self.names: list[str | None] = []

    async def listen(self, issued: IssuedCertificate) -> tuple[int, Broker]:
        """The server that is pushed to, with this certificate."""
        broker, factory = server()
        certificates = Certificates(reactor, str(issued.certificate), str(issued.key), check_seconds=0)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port: Any = await endpoint.listen(SecuredFactory(certificates, False, factory, reactor))
        self.addCleanup(port.stopListening)
        return port.getHost().port, broker

    async def push(self, issued: IssuedCertificate, host: str, more: str = "", trusted: Authority | None = None) -> str:
        """Pushes to it under a name; returns "live" when media has arrived there, else the problem."""
        port, there = await self.listen(issued)
        broker, factory = server()
        authority = trusted or self.authority

        def endpoint(name: str, port: int) -> HostnameEndpoint:
            return HostnameEndpoint(reactor, "127.0.0.1" if name == "good.example" else name, port)

        options = RelayOptions(
            reactor,
            endpoint,
            broker,
            factory,
            Random(1),
            lambda insecure: client_context(str(authority.certificate), insecure),
        )
        relays = RelayService(options)
        relays.startService()
        relays.add_push("tv", f"rtmps://{host}:{port}/app/key{more}")
        publication = broker.publish("tv", "key", "192.0.2.1", Owner())
        await until(lambda: publication.on_air_since is not None)
        publication.write(AVC_HEADER)
        publication.write(avc(0, True))
        broker.scheduler.flush_pending()  # as a publisher's connection does
        await until(lambda: relays.statuses()[0].state == "live" or relays.statuses()[0].last_error)
        status = relays.statuses()[0]
        if status.state == "live":
            await until(lambda: there.traffic().received_messages == 2, "media")
        await relays.stopService()
        await until(lambda: not factory.connections, "the end")
        return status.last_error or status.state

    async def test_right(self) -> None:
        """Also with a name that is sent to the server (SNI), and with an address."""
        self.assertEqual(await self.push(self.authority.issue("good.example"), "good.example"), "live")
        self.assertEqual(await self.push(self.authority.issue("127.0.0.1", kind="rsa"), "127.0.0.1"), "live")

    async def test_wrong(self) -> None:
        log = Log(self)
        cases = [
            (self.authority.issue("other.example"), "good.example", "its certificate is not for good.example"),
            (self.authority.issue("good.example"), "127.0.0.1", "its certificate is not for 127.0.0.1"),
            (self.authority.issue("127.0.0.2"), "127.0.0.1", "its certificate is not for 127.0.0.1"),
            (self.authority.issue("127.0.0.1", days=-1), "127.0.0.1", "its certificate is out of date"),
        ]
        for issued, host, problem in cases:
            self.assertEqual(await self.push(issued, host), problem)
            self.assertEqual(len([line for line in log.lines() if line.endswith(f"trying again: {problem}")]), 1)
            log.events.clear()

    async def test_nobody_vouches(self) -> None:
        """Signed by itself, or by an authority that is not trusted."""
        stranger = Authority(self.mktemp(), "stranger")
        problem = "its certificate is signed by an authority that is not trusted"
        self.assertEqual(await self.push(stranger.issue("127.0.0.1"), "127.0.0.1"), problem)
        own = self.authority.issue("127.0.0.1", signed_by_itself=True)
        self.assertEqual(await self.push(own, "127.0.0.1"), "its certificate is signed by itself")

    async def test_insecure(self) -> None:
        """A choice that somebody has made."""
        stranger = Authority(self.mktemp(), "stranger")
        issued = stranger.issue("other.example", days=-1)
        self.assertEqual(await self.push(issued, "127.0.0.1", "?insecure"), "live")

    async def test_no_tls(self) -> None:
        broker, factory = server()
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        self.patch(self, "listen", lambda issued: _done((port.getHost().port, broker)))
        problem = await self.push(self.authority.issue("127.0.0.1"), "127.0.0.1")
        self.assertNotEqual(problem, "live")

    def test_no_authorities(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("nothing")
        self.assertIn("no PEM certificate", str(self.assertRaises(ValueError, client_context, path)))


async def _done(value: tuple[int, Broker]) -> tuple[int, Broker]:
    return value
