"""What the nodes keep in a real redis-server: each script's checks of node and epoch, and what it costs."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from rtmp_twisted.cluster import store as module
from rtmp_twisted.cluster.store import BATCH, Place, Start, Store
from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.redis_connection import RedisAddress
from tests.support.fakes import Log, reactor, until
from tests.support.redis_server import RedisServer

PASSWORD = "hunter2-the-password"


class StoreCase(TestCase):
    timeout = 120

    async def server(self, **options: Any) -> RedisServer:
        server = RedisServer(**options)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.dispose()))
        await server.start()
        return server

    async def store(self, server: RedisServer, node: str, **address: Any) -> Store:
        store = Store(reactor, Random(1), RedisAddress("127.0.0.1", server.port, **address), "rtmp", node)
        store.startService()
        self.addCleanup(store.stopService)
        await until(lambda: store.connected, "the connection")
        return store

    async def claim(self, store: Store, channel: str = "tv", start: Start | None = None) -> int:
        """The epoch of a claim that succeeds."""
        epoch = await store.next_epoch(channel)
        self.assertIsNone(await store.claim(place(store, channel, epoch), 0, False, start))
        return epoch


def place(store: Store, channel: str, epoch: int) -> Place:
    return Place(channel, store.node, epoch, f"rtmp://{store.node}", "digest", False, "sealed")


def life(server: RedisServer, key: str) -> int:
    """Milliseconds that a key still has; -1 for ever, -2 where it is not there."""
    return int(server.ask([b"PTTL", key.encode()]).removeprefix(":"))


class PlaceTests(StoreCase):
    async def test_claim(self) -> None:
        server = await self.server()
        one, two = await self.store(server, "one"), await self.store(server, "two")
        epoch = await self.claim(one)
        self.assertEqual(await two.locate(["tv", "radio"]), {"tv": place(one, "tv", epoch), "radio": None})
        later = await two.next_epoch("tv")
        self.assertEqual(await two.claim(place(two, "tv", later), 0, False), place(one, "tv", epoch))
        self.assertTrue(5000 < life(server, "rtmp:ch:tv") <= 6000)
        self.assertTrue(86_000_000 < life(server, "rtmp:epoch:tv") <= 86_400_000)
        self.assertGreater(await self.claim(one), epoch)  # a node may replace its own

    async def test_release_is_the_holders(self) -> None:
        server = await self.server()
        one, two = await self.store(server, "one"), await self.store(server, "two")
        epoch = await self.claim(one)
        self.assertFalse(await two.release("tv", epoch))
        self.assertFalse(await one.release("tv", epoch + 1))
        self.assertFalse(await one.release("tv", epoch - 1))
        self.assertTrue(await one.release("tv", epoch))
        self.assertFalse(await one.release("tv", epoch))
        self.assertEqual(await one.locate(["tv"]), {"tv": None})
        self.assertGreater(await self.claim(two), epoch)

    async def test_refresh_checks_node_and_epoch(self) -> None:
        server = await self.server()
        one, two = await self.store(server, "one"), await self.store(server, "two")
        epoch = await self.claim(one)
        server.ask([b"PEXPIRE", b"rtmp:ch:tv", b"3000"])
        self.assertEqual(await two.refresh([("tv", epoch - 1)]), {"tv": True})
        self.assertEqual(await two.refresh([("tv", epoch)]), {"tv": True})
        self.assertEqual(await one.refresh([("tv", epoch - 1)]), {"tv": True})
        self.assertEqual(await one.refresh([("tv", epoch + 1)]), {"tv": False})
        self.assertLessEqual(life(server, "rtmp:ch:tv"), 3000)
        self.assertEqual(await one.refresh([("tv", epoch)]), {})
        self.assertGreater(life(server, "rtmp:ch:tv"), 5000)

    async def test_emptied(self) -> None:
        """A claim comes back, and so does its number: the later epoch wins, whoever is first."""
        server = await self.server()
        one, two = await self.store(server, "one"), await self.store(server, "two")
        for _ in range(3):
            epoch = await self.claim(one)
        server.ask([b"FLUSHALL"])
        self.assertEqual(await one.refresh([("tv", epoch)]), {"tv": False})
        low = await self.claim(two)
        self.assertLess(low, epoch)
        self.assertIsNone(await one.claim(place(one, "tv", epoch), 0, True))
        self.assertEqual(await two.refresh([("tv", low)]), {"tv": True})
        self.assertEqual(await two.claim(place(two, "tv", low), 0, True), place(one, "tv", epoch))
        self.assertEqual(await two.next_epoch("tv"), epoch + 1)

    async def test_refresh_keeps_the_counter(self) -> None:
        server = await self.server()
        one = await self.store(server, "one")
        epoch = await self.claim(one)
        server.ask([b"SET", b"rtmp:epoch:tv", b"0"])
        self.assertEqual(await one.refresh([("tv", epoch)]), {})
        self.assertTrue(life(server, "rtmp:epoch:tv") > 86_000_000)
        self.assertEqual(await one.next_epoch("tv"), epoch + 1)

    async def test_any_name(self) -> None:
        server = await self.server()
        one = await self.store(server, "one")
        for channel in ["", "a:b", "ünï code\r\n", "\x00", "{tv}", "\udc80"]:
            epoch = await self.claim(one, channel)
            self.assertEqual(await one.locate([channel]), {channel: place(one, channel, epoch)})
            self.assertEqual(await one.refresh([(channel, epoch)]), {})

    async def test_junk_in_redis(self) -> None:
        server = await self.server()
        one = await self.store(server, "one")
        server.ask([b"HSET", b"rtmp:ch:tv", b"node", b"x"])
        with self.assertRaises(PeerError):
            await one.locate(["tv"])
        server.ask([b"SET", b"rtmp:ch:radio", b"x"])
        with self.assertRaises(PeerError):
            await one.locate(["radio"])
        self.assertTrue(one.connected)


class StartTests(StoreCase):
    def start(self, store: Store, number: int = 1) -> Start:
        return Start(f"{store.node}-{number}", store.node, "tv", 1, "192.0.2.1", "sealed")

    async def test_told_by_its_node(self) -> None:
        server = await self.server()
        one, two = await self.store(server, "one"), await self.store(server, "two")
        await one.beat({})
        start = self.start(one)
        taken = evolve(start, node="two")
        await self.claim(one, start=start)
        self.assertEqual(life(server, "rtmp:publish:one-1"), -1)
        self.assertEqual(await two.take_orphans(), [])
        self.assertTrue(await one.owns(start))
        self.assertFalse(await two.owns(taken))
        self.assertFalse(await two.forget(taken))
        self.assertTrue(await one.forget(start))
        self.assertEqual(life(server, "rtmp:publish:one-1"), -2)
        self.assertFalse(await one.forget(start))

    async def test_dead(self) -> None:
        """One of those that live gets each start, and the dead one, should it come back, has none."""
        server = await self.server()
        one, two, three = [await self.store(server, node) for node in ("one", "two", "three")]
        for store in one, two, three:
            await store.beat({})
        for number in range(150):
            await self.claim(one, f"tv{number}", self.start(one, number))
        server.ask([b"DEL", b"rtmp:node:one"])
        took = [await two.take_orphans(), await three.take_orphans(), await two.take_orphans()]
        self.assertEqual([len(starts) for starts in took], [100, 50, 0])
        self.assertEqual(len({start.id for starts in took for start in starts}), 150)
        self.assertEqual(took[0][0].sealed, "sealed")
        self.assertFalse(await one.beat({}))
        start = self.start(one)
        self.assertFalse(await one.owns(start))
        with self.assertRaises(PeerError):
            await self.claim(one, start=self.start(one, 151))
        first = took[0][0]
        self.assertTrue(await two.owns(first))
        self.assertFalse(await three.owns(evolve(first, node="three")))
        one.node = "one.1"  # it begins anew, and what it had is not its own to tell, also where that was told long ago
        for known in True, False:
            self.assertFalse(await one.owns(evolve(first, node="one")), known)
            await two.forget(first)
        server.ask([b"DEL", b"rtmp:node:two"])  # the survivor dies as well, before it has told them
        again = await three.take_orphans()
        self.assertEqual({start.id for start in again}, {start.id for start in took[0][1:]})

    async def test_before_the_first_beat(self) -> None:
        server = await self.server()
        one, two = await self.store(server, "one"), await self.store(server, "two")
        await self.claim(one, start=self.start(one))
        self.assertEqual(await two.take_orphans(), [])

    async def test_nobody_knows(self) -> None:
        """Redis was emptied: it is the node's own to tell."""
        server = await self.server()
        one = await self.store(server, "one")
        await one.beat({})
        await self.claim(one, start=self.start(one))
        server.ask([b"FLUSHALL"])
        self.assertTrue(await one.owns(self.start(one)))


