"""Twenty channels and a thousand players on several workers, each of which is killed in turn. Run by .ci/long."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import LoopingCall, deferLater

from rtmp_twisted.wire.messages import Message
from tests.support.fakes import reactor, until, within
from tests.support.http_app import HTTPApp
from tests.support.programs import free_port
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, avc, client
from tests.workers.case import WorkersCase, alive

SECRET = "a secret for callbacks"
CHANNELS = 20
PLAYERS = 1000
WORKERS = 3
FRAME_SECONDS = 0.2
GROUP = 10
"""Frames from one keyframe to the next."""
WATCHED_SECONDS = 3.0
"""Between two kills."""
BACK_SECONDS = 3.0
"""How long an encoder whose worker was killed may be off the air."""


class Encoder:
    """Publishes numbered frames on a channel, and comes back when it loses its connection, as encoders do.

    ``sent`` has how many frames of each of its publishes it has sent; ``longest`` is the longest time in seconds from a
    loss to the next accepted publish.
    """

    def __init__(self, port: int, channel: str) -> None:
        self.channel = channel
        self.sent: list[int] = []
        self.longest = 0.0
        self._port = port
        self._client: RTMPClient | None = None
        self._ticks = LoopingCall(self._send)
        self._stopped = False

    async def start(self) -> None:
        one = await client(self._port)
        await one.open(self.channel)
        await one.publish()
        self.sent.append(0)
        one.send(AVC_HEADER)
        self._client = one
        one.lost.addCallback(lambda _: self._lost())
        if not self._ticks.running:
            self._ticks.start(FRAME_SECONDS)

    @property
    def on_air(self) -> bool:
        return self._client is not None

    async def stop(self) -> None:
        self._stopped = True
        if self._ticks.running:
            self._ticks.stop()
        if self._client is not None and not self._client.closed:
            self._client.transport.loseConnection()
            await within(self._client.lost)

    def _send(self) -> None:
        if self._client is not None:
            number = self.sent[-1]
            self.sent[-1] += 1
            content = f"{self.channel} {len(self.sent)} {number} ".encode()
            self._client.send(avc(int(number * FRAME_SECONDS * 1000), number % GROUP == 0, content))

    def _lost(self) -> None:
        self._client = None
        if not self._stopped:
            reactor.callLater(0, self._come_back, reactor.seconds())

    def _come_back(self, since: float) -> None:
        def again(_: object) -> None:
            if not self._stopped:
                reactor.callLater(0.2, self._come_back, since)

        def back(_: object) -> None:
            self.longest = max(self.longest, reactor.seconds() - since)

        Deferred.fromCoroutine(self.start()).addCallbacks(back, again)


class Viewer(RTMPClient):
    """Keeps the numbers of its frames only: (publish, frame)."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, int]] = []
        self.channel = ""

    def receive(self, message: Message) -> None:
        super().receive(message)
        if message.type_id == 9 and (found := re.search(rb"(\S+) (\d+) (\d+) $", message.body[5:])):
            assert found[1].decode() == self.channel
            self.frames.append((int(found[2]), int(found[3])))
            self.received.clear()


