"""The command line: strangers and what must be as before when they have gone; or attackers, and what they achieve."""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmark import peers, rtmp
from benchmark.peers import Peer
from benchmark.process import BenchError, raise_file_limit

from . import http
from .attack import attack, table
from .attackers import ATTACKERS
from .stage import PLACES, Stage, staged
from .strangers import RTMP_STRANGERS, Stranger

STRANGERS = [*RTMP_STRANGERS, *http.STRANGERS]
THREADS = 24
HELD = 100
"""Silent strangers at a time: what they take together is memory that the allocator may keep."""

GROWTH = 16e6
"""Bytes by which each process's memory may have grown since a first tenth of the strangers: allocators keep some."""

FILES = 2000
LONGEST_ATTACK_S = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool. Returns its exit status: 0, 1 if something was not as it should be, 2 where it could not run."""
    options = _parser().parse_args(arguments)
    random.seed(options.seed)
    try:
        raise_file_limit(FILES)
        with tempfile.TemporaryDirectory(prefix="rtmp-stress-copy-") as copy:
            peer = _peer(options.checkout, Path(copy))
            if options.attack:
                return _attack(peer, options.attack, min(options.seconds, LONGEST_ATTACK_S), options.workers)
            problems = Stress(max(options.connections, 1), options.workers).run(peer)
    except BenchError as error:
        print(f"stress: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"stress: {problem}")
    print(f"stress: {'FAILED' if problems else 'all is as it was, and nobody lost a frame'}")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stress",
        description="Starts a server with a publisher and 20 players, opens broken connections to it in every way that "
        "it knows, and checks that the players lost nothing and that the server is then as it was. With --attack: lets "
        "four attackers of a kind at a server for some seconds, and reports how long the frames of others waited for "
        "them beyond the flush interval, and what memory is left when all have gone.",
        epilog=f"Kinds of attackers: {', '.join(ATTACKERS)}.",
    )
    add = parser.add_argument
    add("--connections", type=int, default=2000, metavar="N", help="how many broken connections (default: 2000)")
    add("--seed", type=int, default=None, help="of the random numbers (default: another each time)")
    add("--attack", action="append", choices=[*ATTACKERS, "all"], metavar="KIND", help="a kind of attacker, or all")
    add("--seconds", type=float, default=10.0, help="length of an attack (default: 10)")
    add("--workers", type=int, default=1, metavar="N", help="workers of the server (default: 1)")
    add("--checkout", type=Path, metavar="DIRECTORY", help="another checkout of the project, whose server is used")
    return parser


def _peer(checkout: Path | None, copy: Path) -> Peer:
    if checkout:
        return peers.checkout(peers.OURS, checkout, copy)
    found, missing = peers.find([peers.OURS])
    if missing:
        raise BenchError(missing[0])
    return found[0]


def _attack(peer: Peer, kinds: Sequence[str], seconds: float, workers: int) -> int:
    """Each kind against a server of its own."""
    if "all" in kinds:
        kinds = list(ATTACKERS)
    outcomes = []
    for kind in kinds:
        outcomes.append(one := attack(peer, kind, seconds, workers))
        print(f"stress: {kind}, begun {one.begun} times: {'right' if one.is_right else 'WRONG'}", flush=True)
        for problem in [*(f"{count} {fault}" for fault, count in one.seen.faults.items()), *one.problems]:
            print(f"stress:     {problem}", flush=True)
    print(*table(outcomes), sep="\n")
    return 0 if all(one.is_right for one in outcomes) else 1


class Stress:
    """One run of ``count`` strangers against a server of so many workers."""

    def __init__(self, count: int, workers: int = 1) -> None:
        self._count = count
        self._workers = workers
        self._held: deque[socket.socket] = deque()
        self._sources: list[str] = []
        self._ended: Counter[str] = Counter()

    def run(self, peer: Peer) -> list[str]:
        """A line for each thing that is not as it should be. Raises BenchError where it cannot be done."""
        problems: list[str] = []
        with staged(peer, problems, workers=self._workers) as stage:
            problems += self._stress(stage)
        return problems

    def _stress(self, stage: Stage) -> list[str]:
        self._throw(stage, max(self._count // 10, len(STRANGERS)))
        before = stage.settled()
        stage.begin()
        self._throw(stage, self._count)
        seen = stage.finish()
        after = stage.settled(before)
        problems = [
            f"{count} players closed" if name == "closed" else f"{count} frames {name}"
            for name, count in seen.faults.items()
        ]
        if after != before:
            problems.append(f"before: {before}, after: {after}")
        if after.memory - before.memory > GROWTH * self._workers:
            problems.append(f"memory grew from {before.memory / 1e6:.1f} to {after.memory / 1e6:.1f} MB")
        problems += self._locked_out(stage)
        ended = ", ".join(f"{count} {name}" for name, count in self._ended.most_common())
        print(f"stress: {self._count} strangers ({len(STRANGERS)} kinds): {ended}")
        print(f"stress: other channels waited {seen.waited_ms:.0f} ms at most, beyond the flush interval")
        memory = f"{before.memory / 1e6:.1f} MB before, {after.memory / 1e6:.1f} MB after all have gone"
        print(f"stress: memory {memory}; {after}")
        return problems

    def _throw(self, stage: Stage, count: int) -> None:
        """``count`` strangers, many at a time, until each has had its way; those that stay do so until many have come
        after them."""
        kinds = [STRANGERS[number % len(STRANGERS)] for number in range(count)]
        random.shuffle(kinds)
        with ThreadPoolExecutor(THREADS) as threads:
            for held in threads.map(lambda kind: self._stranger(stage, kind), kinds):
                if held is not None:
                    self._held.append(held)
                if len(self._held) > HELD:
                    self._held.popleft().close()
        while self._held:
            self._held.popleft().close()

    def _stranger(self, stage: Stage, kind: Stranger) -> socket.socket | None:
        source = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
        self._sources.append(source)
        try:
            held = kind(stage.target(source))
        except OSError as error:
            self._ended[f"ended by {type(error).__name__}"] += 1
            return None
        self._ended["held to the end" if held else "had their way"] += 1
        return held

    def _locked_out(self, stage: Stage) -> list[str]:
        """Whether some of the strangers' addresses can have all their places again, over both ports."""
        for source in random.sample(self._sources, min(20, len(self._sources))):
            welcome = 0
            crowd = []
            for _ in range(PLACES):
                crowd.append(socket.create_connection(("127.0.0.1", stage.port), 30, (source, 0)))
                with suppress(OSError):
                    crowd[-1].sendall(rtmp.handshake(bytes(1528)))
                    welcome += crowd[-1].recv(1) == b"\x03"
            for connection in crowd:
                connection.close()
            if welcome != PLACES:
                return [f"{source} has {welcome} places left of {PLACES}"]
        return []
