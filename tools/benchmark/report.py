"""Writes the results down: every run as CSV, medians as a Markdown table."""

from __future__ import annotations

import csv
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from .runner import Cores, Result

SATURATED_PCT = 90.0
NOISY_PCT = 10.0
REFERENCE = "nginx-rtmp"
"""The server whose CPU the others' is compared with, where it was measured; the last one if not."""


COMPARED = {"CPU %": "server_cpu_pct", "p50 ms": "lat_p50_ms", "p99 ms": "lat_p99_ms", "memory MB": "memory_mb"}
"""The figures of ``comparison``, and Result's names for them."""


def medians(results: Iterable[Result]) -> list[Result]:
    """One result per scenario and server: the median of each figure, the worst of what must be 0 or 1.

    In the order in which scenarios and servers were first seen. ``run`` is the number of runs.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.scenario, result.server), []).append(result)
    return [_median(group) for group in groups.values()]


def _median(group: Sequence[Result]) -> Result:
    first = group[0]
    numbers = {
        field.name: round(statistics.median(getattr(result, field.name) for result in group), 3)
        for field in fields(first)
        if field.type == "float"
    }
    worst = {
        name: max(getattr(result, name) for result in group)
        for name in ("lost", "dup", "disorder", "closed", "bad", "no_video", "pub_backlog")
    }
    delivered = min((result.delivered for result in group), key=lambda share: -abs(share - 1))
    return replace(first, run=len(group), **{**numbers, **worst, "delivered": delivered})


def comparison(results: Sequence[Result], before: str, after: str) -> list[str]:
    """A table of two servers: the medians of both, and how many times as much ``after`` takes as ``before``.

    The ratio is the median of the ratios of runs that followed each other, with the lowest and the highest of them.
    """
    columns = "{:26} {:>10} {:>10} {:>10} {:>8}   {}".format
    lines = [columns("scenario", "figure", before, after, "ratio", "lowest to highest")]
    for scenario in dict.fromkeys(result.scenario for result in results):
        runs: dict[str, dict[int, Result]] = {before: {}, after: {}}
        for result in results:
            if result.scenario == scenario:
                runs[result.server][result.run] = result
        pairs = [(runs[before][run], runs[after][run]) for run in runs[before] if run in runs[after]]
        if not pairs:
            continue
        for figure, name in COMPARED.items():
            values = [(getattr(one, name), getattr(other, name)) for one, other in pairs]
            ratios = sorted(other / one if one else 1.0 for one, other in values)
            middle = [statistics.median(column) for column in zip(*values, strict=True)]
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            middles = [f"{value:.2f}" for value in middle]
            lines.append(columns(scenario, figure, *middles, f"{statistics.median(ratios):.3f}", spread))
            scenario = ""
    return lines


def write_csv(path: Path, results: Iterable[Result]) -> None:
    """Every run, a line each, with the names of Result's fields as the first line."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, results))


def write_markdown(
    path: Path, results: Sequence[Result], failures: Sequence[str], missing: Sequence[str], cores: Cores
) -> None:
    """The table of medians, with the conditions of the measurement and what is doubtful about it."""
    rows = medians(results)
    lines = ["# Benchmark", "", *_conditions(results, rows, cores), "", *_table(rows), ""]
    lines += [f"- Not measured: {reason}" for reason in missing]
    lines += [f"- Failed: {reason}" for reason in failures]
    lines += _doubts(rows)
    lines += ["", "![CPU and latency against the number of players](results.svg)", ""]
    path.write_text("\n".join(lines))


def machine() -> str:
    """Processor, number of cores, system."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}"


def _conditions(results: Sequence[Result], rows: Sequence[Result], cores: Cores) -> list[str]:
    versions = {row.server: row.version for row in rows}
    seconds = sorted({round(result.seconds) for result in results})
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, Python {platform.python_version()}; {cores}.",
        f"{', '.join(f'{name} ({version})' for name, version in versions.items())}.",
        f"Medians; runs of each: {max(row.run for row in rows)}, of {'/'.join(map(str, seconds))} s, "
        "servers in turn. CPU in percent of one core, of the server alone; memory resident and shared, in MB.",
    ]


def _table(rows: Sequence[Result]) -> list[str]:
    servers = list(dict.fromkeys(row.server for row in rows))
    reference = REFERENCE if REFERENCE in servers else servers[-1]
    used = {row.scenario: row.server_cpu_pct for row in rows if row.server == reference}
    lines = [
        f"| scenario | server | right | CPU % | of {reference}'s | p50 ms | p99 ms | memory MB | first picture ms |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        share = f"{row.server_cpu_pct / used[row.scenario]:.2f}" if used.get(row.scenario) else ""
        lines.append(
            f"| {row.scenario} | {row.server} | {verdict(row)} | {row.server_cpu_pct:.1f} | {share} "
            f"| {row.lat_p50_ms:.1f} | {row.lat_p99_ms:.1f} | {row.memory_mb:.0f} | {row.first_video_p50_ms:.0f} |"
        )
    return lines


def verdict(row: Result) -> str:
    if row.is_right:
        return "yes"
    faults = [f"{name} {getattr(row, name)}" for name in ("lost", "dup", "disorder", "closed", "bad", "no_video")]
    told = [fault for fault in faults if not fault.endswith(" 0")]
    return ", ".join([*([f"delivered {row.delivered:.4f}"] if row.delivered != 1 else []), *told])


def _doubts(rows: Sequence[Result]) -> list[str]:
    lines = []
    for row in rows:
        if row.load_cpu_pct > SATURATED_PCT:
            lines.append(
                f"- {row.scenario}, {row.server}: the load took {row.load_cpu_pct:.0f} % of its core, "
                "so the latency is an upper bound, and the CPU of a server that writes often a lower one."
            )
        if row.other_cpu_pct > NOISY_PCT:
            lines.append(
                f"- {row.scenario}, {row.server}: something else took {row.other_cpu_pct:.0f} % of a core meanwhile."
            )
    return lines


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
