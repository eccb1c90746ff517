"""Networks that are slow, that lose packets, and that end: the real server, behind cables of its own."""

from __future__ import annotations

import time

from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rtmp_twisted.rtmp.connection import SILENT_SECONDS, STUCK_SECONDS
from tests.support.fakes import reactor, until
from tests.support.network import Cable, Namespace
from tests.support.programs import Server
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, avc

FRAMES = 300
FOUND_SECONDS = max(SILENT_SECONDS, STUCK_SECONDS) + 10
"""Seconds: in this time the server has found that a cable is cut."""
LOCAL = "127.0.0.1"


class NetworkTests(TestCase):
    timeout = 180

    def setUp(self) -> None:
        self.here = Namespace(self)

    async def server(self, **settings: str) -> Server:
        server = Server(self, *self.here.command, **settings)
        await server.up()
        return server

    def cable(self, number: int, delay: float = 0.0, lose: int = 0) -> tuple[Cable, Namespace]:
        """A cable from the server to a machine of its own."""
        there = Namespace(self)
        return Cable(self, self.here, there, number, delay, lose), there

    async def publish(self, publisher: RTMPClient, channel: str) -> None:
        await publisher.open(channel)
        publisher.set_chunk_size(65536)
        await publisher.publish()
        publisher.send(AVC_HEADER, avc(0, True, b"0"))

    async def play(self, viewer: RTMPClient, channel: str) -> None:
        await viewer.open(channel)
        await viewer.play()

    async def test_delay_and_loss(self) -> None:
        """200 ms there and back, and one packet in 50 is lost: every frame arrives, there and everywhere else."""
        server = await self.server()
        cable, there = self.cable(1, delay=0.1, lose=50)
        publisher, near = [await self.here.client(LOCAL, server.port) for _ in range(2)]
        far = await there.client(cable.near, server.port)
        await self.publish(publisher, "channel")
        for viewer in near, far:
            await self.play(viewer, "channel")
        for number in range(1, FRAMES):
            publisher.send(avc(number * 40, number % 25 == 0, b"%d" % number + b" " * 3000))
            await until(lambda: len(near.media()) == number + 2, "a frame at the near viewer")  # noqa: B023
        await until(lambda: len(far.media()) == FRAMES + 1, "all frames at the far viewer")
        for viewer in near, far:
            self.assertEqual([int(message.body[5:]) for message in viewer.media()[1:]], list(range(FRAMES)))
        self.assertGreater(cable.lost, 5)

    async def test_cut_cables(self) -> None:
        """No packet comes any more, not even one that says so. What is found by itself is found at the same time."""
        server = await self.server(publish_takeover_seconds="2")
        cables = [self.cable(number) for number in range(1, 4)]
        gone, forgotten, deaf = [await there.client(cable.near, server.port) for cable, there in cables]
        second, viewer, feeder = [await self.here.client(LOCAL, server.port) for _ in range(3)]
        await self.publish(gone, "channel")
        await self.publish(forgotten, "forgotten")
        await self.publish(feeder, "feed")
        await self.play(viewer, "channel")
        await self.play(deaf, "feed")
        for one in gone, forgotten, deaf:
            await one.heard()
        for cable, _ in cables:
            cable.cut = True
        cut_at = time.monotonic()

        feeder.send(avc(40, True, b"1"))  # its viewer's machine does not acknowledge that
        await self.publish(second, "channel")
        self.assertLess(time.monotonic() - cut_at, 15)
        await until(lambda: len(viewer.media()) == 4, "what the second publisher sends")
        self.assertFalse(viewer.closed)

        waiting = [r'stopped publishing channel "forgotten"', r'stopped playing channel "feed"']
        while waiting:
            self.assertLess(time.monotonic() - cut_at, FOUND_SECONDS, str(server))
            await deferLater(reactor, 0.1)
            waiting = [text for text in waiting if not any(text in line for line in server.lines)]
        self.assertFalse(viewer.closed or second.closed or feeder.closed)
