"""The command line: which servers, which scenarios, how often; and where the results go."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import peers, plot, report
from .http import FORMATS
from .peers import Peer
from .process import BenchError, raise_file_limit
from .runner import Cores, Result, measure
from .scenarios import FOR_WORKERS, QUICK, SCENARIOS, Scenario, audience

SPARE_FILES = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool. Returns its exit status: 0, 1 if something did not arrive as it should, 2 if it was used
    wrongly."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measures this server and its peers with one publisher per channel and many players, all on this "
        "machine. The server gets the first core, the load the others.",
        epilog=f"Scenarios: {names}. Servers known: {', '.join(peers.KNOWN)}.",
    )
    add = parser.add_argument
    add("--scenario", action="append", metavar="NAME", help="a scenario (repeat for more; default: all)")
    add("--players", action="append", type=_count, metavar="N", help="N players of one channel (repeat for more)")
    add("--format", choices=FORMATS, help="what the players of --players get over HTTP (default: they speak RTMP)")
    add("--secure", action="store_true", help="these players come over HTTPS")
    add(
        "--quick",
        action="store_true",
        help="two small scenarios, one run of 3 seconds each: checks that everything is installed",
    )
    add("--seconds", type=_positive, help="length of the measured window (default: 10)")
    add("--settle", type=_positive, default=3.0, help="seconds between the last join and the window (default: 3)")
    add("--repeat", type=_count, metavar="N", help="runs of each server in each scenario (default: 3)")
    add("--only", action="append", metavar="SERVER", help="a known server (repeat for more; default: all found)")
    add(
        "--server",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more server, or another way to start a known one; {port}, {web_port}, {host} and {dir} are replaced. "
        "It must accept the applications bench0, bench1, ...",
    )
    add(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="measure this checkout and another one of the same project (before a change, say), and nothing else; "
        "prints the figures of both and their ratios (default of --repeat: 5)",
    )
    add(
        "--workers",
        type=_count,
        metavar="N",
        help="measure this server with one process and with N workers, both on all cores, and nothing else; prints the "
        "figures of both and their ratios (default of --scenario: those for several workers)",
    )
    add("--install-peers", action="store_true", help="put node-media-server into the cache directory first, with npm")
    add("--output", type=Path, default=Path("bench-results"), metavar="DIR", help="default: bench-results")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _run(options: argparse.Namespace) -> int:
    chosen = _scenarios(options)
    repeat = options.repeat or (1 if options.quick else 5 if options.against else 3)
    seconds = options.seconds or (3.0 if options.quick else 10.0)
    raise_file_limit(max(scenario.players + scenario.channels for scenario in chosen) + SPARE_FILES)
    if options.install_peers:
        peers.install_node_media_server()
    with tempfile.TemporaryDirectory(prefix="rtmp-bench-") as copies:
        return _measure(options, chosen, repeat, seconds, Path(copies))


def _measure(options: argparse.Namespace, chosen: Sequence[Scenario], repeat: int, seconds: float, copies: Path) -> int:
    servers, missing = _chosen(options, copies)
    for reason in missing:
        print(f"not measured: {reason}", file=sys.stderr)
    cores = Cores.all_of_this_machine() if options.workers else Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)
    print(cores, flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    failures: list[str] = []
    for scenario in chosen:
        for run in range(1, repeat + 1):
            # Every second round is in reverse order, so that none of the servers always runs first.
            for peer in servers if run % 2 else reversed(servers):
                if (scenario.needs_another and peer.relays is None) or not peer.serves(scenario):
                    continue
                try:
                    results.append(measure(peer, scenario, run, seconds, options.settle, cores))
                    print(_line(results[-1]), flush=True)
                except BenchError as error:
                    failures.append(f"{scenario.name}, {peer.name}, run {run}: {error}")
                    print(f"failed: {failures[-1]}", file=sys.stderr)
        _write(options.output, results, failures, missing, cores)
    if options.against or options.workers:
        print(*report.comparison(results, *(peer.name for peer in servers)), sep="\n")
    if results:
        print(f"written: {options.output}/results.csv, results.md, results.svg")
    return 1 if failures or not all(result.is_right for result in results) else 0


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    default = QUICK if options.quick else FOR_WORKERS if options.workers else list(known)
    names = options.scenario or ([] if options.players else default)
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"there is no scenario {unknown[0]}; there are {', '.join(known)}")
    return [known[name] for name in names] + [
        audience(players, options.format or "", options.secure) for players in options.players or []
    ]


def _chosen(options: argparse.Namespace, copies: Path) -> tuple[list[Peer], list[str]]:
    if options.against:
        return _checkouts(options.against, copies)
    if options.workers:
        return [peers.with_workers(1), peers.with_workers(options.workers)], []
    return _servers(options)


def _servers(options: argparse.Namespace) -> tuple[list[Peer], list[str]]:
    """The servers to measure, the project's own first; those given by a command replace those found."""
    given = {peer.name: peer for peer in map(peers.given, options.server)}
    names = options.only or list(peers.KNOWN)
    if unknown := [name for name in names if name not in peers.KNOWN and name not in given]:
        raise BenchError(f"there is no server {unknown[0]}; known are {', '.join(peers.KNOWN)}, others need --server")
    found, missing = peers.find(name for name in names if name not in given)
    if options.only and missing:
        raise BenchError(missing[0])
    by_name = {peer.name: peer for peer in found} | given
    order = [*(name for name in names if name in by_name), *(name for name in given if name not in names)]
    if not order:
        raise BenchError("no server to measure: " + "; ".join(missing))
    return [by_name[name] for name in order], missing


def _checkouts(other: Path, copies: Path) -> tuple[list[Peer], list[str]]:
    """The other checkout and this one."""
    # Folders of equal length: the size of a process's environment alone can change its speed by some percent.
    found = [(peers.BEFORE, other, copies / "1"), (peers.AFTER, peers.PROJECT, copies / "2")]
    return [peers.checkout(*one) for one in found], []


def _line(result: Result) -> str:
    state = "right" if result.is_right else f"WRONG: {report.verdict(result)}"
    return (
        f"{result.scenario:26} {result.server:18} run {result.run}: CPU {result.server_cpu_pct:6.2f} %  "
        f"p50 {result.lat_p50_ms:7.2f} ms  p99 {result.lat_p99_ms:7.2f} ms  {result.memory_mb:6.1f} MB  "
        f"load {result.load_cpu_pct:5.1f} %  other {result.other_cpu_pct:5.1f} %  {state}"
    )


def _write(
    directory: Path, results: Sequence[Result], failures: Sequence[str], missing: Sequence[str], cores: Cores
) -> None:
    if not results:
        return
    report.write_csv(directory / "results.csv", results)
    report.write_markdown(directory / "results.md", results, failures, missing, cores)
    rows = [row for row in report.medians(results) if row.scenario == audience(row.players).name]
    (directory / "results.svg").write_text(plot.svg(rows))