class NodeTests(StoreCase):
    async def test_come_and_go(self) -> None:
        server = await self.server()
        one, two = await self.store(server, "one"), await self.store(server, "two")
        self.assertTrue(await one.beat({"address": "rtmp://one", "draining": False}))
        self.assertTrue(await two.beat({"address": "rtmp://two"}))
        self.assertTrue(5000 < life(server, "rtmp:node:one") <= 6000)
        self.assertEqual((await two.nodes())["one"], {"address": "rtmp://one", "draining": False})
        await one.leave()
        self.assertEqual(list(await two.nodes()), ["two"])


class ConnectionTests(StoreCase):
    async def test_no_answer(self) -> None:
        self.patch(module, "COMMAND_SECONDS", 0.1)
        server = await self.server()
        one = await self.store(server, "one")
        server.ask([b"CLIENT", b"PAUSE", b"60000"])
        with self.assertRaises(PeerError) as caught:
            await one.next_epoch("tv")
        self.assertIn("no answer within", str(caught.exception))
        self.assertFalse(one.connected)
        with self.assertRaises(PeerError):
            await one.next_epoch("tv")

    async def test_replica(self) -> None:
        """After a fail-over the name may lead elsewhere: it connects anew."""
        server, other = await self.server(), await self.server()
        one = await self.store(server, "one")
        server.ask([b"REPLICAOF", b"127.0.0.1", str(other.port).encode()])
        with self.assertRaises(PeerError):
            await one.next_epoch("tv")
        await until(lambda: one.losses == 1, "the loss")
        self.assertIn("replica", one.last_problem)

    async def test_acl_user(self) -> None:
        """A user that may do what is done, on keys of the prefix, and nothing else."""
        commands = (
            "+eval +evalsha +ping +publish +subscribe +hmget +hgetall +hget +hset +del +set +get +pexpire +expire"
            " +incr +sadd +srem +spop +smembers +exists"
        )
        log = Log(self)
        rules = f"robot on >{PASSWORD} ~rtmp:* &rtmp:events -@all {commands}"
        server = await self.server(options={"user": rules})
        one = await self.store(server, "one", username="robot", password=PASSWORD)
        await one.beat({})
        start = Start("one-1", "one", "tv", 1, "", "sealed")
        epoch = await self.claim(one, start=start)
        self.assertEqual(await one.refresh([("tv", epoch)]), {})
        self.assertEqual(await one.take_orphans(), [])
        self.assertTrue(await one.owns(start))
        self.assertTrue(await one.forget(start))
        self.assertEqual(list(await one.nodes()), ["one"])
        self.assertTrue(await one.release("tv", epoch))
        await one.leave()
        self.assertNotIn(PASSWORD, log.everything())


