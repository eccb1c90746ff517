"""Three servers, as processes, that are one cluster: published to any, played from any, and what becomes of it when one
dies, hangs, or loses Redis."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import treq
from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyFactory
from twisted.trial.unittest import TestCase

from rtmp_twisted.cluster.secret import ClusterSecret
from tests.rtmp.test_limits import listens
from tests.support.certificates import Authority
from tests.support.fakes import reactor, until, within
from tests.support.http_app import HTTPApp
from tests.support.programs import ROOT, Program, Server, free_port
from tests.support.redis_server import RedisServer
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, avc, client, codes

SECRET = "the-secret-of-a-cluster-0123456789"
CALLBACK_SECRET = "a secret for callbacks"


@frozen
class Front:
    """What stands before the nodes."""

    port: int


class Encoder:
    """Publishes to one node after the other, as an encoder behind a balancer does: 20 frames a second, each with its
    number, and a keyframe in every fifth. Frames that no publish has taken are lost."""

    def __init__(self, key: str = "hunter2") -> None:
        self.key = key
        self.on_air: RTMPClient | None = None
        self.number = 0
        self.publishes = 0

    async def publish(self, node: Server | Front) -> None:
        """Tries until it is accepted."""
        while True:
            try:
                await self.once(node)
                return
            except AssertionError:
                await deferLater(reactor, 0.1, lambda: None)

    async def once(self, node: Server | Front) -> None:
        """Raises AssertionError where it is refused."""
        one = await client(node.port)
        try:
            await one.open("tv")
            await one.publish(self.key)
        except AssertionError:
            one.transport.abortConnection()
            raise
        self.on_air = one
        self.publishes += 1
        one.send(AVC_HEADER)

    async def publish_elsewhere(self, node: Server | Front) -> None:
        """Leaves its node for another one."""
        self.abort()
        await self.publish(node)

    def abort(self) -> None:
        if self.on_air is not None:
            self.on_air.transport.abortConnection()
            self.on_air = None

    def frame(self) -> None:
        if self.on_air is not None and not self.on_air.closed:
            text = b"%d:%d;" % (self.publishes, self.number)
            self.on_air.send(avc(self.number * 50, self.number % 5 == 0, text))
        self.number += 1


def numbers(player: RTMPClient) -> list[tuple[int, int]]:
    """Number of the publish and of the frame, of all that a player has got."""
    found = []
    for message in player.media():
        body = bytes(message.body)
        if body.endswith(b";"):
            publish, _, frame = body[5:-1].rpartition(b":")
            found.append((int(publish.rpartition(b"\0")[2]), int(frame)))
    return found


class Forwarder(ProxyFactory):
    """Forwards connections, which it keeps in ``made``."""

    noisy = False

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.made: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        made = super().buildProtocol(addr)
        self.made.append(made)
        return made


class NodesCase(TestCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        self.redis = RedisServer()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.redis.dispose()))
        await self.redis.start()
        self.app = HTTPApp(CALLBACK_SECRET)
        self.app.listen()
        self.addCleanup(self.app.stop)
        self.nodes: list[Server] = []
        self.http: list[int] = []

    async def node(self, **settings: str) -> Server:
        port, http = free_port(), free_port()
        values = {
            "rtmp_port": str(port),
            "bind_address": "127.0.0.1",
            "cluster_use": "YES",
            "cluster_address": f"rtmp://127.0.0.1:{port}",
            "cluster_secret": SECRET,
            "redis_port": str(self.redis.port),
            "http_port": str(http),
            "callback_url": self.app.url,
            "jwt_secret": CALLBACK_SECRET,
            **settings,
        }
        node = Server(self, **values)
        await node.until("connected to Redis.*")
        await node.up()
        self.nodes.append(node)
        self.http.append(http)
        return node

    async def three(self, **settings: str) -> tuple[Server, Server, Server]:
        one, two, three = [await self.node(**settings) for _ in range(3)]
        return one, two, three

    async def player(self, node: Server | Front, name: str = "hunter2", channel: str = "tv") -> RTMPClient:
        player = await client(node.port)
        self.addCleanup(self.leave, player)
        await player.open(channel)
        await player.play(name)
        return player

    async def encoder(self, node: Server | Front) -> Encoder:
        """One that goes on until the test has ended."""
        encoder = Encoder()
        await encoder.publish(node)
        call: Any = None

        def go_on() -> None:
            nonlocal call
            encoder.frame()
            call = reactor.callLater(0.05, go_on)

        def stop() -> None:
            call.cancel()
            encoder.abort()

        go_on()
        self.addCleanup(stop)
        return encoder

    async def leave(self, one: RTMPClient) -> None:
        if not one.closed:
            one.transport.abortConnection()
            await within(one.lost)

    async def see(self, player: RTMPClient, publish: int, more: int = 3) -> None:
        """Waits until a player has got some more frames of a publish."""

        def count() -> int:
            return sum(one[0] == publish for one in numbers(player))

        before = count()
        await until(lambda: count() >= before + more or player.closed, f"frames of publish {publish}")
        self.assertFalse(player.closed, player.summary())

    def check(self, *players: RTMPClient) -> None:
        """Nothing goes back: not time, not the frames, and no frame of a publish comes after one of its successor."""
        for player in players:
            seen = numbers(player)
            self.assertEqual(seen, sorted(set(seen)))
            times = [one.timestamp for one in player.media()]
            self.assertEqual(times, sorted(times))

    def events(self, name: str) -> int:
        return sum(event.name == name for event in self.app.events)

    async def get(self, number: int, path: str) -> Any:
        response = await within(treq.get(f"http://127.0.0.1:{self.http[number]}{path}", persistent=False))
        return await within(response.json())


class NodesTests(NodesCase):
    async def test_any_to_any(self) -> None:
        """Whoever waits anywhere is started, one pull serves all of a node, and a wrong key is refused everywhere."""
        one, two, three = await self.three(max_ip_concurrent_connections="3", concurrent_limit_whitelist="192.0.2.1")
        waiting = [await self.player(two), await self.player(two), await self.player(three)]
        stranger = await self.player(three, "another")
        await self.encoder(one)
        for player in waiting:
            await self.see(player, 1)
        await within(stranger.lost)
        self.assertEqual(numbers(stranger), [])
        joined = await self.player(three)
        await self.see(joined, 1)
        self.check(*waiting, joined)
        nodes = (await self.get(0, "/api/v1/nodes"))["nodes"]
        addresses = {f"rtmp://127.0.0.1:{node.port}" for node in self.nodes}
        self.assertEqual({node["address"] for node in nodes}, addresses)
        channel = await self.get(0, "/api/v1/channels/tv")
        self.assertEqual(channel["players"], 0)  # two pulls are no viewers
        beside = [await self.player(one) for _ in range(2)]  # with the encoder three; no limit counts the pulls
        for player in beside:
            await self.see(player, 1)
        log = "\n".join(str(node) for node in self.nodes)
        self.assertNotIn("hunter2", log)
        self.assertNotIn("token=", log)
        self.assertEqual((self.events("start"), self.events("stop")), (1, 0))

    async def test_tokens(self) -> None:
        """A node's token opens its channel; nothing else that a stranger may send does."""
        one = await self.node(rtmp_play_whitelist="192.0.2.1", play_secret=SECRET)
        await self.encoder(one)
        secret = ClusterSecret(SECRET)
        player = await self.player(one, f"?token={secret.token('tv')}")
        await self.see(player, 1)
        for token in secret.token("radio"), ClusterSecret("x" * 32).token("tv"), "x", "":
            with self.assertRaises(AssertionError):
                await self.player(one, f"?token={token}")

    async def test_tls(self) -> None:
        """Redis over TLS with a password, and media between nodes as RTMPS."""
        await self.redis.dispose()
        authority = Authority(Path(self.mktemp()).absolute())
        issued = authority.issue("127.0.0.1")
        self.redis = RedisServer(tls=(authority, issued), options={"requirepass": "hunter3"})
        await self.redis.start()
        ca = str(authority.certificate)
        ports = [free_port() for _ in range(2)]
        one, two = [
            await self.node(
                ssl_cert=str(issued.certificate),
                ssl_key=str(issued.key),
                ssl_port=str(port),
                cluster_address=f"rtmps://127.0.0.1:{port}",
                relay_tls_ca=ca,
                redis_tls="YES",
                redis_tls_ca=ca,
                redis_password="hunter3",
            )
            for port in ports
        ]
        player = await self.player(two)
        await self.encoder(one)
        await self.see(player, 1)
        self.check(player)


