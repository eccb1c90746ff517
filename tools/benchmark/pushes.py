"""``tools/pushes``: one stream of 6 Mbit/s to 20 servers, of which two are stopped (SIGSTOP), one refuses and one takes
1 Mbit/s. Checks that the other 16 receive each frame, unchanged and with unbroken time, and that viewers do not notice.

The right ones, and the one that refuses, are channels of a second process of this server. Players of the load read them
there, and compare each byte. The slow one is behind a connection that passes on so many bytes a second.

All of them share a core with the viewers, but in earnest they are other machines. So where latency is judged, the
server and the viewers run at real-time priority, if that is allowed: they do not wait for anything else.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from . import peers
from .load import Figures, Job
from .peers import HOST, Peer
from .process import BenchError, Server, Usage, free_port, machine_busy_ns
from .runner import SETUP_TIMEOUT_S, Cores, LoadProcess, percentile_ms, serving

RIGHT = 16
KBPS = 6000
SLOW_BYTES = 125_000
"""Bytes a second that the slow one takes: 1 Mbit/s."""
VIEWERS = 20
CHANNEL = "bench0"
P99_RATIO = 1.2
MAX_OTHER_PCT = 50.0
"""When others take more of the machine, in percent of a core, latencies say nothing."""
MAX_GROWTH = 64e6
"""Bytes that the server may grow because of its pushes: each may be 8 MiB behind, and they share them."""
STOPPED_WORDS = ("took nothing for", "silent for", "no handshake within")


def main() -> int:
    """Runs the check. Returns its exit status: 0, or 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="pushes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the measured window (default: 120)")
    parser.add_argument(
        "--repeat", type=int, default=1, help="runs with pushes and without, of which the medians count"
    )
    parser.add_argument("--no-latency", action="store_true", help="leave the viewers' latency out, on a busy machine")
    options = parser.parse_args()
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)
    peer = peers.KNOWN[peers.OURS]()
    with_pushes, without, problems = [], [], []
    try:
        for _ in range(options.repeat):
            figures, wrong = run(peer, cores, options.seconds, RIGHT, not options.no_latency)
            with_pushes.append(figures)
            problems += wrong
            without.append(figures if options.no_latency else run(peer, cores, options.seconds, 0)[0])
    except BenchError as error:
        print(f"pushes: {error}", file=sys.stderr)
        return 1
    problems += _compare(_medians(with_pushes), _medians(without), max(one["other"] for one in with_pushes + without))
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(figures[name] for figures in runs) for name in runs[0]}


def _compare(with_pushes: dict[str, float], without: dict[str, float], busy: float) -> list[str]:
    """What is wrong with the figures of viewers and server. ``busy``: what others took, in percent of a core."""
    problems = []
    for name in "p50", "p99":
        print(f"viewers' {name}: {without[name]:.2f} ms without pushes, {with_pushes[name]:.2f} ms with")
    print(f"server: CPU {without['cpu']:.1f} % and {with_pushes['cpu']:.1f} %, ", end="")
    print(f"memory {without['rss'] / 1e6:.0f} MB and {with_pushes['rss'] / 1e6:.0f} MB", end="")
    print(f"; others took {busy:.0f} % of a core")
    if busy > MAX_OTHER_PCT:
        print("the machine was busy with other work: the latency is not judged")
    elif with_pushes["p99"] > P99_RATIO * without["p99"]:
        problems.append(f"the viewers' p99 is more than {P99_RATIO} times what it is without pushes")
    if with_pushes["rss"] - without["rss"] > MAX_GROWTH:
        problems.append("the server has grown too much")
    return problems