class CostTests(StoreCase):
    async def commands(self, server: RedisServer) -> int:
        """Commands that Redis has executed for clients, without those of scripts."""
        return int(server.ask([b"EVAL", CALLS, b"0"]).removeprefix(":"))

    async def test_refresh(self) -> None:
        """One script for each 250 channels, however many there are; none of them waits for another."""
        server = await self.server()
        one = await self.store(server, "one")
        channels = [f"channel-{number}" for number in range(BATCH * 2 + 1)]
        for channel in channels:
            self.assertIsNone(await one.claim(place(one, channel, 1), 0, False))
        await one.refresh([(channels[0], 1)])  # from now on the script has a name
        for count, scripts in [(1, 1), (BATCH, 1), (BATCH + 1, 2), (len(channels), 3)]:
            before, calls = one.commands, await self.commands(server)
            self.assertEqual(await one.refresh([(channel, 1) for channel in channels[:count]]), {})
            self.assertEqual(one.commands - before, scripts)
            self.assertEqual(await self.commands(server) - calls, scripts)
            self.assertEqual(len(await one.locate(channels[:count])), count)
        used = server.ask([b"EVAL", USED, b"0"]).split()
        self.assertIn("pexpire", used)
        self.assertFalse({"keys", "scan", "sscan", "hscan"} & set(used))


USED = b"""
local used = {}
for name in string.gmatch(redis.call('INFO', 'commandstats'), 'cmdstat_([^:]+):') do used[#used + 1] = name end
return {ok = table.concat(used, ' ')}
"""
CALLS = b"""
return tonumber(string.match(redis.call('INFO', 'commandstats'), 'cmdstat_evalsha:calls=(%d+)') or '0')
"""
