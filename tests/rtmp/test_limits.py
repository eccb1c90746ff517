"""The limits on connections and bit rates, as a running server keeps them; and a real proxy in front of it."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.rtmp.session import BURST_SECONDS
from tests.support.certificates import Authority
from tests.support.fakes import reactor, until, within
from tests.support.memory import Client, World, codes
from tests.support.programs import Program, Server, free_port
from tests.support.rtmp_client import RTMPClient, avc, client

KBPS = 1000
SECOND = KBPS * 1000 // 8
"""Bytes that may come in a second."""


class BitRateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.world.factory.options = evolve(self.world.factory.options, max_publish_rate=SECOND)

    def publisher(self, channel: str) -> Client:
        publisher = self.world.connect().open(channel)
        publisher.publish()
        return publisher

    def seconds(self, publisher: Client, count: int, size: int) -> None:
        """As many seconds in each of which about ``size`` bytes come."""
        for _ in range(count):
            publisher.send(avc(0, True, bytes(int(size * 0.99))))
            self.world.pass_time(1)

    def test_within(self) -> None:
        publisher = self.publisher("one")
        for _ in range(20):
            self.seconds(publisher, 2, SECOND * (BURST_SECONDS + 2) // 3)
            self.seconds(publisher, BURST_SECONDS, SECOND // 5)
        self.assertFalse(publisher.closing)

    def test_beyond(self) -> None:
        too_fast, other = self.publisher("one"), self.publisher("two")
        self.seconds(too_fast, BURST_SECONDS, SECOND * 2)
        self.assertFalse(too_fast.closing)
        self.seconds(other, 1, SECOND)
        self.seconds(too_fast, 2, SECOND * 2)
        self.assertTrue(too_fast.closing)
        self.assertFalse(other.closing)
        self.assertIn("NetStream.Unpublish.Success", codes(too_fast.new()))
        too_fast.leave()
        ends = [event for event in self.world.authority.events if event[0] == "end"]
        self.assertEqual([event[1] for event in ends], ["one"])


class TotalTests(TestCase):
    timeout = 120

    async def test_max_connections(self) -> None:
        server = Server(self, max_connections="3")
        await server.up()
        inside = [await client(server.port) for _ in range(3)]
        for one in inside:
            await one.open()
        refused = [await client(server.port) for _ in range(20)]
        for one in refused:
            await within(one.lost)
        self.assertEqual(len([line for line in server.lines if "MAX_CONNECTIONS" in line]), 2, str(server))
        inside[0].transport.loseConnection()
        await self.served(server)
        self.assertFalse(inside[1].closed)

    async def test_no_file_descriptors(self) -> None:
        """What the limit could not foresee: the process has none left. It goes on accepting once it has again."""
        server = Server(self)
        await server.up()
        with limited(server):
            inside = await client(server.port)
            await inside.open()
            crowd = [await client(server.port) for _ in range(20)]
            for one in crowd[8:]:
                await within(one.lost)
            await inside.publish()
            for one in crowd:
                one.transport.loseConnection()
                await within(one.lost)
            await self.served(server)
        await self.served(server)
        self.assertFalse(inside.closed)
        self.assertNotIn("Traceback", str(server))
        self.assertLess(len(server.lines), 50)

    async def served(self, server: Server) -> None:
        """Returns when a new connection is let in: the server learns of the ends of others when it does."""
        while True:
            connection = await client(server.port)
            try:
                await connection.open("another")
            except AssertionError:  # it was closed
                continue
            connection.transport.loseConnection()
            await within(connection.lost)
            return


@contextmanager
def limited(server: Server) -> Iterator[None]:
    """Leaves the server 4 file descriptors more than it has."""
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    in_use = max(int(path.name) for path in Path(f"/proc/{server.pid}/fd").iterdir())
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (in_use + 5, before[1]))
    yield
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)


class ProxyTests(TestCase):
    """HAProxy in front, for RTMP and, with TLS passed on as it is, for RTMPS; and clients with two addresses."""

    timeout = 120

    async def start(self, version: str) -> None:
        authority = Authority(self.mktemp())
        issued = authority.issue("localhost")
        self.trusted = authority.trust_root
        self.rtmp, self.rtmps = free_port(), free_port()
        ssl_port = free_port()
        self.server = Server(
            self,
            ssl_port=str(ssl_port),
            ssl_cert=str(issued.certificate.absolute()),
            ssl_key=str(issued.key.absolute()),
            proxy_protocol_from="127.0.0.1",
            concurrent_limit_whitelist="192.0.2.1",
            max_ip_concurrent_connections="2",
            rtmp_play_whitelist="127.0.0.2",
            log_debug="YES",
        )
        await self.server.until(" info RTMPS on ")
        config = Path(self.mktemp()).absolute()
        sections = "".join(
            f"listen {name}\n bind 127.0.0.1:{port}\n server one 127.0.0.1:{to} {version}\n"
            for name, port, to in (("rtmp", self.rtmp, self.server.port), ("rtmps", self.rtmps, ssl_port))
        )
        times = "timeout connect 60s\n timeout client 60s\n timeout server 60s\n"
        config.write_text(f"defaults\n mode tcp\n {times}{sections}")
        Program(self, "haproxy", "-db", "-f", str(config))
        await until(lambda: listens(self.rtmp), "haproxy")

    async def client(self, address: str, secured: bool = False) -> RTMPClient:
        port = self.rtmps if secured else self.rtmp
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, bindAddress=(address, 0))
        over = (
            wrapClientTLS(optionsForClientTLS("localhost", trustRoot=self.trusted), endpoint) if secured else endpoint
        )
        connected: RTMPClient = await within(connectProtocol(over, RTMPClient()))
        return connected

    async def check(self) -> None:
        """The limits and the whitelist count the clients' addresses."""
        publisher = await self.client("127.0.0.2")
        await publisher.open()
        await publisher.publish()
        await self.server.until("127.0.0.2 publishing")
        player = await self.client("127.0.0.2", secured=True)
        await player.open()
        await player.play()
        await within((await self.client("127.0.0.2")).lost)
        await within((await self.client("127.0.0.2", secured=True)).lost)
        other = await self.client("127.0.0.3", secured=True)
        await other.open()
        other.call("play", None, "key", stream_id=1)
        await other.status("NetStream.Play.BadName")
        self.assertFalse(publisher.closed or player.closed)

    async def test_version_1(self) -> None:
        await self.start("send-proxy")
        await self.check()

    async def test_version_2(self) -> None:
        await self.start("send-proxy-v2")
        await self.check()

    async def test_health_checks(self) -> None:
        """HAProxy's own connections say so (LOCAL); they neither count as a client's nor make a noise."""
        await self.start("send-proxy-v2 check inter 50ms")
        await self.server.until("debug #[0-9]+ 127.0.0.1 connection")
        await self.check()
        self.server.signal(signal.SIGTERM)
        self.assertEqual(await within(self.server.ended), 0)
        self.assertEqual([line for line in self.server.lines if "PROXY header" in line], [])

    async def test_without_a_header(self) -> None:
        await self.start("send-proxy")
        direct = await within(connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", self.server.port), RTMPClient()))
        await within(direct.lost)
        self.assertEqual(direct.received, [])
        await self.server.until("no PROXY header")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
