"""Attackers of one kind against a server with an audience: how long others waited, and what memory was left."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from benchmark.peers import Peer
from benchmark.process import highest_memory

from .attackers import ATTACKERS, ATTACKERS_AT_ONCE
from .stage import SETTLING_S, Seen, Stage, staged

MOST_MEMORY = 4e9
"""Bytes at which an attack is ended early, for the sake of the machine."""

LONGEST_WAIT_MS = 50.0
"""What others may have to wait."""

GROWTH = 16e6
"""Bytes of memory that may remain."""

FREE_GROWTH = 0.4
"""The part of the highest growth that may remain as well. Python gives memory back in pieces of 1 MiB that are wholly
free: after a peak of very many small objects, free memory remains between the few that live on, and is used again."""

FREEING_S = 2.5
"""The server looks every second whether there is memory to give back, and does it a second later."""

NICE = 5
WARM_UP_S = 3.0
PAUSE_S = 0.2
HEALTH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What one kind of attacker has achieved. Memory in bytes; ``health_s`` is the longest that /healthz took, or None
    where it was not answered."""

    kind: str
    begun: int
    seen: Seen
    before: int
    highest: int
    after: int
    health_s: float | None
    problems: list[str]

    @property
    def is_right(self) -> bool:
        growth = GROWTH + FREE_GROWTH * (self.highest - self.before)
        is_healthy = self.health_s is not None and self.after - self.before <= growth
        return is_healthy and self.seen.waited_ms <= LONGEST_WAIT_MS and not self.seen.faults and not self.problems


def attack(peer: Peer, kind: str, seconds: float, workers: int = 1) -> Outcome:
    """Starts a server with an audience, and lets attackers of a kind at it for some seconds. Raises BenchError."""
    problems: list[str] = []
    # With a merge interval of 0 each frame is written at once, so all that it waits is for others.
    with staged(peer, problems, write_merge_ms=0, workers=workers) as stage:
        time.sleep(WARM_UP_S)
        before = stage.settled().memory
        stage.begin()
        watch = _Watch(stage)
        begun = _attack(stage, kind, seconds, watch)
        seen = stage.finish()
        watch.stop()
        after = _when_all_have_gone(stage)
        watch.look()  # what the server still received after the attack may have taken more
    return Outcome(kind, begun, seen, before, watch.highest, after, watch.health_s, problems)


def _attack(stage: Stage, kind: str, seconds: float, watch: _Watch) -> int:
    """Returns how often an attacker was started."""
    until = time.monotonic() + seconds

    def attacker(number: int) -> int:
        source = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{1 + number}"
        begun = 0
        # The audience, on the same core, is not to wait for this thread.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while time.monotonic() < until and watch.highest < MOST_MEMORY:
            begun += 1
            try:
                ATTACKERS[kind](stage.target(source, until))
            except OSError:
                time.sleep(0.01)
        return begun

    with ThreadPoolExecutor(ATTACKERS_AT_ONCE) as threads:
        return sum(threads.map(attacker, range(ATTACKERS_AT_ONCE)))


def _when_all_have_gone(stage: Stage) -> int:
    """The server's memory then. A server that does not answer any more is waited for, too."""
    deadline = time.monotonic() + SETTLING_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            stage.settled()
            break
        time.sleep(PAUSE_S)
    time.sleep(FREEING_S)
    return stage.memory()


class _Watch:
    """Looks at the server's memory and asks for /healthz, again and again, in a thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self.highest = 0
        self.health_s: float | None = 0.0
        self._stage = stage
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_S):
            began = time.monotonic()
            is_healthy = _is_healthy(self._stage.http_port)
            if self.health_s is not None:
                self.health_s = max(self.health_s, time.monotonic() - began) if is_healthy else None
            self.look()

    def look(self) -> None:
        """Notes the highest memory so far, which the kernel remembers."""
        self.highest = max(self.highest, highest_memory(self._stage.pid))


def _is_healthy(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), HEALTH_TIMEOUT_S) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """A Markdown table, a row for each kind."""
    lines = [
        "| attacker | begun | others waited, ms | frames lost | players closed | memory before, MB | highest "
        "| after all have gone | /healthz, ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in outcomes:
        memory = " | ".join(f"{value / 1e6:.0f}" for value in (one.before, one.highest, one.after))
        health = "not answered" if one.health_s is None else f"{one.health_s * 1e3:.0f}"
        faults = f"{one.seen.faults.get('lost', 0)} | {one.seen.faults.get('closed', 0)}"
        lines.append(f"| {one.kind} | {one.begun} | {one.seen.waited_ms:.0f} | {faults} | {memory} | {health} |")
    return lines
