"""A node with two workers is one node: what is published on either of them, what both play of other nodes, and what
becomes of it when a worker, or all of the node, dies or hangs. Connections go to the workers in turn."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from twisted.internet.task import deferLater

from tests.cluster.test_nodes import Encoder, NodesCase, numbers
from tests.support.certificates import Authority
from tests.support.fakes import reactor, until, within
from tests.support.programs import Server, free_port
from tests.support.rtmp_client import avc, codes


class NodeOfWorkersTests(NodesCase):
    async def both(self, **settings: str) -> tuple[Server, Server]:
        """A node with two workers, and one that is a single process."""
        settings = {"publish_return_seconds": "20", **settings}
        many = await self.node(workers="2", **settings)
        for number in 1, 2:
            await many.until(rf" worker {number} is ready")
        return many, await self.node(workers="1", **settings)

    async def pulled(self, viewers: int) -> dict[str, int]:
        """What the nodes say of their pulls, by address, when all of these viewers are counted."""
        for _ in range(100):
            nodes = (await self.get(0, "/api/v1/nodes"))["nodes"]
            if sum(node["players"] for node in nodes) == viewers:
                return {node["address"]: node["pulling"] for node in nodes}
            await deferLater(reactor, 0.1, lambda: None)
        raise AssertionError(nodes)

    async def test_one_pull_for_all_workers(self) -> None:
        """Players on both workers wait for what another node has, which feeds this node once."""
        many, single = await self.both()
        waiting = [await self.player(many) for _ in range(2)]
        strangers = [await self.player(many, "another") for _ in range(2)]
        encoder = await self.encoder(single)
        for player in waiting:
            await self.see(player, 1)
        for stranger in strangers:
            await within(stranger.lost)
            self.assertEqual(numbers(stranger), [])
        joined = [await self.player(many) for _ in range(2)]
        for player in joined:
            await self.see(player, 1)
        for _ in range(2):
            with self.assertRaises(AssertionError):
                await self.player(many, "another")
        self.check(*waiting, *joined)
        addresses = [f"rtmp://127.0.0.1:{node.port}" for node in (many, single)]
        self.assertEqual(await self.pulled(4), {addresses[0]: 1, addresses[1]: 0})
        self.assertEqual(sum('playing channel "tv"' in line for line in single.lines), 1)
        # The worker that pulls it for both dies: the other one does so from there on.
        os.kill(many.workers[1], signal.SIGKILL)
        await within(waiting[0].lost)
        newest = numbers(waiting[1])[-1][1]
        await until(lambda: numbers(waiting[1])[-1][1] > newest + 10, "what comes over the other pull")
        times = [one.timestamp for one in waiting[1].media()]
        self.assertEqual(times, sorted(times))
        self.assertNotIn("NetStream.Play.UnpublishNotify", codes(waiting[1].received))
        assert encoder.on_air is not None
        self.assertFalse(encoder.on_air.closed)
        self.assertEqual((self.events("start"), self.events("stop")), (1, 0))

    async def test_published_on_either_worker(self) -> None:
        """It is played from the other worker and from the other node, and a worker's death ends it once."""
        many, single = await self.both()
        here = [await self.player(many) for _ in range(2)]  # one on each worker
        there = await self.player(single)
        encoder = await self.encoder(many)  # on worker 1
        for player in [*here, there]:
            await self.see(player, 1)
        self.assertIn("live publisher", await self.refused(single))
        os.kill(many.workers[1], signal.SIGKILL)
        await until(lambda: here[0].closed and self.events("stop") == 1, "the end")
        began = reactor.seconds()
        await encoder.publish(many)  # worker 2: the other one is not there yet, or has as few
        self.assertLess(reactor.seconds() - began, 3)
        for player in here[1], there:
            await self.see(player, 2)
        await encoder.publish_elsewhere(single)
        for player in here[1], there:
            await self.see(player, 3)
        self.check(here[1], there)
        self.assertEqual((self.events("start"), self.events("stop")), (3, 2))
        log = "\n".join(str(node) for node in self.nodes)
        self.assertNotIn("hunter2", log)
        self.assertNotIn("token=", log)
        self.assertNotIn("Traceback", log)

    async def test_tls(self) -> None:
        """Another node's pull over TLS stays with the worker that it has reached, which has the channel pulled from the
        other worker for it."""
        authority = Authority(Path(self.mktemp()).absolute())
        issued = authority.issue("127.0.0.1")
        files = {
            "ssl_cert": str(issued.certificate),
            "ssl_key": str(issued.key),
            "relay_tls_ca": str(authority.certificate),
        }
        ports = [free_port() for _ in range(2)]
        many, single = [
            await self.node(
                workers=workers,
                ssl_port=str(port),
                cluster_address=f"rtmps://127.0.0.1:{port}",
                log_debug="YES",
                **files,
            )
            for workers, port in zip("21", ports, strict=True)
        ]
        for number in 1, 2:
            await many.until(rf" worker {number} is ready")
        await self.encoder(many)  # on worker 1, which so has more to do than worker 2
        viewer = await self.player(single)
        await self.see(viewer, 1)
        self.check(viewer)
        self.assertTrue(any(" w2 " in line and 'channel "tv"' in line for line in many.lines))

    async def refused(self, node: Server) -> str:
        """Why an encoder with the right key may not publish."""
        before = len(node.lines)
        encoder = Encoder()
        with self.assertRaises(AssertionError):
            await encoder.once(node)

        def said() -> list[str]:
            return [line for line in node.lines[before:] if "refused" in line]

        await until(said, "the refusal in the log")
        return said()[0]

    async def test_taken_over(self) -> None:
        """A publisher that is silent makes room for one with its key: on another node, and on a worker of this one."""
        many, single = await self.both(publish_takeover_seconds="1")
        viewers = [await self.player(many), await self.player(many), await self.player(single)]
        for publish, node in enumerate((many, single, many, many), 1):
            encoder = Encoder()
            encoder.publishes = publish - 1
            await encoder.publish(node)
            self.addCleanup(encoder.abort)
            for _ in range(5):
                encoder.frame()
            for player in viewers:
                await until(lambda p=player, n=publish: (n, 4) in numbers(p), f"publish {publish}")  # type: ignore[misc]
        self.check(*viewers)
        await until(lambda: self.events("stop") == 3, "the ends")
        self.assertEqual(self.events("start"), 4)

    async def test_node_killed(self) -> None:
        """All of it dies: its encoder is on air elsewhere within 8 s, and the end is told once."""
        many, single = await self.both()
        encoder = await self.encoder(many)
        moved = await self.player(single)
        await self.see(moved, 1)
        # A node tells the ends of others when it has known Redis for a while.
        await deferLater(reactor, 10, lambda: None)
        many.signal(signal.SIGKILL)
        began = reactor.seconds()
        await encoder.publish(single)
        self.assertLess(reactor.seconds() - began, 8)
        await self.see(moved, 2)
        await until(lambda: self.events("stop") == 1, "the end")
        self.check(moved)
        self.assertEqual((self.events("start"), self.events("stop")), (2, 1))

    async def test_node_paused(self) -> None:
        """All of it hangs, and wakes up: its viewers go on with what has been published elsewhere, and see nothing old
        of it."""
        many, single = await self.both()
        here = [await self.player(many) for _ in range(2)]
        encoder = await self.encoder(many)
        for player in here:
            await self.see(player, 1)
        there = await self.player(single)
        await self.see(there, 1)
        many.signal_all(signal.SIGSTOP)
        old = encoder.on_air
        assert old is not None
        encoder.on_air = None
        for number in range(20):
            old.send(avc(encoder.number * 50 + 1 + number, number == 0, b"1:%d;" % (encoder.number + number)))
        await encoder.publish(single)
        await self.see(there, 2)
        many.signal_all(signal.SIGCONT)
        old.send(avc(encoder.number * 50 + 1, True, b"1:%d;" % encoder.number))
        returned = [await self.player(many) for _ in range(2)]
        for player in [*here, *returned]:
            await self.see(player, 2)
        self.check(*here, *returned, there)
        for player in returned:
            self.assertEqual({publish for publish, _ in numbers(player)}, {2})
        await until(lambda: self.events("stop") == 1, "the end")