class BalancerTests(NodesCase):
    async def test_haproxy(self) -> None:
        """With docker/haproxy.cfg in front: the holder dies, and everybody who connects again finds another node."""
        balancer, proxy = free_port(), "127.0.0.2"
        nodes = await self.three(proxy_protocol_from=proxy, publish_return_seconds="20")
        config = (ROOT / "docker/haproxy.cfg").read_text()
        for number, (node, http) in enumerate(zip(nodes, self.http, strict=True), 1):
            config = config.replace(f"node{number}:1935", f"127.0.0.1:{node.port} port {http}")
        config = config.replace("bind :1935", f"bind 127.0.0.1:{balancer}")
        config = config.replace("default-server ", f"default-server source {proxy} ")
        file = Path(self.mktemp()).absolute()
        file.write_text(config)
        Program(self, "haproxy", "-db", "-f", str(file))
        front = Front(balancer)
        await until(lambda: listens(balancer), "haproxy")
        encoder = await self.encoder(front)
        players = [await self.player(front) for _ in range(3)]
        for player in players:
            await self.see(player, 1)
        log = [sum("publishing channel" in line for line in node.lines) for node in nodes]
        self.assertEqual(sorted(log), [0, 0, 1])
        holder = nodes[log.index(1)]
        holder.signal(signal.SIGKILL)
        await encoder.publish(front)
        staying = [player for player in players if not player.closed]
        self.assertEqual(len(staying), 2)  # the fewest connections: one player was on each node
        for player in [*staying, await self.player(front)]:
            await self.see(player, 2)
            self.check(player)
        # The other one of those that are left is drained: nobody is sent there, though it has the fewest connections.
        drained = next(node for node in nodes if node is not holder and "publishing" not in "\n".join(node.lines))
        url = f"http://127.0.0.1:{self.http[nodes.index(drained)]}/api/v1/drain"
        await treq.post(url, persistent=False)
        await until(lambda: sum(not player.closed for player in players) < 2, "the viewers that are sent away")
        await deferLater(reactor, 2.5, lambda: None)  # it is asked every second
        for _ in range(3):
            await self.see(await self.player(front), 2)


