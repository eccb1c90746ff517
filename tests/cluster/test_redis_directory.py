"""The directory of machines: brokers of three nodes with a real redis-server, and each fault of the cluster's table."""

from __future__ import annotations

import json
from random import Random

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from rtmp_twisted.cluster import recorded, redis_directory, takeover
from rtmp_twisted.cluster import store as store_module
from rtmp_twisted.cluster.directory import Node as ClusterNode
from rtmp_twisted.cluster.recorded import RecordedAuthority
from rtmp_twisted.cluster.redis_directory import RedisDirectory
from rtmp_twisted.cluster.secret import ClusterSecret
from rtmp_twisted.cluster.stall import Withholding
from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import IPublishAuthority
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.publication import Publication, PublishState
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.redis_connection import RedisAddress
from tests.cluster.chaos import DUMP
from tests.support.fakes import reactor, until
from tests.support.redis_server import RedisServer
from tests.support.rtmp_client import aac

SECRET = "the-secret-of-a-cluster-0123456789"


@define(eq=False, slots=False)
class Encoder:
    """Writes down what becomes of its publishes. It is heard when it is asked about, unless it is ``silent``."""

    silent: bool = False
    told: list[str] = field(factory=list)
    agent: str = "test"
    connection_number: int = 1
    sent: int = 0

    @property
    def heard_at(self) -> float:
        return 0.0 if self.silent else float(reactor.seconds())

    @property
    def bytes_received(self) -> int:
        self.sent += not self.silent
        return self.sent

    def publish_started(self, publication: Publication) -> None:
        self.told.append("started")

    def publish_goes_on(self, publication: Publication) -> None:
        self.told.append("goes on")

    def publish_refused(self, publication: Publication, reason: str) -> None:
        self.told.append(f"refused: {reason}")

    def publish_ended(self, publication: Publication, reason: str) -> None:
        self.told.append(f"ended: {reason}")


@implementer(IPublishAuthority)
class Platform:
    """The callback of all nodes: what it was told."""

    def __init__(self) -> None:
        self.numbers = 0
        self.live: dict[str, tuple[str, str]] = {}
        self.ended: list[str] = []

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        self.numbers += 1
        stream_id = f"stream-{self.numbers}"
        self.live[stream_id] = channel, key
        return succeed(stream_id)

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        assert (channel, key) == self.live[stream_id]
        self.ended.append(stream_id)
        return succeed(None)


class Node:
    """One server: its broker and its directory."""

    def __init__(self, port: int, name: str, platform: Platform) -> None:
        scheduler = FlushScheduler(reactor, 0, reactor.seconds, Turns(reactor))
        self.name = name
        self.moved: list[str] = []
        self.directory = RedisDirectory(
            reactor,
            Random(1),
            RedisAddress("127.0.0.1", port),
            f"rtmp://{name}.example",
            ClusterSecret(SECRET),
            "rtmp",
            name,
            takeover_seconds=1,
        )
        self.directory.moved = self.moved.append
        self.authority = RecordedAuthority(reactor, platform, self.directory, 3)
        self.broker = Broker(
            reactor, self.authority, scheduler, takeover_seconds=1, directory=self.directory, return_seconds=0
        )
        self.directory.broker = self.broker
        self.stall = Withholding(self.broker, self.directory.check)
        self.stopped = False

    def start(self) -> None:
        self.directory.startService()
        self.authority.startService()
        self.broker.startService()

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.broker.stopService()
            await self.authority.stopService()
            await self.directory.stopService()

    async def kill(self) -> None:
        """It is gone without a word: nothing that it does from now on reaches Redis."""
        await self.cut()
        self.stopped = True
        self.authority.running = 0
        self.directory._ticks.stop()

    async def cut(self) -> None:
        """Redis cannot be reached from it."""
        await self.directory.store.stopService()
        await self.directory._events.stopService()

    def publish(self, encoder: Encoder, key: str = "hunter2", channel: str = "tv") -> Publication:
        return self.broker.publish(channel, key, "192.0.2.1", encoder)

    def on_air(self, channel: str = "tv") -> bool:
        found = self.broker.channel(channel)
        return found is not None and found[0].on_air


