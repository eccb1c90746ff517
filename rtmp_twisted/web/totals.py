"""Metrics of a server with several workers: the sums of theirs, some of them by worker too, and the supervisor's own.

tap.py makes `Totals` only with HTTP_PORT and WORKERS. Its names are those of metrics.py, so that dashboards stay right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rtmp_twisted.rtmp.guessing import GuessingLimits
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.web.metrics import Peer, TimedAuthority, guessing_refused, links, refused
from rtmp_twisted.web.status import ASKING, ON_AIR, WAITING

LARGEST: Final = frozenset(("rtmp_version_info", "rtmp_merge_interval_seconds", "process_max_fds"))
"""Of these, the largest value counts, not the sum."""

SMALLEST: Final = frozenset(("process_start_time_seconds",))

OWN: Final = frozenset(
    (
        *("rtmp_channels", "rtmp_connections_refused", "rtmp_keys_refused", "rtmp_guessing_refused"),
        *("rtmp_web_connections_refused", "rtmp_link_up"),
    )
)
"""What the supervisor knows, and workers do not."""

BY_WORKER: Final = {
    "rtmp_connections": "rtmp_worker_connections",
    "rtmp_players": "rtmp_worker_players",
    "rtmp_received_bytes": "rtmp_worker_received_bytes",
    "rtmp_delivered_bytes": "rtmp_worker_delivered_bytes",
    "rtmp_memory_held_bytes": "rtmp_worker_memory_held_bytes",
    "process_cpu_seconds": "rtmp_worker_cpu_seconds",
    "process_resident_memory_bytes": "rtmp_worker_resident_memory_bytes",
}
"""What is there for each worker as well."""


def as_values(families: list[Metric]) -> list[Any]:
    """A worker's metrics, as they go to the supervisor."""
    return [
        [family.name, family.type, family.documentation, [[one.name, one.labels, one.value] for one in family.samples]]
        for family in families
    ]


class Totals(Collector):
    """``replaced`` tells how many workers have died."""

    def __init__(
        self,
        limits: ConnectionLimits,
        web_limits: ConnectionLimits | None,
        guessing: GuessingLimits,
        authority: TimedAuthority,
        peers: Mapping[str, Peer],
        replaced: Callable[[], int],
    ) -> None:
        self._limits = limits
        self._web_limits = web_limits
        self._guessing = guessing
        self._peers = peers
        self._replaced = replaced
        self._said: dict[int, Any] = {}
        self._states: dict[str, str] = {}
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._registry = CollectorRegistry()
        self._registry.register(authority.histogram)
        self._registry.register(self)

    def text(self, said: dict[int, Any], states: dict[str, str]) -> bytes:
        """Returns all metrics. ``said`` has each worker's, ``states`` those of all channels by name."""
        self._said, self._states = said, states
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from refused(self._limits.refused, "rtmp_connections_refused", "Connections refused")
        yield from guessing_refused(self._guessing.failures, self._guessing.refused)
        if self._web_limits is not None:
            yield from refused(
                self._web_limits.refused, "rtmp_web_connections_refused", "Connections to the web server refused"
            )
        yield from links(self._peers)
        states = Counter({ON_AIR: 0, ASKING: 0, WAITING: 0})
        states.update(self._states.values())
        channels = GaugeMetricFamily("rtmp_channels", "Channels, by state", labels=["state"])
        for state, number in states.items():
            channels.add_metric([state], number)
        yield channels
        yield GaugeMetricFamily("rtmp_workers", "Workers that answer", len(self._said))
        yield CounterMetricFamily("rtmp_workers_replaced", "Workers that have died", self._replaced())
        yield from self._sums()
        yield from self._by_worker()

    def _sums(self) -> Iterator[Metric]:
        found: dict[tuple[str, str], Metric] = {}
        values: dict[tuple[str, str], dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for said in [*self._said.values(), as_values(list(self._own.collect()))]:
            for name, kind, text, samples in said:
                if name in OWN:
                    continue
                key = name, kind
                found.setdefault(key, Metric(name, text, kind))
                sums = values.setdefault(key, {})
                for sample, labels, value in samples:
                    at = sample, tuple(labels.items())
                    sums[at] = _together(sample, sums[at], value) if at in sums else value
        for key, metric in found.items():
            for (sample, labels), value in values[key].items():
                metric.add_sample(sample, dict(labels), value)
            yield metric

    def _by_worker(self) -> Iterator[Metric]:
        found: dict[tuple[str, str], Metric] = {}
        for number, said in sorted(self._said.items()):
            for name, kind, text, samples in said:
                ours = BY_WORKER.get(name)
                if ours is None:
                    continue
                metric = found.setdefault((ours, kind), Metric(ours, f"{text}; of each worker", kind))
                for sample, _, value in samples:
                    metric.add_sample(sample.replace(name, ours), {"worker": str(number)}, value)
        yield from found.values()


def _together(name: str, one: float, other: float) -> float:
    if name in LARGEST:
        return max(one, other)
    return min(one, other) if name in SMALLEST else one + other
