"""Processes that stand still for a while: the server, and its clients."""

from __future__ import annotations

import signal
import socket
import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from rtmp_twisted.rtmp.connection import HANDSHAKE_SECONDS
from rtmp_twisted.wire import chunks, messages
from tests.support.fakes import reactor, until, within
from tests.support.programs import Program, Server
from tests.support.rtmp_client import HANDSHAKE, aac, client, codes

PAUSE = HANDSHAKE_SECONDS + 1
"""Seconds: longer than a client may take for its handshake, and than a publisher may be silent."""

PUBLISHER = """
import sys
from twisted.internet import task
from twisted.internet.defer import Deferred
from tests.support.rtmp_client import aac, client

async def main():
    publisher = await client(int(sys.argv[1]))
    await publisher.open("paused")
    await publisher.publish()
    print("on air", flush=True)
    task.LoopingCall(lambda: publisher.send(aac(0))).start(0.1)
    await publisher.lost

task.react(lambda _: Deferred.fromCoroutine(main()))
"""


class PauseTests(TestCase):
    timeout = 120

    async def test_of_the_server(self) -> None:
        """It stands still, and nobody is late for it: neither who makes the handshake, nor who publishes."""
        server = Server(self, workers="1")
        await server.up()
        publisher, challenger, viewer = [await client(server.port) for _ in range(3)]
        for one in publisher, challenger, viewer:
            await one.open()
        await publisher.publish()
        await viewer.play()
        shaking = socket.create_connection(("127.0.0.1", server.port))
        self.addCleanup(shaking.close)
        await publisher.heard()
        challenger.call("publish", None, "key", "live", stream_id=1)  # it waits for the publisher to be silent
        await challenger.heard()
        await challenger.heard()
        self.assertEqual(codes(challenger.received)[1:], [])

        server.signal(signal.SIGSTOP)
        paused: Deferred[None] = deferLater(reactor, PAUSE)
        shaking.sendall(HANDSHAKE + bytes(1536))
        publisher.send(*[aac(number) for number in range(100)])
        await paused
        server.signal(signal.SIGCONT)

        await until(lambda: len(viewer.media()) == 100, "what was sent in the meantime")
        await challenger.status("NetStream.Publish.BadName")
        await deferToThread(self.shake_hands, shaking)
        await publisher.heard()
        await viewer.heard()

    def shake_hands(self, shaking: socket.socket) -> None:
        """The handshake goes on, and so does what follows."""
        shaking.settimeout(30)
        received = 0
        while received < len(HANDSHAKE) + 1536:
            data = shaking.recv(65536)
            self.assertNotEqual(data, b"")
            received += len(data)
        shaking.sendall(chunks.encode(messages.user_control(messages.PING_REQUEST, 0), 2, 128))
        self.assertNotEqual(shaking.recv(1), b"")

    async def test_of_a_publisher(self) -> None:
        """Its channel can be taken over; when it goes on it hears of its end, and the new one is not disturbed."""
        server = Server(self, publish_takeover_seconds="1")
        await server.up()
        paused = Program(self, sys.executable, "-c", PUBLISHER, str(server.port))
        await paused.until("on air")
        viewer, second = await client(server.port), await client(server.port)
        for one in viewer, second:
            await one.open("paused")
        await viewer.play()
        await until(viewer.media, "what it sends")
        paused.signal(signal.SIGSTOP)
        await second.publish()
        before = len(viewer.media())
        paused.signal(signal.SIGCONT)
        await within(paused.ended)
        second.send(aac(0, b"of the second"))
        await until(lambda: len(viewer.media()) > before, "what the second sends")
        self.assertEqual(viewer.media()[before].body[2:], b"of the second")
        self.assertFalse(second.closed or viewer.closed)
