"""What there must be one of, with several workers: authority, commands, pushes, pulls, certificates, HTTP."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from itertools import count
from pathlib import Path

import treq
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.task import LoopingCall

from tests.support.certificates import Authority
from tests.support.coordinator import Coordinator
from tests.support.fakes import reactor, until, within
from tests.support.http_app import HTTPApp
from tests.support.programs import Server, free_port
from tests.support.proxied import version_1
from tests.support.redis_server import RedisServer
from tests.support.rtmp_client import RTMPClient, avc, client
from tests.workers.case import WorkersCase

SECRET = "a secret of this test, long enough"


class AuthorityTests(WorkersCase):
    async def test_callback(self) -> None:
        """Refused, accepted, ended: as with one process, whichever worker asks."""
        app = HTTPApp(SECRET)
        app.listen()
        self.addCleanup(app.stop)
        await self.serve(callback_url=app.url, jwt_secret=SECRET)
        publishers = [await self.publisher(f"channel{number}") for number in range(4)]
        app.answer = lambda request, event: 403
        refused = await self.connect()
        refused.call("publish", None, "key", "live", stream_id=1)
        await refused.status("NetStream.Publish.BadName")
        for publisher in publishers:
            await self.leave(publisher)
        await until(lambda: [event.name for event in app.events].count("stop") == 4, "the ends")
        self.assertEqual([event.name for event in app.events].count("start"), 5)
        ends = {event.claims["stream_id"] for event in app.events if event.name == "stop"}
        self.assertEqual(ends, {f"id-of-channel{number}" for number in range(4)})

    async def test_coordinator(self) -> None:
        """One registration. It ends a publish on any worker, and its players with it."""
        coordinator = Coordinator(SECRET)
        coordinator.listen()
        self.addCleanup(coordinator.stop)
        await self.serve(control_use="YES", control_base_url=coordinator.base_url, control_secret=SECRET)
        await until(lambda: coordinator.visits, "the registration")
        players = [await self.waiting() for _ in range(2)]
        publisher = await self.publisher()
        await self.see(players, b"key")
        self.assertEqual(len(coordinator.visits), 1)
        started = coordinator.heard("PUBLISH-REQUEST")
        self.assertEqual(len(started), 1)
        coordinator.visit.say("STREAM-KILL\nStream-Channel:channel\nStream-ID:*\n\n")
        await within(publisher.lost)
        for player in players:
            await player.status("NetStream.Play.UnpublishNotify")

    async def test_redis(self) -> None:
        redis = RedisServer()
        self.addCleanup(redis.dispose)
        await redis.start()
        await self.serve(redis_use="YES", redis_port=str(redis.port))
        first = await self.publisher("first")
        second = await self.publisher("second")
        await until(lambda: redis.publish("rtmp_commands", "kill-session>second"), "a subscriber")
        await within(second.lost)
        first.send(avc(40, False))
        await first.heard()
        await until(lambda: redis.publish("rtmp_commands", "close-stream>first|key"), "a subscriber")
        await within(first.lost)


class ConnectionTests(WorkersCase):
    async def test_proxy_header(self) -> None:
        """The supervisor reads it: the limit of an address counts the client's, on all workers."""
        await self.serve(
            proxy_protocol_from="127.0.0.1", concurrent_limit_whitelist="", max_ip_concurrent_connections="2"
        )
        made = [await self.proxied("192.0.2.1") for _ in range(2)]
        for one in made:
            await one.open()
        await self.server.until("w1 #1 192.0.2.1 connected")
        await self.server.until("w2 #1 192.0.2.1 connected")
        third = await self.proxied("192.0.2.1")
        self.assertTrue(third.closed)
        other = await self.proxied("192.0.2.2")
        await other.open()

    async def test_all_connections_together(self) -> None:
        """MAX_CONNECTIONS counts those of all workers; who leaves makes room for another."""
        await self.serve(max_connections="3")
        made = [await self.connect() for _ in range(3)]
        await self.server.until("w1 #1 .* connected")
        await self.server.until("w2 #1 .* connected")
        self.assertTrue((await client(self.server.port)).closed)
        await self.leave(made[0])
        await until(lambda: any("disconnected" in line for line in self.server.lines), "the end of one")
        await self.connect()
        self.assertTrue((await client(self.server.port)).closed)

    async def proxied(self, address: str) -> RTMPClient:
        """A client that comes through a proxy."""

        class Proxied(RTMPClient):
            def connectionMade(self) -> None:
                self.transport.socket.send(version_1(address))
                super().connectionMade()

        made: RTMPClient = await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", self.server.port), Proxied())
        self.addCleanup(self.leave, made)
        await within(made.ready)
        return made

    async def test_unix_socket(self) -> None:
        path = Path(self.mktemp()).absolute()
        await self.serve(listen=f"unix:{path}")
        made = []
        for _ in range(2):
            one: RTMPClient = await connectProtocol(UNIXClientEndpoint(reactor, str(path)), RTMPClient())
            self.addCleanup(self.leave, one)
            await one.open()
            await one.play()
            made.append(one)
        publisher: RTMPClient = await connectProtocol(UNIXClientEndpoint(reactor, str(path)), RTMPClient())
        self.addCleanup(self.leave, publisher)
        await publisher.open()
        await publisher.publish()
        publisher.send(avc(0, True, b"through"))
        await self.see(made, b"through")

    async def test_certificates(self) -> None:
        """Read by the supervisor; after a SIGHUP all workers have the new one."""
        settings = self.tls()
        await self.serve(**settings)
        old = {self.serial() for _ in range(4)}
        issued = Authority(self.mktemp()).issue("localhost")
        Path(settings["ssl_cert"]).write_bytes(issued.certificate.read_bytes())
        Path(settings["ssl_key"]).write_bytes(issued.key.read_bytes())
        self.server.signal(signal.SIGHUP)
        await until(lambda: sum("RTMPS certificate for" in line for line in self.server.lines) == 2, "the new one")
        new = {self.serial() for _ in range(4)}
        self.assertEqual((len(old), len(new)), (1, 1))
        self.assertNotEqual(old, new)

    def serial(self) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.tls_port)) as plain, context.wrap_socket(plain) as secured:
            return secured.getpeercert(True) or b""


