"""One run: a server on its core, the load on the others, and what is measured within a window of time."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .load import LATENCY_UNIT_NS, Figures, Job
from .peers import HOST, Peer
from .process import BenchError, Server, Usage, free_port, machine_busy_ns
from .scenarios import Scenario

PLAYERS_PER_LOAD = 250
"""With more players than that, another core is used for the load, if there is one."""

SETUP_TIMEOUT_S = 600.0
DRAIN_TIMEOUT_S = 60.0
MEGABYTE = 1e6
TOOLS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cores:
    """Which cores the server may use, and which the load."""

    server: set[int]
    load: list[int]

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first core that this process may use for the server, the others for the load; one alone serves both."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls({allowed[0]}, allowed[1:] or allowed)

    @classmethod
    def all_of_this_machine(cls) -> Cores:
        """All of them for both: what counts is how much CPU time the server takes in all."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(set(allowed), allowed)

    def __str__(self) -> str:
        note = ", the same one: figures are of little use" if self.server & set(self.load) else ""
        return f"server on core {_list(self.server)}, load on core {_list(self.load)}{note}"


@dataclass(frozen=True)
class Result:
    """A run's figures; a row of the CSV. CPU in percent of one core, memory in 10**6 bytes.

    ``delivered`` is the share of what was sent in the window that arrived. ``bad`` counts frames of a wrong size and,
    for the sampled players, of wrong bytes or time. ``memory_mb`` is resident memory and shared memory of the server's
    own that it does not map. ``other_cpu_pct`` is what neither the server nor the load used: the machine's noise.
    """

    server: str
    version: str
    scenario: str
    run: int
    players: int
    channels: int
    kbps: int
    publisher_chunk: int
    seconds: float
    delivered: float
    lost: int
    dup: int
    disorder: int
    closed: int
    bad: int
    mbit_s: float
    lat_p50_ms: float
    lat_p99_ms: float
    lat_max_ms: float
    first_video_p50_ms: float
    first_video_max_ms: float
    no_video: int
    join_s: float
    server_cpu_pct: float
    server_cpu_us_per_msg: float
    rss_mb: float
    memory_mb: float
    load_cpu_pct: float
    load_processes: int
    other_cpu_pct: float
    pub_late_ms: float
    pub_backlog: int

    @property
    def is_right(self) -> bool:
        """Whether everything arrived, once, in order and unchanged."""
        wrong = self.lost + self.dup + self.disorder + self.closed + self.bad + self.no_video
        return self.delivered == 1 and not wrong