class StopTests(NodesCase):
    async def test_drained(self) -> None:
        """A node that is stopped tells its ends, its channel is free at once, and viewers elsewhere go on."""
        one, two, three = await self.three(publish_return_seconds="20")
        encoder = await self.encoder(one)
        viewer = await self.player(three)
        await self.see(viewer, 1)
        one.signal(signal.SIGTERM)
        self.assertEqual(await within(one.ended), 0, str(one))
        self.assertEqual((self.events("start"), self.events("stop")), (1, 1))
        began = reactor.seconds()
        await encoder.publish(two)
        self.assertLess(reactor.seconds() - began, 3)  # less than a place lives
        await self.see(viewer, 2)
        self.check(viewer)
        self.assertEqual((await self.get(1, "/api/v1/nodes"))["total"], 2)


class DrainTests(NodesCase):
    async def test_sent_away(self) -> None:
        """A node with two workers is drained: its viewers go elsewhere, where they go on without a break; its publisher
        stays. Nobody comes to it any more, and the other nodes know."""
        web = free_port()
        many = await self.node(workers="2", http_token="secret", web_port=str(web), web_bind_address="127.0.0.1")
        for number in 1, 2:
            await many.until(rf" worker {number} is ready")
        two = await self.node()
        encoder = await self.encoder(many)
        leaving, there = [await self.player(many) for _ in range(4)], await self.player(two)
        modern = await client(many.port)
        self.addCleanup(self.leave, modern)
        await modern.open("tv", capsEx=1.0)
        await modern.play("hunter2")
        stream = await treq.get(f"http://127.0.0.1:{web}/tv/hunter2.flv", persistent=False)
        watched: Deferred[Any] = treq.collect(stream, lambda data: None)
        for player in [*leaving, modern, there]:
            await self.see(player, 1)
        drained = await self.drain("--wait", "11", port=self.http[0])
        self.assertEqual(drained, ["clients are sent away; publishers: 1, players: 1"])
        self.assertTrue(all(player.closed for player in leaving))
        self.assertFalse(modern.closed)
        self.assertIn("NetConnection.Connect.ReconnectRequest", codes(modern.received))
        await within(watched)
        again = await treq.get(f"http://127.0.0.1:{web}/tv/hunter2.flv", persistent=False)
        self.assertEqual(again.code, 503)
        with self.assertRaises(AssertionError):
            await Encoder().once(many)
        with self.assertRaises(AssertionError):
            await self.player(many)
        ready = await treq.get(f"http://127.0.0.1:{self.http[0]}/readyz", persistent=False)
        self.assertEqual(ready.code, 404)
        draining = {node["address"]: node["draining"] for node in (await self.get(1, "/api/v1/nodes"))["nodes"]}
        self.assertEqual(draining, {f"rtmp://127.0.0.1:{many.port}": True, f"rtmp://127.0.0.1:{two.port}": False})
        moved = await self.player(two)
        for player in moved, there:
            await self.see(player, 1)
            self.check(player)
            frames = [frame for _, frame in numbers(player)]
            self.assertEqual(frames, list(range(frames[0], frames[-1] + 1)))  # not one was left out
        assert encoder.on_air is not None
        self.assertFalse(encoder.on_air.closed)
        self.assertEqual((self.events("start"), self.events("stop")), (1, 0))
        await self.leave(modern)
        self.assertEqual(await self.drain("--end", port=self.http[0]), ["clients may come; publishers: 1, players: 0"])
        await self.see(await self.player(many), 1)

    async def drain(self, *options: str, port: int) -> list[str]:
        command = sys.executable, "-m", "rtmp_twisted", "drain", *options
        program = Program(self, *command, HTTP_PORT=str(port), HTTP_TOKEN="secret")
        self.assertEqual(await within(program.ended), 0, str(program))
        return program.lines

    async def test_not_possible(self) -> None:
        for settings in {}, {"HTTP_PORT": str(free_port())}:
            program = Program(self, sys.executable, "-m", "rtmp_twisted", "drain", **settings)
            self.assertEqual(await within(program.ended), 1)
            self.assertEqual(len(program.lines), 1, program.lines)