class NumberTests(WorkersCase):
    async def test_as_many_as_cores(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self.server = Server(self, workers="auto")
        await self.server.until(" is ready" if cores > 1 else "RTMP on")
        publisher = await self.publisher()
        await publisher.heard()
        if cores > 1:
            for number in range(1, cores + 1):
                await self.server.until(rf" worker {number} is ready")
        self.assertFalse(any(f" worker {cores + 1} " in line for line in self.server.lines))


class RelayTests(WorkersCase):
    async def elsewhere(self) -> Server:
        other = Server(self)
        await other.up()
        return other

    async def test_push(self) -> None:
        """One connection, from the worker that has the channel, although both have viewers."""
        other = await self.elsewhere()
        await self.serve(push=f"tv=rtmp://127.0.0.1:{other.port}/copy/key")
        players = [await self.waiting("tv") for _ in range(2)]
        await self.publisher("tv")
        await self.see(players, b"key")
        await other.until('publishing channel "copy"')
        self.assertEqual(sum('connected to channel "copy"' in line for line in other.lines), 1)

    async def test_pull(self) -> None:
        """One connection for the viewers on all workers, whichever has to make it."""
        other = await self.elsewhere()
        source = await client(other.port)
        self.addCleanup(self.leave, source)
        await source.open("source")
        await source.publish()
        source.send(avc(0, True, b"pulled"))
        url = f"rtmp://127.0.0.1:{other.port}/source/key"
        await self.serve(pull=f"a/key={url} b/*={url}")
        for channel in "a", "b":
            players = [await self.waiting(channel) for _ in range(4)]
            await self.see(players, b"pulled")
        playing = [line for line in other.lines if 'playing channel "source"' in line]
        self.assertEqual(len(playing), 2, playing)

    async def test_pull_always(self) -> None:
        other = await self.elsewhere()
        source = await client(other.port)
        self.addCleanup(self.leave, source)
        await source.open("source")
        await source.publish()
        source.send(avc(0, True, b"pulled"))
        await self.serve(pull=f"a/key=rtmp://127.0.0.1:{other.port}/source/key?always")
        await other.until('playing channel "source"')
        players = [await self.waiting("a") for _ in range(2)]
        await self.see(players, b"pulled")
        publisher = await self.publisher("a")
        publisher.send(avc(40, True, b"own"))
        await self.see(players, b"own")
        await self.leave(publisher)
        await self.see(players, b"pulled", 2)


class OperatorTests(WorkersCase):
    async def test_api(self) -> None:
        port = str(free_port())
        await self.serve(http_port=port)
        self.assertEqual(await self.get("/healthz", port), "ok\n")
        players = [await self.waiting() for _ in range(4)]
        publisher = await self.publisher()
        await self.see(players, b"key")
        await self.publisher("another")
        found = await self.get("/api/v1/channels", port)
        self.assertEqual({one["name"]: one["players"] for one in found["channels"]}, {"channel": 4, "another": 0})
        one = await self.get("/api/v1/channels/channel", port)
        self.assertEqual((one["state"], one["worker"], one["workers"]), ("on air", 1, {"1": 2, "2": 2}))
        text = await self.get("/metrics", port)
        for line in (
            'rtmp_channels{state="on air"} 2.0',
            "rtmp_players 4.0",
            "rtmp_connections 6.0",
            "rtmp_received_messages_total 4.0",
            "rtmp_workers 2.0",
            'rtmp_worker_players{worker="1"} 2.0',
            'rtmp_worker_players{worker="2"} 2.0',
        ):
            self.assertIn(f"\n{line}\n", text)
        killed = await treq.post(f"http://127.0.0.1:{port}/api/v1/channels/channel/kill", persistent=False)
        self.assertEqual(killed.code, 200)
        await within(publisher.lost)
        nobody = await treq.post(f"http://127.0.0.1:{port}/api/v1/channels/nobody/kill", persistent=False)
        self.assertEqual(nobody.code, 404)

    async def test_push_by_api(self) -> None:
        """It is made where its channel is, and is there again when a worker has died."""
        port = str(free_port())
        other = Server(self)
        await other.up()
        await self.serve(http_port=port)
        await self.publisher("tv")
        where = f"http://127.0.0.1:{port}/api/v1/channels/tv/push"
        body = {"url": f"rtmp://127.0.0.1:{other.port}/copy/key"}
        made = await treq.post(where, json=body, persistent=False)
        self.assertEqual(made.code, 201)
        await other.until('publishing channel "copy"')
        listed = await self.get("/api/v1/relays", port)
        self.assertEqual([(one["channel"], one["made_by"]) for one in listed["relays"]], [("tv", "API")])
        bad = await treq.post(where, json={"url": "nothing"}, persistent=False)
        self.assertEqual(bad.code, 400)
        removed = await treq.delete(f"{where}/{(await made.json())['id']}", persistent=False)
        self.assertEqual(removed.code, 200)
        self.assertEqual((await self.get("/api/v1/relays", port))["total"], 0)


class WebTests(WorkersCase):
    async def test_viewers(self) -> None:
        """Viewers by HTTP are on a worker of their address, wherever the channel is; a wrong key is refused there."""
        port = str(free_port())
        await self.serve(web_port=port, web_bind_address="127.0.0.1")
        await self.connect()  # so that the publisher comes to the other worker
        publisher = await self.publisher()
        sending = LoopingCall(lambda: publisher.send(avc(next(times), True, b"seen by a browser")))
        times = count(40, 40)
        sending.start(0.04)
        await self.server.until('w2 #1 127.0.0.1 publishing channel "channel"')
        where = f"http://127.0.0.1:{port}/channel"
        stream = await treq.get(f"{where}/key.flv", persistent=False)
        received = bytearray()
        ended = stream.collect(received.extend)
        await until(lambda: b"seen by a browser" in received, "the stream")
        await self.server.until('w1 #w1 127.0.0.1 watching channel "channel" as flv')
        wrong = await treq.get(f"{where}/wrong.flv", persistent=False)
        self.assertEqual(wrong.code, 403)
        sending.stop()
        await self.server.kill()
        await ended.addErrback(lambda _: None)
