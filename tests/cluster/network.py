"""Three nodes, each in a network namespace of its own, joined by cables that can be cut; and what each fault of the
cluster's table costs. ./tools/cluster --namespaces prints it, test_network.py checks it.

Redis, the application, the encoder and the viewers are in a fourth namespace, the hub. From there one cable goes to
each node for clients, and one for Redis and the application. One more cable joins every two nodes. The first node has
two workers. An encoder publishes 25 frames a second to it; one viewer plays there, and one on the second node. A client
whose connection is lost goes to the next node that lives.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import combinations, pairwise

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.server import Request

from rtmp_twisted.wire.messages import Message
from tests.cluster.chaos import CALLBACK_SECRET, SECRET, Encoder, Viewer, check_events, read
from tests.support.fakes import reactor, until
from tests.support.http_app import Event, HTTPApp
from tests.support.network import Cable, Namespace, ip
from tests.support.programs import Case, Server
from tests.support.redis_server import RedisServer
from tests.support.rtmp_client import RTMPClient

PORT = 1935
SETTLED_SECONDS = 11.0
"""A node tells the ends of others when it has known Redis for 10 s."""

FAULTS = {
    "node-dies": "the encoder's node dies (SIGKILL)",
    "node-hangs": "the encoder's node hangs for 10 s, and wakes up",
    "redis-lost": "Redis is lost for 10 s",
    "redis-emptied": "Redis is emptied",
    "nodes-cut": "the network between the encoder's node and another one breaks for 5 s",
    "redis-cut": "the encoder's node cannot reach Redis for 12 s",
    "worker-dies": "the encoder's worker dies (SIGKILL)",
    "node-stops": "the encoder's node is stopped (SIGTERM)",
}


class TimedClient(RTMPClient):
    """Knows when each frame has come."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[tuple[float, int, int]] = []
        """When, number of the publish, number of the frame."""

    def receive(self, message: Message) -> None:
        seen = read(message)
        if seen is not None:
            self.came.append((reactor.seconds(), *seen[:2]))
        super().receive(message)


@define(eq=False)
class Cost:
    """What a fault has cost. Times in seconds; None: the encoder was not disturbed. ``waited`` is the longest time
    between two frames, of a viewer on the encoder's node and of one on another node; ``lost`` how many of the frames
    that a node had accepted such a viewer has not seen; ``closed`` whether it was disconnected."""

    fault: str
    encoder: float | None
    waited: tuple[float, float]
    lost: tuple[int, int]
    closed: tuple[bool, bool]
    problems: list[str] = field(factory=list)

    def __str__(self) -> str:
        off = "stayed on air" if self.encoder is None else f"on air after {self.encoder:.1f} s"
        here, there = [
            f"{waited:.1f} s, {lost} frames lost{', disconnected' if closed else ''}"
            for waited, lost, closed in zip(self.waited, self.lost, self.closed, strict=True)
        ]
        return f"{FAULTS[self.fault]}: encoder {off}; viewer there {here}; viewer elsewhere {there}"


