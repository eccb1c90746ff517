"""A server with a publisher and its players, who follow each frame, while others do something to the server."""

from __future__ import annotations

import math
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import peers
from benchmark.load import LATENCY_UNIT_NS, Job
from benchmark.peers import Peer
from benchmark.process import Server, Usage, free_port, self_signed, tree
from benchmark.runner import LoadProcess

from .strangers import CHANNEL, KEY, Target

PLAYERS = 20
SETTLING_S = 60.0
"""How long the server may take to see that the others have gone. It closes silent connections after 10 s by itself."""

FALLING = 1e6
"""Bytes by which the server's memory falls from one look to the next while it still gives memory back."""

PLACES = 4
"""MAX_IP_CONCURRENT_CONNECTIONS."""

LONGEST_WINDOW_NS = 3600 * 10**9


@dataclass(frozen=True)
class State:
    """What a server holds."""

    files: int
    connections: int
    channels: int
    players: int
    viewers: int
    memory: int = field(compare=False)


class Stage:
    """The server's process, its ports, and the audience."""

    def __init__(
        self, server: Server, ports: list[int], audience: LoadProcess, write_merge_ms: int, workers: int
    ) -> None:
        self.server = server
        self._workers = workers
        self.port, self.ssl_port, self.http_port, self.web_port, self.web_ssl_port = ports
        self._audience = audience
        self._write_merge_ms = write_merge_ms

    def target(self, source: str, until: float = math.inf) -> Target:
        """The server, for somebody who comes from the address ``source``."""
        return Target(self.port, self.ssl_port, source, self.http_port, self.web_port, self.web_ssl_port, until)

    def begin(self) -> None:
        """From now on the audience notes how late each frame is."""
        now = time.monotonic_ns()
        self._audience.order("measure", start=now, end=now + LONGEST_WINDOW_NS)

    def finish(self) -> Seen:
        """What the audience has seen since ``begin``."""
        self._audience.order("finish")
        figures = self._audience.await_event("done", 120)["figures"]
        latest = (max(map(int, figures["latencies"]), default=0) + 1) * LATENCY_UNIT_NS / 1e6
        names = ("lost", "dup", "disorder", "bad", "closed", "no_video")
        return Seen(max(0.0, latest - self._write_merge_ms), {name: figures[name] for name in names if figures[name]})

    def settled(self, wanted: State | None = None) -> State:
        """What the server holds once only its audience is left, or is ``wanted``; or what it holds in the end."""
        deadline = time.monotonic() + SETTLING_S
        last: State | None = None
        while True:
            state = self.state()
            is_settled = state == (wanted or last) and state.connections == PLAYERS + 1
            if last is not None and last.memory - state.memory >= FALLING:
                is_settled = False  # it lets go of large logs little by little
            if self._workers > 1 and state.players != PLAYERS:
                is_settled = False  # what makes segments for HLS is there for 30 s more, on some workers or on all
            if is_settled or time.monotonic() > deadline:
                return state
            last = state
            time.sleep(0.2)

    def state(self) -> State:
        found = self._metrics()
        deadline = time.monotonic() + SETTLING_S
        while found.get("rtmp_workers", 1) < self._workers and time.monotonic() < deadline:
            found = self._metrics()  # one that is busy answers later
        # One file is the connection that asks, here as at each time.
        return State(
            files=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in tree(self.pid)),
            connections=int(found["rtmp_connections"]),
            channels=int(sum(value for name, value in found.items() if name.startswith("rtmp_channels{"))),
            players=int(found["rtmp_players"]),
            viewers=int(found["rtmp_web_connections"]),
            memory=self.memory(),
        )

    def _metrics(self) -> dict[str, float]:
        found = {}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=30) as answer:
            for line in answer.read().decode().splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    found[name] = float(value)
        return found

    def memory(self) -> int:
        """Bytes that the server holds."""
        usage = Usage.of(self.pid, with_memory=True)
        return usage.resident + usage.shared

    @property
    def pid(self) -> int:
        return self.server.process.pid


@dataclass(frozen=True)
class Seen:
    """What an audience has seen: the longest time in ms that a frame waited for the server, beyond WRITE_MERGE_MS; and
    how many frames or players did not fare as they should, by what was wrong."""

    waited_ms: float
    faults: dict[str, int]


@contextmanager
def staged(peer: Peer, problems: list[str], write_merge_ms: int = 100, workers: int = 1) -> Iterator[Stage]:
    """A stage for the length of the block, with a server of so many workers. Then ``problems`` gets a line for each
    thing that the server did wrong."""
    ports = [free_port(peers.HOST) for _ in range(5)]
    with tempfile.TemporaryDirectory(prefix="rtmp-stress-") as name:
        server = _start(peer, Path(name), ports, write_merge_ms, workers)
        try:
            server.wait_until_listening(peers.HOST, ports[0])
            audience = LoadProcess(_job(ports[0]), max(os.sched_getaffinity(0)))
            try:
                audience.await_event("published", 60)
                audience.order("join")
                audience.await_event("joined", 60)
                yield Stage(server, ports, audience, write_merge_ms, workers)
            finally:
                audience.stop()
        finally:
            server.stop()
        if server.process.returncode:
            problems.append(f"the server ended with status {server.process.returncode}")
        with server.log.open(errors="replace") as log:
            problems += [f"in the server's log: {line.strip()}" for line in log if is_bug(line)][:5]


def _start(peer: Peer, directory: Path, ports: list[int], write_merge_ms: int, workers: int) -> Server:
    certificate, key = self_signed(directory)
    port, ssl_port, http_port, web_port, web_ssl_port = ports
    settings: dict[str, Any] = {
        "max-ip-concurrent-connections": PLACES,
        "concurrent-limit-whitelist": peers.HOST,
        "ssl-port": ssl_port,
        "ssl-cert": certificate,
        "ssl-key": key,
        "http-port": http_port,
        "web-port": web_port,
        "web-ssl-port": web_ssl_port,
        "web-bind-address": peers.HOST,
        "write-merge-ms": write_merge_ms,
        **({"workers": workers} if workers > 1 else {}),
    }
    command = [*peer.command(directory, port), *(f"--{name}={value}" for name, value in settings.items())]
    return Server.start(peer.name, command, directory, peer.environment, os.sched_getaffinity(0))


def _job(port: int) -> Job:
    """A publisher and its players."""
    return Job(
        host=peers.HOST,
        port=port,
        apps=[CHANNEL],
        key=KEY,
        players=list(range(PLAYERS)),
        publishes=True,
        kbps=2500,
        publisher_chunk=4096,
    )


def is_bug(line: str) -> bool:
    return "Traceback" in line or " critical " in line or " error " in line