class ClusterCase(TestCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        # All of the times in the same proportions, and a fifth of what they are.
        self.patch(redis_directory, "REFRESH_SECONDS", 0.2)
        self.patch(redis_directory, "SETTLED_SECONDS", 1.0)
        self.patch(takeover, "LOOK_SECONDS", 0.1)
        self.patch(takeover, "PLACE_SECONDS", 0.8)
        self.patch(takeover, "REFRESH_SECONDS", 0.2)
        self.patch(store_module, "PLACE_SECONDS", 0.8)
        self.patch(recorded, "RETRY_SECONDS", 0.1)
        self.platform = Platform()
        self.server = RedisServer()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.dispose()))
        await self.server.start()
        self.nodes: list[Node] = []

    async def node(self, name: str) -> Node:
        node = Node(self.server.port, name, self.platform)
        node.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(node.stop()))
        await self.connected(node)
        self.nodes.append(node)
        return node

    async def connected(self, node: Node) -> None:
        directory = node.directory
        await until(lambda: directory.store.connected and directory._events.connected, "the connection to Redis")

    async def three(self) -> tuple[Node, Node, Node]:
        one, two, three = [await self.node(name) for name in ("one", "two", "three")]
        return one, two, three

    async def on_air(self, node: Node, key: str = "hunter2", silent: bool = False) -> tuple[Encoder, Publication]:
        encoder = Encoder(silent)
        publication = node.publish(encoder, key)
        await until(lambda: encoder.told, "the answer")
        self.assertEqual(encoder.told, ["started"])
        return encoder, publication

    async def refused(self, node: Node, key: str = "hunter2") -> str:
        encoder = Encoder()
        node.publish(encoder, key)
        await until(lambda: encoder.told, "the answer")
        (told,) = encoder.told
        self.assertTrue(told.startswith("refused: "), told)
        return told

    async def ticks(self, node: Node, count: int = 2) -> None:
        """Waits until the node has asked Redis so often."""
        before = node.directory.ticked
        await until(lambda: node.directory.ticked >= before + count, "a refresh")

    def ends(self) -> list[str]:
        return sorted(self.platform.ended)


class DirectoryTests(ClusterCase):
    async def test_one_at_a_time(self) -> None:
        one, two, _ = await self.three()
        encoder, publication = await self.on_air(one)
        self.assertIn("live publisher", await self.refused(two))
        self.assertIn("has a publisher", await self.refused(two, "another"))
        self.assertEqual(self.platform.numbers, 1)  # who is refused is not asked about
        one.broker.end(publication)
        await until(lambda: self.ends() == ["stream-1"], "the end")
        await self.on_air(two, "another")
        self.assertEqual(encoder.told, ["started"])

    async def test_race(self) -> None:
        """Many are accepted at the same time: one is on air, and the end of each other one is told."""
        nodes = await self.three()
        encoders = [Encoder() for _ in range(9)]
        for number, encoder in enumerate(encoders):
            nodes[number % 3].publish(encoder)
        await until(lambda: all(encoder.told for encoder in encoders), "all answers")
        self.assertEqual(sum(encoder.told == ["started"] for encoder in encoders), 1)
        self.assertEqual(sum(node.on_air() for node in nodes), 1)
        await until(lambda: len(self.platform.ended) == self.platform.numbers - 1, "the ends")
        self.assertEqual(len(set(self.platform.ended)), len(self.platform.ended))

    async def test_take_over(self) -> None:
        """A silent publisher on another node makes room for one with its key, and for no other."""
        one, two, _ = await self.three()
        encoder, _ = await self.on_air(one, silent=True)
        await self.refused(two, "another")
        second, _ = await self.on_air(two)
        self.assertEqual(encoder.told, ["started", "ended: taken over by a new connection"])
        await until(lambda: self.ends() == ["stream-1"], "the end")
        self.assertTrue(two.on_air())
        self.assertEqual(second.told, ["started"])

    async def test_nobody_else_makes_it_yield(self) -> None:
        """Whoever can write to Redis, and has no CLUSTER_SECRET, ends nothing."""
        one, _, _ = await self.three()
        encoder, _ = await self.on_air(one, silent=True)
        epoch = one.directory._held["tv"].epoch
        for token in ["", "x", 1, None, ClusterSecret("another").token("tv"), ClusterSecret(SECRET).token("radio")]:
            event = {"event": "room", "channel": "tv", "epoch": epoch, "node": "x", "token": token}
            self.server.publish("rtmp:events", json.dumps(event))
        for junk in [
            b"",
            b"x",
            b"[]",
            b"{}",
            b"1",
            b'{"channel": 1, "event": 2}',
            b"\xff",
            b"[" * 5000,
            b"x" * 100_000,
        ]:
            self.server.publish("rtmp:events", junk)
        self.server.publish("rtmp:events", '{"event": "moved", "channel": "tv", "epoch": 99}')  # it only wakes
        await self.ticks(one)
        self.assertEqual(encoder.told, ["started"])
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_what_is_elsewhere(self) -> None:
        one, two, _ = await self.three()
        two.broker._entry("tv")  # as if somebody waited there
        self.assertEqual(two.directory.elsewhere("tv"), (False, None))
        _, publication = await self.on_air(one)
        await until(lambda: two.moved == ["tv"], "the word of it")
        place = two.directory.found("tv")
        assert place is not None
        self.assertEqual(place.worker, ClusterNode("one", "rtmp://one.example"))
        taken, key = two.directory.elsewhere("tv")
        assert taken and key is not None and not isinstance(key, str)
        self.assertTrue(key.matches("hunter2"))
        self.assertFalse(key.matches("another"))
        one.broker.end(publication)
        await until(lambda: two.moved == ["tv", "tv"], "the word of its end")
        self.assertEqual(two.directory.elsewhere("tv"), (False, None))

    async def test_no_key_in_redis(self) -> None:
        """Neither is the stream's id, which may be the key."""
        one, _, _ = await self.three()
        seen: list[bytes] = []
        self.patch(one.directory._events, "_received", seen.append)
        await self.on_air(one)
        dump = self.server.ask([b"EVAL", DUMP, b"0"])
        self.assertIn("rtmp:ch:tv", dump)
        self.assertIn("rtmp:publish:one-1", dump)
        self.assertIn("192.0.2.1", dump)
        for text in "hunter2", "stream-1", SECRET:
            self.assertNotIn(text, dump)
            self.assertNotIn(text, repr(seen))

    async def test_stops(self) -> None:
        """Everything is told and given back before a node is gone."""
        one, two, _ = await self.three()
        await self.on_air(one)
        await one.stop()
        self.assertEqual(self.ends(), ["stream-1"])
        self.assertNotIn("rtmp:publish", self.server.ask([b"EVAL", DUMP, b"0"]))
        self.assertNotIn("one", await two.directory.store.nodes())
        await self.on_air(two)