class Lab:
    """``case`` ends what was started. Raises SkipTest where the system has no network namespaces."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._hub = Namespace(case)  # type: ignore[arg-type]
        inside = self._hub.entered()
        inside.__enter__()
        case.addCleanup(inside.__exit__, None, None, None)
        self._spaces = [Namespace(case) for _ in range(3)]  # type: ignore[arg-type]
        self.clients = [self._cable(self._hub, space, number) for number, space in enumerate(self._spaces, 1)]
        self.stores = [self._cable(self._hub, space, number) for number, space in enumerate(self._spaces, 11)]
        self.between: dict[tuple[int, int], Cable] = {}
        for number, space in enumerate(self._spaces):
            ip("-n", space.name, "address", "add", f"10.94.0.{number + 1}/32", "dev", "lo")
        for number, (one, other) in enumerate(combinations(range(3), 2), 101):
            self.between[one, other] = self._cable(self._spaces[one], self._spaces[other], number)
            for near, far in (one, other), (other, one):
                route = "route", "add", f"10.94.0.{far + 1}", "dev", f"cable{number}"
                ip("-n", self._spaces[near].name, *route)
        self.redis = RedisServer(options={"bind": "0.0.0.0", "protected-mode": "no"})
        self.app = HTTPApp(CALLBACK_SECRET)
        self.accepted: list[str] = []
        self.ended: list[str] = []
        self.nodes: list[Server] = []
        self._away: set[Server] = set()  # where no client goes

    def _cable(self, near: Namespace, far: Namespace, number: int) -> Cable:
        return Cable(self._case, near, far, number)  # type: ignore[arg-type]

    async def start(self) -> None:
        await self.redis.start()
        self._case.addCleanup(lambda: Deferred.fromCoroutine(self.redis.dispose()))
        self.app.answer = self._answer
        self.app.listen(interface="")
        self._case.addCleanup(self.app.stop)
        self.nodes = [await self._node(number) for number in range(3)]
        await deferLater(reactor, SETTLED_SECONDS, lambda: None)

    async def repair(self) -> None:
        """What is gone comes back."""
        self._away = set()
        if self.nodes[0].ended.called:
            self.nodes[0] = await self._node(0)
        await deferLater(reactor, SETTLED_SECONDS, lambda: None)

    async def _node(self, number: int) -> Server:
        hub = self.stores[number].near
        node = Server(
            self._case,
            *self._spaces[number].command,
            rtmp_port=str(PORT),
            bind_address="0.0.0.0",
            workers="2" if number == 0 else "1",
            cluster_use="YES",
            cluster_address=f"rtmp://10.94.0.{number + 1}:{PORT}",
            cluster_secret=SECRET,
            redis_host=hub,
            redis_port=str(self.redis.port),
            callback_url=f"http://{hub}:{self.app.port}/callback",
            jwt_secret=CALLBACK_SECRET,
            publish_return_seconds="30",
        )
        node.host = self.clients[number].far
        await node.until("connected to Redis.*")
        await node.up()
        return node

    def _answer(self, request: Request, event: Event) -> bytes:
        if event.name == "start":
            id = f"stream-{len(self.accepted)}"
            self.accepted.append(id)
            request.setHeader(b"stream-id", id.encode())
        else:
            self.ended.append(str(event.claims["stream_id"]))
        return b""

    async def measure(self, fault: str) -> Cost:
        """One fault, from a cluster in good order."""
        began = len(self.accepted)
        encoder = Encoder("tv", self._next(0))
        here, there = Viewer("tv", self._next(0), make=TimedClient), Viewer("tv", self._next(1), make=TimedClient)
        for one in encoder, here, there:
            Deferred.fromCoroutine(one.run())
        viewers = here, there
        for viewer in viewers:
            await until(lambda viewer=viewer: len(_came(viewer)) > 20, "the first frames")  # type: ignore[misc]
        first = [viewer.playing for viewer in viewers]
        now = reactor.seconds()
        await self._do(fault, encoder)
        publishes = encoder.publishes
        for viewer in viewers:
            await until(partial(_sees, viewer, publishes), f"what comes behind the fault ({fault})")
        await deferLater(reactor, 0.5, lambda: None)
        closed = [viewer.playing is not playing for viewer, playing in zip(viewers, first, strict=True)]
        waits = encoder.waits[1:]
        came = [_came(viewer) for viewer in viewers]
        waited = [max(b[0] - a[0] for a, b in pairwise(one) if b[0] > now) for one in came]
        lost = [_lost(one, encoder) for one in came]
        for one in encoder, *viewers:
            one.stop()
        await until(lambda: len(self.ended) >= len(self.accepted), "the ends")
        await deferLater(reactor, 2.5, lambda: None)  # for those that are told once more
        problems = check_events(self.accepted[began:], Counter(self.ended[began:]))
        wait = max(waits) if waits else None
        return Cost(fault, wait, (waited[0], waited[1]), (lost[0], lost[1]), (closed[0], closed[1]), problems)

    def _next(self, first: int) -> Callable[[], Server]:
        """Where a client goes: to a node, and to the next one that lives, for good, when that does not work."""

        def where() -> Server:
            alive = [node for node in (*self.nodes[first:], *self.nodes[:first]) if node not in self._away]
            return alive[0]

        return where

    # The faults

    async def _do(self, fault: str, encoder: Encoder) -> None:
        await getattr(self, "_" + fault.replace("-", "_"))(encoder)

    async def _back(self, encoder: Encoder, publishes: int) -> None:
        await until(lambda: encoder.publishes > publishes and encoder.on_air is not None, "the encoder")

    async def _node_dies(self, encoder: Encoder) -> None:
        await self._gone(encoder, signal.SIGKILL)

    async def _node_stops(self, encoder: Encoder) -> None:
        await self._gone(encoder, signal.SIGTERM)

    async def _gone(self, encoder: Encoder, number: int) -> None:
        node, publishes = self.nodes[0], encoder.publishes
        self._away = {node}
        node.signal(number)
        await node.ended
        await self._back(encoder, publishes)

    async def _node_hangs(self, encoder: Encoder) -> None:
        node, publishes = self.nodes[0], encoder.publishes
        self._away = {node}
        node.signal_all(signal.SIGSTOP)
        encoder.abandon()
        await deferLater(reactor, 10, lambda: None)
        node.signal_all(signal.SIGCONT)
        encoder.wake()
        self._away = set()
        await self._back(encoder, publishes)

    async def _redis_lost(self, encoder: Encoder) -> None:
        await self.redis.stop()
        await deferLater(reactor, 10, lambda: None)
        await self.redis.start()
        await deferLater(reactor, 3, lambda: None)

    async def _redis_emptied(self, encoder: Encoder) -> None:
        self.redis.ask([b"FLUSHALL"])
        await deferLater(reactor, 5, lambda: None)

    async def _nodes_cut(self, encoder: Encoder) -> None:
        cable = self.between[0, 1]
        cable.cut = True
        await deferLater(reactor, 5, lambda: None)
        cable.cut = False

    async def _redis_cut(self, encoder: Encoder) -> None:
        publishes, cable = encoder.publishes, self.stores[0]
        cable.cut = True
        await deferLater(reactor, 12, lambda: None)
        cable.cut = False
        await self._back(encoder, publishes)

    async def _worker_dies(self, encoder: Encoder) -> None:
        publishes, node = encoder.publishes, self.nodes[0]
        line = next(line for line in reversed(node.lines) if 'publishing channel "tv"' in line)
        os.kill(node.workers[int(line.partition(" info w")[2][0])], signal.SIGKILL)
        await self._back(encoder, publishes)


def _sees(viewer: Viewer, publish: int) -> bool:
    """Whether a viewer sees this publish now."""
    when, seen, _ = _came(viewer)[-1]
    return seen == publish and when > reactor.seconds() - 0.2


def _came(viewer: Viewer) -> list[tuple[float, int, int]]:
    """All frames that a viewer has seen, over all its connections."""
    return [one for made in viewer.made if isinstance(made, TimedClient) for one in made.came]


def _lost(came: list[tuple[float, int, int]], encoder: Encoder) -> int:
    """How many frames of each publish are missing, between the first and the last of it that were sent."""
    seen = {one[1:] for one in came}
    first = min(seen)
    sent = {one for one in encoder.sent if one >= first and one <= max(seen)}
    return len(sent - seen)


async def measure(case: Case, faults: list[str], say: Callable[[str], object]) -> list[Cost]:
    """Each of these faults in turn. ``say`` gets a line for each."""
    lab = Lab(case)
    await lab.start()
    costs = []
    for fault in faults:
        cost = await lab.measure(fault)
        costs.append(cost)
        say(str(cost))
        await lab.repair()
    return costs
