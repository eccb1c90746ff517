"""Three nodes (the first of them with two workers), Redis and an application, of which each is killed, paused or
emptied while encoders publish and viewers play; and what every viewer saw and what the application heard is checked.
./tools/cluster runs it.

An encoder numbers its publishes, and the frames of each, so `check_viewer` knows what may follow what. A viewer that
loses its node goes to another one, and what it sees there belongs to the same history. While a node is paused, its
encoders go elsewhere, but what they have sent to it stays in its sockets; its viewers come back when it wakes up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.server import Request

from rtmp_twisted.wire.messages import Message
from tests.support.fakes import reactor
from tests.support.http_app import Event, HTTPApp
from tests.support.programs import SEARCH_PATH, Case, Server, free_port
from tests.support.redis_server import RedisServer
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, avc, client

SECRET = "the-secret-of-a-cluster-0123456789"
CALLBACK_SECRET = "a secret for callbacks"
KEY = "hunter2"

FRAME_SECONDS = 0.04
GROUP = 10
"""Frames from a keyframe to the next one."""

TELL_SECONDS = 30
"""Within so long after the last fault all ends must have been told."""

NODES = 3

SABOTAGES = {
    "blind-refresh": "a refresh that ignores the epoch",
    "end-twice": "an end that is told twice",
    "end-never": "the end of a dead node's publish is not told",
    "old-frames": "a node that wakes up sends what it has, and asks later",
    "clear-key": "a key in clear in Redis",
    "never-yields": "a holder that never yields",
}

Seen = tuple[int, int, int]
"""A frame as a viewer saw it: number of the publish, of the frame, and its time (ms)."""


def check_viewer(seen: list[Seen]) -> list[str]:
    """What is wrong with the frames of one connection, in words."""
    problems = []
    for before, after in pairwise(seen):
        if after[2] < before[2]:
            problems.append(f"time goes back from {before[2]} to {after[2]} ms")
        if after[:2] <= before[:2]:
            problems.append(f"frame {after[0]}:{after[1]} comes after {before[0]}:{before[1]}")
    return problems


def check_history(connections: list[list[Seen]]) -> list[str]:
    """The same for one viewer that has had several connections. A joiner may see once more what it has seen, from the
    keyframe on, but nothing of an earlier publish."""
    problems, newest = [], 0
    for seen in connections:
        problems += check_viewer(seen)
        old = [one for one in seen if one[0] < newest]
        if old:
            problems.append(f"frame {old[0][0]}:{old[0][1]} after one of publish {newest}, on another node")
        newest = max([newest, *(one[0] for one in seen)])
    return problems


def check_events(accepted: list[str], ended: Counter[str]) -> list[str]:
    """Each accepted start has one end."""
    problems = [f"the end of {id} was told {ended[id]} times" for id in accepted if ended[id] != 1]
    return problems + [f"an end of {id}, which was not accepted" for id in ended if id not in set(accepted)]


def read(message: Message) -> Seen | None:
    """The numbers in a frame of `Encoder`'s."""
    text = bytes(message.body).rpartition(b"<")[2].removesuffix(b">").split(b":")
    return (int(text[0]), int(text[1]), message.timestamp) if len(text) == 2 else None