def run(
    peer: Peer, cores: Cores, seconds: float, right: int, real_time: bool = True
) -> tuple[dict[str, float], list[str]]:
    """One run; returns its figures, and what is wrong."""
    http = free_port(HOST)
    with ExitStack() as stack:
        rules: list[str] = []
        servers: list[Server] = []
        loads = cores.load[0]
        if right:
            target, target_port = stack.enter_context(serving(peer, set(cores.load)))
            servers.append(target)
            stopped = [stack.enter_context(serving(peer, set(cores.load))) for _ in range(2)]
            slow = stack.enter_context(throttle(target_port))
            rules = [f"{CHANNEL}=rtmp://{HOST}:{target_port}/{peers.push_name(number)}/key" for number in range(right)]
            rules += [f"{CHANNEL}=rtmp://{HOST}:{port}/app/key" for _, port in stopped]
            rules += [f"{CHANNEL}=rtmp://{HOST}:{target_port}/app/k!ey", f"{CHANNEL}=rtmp://{HOST}:{slow}/slow/key"]
            os.kill(stopped[0][0].process.pid, signal.SIGSTOP)  # this one before anybody has connected
        options = ["--http-port", str(http), *(["--push", " ".join(rules)] if rules else [])]
        server, port = stack.enter_context(serving(peer, cores.server, options))
        servers.append(server)
        jobs = [_job(port, [CHANNEL], VIEWERS, True)]
        if right:
            jobs.append(_job(target_port, [peers.push_name(number) for number in range(right)], right, False))
        processes = []
        for job in jobs:
            processes.append(LoadProcess(job, loads))
            stack.callback(processes[-1].stop)
        if real_time:
            for pid in server.process.pid, processes[0].pid:
                _run_at_once(pid)
        for process in processes:
            process.await_event("published", SETUP_TIMEOUT_S)
        time.sleep(2)  # pushes connect
        if right:
            os.kill(stopped[1][0].process.pid, signal.SIGSTOP)  # this one while it receives
        for process in processes:
            process.order("join")
        for process in processes:
            process.await_event("joined", SETUP_TIMEOUT_S)
        start = time.monotonic_ns() + 3_000_000_000
        end = start + int(seconds * 1e9)
        for process in processes:
            process.order("measure", start=start, end=end)
        time.sleep(max(0, start - time.monotonic_ns()) / 1e9)
        before, own, machine = Usage.of(server.process.pid), _cpu_ns(servers), machine_busy_ns()
        time.sleep(max(0, end - time.monotonic_ns()) / 1e9)
        after = Usage.of(server.process.pid, with_memory=True)
        other = machine_busy_ns() - machine - _cpu_ns(servers) + own
        viewers, *others = [Figures(**process.await_event("done", 60)["figures"]) for process in processes]
        problems = _judge(viewers, VIEWERS, "viewers")
        if right:
            problems += _judge(others[0], right, "targets")
            problems += _judge_states(_get(http, f"/api/v1/channels/{CHANNEL}/push")["relays"], seconds)
            for one, _ in stopped:
                os.kill(one.process.pid, signal.SIGCONT)
    latencies = Counter({int(unit): count for unit, count in viewers.latencies.items()})
    figures = {"p50": percentile_ms(latencies, 0.5), "p99": percentile_ms(latencies, 0.99)}
    other -= viewers.cpu_ns + sum(one.cpu_ns for one in others)
    figures |= {"cpu": (after.cpu_ns - before.cpu_ns) / seconds / 1e7, "other": other / seconds / 1e7}
    figures["rss"] = float(after.resident)
    return figures, problems


def _run_at_once(pid: int) -> None:
    """Real-time priority for a process, if that is allowed."""
    with suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))


def _cpu_ns(servers: list[Server]) -> int:
    """What these have used, and this process, which has the slow connection."""
    return sum(Usage.of(server.process.pid).cpu_ns for server in servers) + time.process_time_ns()


def _job(port: int, apps: list[str], players: int, publishes: bool) -> Job:
    return Job(HOST, port, apps, "key", list(range(players)), publishes, KBPS, 4096)


def _judge(figures: Figures, players: int, who: str) -> list[str]:
    """What is wrong with what players of the load received."""
    counts = {name: getattr(figures, name) for name in ("lost", "dup", "disorder", "closed", "bad", "no_video")}
    arrived = sum(figures.latencies.values())
    print(f"{who}: {arrived} frames to {players}, {counts}")
    return [f"{who}: {name} {count}" for name, count in counts.items() if count] + (
        [] if arrived else [f"{who}: nothing"]
    )


def _judge_states(states: list[dict[str, Any]], seconds: float) -> list[str]:
    problems = []
    *right, first, second, refusing, slow = states
    for state in right:
        if state["state"] != "live" or state["skipped"]["times"] or state["reconnects"]:
            problems.append(f"{state['id']} should be live: {state}")
    for state in first, second:
        patient = state is second and seconds < 70  # it has not been found out yet
        if not patient and not any(words in state["last_error"] for words in STOPPED_WORDS):
            problems.append(f"{state['id']} is stopped: {state}")
    if "it refused the key" not in refusing["last_error"]:
        problems.append(f"{refusing['id']} refuses: {refusing}")
    if slow["state"] != "live" or (not slow["skipped"]["times"] and seconds > 30):
        problems.append(f"{slow['id']} is slow: {slow}")
    for state in (right[0], first, second, refusing, slow):
        shown = {
            name: state[name] for name in ("state", "bit_rate", "waiting_bytes", "skipped", "reconnects", "last_error")
        }
        print(f"{state['id']}: {shown}")
    return problems


def _get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=10) as answer:
        return json.load(answer)


@contextmanager
def throttle(port: int) -> Iterator[int]:
    """A port that leads to another one, and passes on so few bytes a second that a stream does not fit."""
    listening = socket.create_server((HOST, 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.create_connection((HOST, port))
            threading.Thread(target=pass_on, args=(far, near, 1_000_000), daemon=True).start()
            threading.Thread(target=pass_on, args=(near, far, SLOW_BYTES // 10), daemon=True).start()

    def pass_on(source: socket.socket, sink: socket.socket, tenth: int) -> None:
        try:
            while (data := source.recv(tenth)) and not done.is_set():
                sink.sendall(data)
                time.sleep(0.1 * len(data) / tenth)
        except OSError:
            pass
        source.close()
        sink.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        done.set()
        listening.close()
