"""Workers and the supervisor die, hang and stop: what is lost, what goes on, and what is told."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

from tests.support.fakes import until, within
from tests.support.http_app import HTTPApp
from tests.support.programs import Server
from tests.support.rtmp_client import avc, client, codes
from tests.workers.case import WorkersCase, alive, descriptors

SECRET = "a secret for callbacks"


class WorkerFaultTests(WorkersCase):
    async def app(self) -> HTTPApp:
        app = HTTPApp(SECRET)
        app.listen()
        self.addCleanup(app.stop)
        return app

    async def test_killed(self) -> None:
        """Viewers on another worker wait and go on; each accepted start has one end; the next worker serves."""
        app = await self.app()
        await self.serve(callback_url=app.url, jwt_secret=SECRET, publish_return_seconds="20")
        players = [await self.waiting() for _ in range(2)]
        publisher = await self.publisher()
        other = await self.publisher("other")
        seen = await self.connect("other")
        await seen.play()
        await self.see(players, b"key")
        await self.see([seen], b"key")
        supervisor, pid = self.server.pid, self.pid(1)
        os.kill(pid, signal.SIGKILL)
        await within(publisher.lost)
        await within(players[0].lost)
        await self.replaced(1)
        self.assertNotEqual(self.pid(1), pid)
        await until(lambda: [event.name for event in app.events].count("stop") == 1, "the end")
        again = await self.publisher()
        again.send(avc(0, True, b"again"))
        await self.see(players[1:], b"again")
        times = [one.timestamp for one in players[1].media()]
        self.assertEqual(times, sorted(times))
        self.assertNotIn("NetStream.Play.UnpublishNotify", codes(players[1].received))
        other.send(avc(40, True, b"untouched"))
        await self.see([seen], b"untouched")
        self.assertEqual([event.name for event in app.events], ["start", "start", "stop", "start"])
        await self.stop(supervisor)
        self.assertEqual([event.name for event in app.events].count("stop"), 3)

    async def stop(self, supervisor: int) -> None:
        """Stops the server, of which nothing must be left."""
        workers = [self.pid(1), self.pid(2)]
        self.server.signal(signal.SIGTERM)
        self.assertEqual(await within(self.server.ended), 0, str(self.server))
        self.assertEqual([alive(pid) for pid in (supervisor, *workers)], [False] * 3)

    async def test_nothing_is_left_over(self) -> None:
        """A worker's death costs the supervisor no descriptor, and its connections no place in the limits."""
        await self.serve(concurrent_limit_whitelist="", max_ip_concurrent_connections="3")
        before = descriptors(self.server.pid)
        players = [await self.waiting() for _ in range(3)]
        await self.refused()
        await self.leave(players[1])
        await until(lambda: any("disconnected" in line for line in self.server.lines), "the end of one")
        await self.waiting()
        await self.refused()
        os.kill(self.pid(1), signal.SIGKILL)
        await self.replaced(1)
        os.kill(self.pid(2), signal.SIGKILL)
        await self.replaced(2)
        for player in players:
            await within(player.lost)
        self.assertEqual(descriptors(self.server.pid), before)
        for _ in range(3):
            await self.waiting()
        await self.refused()

    async def refused(self) -> None:
        """A connection is turned away."""
        one = await client(self.server.port)
        self.assertTrue(one.closed)

    async def test_stopped(self) -> None:
        """A worker that hangs is found, ended and replaced."""
        await self.serve()
        player = await self.waiting()
        pid = self.pid(1)
        os.kill(pid, signal.SIGSTOP)
        await self.server.until(r"worker 1 .* is ended: it has not answered")
        await self.replaced(1)
        await within(player.lost)
        self.assertFalse(alive(pid))

    async def test_all_killed(self) -> None:
        """Who comes while there is no worker waits until one is ready."""
        await self.serve()
        for number in 1, 2:
            os.kill(self.pid(number), signal.SIGKILL)
            await self.server.until(f"worker {number} .* has died, and is replaced")
        publisher = await self.publisher()
        publisher.send(avc(40, False))
        await publisher.heard()


class SupervisorFaultTests(WorkersCase):
    async def test_killed(self) -> None:
        """All end, one that hangs too, and the port is free at once."""
        await self.serve()
        await self.publisher()
        await self.waiting()
        workers = [self.pid(1), self.pid(2)]
        os.kill(workers[1], signal.SIGSTOP)
        self.server.signal(signal.SIGKILL)
        await within(self.server.ended)
        with socket.socket(socket.AF_INET6) as port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(("::", self.server.port))
        await until(lambda: not any(map(alive, workers)), "the workers' end")

    async def test_paused(self) -> None:
        """A supervisor that stood still has ended nobody for it."""
        await self.serve()
        await self.publisher()
        workers = [self.pid(1), self.pid(2)]
        self.server.signal(signal.SIGSTOP)
        player: Any = None
        for pid in workers:
            os.kill(pid, 0)
        await within(_pause(7))
        self.server.signal(signal.SIGCONT)
        player = await self.waiting()
        await self.see([player], b"key")
        self.assertEqual([self.pid(1), self.pid(2)], workers)

    async def test_a_port_that_is_taken(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            server = Server(self, workers="2", rtmp_port=port, bind_address="127.0.0.1")
            self.assertEqual(await within(server.ended), 1)
            self.assertIn(f"RTMP_PORT: port {port} of 127.0.0.1 is already in use by another program", server.lines[-1])


def _pause(seconds: float) -> Any:
    from twisted.internet.task import deferLater

    from tests.support.fakes import reactor

    return deferLater(reactor, seconds)