class FaultTests(ClusterCase):
    """The rows of the table of faults."""

    async def test_node_dies(self) -> None:
        one, two, three = await self.three()
        for node in two, three:
            await until(lambda node=node: node.directory.settled, "a node that judges")  # type: ignore[misc]
        await self.on_air(one)
        died_at = reactor.seconds()
        await one.kill()
        await self.on_air(two)  # asked while the place was still the dead node's
        self.assertLess(reactor.seconds() - died_at, 2)
        await until(lambda: self.ends() == ["stream-1"], "the end")
        await self.ticks(two)
        await self.ticks(three)
        self.assertEqual(self.ends(), ["stream-1"])
        self.assertNotIn("publish:one", self.server.ask([b"EVAL", DUMP, b"0"]))

    async def test_paused(self) -> None:
        """It wakes up, and another node has its channel: nothing that it has received in the meantime reaches
        anybody."""
        one, two, _ = await self.three()
        encoder, publication = await self.on_air(one)
        publication.write(aac(0))
        channel = one.broker.channel("tv")
        assert channel is not None
        one.directory._ticks.stop()
        await one.cut()  # a process that does not run does not answer
        await self.on_air(two)
        received = publication.received_messages
        one.stall.begin()
        publication.write(aac(23))
        one.directory.store.startService()
        await until(lambda: publication.ended, "the word of Redis")
        self.assertEqual(publication.received_messages, received)
        self.assertEqual(encoder.told[0], "started")
        self.assertEqual(len(encoder.told), 2)
        self.assertTrue(encoder.told[1].startswith("ended: "), encoder.told)
        self.assertTrue(two.on_air())
        self.assertFalse(one.on_air())
        one.directory._ticks.start(0.2)
        one.directory._events.startService()

    async def test_paused_and_told_before(self) -> None:
        """It hears who has its channel by now before it hears that it has lost it itself: who wants the channel here is
        told as soon as it has."""
        one, two, _ = await self.three()
        one.broker._entry("tv")  # as if somebody waited there
        self.assertEqual(one.directory.elsewhere("tv"), (False, None))
        _, publication = await self.on_air(one)
        one.directory._ticks.stop()
        await one.directory._events.stopService()
        self.server.ask([b"DEL", b"rtmp:ch:tv"])
        await self.on_air(two)
        await one.directory._watch(["tv"])
        self.assertIsNone(one.directory.found("tv"))  # it is its own, as far as it knows
        one.moved.clear()
        await one.directory.check()
        self.assertTrue(publication.ended)
        one.broker._entry("tv")
        await until(lambda: one.moved == ["tv"], "the word of it")
        self.assertIsNotNone(one.directory.found("tv"))

    async def test_paused_and_still_its_own(self) -> None:
        """What was withheld is not lost."""
        one, _, _ = await self.three()
        encoder, publication = await self.on_air(one)
        one.stall.begin()
        publication.write(aac(0))
        self.assertEqual(publication.received_messages, 0)
        await until(lambda: len(encoder.told) == 2, "the word of Redis")
        self.assertEqual(encoder.told, ["started", "goes on"])
        self.assertEqual(publication.received_messages, 1)

    async def test_paused_without_redis(self) -> None:
        """It waits for so long only."""
        self.patch(redis_directory, "COMMAND_SECONDS", 0.2)
        one, _, _ = await self.three()
        encoder, _ = await self.on_air(one)
        await self.server.stop()
        await until(lambda: not one.directory.store.connected, "the loss")
        one.stall.begin()
        await until(lambda: encoder.told == ["started", "goes on"], "its media")

    async def test_redis_is_lost(self) -> None:
        one, two, three = await self.three()
        encoder, first = await self.on_air(one)
        two.broker._entry("tv")
        two.directory.found("tv")
        await until(lambda: two.directory.found("tv"), "the place")
        await self.server.stop()
        await until(lambda: not any(node.directory.store.connected for node in self.nodes), "the loss")
        self.assertIsNotNone(two.directory.found("tv"))  # what was known stays known
        local = Encoder()
        three.publish(local, channel="radio")
        await until(lambda: local.told == ["started"], "a publish without Redis")
        self.assertIn("publisher on another node", await self.refused(two))
        one.broker.end(first)
        again, _ = await self.on_air(one)
        self.assertEqual(self.ends(), [])  # those that Redis knows of are told when it is back
        await self.server.start()
        await until(lambda: self.ends() == ["stream-1"], "the end")
        two.broker._entry("radio")
        two.directory.found("radio")
        await until(lambda: two.directory.found("radio"), "the place of what was published in the meantime")
        self.assertEqual((encoder.told, again.told, local.told), (["started"],) * 3)

    async def test_two_claims_after_an_outage(self) -> None:
        """One keeps it, and the other one hears that it has lost it."""
        one, two, _ = await self.three()
        await self.server.stop()
        await until(lambda: not any(node.directory.store.connected for node in self.nodes), "the loss")
        (first, _), (second, _) = await self.on_air(one), await self.on_air(two)
        await self.server.start()
        await until(lambda: len(first.told) + len(second.told) == 3, "the end of one")
        self.assertEqual(one.on_air() + two.on_air(), 1)
        await self.ticks(one)
        await self.ticks(two)
        self.assertEqual(one.on_air() + two.on_air(), 1)
        self.assertEqual(len(self.ends()), 1)

    async def test_redis_is_emptied(self) -> None:
        one, two, _ = await self.three()
        await self.on_air(one)
        epoch = one.directory._held["tv"].epoch
        self.server.ask([b"FLUSHALL"])
        await until(lambda: "rtmp:ch:tv" in self.server.ask([b"EVAL", DUMP, b"0"]), "the claim")
        self.assertTrue(one.on_air())
        self.assertIn("live publisher", await self.refused(two))
        self.assertGreater(await two.directory.store.next_epoch("tv"), epoch)
        self.assertIn("rtmp:publish:one-1", self.server.ask([b"EVAL", DUMP, b"0"]))

    async def test_cut_off_from_redis(self) -> None:
        """The others take a node for dead, which is on air all the same: its end is told once, and it begins anew."""
        one, two, three = await self.three()
        await until(lambda: two.directory.settled and three.directory.settled, "nodes that judge")
        encoder, publication = await self.on_air(one)
        await one.cut()
        await until(lambda: self.ends() == ["stream-1"], "the end")
        self.assertTrue(one.on_air())
        one.directory.store.startService()
        one.directory._events.startService()
        await until(lambda: publication.state is not PublishState.ON_AIR, "the word of it")
        self.assertEqual(len(encoder.told), 2)
        await self.on_air(one)
        await self.ticks(one)
        await self.ticks(two)
        self.assertEqual(self.ends(), ["stream-1"])

    async def test_all_die(self) -> None:
        """Who comes next tells what has ended."""
        one, two, _ = await self.three()
        await self.on_air(one)
        encoder = Encoder()
        two.publish(encoder, channel="radio")
        await until(lambda: encoder.told == ["started"])
        for node in self.nodes:
            await node.kill()
        await self.node("four")
        await until(lambda: len(self.platform.ended) == 2, "the ends")
        await deferLater(reactor, 0, lambda: None)
        self.assertEqual(self.ends(), ["stream-1", "stream-2"])