class CrowdTests(WorkersCase):
    timeout = 300

    async def test_each_worker_killed_in_turn(self) -> None:
        app = HTTPApp(SECRET)
        app.listen()
        self.addCleanup(app.stop)
        settings = {"callback_url": app.url, "jwt_secret": SECRET, "publish_return_seconds": "20"}
        await self.serve(workers=str(WORKERS), **settings)
        await self.server.until(rf" worker {WORKERS} is ready")
        encoders = [Encoder(self.server.port, f"channel{number}") for number in range(CHANNELS)]
        # Those who come before the publish stay where they are; the others are moved to it, while few watch.
        channels = [encoder.channel for encoder in encoders]
        everyone = [await self.viewer(channels[number % 10]) for number in range(PLAYERS // 2)]
        for encoder in encoders:
            self.addCleanup(encoder.stop)
            await encoder.start()
        everyone += [await self.viewer(channels[10 + number % 10]) for number in range(PLAYERS // 2)]
        for worker in range(1, WORKERS + 1):
            await self.all_see(everyone)
            lost = await self.kill(worker, encoders, {viewer for viewer in everyone if not viewer.closed})
            everyone += [await self.viewer(viewer.channel) for viewer in lost]
        await self.all_see(everyone)
        pids = [self.server.pid, *(self.pid(worker) for worker in range(1, WORKERS + 1))]
        for encoder in encoders:
            await encoder.stop()
        sent = {encoder.channel: encoder.sent for encoder in encoders}
        there = [viewer for viewer in everyone if not viewer.closed]
        self.assertEqual(len(there), PLAYERS)
        await until(lambda: all(viewer.frames[-1] == last(sent[viewer.channel]) for viewer in there), "the last frames")
        for viewer in everyone:
            self.check(viewer, sent[viewer.channel])
        await self.the_end(app, encoders, pids)

    async def viewer(self, channel: str) -> Viewer:
        viewer = Viewer()
        viewer.channel = channel
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.port), viewer)
        await within(viewer.ready)
        self.addCleanup(self.leave, viewer)
        await viewer.open(channel)
        await viewer.play()
        return viewer

    async def all_see(self, viewers: list[Viewer]) -> None:
        await until(lambda: all(viewer.frames for viewer in viewers), "the first frame of each")

    async def kill(self, worker: int, encoders: list[Encoder], viewers: set[Viewer]) -> list[Viewer]:
        """Kills a worker, and waits until all encoders are on the air again; returns the viewers who were on it."""
        publishes = {encoder.channel: len(encoder.sent) for encoder in encoders}
        os.kill(self.pid(worker), signal.SIGKILL)
        await deferLater(reactor, WATCHED_SECONDS, lambda: None)
        await self.replaced(worker)
        await until(lambda: all(encoder.on_air for encoder in encoders), "all encoders")
        lost = [viewer for viewer in viewers if viewer.closed]
        hit = {encoder.channel for encoder in encoders if len(encoder.sent) > publishes[encoder.channel]}
        waited = sum(viewer.channel in hit for viewer in viewers if not viewer.closed)
        longest = max(encoder.longest for encoder in encoders)
        print(
            f"worker {worker} killed, with {len(hit)} publishes and {len(lost)} viewers. Of the others, {waited} "
            f"waited for an encoder; the last encoder was back after {longest:.2f} s"
        )
        self.assertTrue(0 < len(hit) < CHANNELS and 0 < len(lost) < PLAYERS)
        self.assertGreater(waited, 0)
        self.assertLess(longest, BACK_SECONDS)
        return lost

    def check(self, viewer: Viewer, sent: list[int]) -> None:
        """Each frame of each publish, once and in order; of one that its worker took with it, all but the last."""
        expected = viewer.frames[0]
        for frame in viewer.frames:
            if frame != expected:  # the next publish: what the killed worker still had is lost
                self.assertEqual((frame[0], frame[1] % GROUP), (expected[0] + 1, 0), viewer.channel)
                self.assertGreaterEqual(expected[1], sent[expected[0] - 1] - GROUP)
            expected = frame[0], frame[1] + 1

    async def the_end(self, app: HTTPApp, encoders: list[Encoder], pids: list[int]) -> None:
        """Each accepted start has one end, and no process and no port is left."""
        starts = sum(len(encoder.sent) for encoder in encoders)
        names = [event.name for event in app.events]
        await until(lambda: [event.name for event in app.events].count("stop") >= starts, "the ends")
        self.assertEqual(names.count("start"), starts)
        self.server.signal(signal.SIGTERM)
        self.assertEqual(await within(self.server.ended), 0, str(self.server))
        ends = Counter(event.claims["channel"] for event in app.events if event.name == "stop")
        self.assertEqual(ends, Counter({encoder.channel: len(encoder.sent) for encoder in encoders}))
        self.assertEqual([alive(pid) for pid in pids], [False] * len(pids))
        with socket.socket() as port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(("127.0.0.1", self.server.port))


class LargeChannelTests(WorkersCase):
    timeout = 120

    async def test_a_thousand_players_half_of_whom_leave(self) -> None:
        """Workers have as much to do as each other: 20 % more at most."""
        port = str(free_port())
        await self.serve(http_port=port)
        publisher = await self.publisher()
        players = []
        for _ in range(PLAYERS):
            players.append(await self.connect())
            await players[-1].play()
        publisher.send(avc(40, False, b"all"))
        await self.see(players, b"all")
        for one in await self.loads(port, PLAYERS + 1), await self.half_of_them(port, players):
            print("connections of the workers:", one)
            self.assertGreater(min(one), 0.8 * max(one))

    async def half_of_them(self, port: str, players: list[RTMPClient]) -> list[int]:
        for player in random.Random(18).sample(players, PLAYERS // 2):
            player.transport.abortConnection()
        return await self.loads(port, PLAYERS // 2 + 1)


def last(sent: list[int]) -> tuple[int, int]:
    """The last frame of an encoder."""
    return len(sent), sent[-1] - 1
