"""The command line: a server with an audience, the strangers, and what must be as before when they have gone."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import peers, rtmp
from benchmark.load import Job
from benchmark.process import BenchError, Server, Usage, free_port, raise_file_limit
from benchmark.runner import LoadProcess

from .strangers import CHANNEL, KEY, STRANGERS, Stranger, Target

PLAYERS = 20
THREADS = 24
HELD = 100
"""Silent strangers at a time: what they take together is memory that the allocator may keep."""
SETTLING_S = 60.0
"""How long the server may take to see that the strangers have gone. It closes the silent ones after 10 s by itself."""
GROWTH = 16e6
"""Bytes by which its memory may have grown since a first tenth of the strangers: allocators keep some of them."""
PLACES = 4
"""MAX_IP_CONCURRENT_CONNECTIONS."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool. Returns its exit status: 0, 1 if something was not as it should, 2 where it could not run."""
    parser = argparse.ArgumentParser(
        prog="stress",
        description="Starts a server with a publisher and 20 players, throws broken connections at it in every way "
        "that it knows, and checks that the players lost nothing and that the server is then as it was.",
    )
    parser.add_argument("--connections", type=int, default=2000, metavar="N", help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers (default: another each time)")
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    try:
        problems = Stress(max(options.connections, 1)).run()
    except BenchError as error:
        print(f"stress: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"stress: {problem}")
    print(f"stress: {'FAILED' if problems else 'all is as it was, and nobody lost a frame'}")
    return 1 if problems else 0


@dataclass(frozen=True)
class State:
    """What a server holds."""

    files: int
    connections: int
    channels: int
    players: int
    memory: int = field(compare=False)


class Stress:
    """One run."""

    def __init__(self, connections: int) -> None:
        self._count = connections
        self._ports = [free_port(peers.HOST) for _ in range(3)]
        self._held: deque[socket.socket] = deque()
        self._sources: list[str] = []
        self._ended: Counter[str] = Counter()

    def run(self) -> list[str]:
        """A line for each thing that is not as it should be. Raises BenchError where it cannot be done."""
        raise_file_limit(1000)
        with tempfile.TemporaryDirectory(prefix="rtmp-stress-") as name:
            with self._serving(Path(name)) as server, self._audience() as audience:
                problems = self._stress(server, audience)
            output = server.log.read_text(errors="replace")
            if server.process.returncode:
                problems.append(f"the server ended with status {server.process.returncode}")
            problems += [f"in the server's log: {line}" for line in output.splitlines() if is_bug(line)][:5]
        return problems

    def _stress(self, server: Server, audience: LoadProcess) -> list[str]:
        pid = server.process.pid
        self._throw(max(self._count // 10, len(STRANGERS)))
        before = self._settled(pid)
        self._throw(self._count)
        after = self._settled(pid, before)
        now = time.monotonic_ns()
        audience.order("measure", start=now, end=now + 1_000_000_000)
        figures = audience.await_event("done", 120)["figures"]
        problems = [
            f"{figures[name]} frames {name}" if name != "closed" else f"{figures[name]} players closed"
            for name in ("lost", "dup", "disorder", "bad", "closed", "no_video")
            if figures[name]
        ]
        if after != before:
            problems.append(f"before: {before}, after: {after}")
        if after.memory - before.memory > GROWTH:
            problems.append(f"memory grew from {before.memory / 1e6:.1f} to {after.memory / 1e6:.1f} MB")
        problems += self._locked_out()
        ended = ", ".join(f"{count} {name}" for name, count in self._ended.most_common())
        print(f"stress: {self._count} strangers ({len(STRANGERS)} kinds): {ended}")
        print(f"stress: memory {before.memory / 1e6:.1f} MB before, {after.memory / 1e6:.1f} MB after; {after}")
        return problems

    def _throw(self, count: int) -> None:
        """``count`` strangers, many at a time, until each has had its way; those that stay do so until many have come
        after them."""
        kinds = [STRANGERS[number % len(STRANGERS)] for number in range(count)]
        random.shuffle(kinds)
        with ThreadPoolExecutor(THREADS) as threads:
            for held in threads.map(self._stranger, kinds):
                if held is not None:
                    self._held.append(held)
                if len(self._held) > HELD:
                    self._held.popleft().close()
        while self._held:
            self._held.popleft().close()

    def _stranger(self, kind: Stranger) -> socket.socket | None:
        source = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
        self._sources.append(source)
        try:
            held = kind(Target(self._ports[0], self._ports[1], source))
        except OSError as error:
            self._ended[f"ended by {type(error).__name__}"] += 1
            return None
        self._ended["held to the end" if held else "had their way"] += 1
        return held

    def _settled(self, pid: int, wanted: State | None = None) -> State:
        """What the server holds once only its audience is left, or is ``wanted``; or what it holds in the end."""
        deadline = time.monotonic() + SETTLING_S
        last: State | None = None
        while True:
            state = self._state(pid)
            is_settled = state == (wanted or last) and state.connections == PLAYERS + 1
            if is_settled or time.monotonic() > deadline:
                return state
            last = state
            time.sleep(0.2)

    def _state(self, pid: int) -> State:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[2]}/metrics", timeout=30) as answer:
            found: dict[str, float] = {}
            for line in answer.read().decode().splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    found[name] = float(value)
        # One file is the connection that asks, here as at each time.
        return State(
            files=len(os.listdir(f"/proc/{pid}/fd")),
            connections=int(found["rtmp_connections"]),
            channels=int(sum(value for name, value in found.items() if name.startswith("rtmp_channels{"))),
            players=int(found["rtmp_players"]),
            memory=Usage.of(pid, with_memory=True).resident,
        )

    def _locked_out(self) -> list[str]:
        """Whether some of the strangers' addresses can have all their places again, over both ports."""
        for source in random.sample(self._sources, min(20, len(self._sources))):
            welcome = 0
            crowd = []
            for _ in range(PLACES):
                crowd.append(socket.create_connection(("127.0.0.1", self._ports[0]), 30, (source, 0)))
                with suppress(OSError):
                    crowd[-1].sendall(rtmp.handshake(bytes(1528)))
                    welcome += crowd[-1].recv(1) == b"\x03"
            for connection in crowd:
                connection.close()
            if welcome != PLACES:
                return [f"{source} has {welcome} places left of {PLACES}"]
        return []

    @contextmanager
    def _serving(self, directory: Path) -> Iterator[Server]:
        (peer,), missing = peers.find([peers.OURS]) if shutil.which("openssl") else ([None], [])
        if missing or peer is None:
            raise BenchError(missing[0] if missing else "there is no openssl on this machine")
        certificate, key = directory / "certificate.pem", directory / "key.pem"
        kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch -subj /CN=localhost"
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", "req", *kind.split(), *files], check=True, capture_output=True)
        port, ssl_port, http_port = self._ports
        settings = {
            "max-ip-concurrent-connections": PLACES,
            "concurrent-limit-whitelist": peers.HOST,
            "ssl-port": ssl_port,
            "ssl-cert": certificate,
            "ssl-key": key,
            "http-port": http_port,
        }
        command = [*peer.command(directory, port), *(f"--{name}={value}" for name, value in settings.items())]
        cores = os.sched_getaffinity(0)
        server = Server.start(peer.name, command, directory, peer.environment, cores)
        try:
            server.wait_until_listening(peers.HOST, port)
            yield server
        finally:
            server.stop()

    @contextmanager
    def _audience(self) -> Iterator[LoadProcess]:
        """A publisher and its players, who follow each frame."""
        job = Job(
            host=peers.HOST,
            port=self._ports[0],
            apps=[CHANNEL],
            key=KEY,
            players=list(range(PLAYERS)),
            publishes=True,
            kbps=2500,
            publisher_chunk=4096,
        )
        load = LoadProcess(job, max(os.sched_getaffinity(0)))
        try:
            load.await_event("published", 60)
            load.order("join")
            load.await_event("joined", 60)
            yield load
        finally:
            load.stop()


def is_bug(line: str) -> bool:
    return "Traceback" in line or " critical " in line or " error " in line
