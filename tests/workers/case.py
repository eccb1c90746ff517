"""What the tests of several workers share: a real server with two, and clients of which it is known where they are.

Connections go to the worker that has least to do, the first one to worker 1. One that plays a channel that is nowhere
stays where it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import treq
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import CertificateOptions
from twisted.trial.unittest import TestCase

from tests.support.certificates import Authority, IssuedCertificate
from tests.support.fakes import reactor, until, within
from tests.support.programs import Server, free_port
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, avc, client


class WorkersCase(TestCase):
    timeout = 90
    server: Server

    async def serve(self, **settings: str) -> Server:
        self.server = server = Server(self, **{"workers": "2", **settings})
        for number in 1, 2:
            await server.until(rf" worker {number} is ready")
        return server

    def tls(self) -> dict[str, str]:
        """The settings of RTMPS."""
        issued: IssuedCertificate = Authority(self.mktemp()).issue("localhost")
        self.tls_port = free_port()
        return {"ssl_cert": str(issued.certificate), "ssl_key": str(issued.key), "ssl_port": str(self.tls_port)}

    async def connect(self, channel: str = "channel", secure: bool = False) -> RTMPClient:
        """A client that has connected to a channel."""
        if secure:
            plain = HostnameEndpoint(reactor, "127.0.0.1", self.tls_port)
            made: RTMPClient = await connectProtocol(wrapClientTLS(CertificateOptions(), plain), RTMPClient())
        else:
            made = await client(self.server.port)
        self.addCleanup(self.leave, made)
        await made.open(channel)
        return made

    async def leave(self, one: RTMPClient) -> None:
        if not one.closed:
            one.transport.abortConnection()
            await within(one.lost)

    async def waiting(self, channel: str = "channel", key: str = "key", secure: bool = False) -> RTMPClient:
        """A player that waits for a publisher, on the worker where it has landed."""
        player = await self.connect(channel, secure)
        await player.play(key)
        return player

    async def publisher(self, channel: str = "channel", key: str = "key", secure: bool = False) -> RTMPClient:
        """A publisher that has sent a keyframe with time 0."""
        publisher = await self.connect(channel, secure)
        await publisher.publish(key)
        publisher.send(AVC_HEADER, avc(0, True, key.encode()))
        return publisher

    async def see(self, players: list[RTMPClient], content: bytes, count: int = 1) -> None:
        """Waits until each player has got a frame with ``content`` so often."""

        def seen(player: RTMPClient) -> bool:
            return sum(content in one.body for one in player.media()) >= count

        for player in players:
            await until(lambda player=player: seen(player) or player.closed, f"a frame with {content!r}")  # type: ignore[misc]
            self.assertTrue(seen(player), player.summary())

    def pid(self, worker: int) -> int:
        """The process that is a worker now."""
        found = [re.search(rf" worker {worker} is ready \(process (\d+)\)", line) for line in self.server.lines]
        return int([match for match in found if match][-1][1])

    async def replaced(self, worker: int, times: int = 1) -> None:
        ready = f" worker {worker} is ready"
        await until(lambda: sum(ready in line for line in self.server.lines) > times, f"worker {worker}, once more")

    async def get(self, path: str, port: str) -> Any:
        answer = await treq.get(f"http://127.0.0.1:{port}{path}", persistent=False)
        return await (answer.json() if path.startswith("/api") else answer.text())

    async def loads(self, port: str, total: int) -> list[int]:
        """The connections of each worker, when there are so many."""
        found: list[int] = []

        async def look() -> bool:
            text = await self.get("/metrics", port)
            found[:] = [
                int(float(one)) for one in re.findall(r'^rtmp_worker_connections\{worker="\d"\} (.*)$', text, re.M)
            ]
            return sum(found) == total

        for _ in range(200):
            if await look():
                return found
        raise AssertionError(found)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