@define(eq=False)
class Encoder:
    """Publishes a channel, to one node after the other."""

    channel: str
    where: Callable[[], Server]
    running: bool = True
    publishes: int = 0
    node: Server | None = None
    on_air: RTMPClient | None = None
    zombies: list[tuple[RTMPClient, int, int]] = field(factory=list)
    """Connections to paused nodes, with the numbers of their publish and of its last frame."""
    number: int = 0
    waits: list[float] = field(factory=list)
    """Seconds from each loss to the next acceptance."""
    sent: set[tuple[int, int]] = field(factory=set)
    """Numbers of the publish and of the frame, of what it has sent to a node that was there."""

    async def run(self) -> None:
        lost_at = reactor.seconds()
        while self.running:
            if self.on_air is None or self.on_air.closed:
                node = self.where()
                one = await connect(node)
                if one is None:
                    await deferLater(reactor, 0.1, lambda: None)
                    continue
                try:
                    await one.open(self.channel)
                    await one.publish(KEY)
                except AssertionError:
                    one.transport.abortConnection()
                    await deferLater(reactor, 0.1, lambda: None)
                    continue
                self.on_air, self.node, self.number = one, node, 0
                self.publishes += 1
                self.waits.append(reactor.seconds() - lost_at)
                one.send(AVC_HEADER)
            self._frame(self.on_air, self.publishes, self.number)
            self.sent.add((self.publishes, self.number))
            self.number += 1
            await deferLater(reactor, FRAME_SECONDS, lambda: None)
            lost_at = reactor.seconds()

    def _frame(self, one: RTMPClient, publish: int, number: int) -> None:
        text = b"<%d:%d>" % (publish, number)
        one.send(avc(number * int(FRAME_SECONDS * 1000), number % GROUP == 0, text))

    def abandon(self) -> None:
        """Its node hangs: it goes elsewhere. What it has sent is in the node's socket."""
        one = self.on_air
        if one is not None:
            for number in range(GROUP + 1):
                self._frame(one, self.publishes, self.number + number)
            self.zombies.append((one, self.publishes, self.number + GROUP + 1))
            self.on_air = self.node = None

    def wake(self) -> None:
        for one, publish, number in self.zombies:
            if not one.closed:
                first = -(-number // GROUP) * GROUP  # a keyframe
                for more in range(GROUP):
                    self._frame(one, publish, first + more)
        self.zombies = []

    def stop(self) -> None:
        self.running = False
        for one in [self.on_air, *(zombie[0] for zombie in self.zombies)]:
            if one is not None and not one.closed:
                one.transport.abortConnection()


@define(eq=False)
class Viewer:
    """Plays a channel, on one node after the other. ``connections`` is what it saw on each."""

    channel: str
    where: Callable[[], Server]
    running: bool = True
    node: Server | None = None
    playing: RTMPClient | None = None
    connections: list[list[Seen]] = field(factory=list)
    make: Callable[[], RTMPClient] = RTMPClient
    made: list[RTMPClient] = field(factory=list)
    """All its connections that were accepted."""

    async def run(self) -> None:
        while self.running:
            if self.playing is None or self.playing.closed:
                self._keep()
                self.node = self.where()
                one = await connect(self.node, self.make)
                if one is None:
                    await deferLater(reactor, 0.1, lambda: None)
                    continue
                try:
                    await one.open(self.channel)
                    await one.play(KEY)
                    self.playing = one
                    self.made.append(one)
                except AssertionError:
                    one.transport.abortConnection()
            await deferLater(reactor, 0.02, lambda: None)

    def _keep(self) -> None:
        playing, self.playing = self.playing, None
        if playing is not None:
            self.connections.append([seen for seen in map(read, playing.media()) if seen is not None])

    def go(self) -> None:
        """Leaves its node."""
        if self.playing is not None and not self.playing.closed:
            self.playing.transport.abortConnection()

    def stop(self) -> None:
        self.running = False
        self.go()
        self._keep()


async def connect(node: Server, make: Callable[[], RTMPClient] = RTMPClient) -> RTMPClient | None:
    try:
        return await client(node.port, node.host, make)
    except Exception:
        return None


@define(eq=False)
class Outcome:
    acts: Counter[str] = field(factory=Counter)
    problems: list[str] = field(factory=list)
    frames: int = 0
    starts: int = 0
    waits: list[float] = field(factory=list)


class Chaos:
    """``case`` ends what was started; ``say`` gets a line for each act. ``sabotage`` is a word of `SABOTAGES`."""

    def __init__(self, case: Case, seed: int, say: Callable[[str], None], sabotage: str = "") -> None:
        self.random = Random(seed)
        self.outcome = Outcome()
        self._case = case
        self._say = say
        self._sabotage = sabotage
        self._redis = RedisServer()
        self._app = HTTPApp(CALLBACK_SECRET)
        self._accepted: list[str] = []
        self._ended: Counter[str] = Counter()
        self._nodes: list[Server] = []
        self._paused: set[Server] = set()
        self._dead: set[Server] = set()
        self._encoders: list[Encoder] = []
        self._viewers: list[Viewer] = []

    async def start(self, channels: int, viewers: int) -> None:
        await self._redis.start()
        self._case.addCleanup(lambda: Deferred.fromCoroutine(self._redis.dispose()))
        self._app.answer = self._answer
        self._app.listen()
        self._case.addCleanup(self._app.stop)
        for number in range(NODES):
            self._nodes.append(await self._node(free_port(), workers=2 if number == 0 else 1))
        for number in range(channels):
            self._encoders.append(Encoder(f"channel-{number}", self._somewhere))
        for number in range(viewers):
            self._viewers.append(Viewer(f"channel-{number % channels}", self._somewhere))
        for one in self._clients():
            Deferred.fromCoroutine(one.run()).addErrback(self._bug)
        # A node tells the ends of others when it has known Redis for 10 s.
        await deferLater(reactor, 11, lambda: None)

    def acts(self) -> dict[str, Callable[[], object]]:
        return {
            "kill": self._kill,
            "pause": self._pause,
            "redis-restart": self._restart_redis,
            "redis-emptied": self._empty_redis,
            "encoder": self._cut_encoder,
            "viewers": self._move_viewers,
        }

    async def act(self, name: str) -> None:
        self._say(name)
        self.outcome.acts[name] += 1
        await self.acts()[name]()  # type: ignore[misc]

    async def finish(self) -> Outcome:
        """Everything comes to its end, and is checked."""
        await deferLater(reactor, 3, lambda: None)
        for one in self._clients():
            one.stop()
        deadline = reactor.seconds() + TELL_SECONDS
        while reactor.seconds() < deadline and len(self._ended) < len(self._accepted):
            await deferLater(reactor, 0.1, lambda: None)
        await deferLater(reactor, 2.5, lambda: None)  # for those that are told once more
        problems = self.outcome.problems
        problems += check_events(self._accepted, self._ended)
        for number, viewer in enumerate(self._viewers):
            problems += [f"viewer {number}: {problem}" for problem in check_history(viewer.connections)]
            seen = sum(map(len, viewer.connections))
            self.outcome.frames += seen
            if not seen:
                problems.append(f"viewer {number} has seen nothing")
        for node in self._nodes:
            problems += [line for line in node.lines if "bug" in line or KEY in line or "Traceback" in line]
        self.outcome.starts = len(self._accepted)
        self.outcome.waits = [wait for encoder in self._encoders for wait in encoder.waits[1:]]
        return self.outcome

    # Acts

    async def _kill(self) -> None:
        node = self._holder()
        self._dead.add(node)
        node.signal(signal.SIGKILL)
        await node.ended
        await deferLater(reactor, 9, lambda: None)
        index = self._nodes.index(node)
        self._nodes[index] = await self._node(node.port, workers=2 if index == 0 else 1)

    async def _pause(self) -> None:
        """Half of its viewers leave it, and come back when it wakes up."""
        node = self._holder()
        held = [encoder for encoder in self._encoders if encoder.node is node]
        channels = {encoder.channel for encoder in held}
        leaving = [viewer for viewer in self._viewers if viewer.channel in channels][::2]
        await self._send(leaving, lambda: node)
        self._paused.add(node)
        node.signal_all(signal.SIGSTOP)
        for encoder in held:
            encoder.abandon()
        await self._send(leaving, self._somewhere)
        await deferLater(reactor, self.random.uniform(2, 11), lambda: None)
        self._paused.discard(node)
        node.signal_all(signal.SIGCONT)
        for encoder in held:
            encoder.wake()
        await self._send(leaving, lambda: node)
        await deferLater(reactor, 2, lambda: None)
        for viewer in leaving:
            viewer.where = self._somewhere

    async def _restart_redis(self) -> None:
        await self._redis.stop()
        await deferLater(reactor, self.random.uniform(0.5, 7), lambda: None)
        await self._redis.start()
        await deferLater(reactor, 3, lambda: None)

    async def _empty_redis(self) -> None:
        self._look_for_keys()
        self._redis.ask([b"FLUSHALL"])
        await deferLater(reactor, 3, lambda: None)

    async def _cut_encoder(self) -> None:
        for encoder in self.random.sample(self._encoders, len(self._encoders) // 2 or 1):
            if encoder.on_air is not None and not encoder.on_air.closed:
                encoder.on_air.transport.abortConnection()
        await deferLater(reactor, 1, lambda: None)

    async def _move_viewers(self) -> None:
        for viewer in self.random.sample(self._viewers, len(self._viewers) // 2 or 1):
            viewer.go()
        await deferLater(reactor, 1, lambda: None)

    # Inside

    async def _node(self, port: int, workers: int) -> Server:
        wrapper = []
        if self._sabotage:
            directory = str(Path(__file__).parent / "sabotage")
            path = os.pathsep.join([directory, SEARCH_PATH])
            wrapper = ["env", f"PYTHONPATH={path}", f"SABOTAGE={self._sabotage}"]
        node = Server(
            self._case,
            *wrapper,
            rtmp_port=str(port),
            workers=str(workers),
            bind_address="127.0.0.1",
            cluster_use="YES",
            cluster_address=f"rtmp://127.0.0.1:{port}",
            cluster_secret=SECRET,
            redis_port=str(self._redis.port),
            callback_url=self._app.url,
            jwt_secret=CALLBACK_SECRET,
            publish_return_seconds="20",
        )
        await node.up()
        return node

    def _holder(self) -> Server:
        """A node that somebody publishes to."""
        holders = {encoder.node for encoder in self._encoders if encoder.on_air is not None}
        return self.random.choice([node for node in self._nodes if node in holders] or self._nodes)

    async def _send(self, viewers: list[Viewer], where: Callable[[], Server]) -> None:
        for viewer in viewers:
            viewer.where = where
            viewer.go()
        await deferLater(reactor, 1, lambda: None)

    def _clients(self) -> list[Encoder | Viewer]:
        return [*self._encoders, *self._viewers]

    def _somewhere(self) -> Server:
        """What a balancer would choose."""
        alive = [node for node in self._nodes if node not in self._paused and node not in self._dead]
        return self.random.choice(alive or self._nodes)

    def _answer(self, request: Request, event: Event) -> bytes:
        if event.name == "start":
            id = f"stream-{len(self._accepted)}"
            self._accepted.append(id)
            request.setHeader(b"stream-id", id.encode())
        else:
            self._ended[str(event.claims["stream_id"])] += 1
        return b""

    def _look_for_keys(self) -> None:
        held = self._redis.ask([b"EVAL", DUMP, b"0"])
        if KEY in held:
            self.outcome.problems.append("Redis has a key in clear")
        if "rtmp:publish:" not in held:
            self.outcome.problems.append("Redis knows of no accepted start")

    def _bug(self, failure: object) -> None:
        self.outcome.problems.append(f"a bug in this test: {failure}")


async def run(case: Case, seconds: float, seed: int, say: Callable[[str], None], sabotage: str = "") -> Outcome:
    """Faults of all kinds, one after the other, for about so long; each of them at least once."""
    chaos = Chaos(case, seed, say, sabotage)
    await chaos.start(channels=4, viewers=12)
    names = list(chaos.acts())
    deadline = reactor.seconds() + seconds
    while True:
        chaos.random.shuffle(names)
        for name in names:
            await chaos.act(name)
        if reactor.seconds() >= deadline:
            return await chaos.finish()


async def run_acts(case: Case, acts: list[str], seed: int, say: Callable[[str], None], sabotage: str = "") -> Outcome:
    """These faults, with few encoders and viewers."""
    chaos = Chaos(case, seed, say, sabotage)
    await chaos.start(channels=2, viewers=6)
    for name in acts:
        await chaos.act(name)
    return await chaos.finish()


DUMP = b"""
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = key
  local kind = redis.call('TYPE', key).ok
  local value = kind == 'hash' and redis.call('HGETALL', key) or kind == 'set' and redis.call('SMEMBERS', key)
  found[#found + 1] = cjson.encode(value or redis.call('GET', key))
end
return {ok = string.gsub(table.concat(found, ' '), '[\\r\\n]', ' ')}
"""
"""All that Redis holds, on one line."""
