"""The time of day is set while a server runs. The real server, under libfaketime."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from rtmp_twisted.process import use_monotonic_clock
from rtmp_twisted.rtmp.connection import CONNECT_SECONDS
from tests.support.fakes import reactor, read_token, within
from tests.support.programs import SEARCH_PATH, Server
from tests.support.rtmp_client import RTMPClient, client

STEP = 600
"""Seconds."""
TAKEOVER = 3
SECRET = "s3cr3t-of-at-least-thirty-two-bytes"


class UnitTests(SynchronousTestCase):
    def test_nothing_is_scheduled_yet(self) -> None:
        clock = Clock()
        clock.callLater(1, print)
        self.assertRaises(RuntimeError, use_monotonic_clock, clock)

    def test_of_the_real_reactor(self) -> None:
        """Calls come when they are due by the monotonic clock, which is the reactor's from the start on."""
        script = """
import time
from twisted.internet import reactor
from rtmp_twisted.process import use_monotonic_clock
use_monotonic_clock(reactor)
began = time.monotonic()
assert abs(reactor.seconds() - began) < 1
reactor.callLater(0.2, reactor.stop)
time.time = None
reactor.run()
assert 0.2 <= time.monotonic() - began < 10
"""
        environment = {"PYTHONPATH": SEARCH_PATH}
        subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)


class SetClockTests(TestCase):
    timeout = 120

    async def test_back_and_forward(self) -> None:
        issued: list[float] = []

        class Application(Resource):
            isLeaf = True

            def render_POST(self, request: Request) -> bytes:
                issued.append(read_token(str(request.getHeader("rtmp-event")), SECRET)["iat"])
                return b""

        port = reactor.listenTCP(0, Site(Application()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        clock = FakeClock(self)
        server = Server(
            self,
            *clock.command,
            publish_takeover_seconds=str(TAKEOVER),
            callback_url=f"http://127.0.0.1:{port.getHost().port}/",
            jwt_secret=SECRET,
        )
        await server.up()
        silent = await client(server.port)  # it does not say ``connect``
        connected_at = time.monotonic()
        publisher = await client(server.port)
        await publisher.open()
        await publisher.publish()
        await publisher.heard()
        self.assertLess(abs(issued[-1] - time.time()), STEP / 2)

        clock.set(-STEP)
        second = await self.take_over(server)
        await within(publisher.lost)
        self.assertLess(abs(issued[-1] - (time.time() - STEP)), STEP / 2)  # dates follow the time of day
        taken_over = await server.until("taken over by")
        self.assertLess(abs(logged_at(taken_over.string) - (time.time() - STEP)), STEP / 2)

        young = await client(server.port)
        await second.heard()
        clock.set(STEP)
        began = time.monotonic()
        await self.take_over(server)
        self.assertGreater(time.monotonic() - began, TAKEOVER - 1)
        self.assertLess(abs(issued[-1] - (time.time() + STEP)), STEP / 2)
        self.assertFalse(young.closed)

        await within(silent.lost)
        self.assertGreater(time.monotonic() - connected_at, CONNECT_SECONDS - 1)
        self.assertLess(time.monotonic() - connected_at, CONNECT_SECONDS + 15)

    async def take_over(self, server: Server) -> RTMPClient:
        """Publishes where somebody silent does."""
        publisher = await client(server.port)
        await publisher.open()
        await publisher.publish()
        return publisher


class FakeClock:
    """The time of day that a program sees. ``command`` runs that program."""

    def __init__(self, case: TestCase) -> None:
        listed = subprocess.run(["faketime", "-f", "+0", "env"], capture_output=True, text=True, check=True).stdout
        library = re.search(r"^LD_PRELOAD=(.+)$", listed, re.MULTILINE)
        assert library is not None, listed
        self._file = Path(case.mktemp()).absolute()
        self.command = (
            "env",
            f"LD_PRELOAD={library[1]}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )
        self.set(0)

    def set(self, seconds: int) -> None:
        """Sets it, to so many seconds from the machine's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)


def logged_at(line: str) -> float:
    """The time of a line of the log."""
    return datetime.strptime(line.split(" ")[0], "%Y-%m-%dT%H:%M:%S%z").timestamp()