class LoadProcess:
    """A process of ``load``, on its core."""

    def __init__(self, job: Job, core: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.load", json.dumps(asdict(job))],
            env={**os.environ, "PYTHONPATH": str(TOOLS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        os.sched_setaffinity(self.pid, {core})
        assert self._process.stdin and self._process.stdout
        self._orders, self._events = self._process.stdin, self._process.stdout

    def order(self, order: str, **facts: int) -> None:
        """Gives an order. If the process has ended, its next event says so."""
        with suppress(BrokenPipeError):
            self._orders.write(json.dumps({"order": order, **facts}).encode() + b"\n")
            self._orders.flush()

    def await_event(self, event: str, timeout: float) -> dict[str, Any]:
        """Its next event. Raises BenchError if it is not ``event``, or none comes within ``timeout`` seconds."""
        readable, _, _ = select.select([self._events], [], [], timeout)
        if not readable:
            raise BenchError(f"the load is not {event} after {timeout:.0f} s")
        facts: dict[str, Any] = json.loads(self._events.readline() or '{"event": "failed", "reason": "load died"}')
        if facts["event"] != event:
            raise BenchError(facts["reason"])
        return facts

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        with suppress(BrokenPipeError):
            self._orders.close()
        self._events.close()


@dataclass(frozen=True)
class Window:
    """The measured window: its length, what was used in it, and the server's memory at its end."""

    seconds: float
    server_cpu_ns: int
    machine_ns: int
    usage: Usage


def measure(peer: Peer, scenario: Scenario, run: int, seconds: float, settle: float, cores: Cores) -> Result:
    """Starts the server and the load, measures for ``seconds``, ``settle`` seconds after the last player joined.

    Raises BenchError where the server does not come up, or ends the run.
    """
    with ExitStack() as stack:
        options: list[str] = []
        other_port = 0
        if scenario.needs_another:
            assert peer.relays is not None
            _, other_port = stack.enter_context(serving(peer, set(cores.load)))
            options = peer.relays(scenario, other_port)
        server, port = stack.enter_context(serving(peer, cores.server, options, scenario))
        with _loading(scenario, port, cores, other_port if scenario.edge else 0) as loads:
            _together(loads, "published", SETUP_TIMEOUT_S)
            began = time.monotonic()
            for load in loads:
                load.order("join")
            _together(loads, "joined", SETUP_TIMEOUT_S)
            join_s = time.monotonic() - began
            start = time.monotonic_ns() + int(settle * 1e9)
            end = start + int(seconds * 1e9)
            for load in loads:
                load.order("measure", start=start, end=end)
            window = _watch(server, start, end)
            figures = [Figures(**facts["figures"]) for facts in _together(loads, "done", DRAIN_TIMEOUT_S)]
    return _result(peer, scenario, run, window, figures, join_s)


@contextmanager
def serving(
    peer: Peer, cores: set[int], options: Sequence[str] = (), scenario: Scenario | None = None
) -> Iterator[tuple[Server, int]]:
    """A server on these cores, and its port. If it is for a ``scenario`` with viewers, it serves HTTP or HTTPS on the
    next one."""
    port = free_port(HOST, following=2)
    is_web = scenario is not None and bool(scenario.format)
    with tempfile.TemporaryDirectory(prefix="rtmp-bench-") as name:
        directory = Path(name)
        command = [*peer.command(directory, port), *options]
        if scenario is not None and scenario.format:
            command += peer.web_options(directory, port + 1, scenario.secure)
        server = Server.start(peer.name, command, directory, peer.environment, cores)
        try:
            server.wait_until_listening(HOST, port)
            if is_web:
                server.wait_until_listening(HOST, port + 1)
            yield server, port
        finally:
            server.stop()


@contextmanager
def _loading(scenario: Scenario, port: int, cores: Cores, publish_port: int) -> Iterator[list[LoadProcess]]:
    count = min(len(cores.load), 1 + (scenario.players - 1) // PLAYERS_PER_LOAD)
    loads: list[LoadProcess] = []
    try:
        for index in range(count):
            job = Job(
                host=HOST,
                port=port,
                apps=scenario.apps,
                key="key",
                players=list(range(index, scenario.players, count)),
                publishes=index == 0,
                kbps=scenario.kbps,
                publisher_chunk=scenario.publisher_chunk,
                publish_port=publish_port,
                format=scenario.format,
                secure=scenario.secure,
            )
            loads.append(LoadProcess(job, cores.load[index]))
        yield loads
    finally:
        for load in loads:
            load.stop()


def _together(loads: list[LoadProcess], event: str, timeout: float) -> list[dict[str, Any]]:
    return [load.await_event(event, timeout) for load in loads]


def _watch(server: Server, start: int, end: int) -> Window:
    """Waits for the window, and reads the usage at its start and its end."""
    _sleep_until(start)
    began, before, machine = time.monotonic_ns(), Usage.of(server.process.pid), machine_busy_ns()
    _sleep_until(end)
    ended, after, busy = time.monotonic_ns(), Usage.of(server.process.pid), machine_busy_ns() - machine
    usage = Usage.of(server.process.pid, with_memory=True)
    return Window((ended - began) / 1e9, after.cpu_ns - before.cpu_ns, busy, usage)


def _sleep_until(moment: int) -> None:
    time.sleep(max(0, moment - time.monotonic_ns()) / 1e9)


def _result(peer: Peer, scenario: Scenario, run: int, window: Window, figures: list[Figures], join_s: float) -> Result:
    latencies: Counter[int] = Counter()
    for part in figures:
        latencies.update({int(unit): count for unit, count in part.latencies.items()})
    arrived, sent = latencies.total(), sum(part.frames_sent for part in figures) * scenario.players
    first = sorted(moment for part in figures for moment in part.first_video_ns) or [0]
    load_ns = [part.cpu_ns for part in figures]
    percent = 100 / (window.seconds * 1e9)
    return Result(
        server=peer.name,
        version=peer.version,
        scenario=scenario.name,
        run=run,
        players=scenario.players,
        channels=scenario.channels,
        kbps=scenario.kbps,
        publisher_chunk=scenario.publisher_chunk,
        seconds=round(window.seconds, 2),
        delivered=round(arrived / sent, 6) if sent else 0.0,
        **{name: sum(getattr(part, name) for part in figures) for name in _SUMMED},
        mbit_s=round(sum(part.bytes for part in figures) * 8 / window.seconds / 1e6, 1),
        lat_p50_ms=percentile_ms(latencies, 0.5),
        lat_p99_ms=percentile_ms(latencies, 0.99),
        lat_max_ms=percentile_ms(latencies, 1),
        first_video_p50_ms=round(first[len(first) // 2] / 1e6, 1),
        first_video_max_ms=round(first[-1] / 1e6, 1),
        join_s=round(join_s, 2),
        server_cpu_pct=round(window.server_cpu_ns * percent, 2),
        server_cpu_us_per_msg=round(window.server_cpu_ns / 1e3 / arrived, 3) if arrived else 0.0,
        rss_mb=round(window.usage.resident / MEGABYTE, 1),
        memory_mb=round((window.usage.resident + window.usage.shared) / MEGABYTE, 1),
        load_cpu_pct=round(max(load_ns) * percent, 1),
        load_processes=len(figures),
        other_cpu_pct=round(max(0, window.machine_ns - window.server_cpu_ns - sum(load_ns)) * percent, 1),
        pub_late_ms=round(max(part.pub_late_ns for part in figures) / 1e6, 1),
    )


_SUMMED = ("lost", "dup", "disorder", "closed", "bad", "no_video", "pub_backlog")


def percentile_ms(latencies: Counter[int], share: float) -> float:
    """The latency in milliseconds that ``share`` of the frames do not exceed; 0 where there are none."""
    rest = share * latencies.total()
    for unit, count in sorted(latencies.items()):
        rest -= count
        if rest <= 0:
            return round((unit + 1) * LATENCY_UNIT_NS / 1e6, 2)
    return 0.0


def _list(cores: set[int] | list[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