class FaultTests(NodesCase):
    async def test_killed(self) -> None:
        """A node dies: its encoder is on air elsewhere within 8 s, viewers elsewhere go on, and the end is told
        once."""
        one, two, three = await self.three(publish_return_seconds="20")
        encoder = await self.encoder(one)
        moved, waiting = await self.player(two), await self.player(three, channel="radio")
        await self.see(moved, 1)
        # A node tells the ends of others when it has known Redis for a while.
        await deferLater(reactor, 10, lambda: None)
        one.signal(signal.SIGKILL)
        began = reactor.seconds()
        await encoder.publish(three)
        self.assertLess(reactor.seconds() - began, 8)
        await self.see(moved, 2)
        await until(lambda: self.events("stop") == 1, "the end")
        here = await self.player(three)
        await self.see(here, 2)
        self.check(moved, here)
        self.assertNotIn("NetStream.Play.UnpublishNotify", codes(moved.received))
        self.assertFalse(waiting.closed)
        self.assertEqual((self.events("start"), self.events("stop")), (2, 1))

    async def test_paused(self) -> None:
        """A node that hangs, and wakes up: its viewers go on with its successor's publish, and see nothing old of
        it."""
        one, two, _ = await self.three(publish_return_seconds="20")
        encoder = await self.encoder(one)
        here, there = await self.player(one), await self.player(two)
        await self.see(here, 1)
        await self.see(there, 1)
        one.signal(signal.SIGSTOP)
        old = encoder.on_air
        assert old is not None
        encoder.on_air = None
        for number in range(20):  # it is in the socket of the node that hangs
            old.send(avc(encoder.number * 50 + 1 + number, number == 0, b"1:%d;" % (encoder.number + number)))
        await encoder.publish(two)
        await self.see(there, 2)
        one.signal(signal.SIGCONT)
        old.send(avc(encoder.number * 50 + 1, True, b"1:%d;" % encoder.number))
        returned = await self.player(one)
        await self.see(here, 2)
        await self.see(returned, 2)
        self.check(here, there, returned)
        self.assertEqual({publish for publish, _ in numbers(returned)}, {2})

    async def test_network_breaks(self) -> None:
        """Between two nodes: the pull comes back by itself, and its viewers wait without being closed."""
        one_port, cable = free_port(), free_port()
        forwarder = Forwarder("127.0.0.1", one_port)
        made = forwarder.made
        port = reactor.listenTCP(cable, forwarder, interface="127.0.0.1")
        await self.node(rtmp_port=str(one_port), cluster_address=f"rtmp://127.0.0.1:{cable}")
        two = await self.node()
        await self.encoder(self.nodes[0])
        player = await self.player(two)
        await self.see(player, 1)
        await maybeDeferred(port.stopListening)
        for proxy in made:
            proxy.transport.abortConnection()
        await two.until("(pull of channel 'tv').*trying again")
        await two.until("no connection to .*(pull of channel 'tv')")
        before = len(numbers(player))
        port = reactor.listenTCP(cable, forwarder, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(lambda: [proxy.transport.abortConnection() for proxy in made if proxy.transport])
        await self.see(player, 1)
        self.assertGreater(len(numbers(player)), before)
        self.check(player)
        self.assertNotIn("NetStream.Play.UnpublishNotify", codes(player.received))

    async def test_redis_is_lost(self) -> None:
        """What is on air stays on air, everywhere, and what begins in the meantime is known when Redis is back."""
        one, two, three = await self.three()
        await self.encoder(one)
        there = await self.player(two)
        await self.see(there, 1)
        await self.redis.stop()
        await two.until("the connection to Redis.*was lost")
        await deferLater(reactor, 7, lambda: None)  # longer than a place lives
        joined = await self.player(two)
        await self.see(joined, 1)
        await self.see(there, 1)
        second = await client(three.port)
        self.addCleanup(self.leave, second)
        await second.open("radio")
        await second.publish("hunter2")
        second.send(AVC_HEADER, avc(0, True, b"9:0;"))
        waiting = await self.player(two, channel="radio")
        await self.redis.start()
        await self.see(waiting, 9, 1)
        await self.see(there, 1)
        self.check(there, joined)
        self.assertEqual((self.events("start"), self.events("stop")), (2, 0))
