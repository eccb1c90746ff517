"""Metrics for Prometheus.

tap.py makes `Metrics` only when HTTP_PORT is set: importing this module imports prometheus_client. Nothing is counted
for it on a message's way: a scrape reads what other rooms count anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted._version import __version__
from rtmp_twisted.live.authority import IPublishAuthority
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.relays import Relays, RelayStatus
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.web.rates import Sampler
from rtmp_twisted.web.status import ASKING, ON_AIR, WAITING, ServerStatus, WebStatus, all_channels

MAX_CHANNELS: Final = 100
"""Channels with metrics of their own: the oldest. ``rtmp_channels_not_shown`` counts the others; the totals include
them."""

MAX_RELAYS: Final = 200
"""Pushes and pulls with metrics of their own; ``rtmp_relays`` counts all."""

MAX_NAME: Final = 128
"""Characters of the longest channel name that becomes a label."""

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
"""Seconds."""

disable_created_metrics()  # they would add one series to each histogram, which nobody reads


class Peer(Protocol):
    """Another party that the server keeps a connection to."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""


@implementer(IPublishAuthority)
class TimedAuthority:
    """Asks another authority, and measures how long its answers take."""

    def __init__(self, authority: Any, clock: IReactorTime) -> None:
        self._authority = authority
        self._clock = clock
        self.histogram = Histogram(
            "rtmp_authority_seconds",
            "How long the callback or the coordinator took to answer",
            ["event", "outcome"],
            registry=None,
            buckets=_BUCKETS,
        )

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        return self._timed("start", self._authority.start(channel, key, client_ip))

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        return self._timed("stop", self._authority.end(channel, key, stream_id, client_ip))

    def _timed(self, event: str, answer: Deferred[Any]) -> Deferred[Any]:
        began = self._clock.seconds()

        def observe(result: Any) -> Any:
            outcome = "done" if event == "stop" else "refused" if isinstance(result, Failure) else "accepted"
            self.histogram.labels(event, outcome).observe(max(0.0, self._clock.seconds() - began))
            return result

        return answer.addBoth(observe)


class Metrics(Collector):
    """Collects all metrics. ``peers`` are the parties that the server keeps connections to, by name; ``web``: the
    public web server, if it is on. ``authority`` is None where another process asks it."""

    def __init__(
        self,
        clock: IReactorTime,
        broker: Broker,
        factory: RTMPFactory,
        authority: TimedAuthority | None,
        peers: Mapping[str, Peer],
        web: WebStatus | None = None,
        relays: Relays | None = None,
    ) -> None:
        self._broker = broker
        self._web = web
        self._server = ServerStatus(broker, factory)
        self._peers = peers
        self._relays = relays
        self._registry = CollectorRegistry()
        lag = Histogram(
            "rtmp_reactor_lag_seconds",
            "How late the process runs what it has scheduled; measured twice a second",
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self.sampler = Sampler(clock, broker, lag.observe)
        if authority is not None:
            self._registry.register(authority.histogram)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def families(self) -> list[Metric]:
        """Returns all metrics, of a worker, for their sums."""
        return list(self._registry.collect())

    def text(self) -> bytes:
        """Returns all metrics, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        return []  # otherwise the registry would collect everything once, to learn the names

    def collect(self) -> Iterator[Metric]:
        version = GaugeMetricFamily("rtmp_version_info", "The server's version", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        yield from self._connections()
        yield from self._traffic()
        yield from self._channels()
        if self._web is not None:
            yield from self._web_server(self._web)
        yield from links(self._peers)
        if self._relays is not None:
            yield from self._pushes_and_pulls(self._relays.statuses())

    def _connections(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "rtmp_connections", "Connections now, also those to other servers", self._server.connections
        )
        yield CounterMetricFamily("rtmp_connections", "Connections accepted", self._server.accepted)
        yield from refused(self._server.refused, "rtmp_connections_refused", "Connections refused")
        yield from guessing_refused(self._server.failed_keys, self._server.refused_guesses)

    def _web_server(self, web: WebStatus) -> Iterator[Metric]:
        yield GaugeMetricFamily("rtmp_web_connections", "Connections to the web server now", web.connections)
        text = "Connections to the web server accepted"
        yield CounterMetricFamily("rtmp_web_connections", text, web.accepted)
        yield from refused(web.refused, "rtmp_web_connections_refused", "Connections to the web server refused")
        answers = CounterMetricFamily("rtmp_web_answers", "Answers of the web server", labels=["status"])
        for status, count in web.answers.items():
            answers.add_metric([str(status)], count)
        yield answers
        text = "Viewers of endless streams; they are players as well"
        viewers = GaugeMetricFamily("rtmp_web_viewers", text, labels=["format", "over"])
        for labels, count in web.watching().items():
            viewers.add_metric(list(labels), count)
        yield viewers

    def _traffic(self) -> Iterator[Metric]:
        traffic = self._server.traffic()
        for name, text, value in (
            ("received_bytes", "Media received from publishers, in bytes", traffic.received_bytes),
            ("received_messages", "Media received from publishers, in messages", traffic.received_messages),
            ("delivered_bytes", "Media delivered to players, in bytes", traffic.delivered_bytes),
            ("delivered_messages", "Media delivered to players, in messages", traffic.delivered_messages),
            ("player_skips", "How often a player that was too slow missed a part of the stream", traffic.skips),
            ("player_skipped_bytes", "Media that players missed because they were too slow", traffic.skipped_bytes),
        ):
            yield CounterMetricFamily(f"rtmp_{name}", text, value)
        held_back = "How long media is held back on channels with many players"
        yield GaugeMetricFamily("rtmp_merge_interval_seconds", held_back, self._server.merge_interval)
        server = self._server
        yield GaugeMetricFamily("rtmp_memory_held_bytes", "Memory that channels and connections hold", server.held)
        yield GaugeMetricFamily("rtmp_memory_limit_bytes", "How much of it they may hold", server.memory_limit)
        given_back = "How often a channel or a connection had to give memory back"
        yield CounterMetricFamily("rtmp_memory_shrinks", given_back, server.shrinks)

    def _pushes_and_pulls(self, statuses: list[RelayStatus]) -> Iterator[Metric]:
        labels = ["kind", "channel", "id", "target"]
        live = GaugeMetricFamily(
            "rtmp_relay_live", "Whether media goes to, or comes from, the other server", labels=labels
        )
        rate = GaugeMetricFamily("rtmp_relay_bit_rate", "Media in the last second, in bit/s", labels=labels)
        waiting = GaugeMetricFamily(
            "rtmp_relay_waiting_bytes", "Media that a push has not been handed yet", labels=labels
        )
        moved = CounterMetricFamily("rtmp_relay_bytes", "Media pushed or pulled, in bytes", labels=labels)
        skips = CounterMetricFamily("rtmp_relay_skips", "How often a push was too slow and lost media", labels=labels)
        skipped = CounterMetricFamily("rtmp_relay_skipped_bytes", "Media that pushes lost", labels=labels)
        again = CounterMetricFamily("rtmp_relay_reconnects", "How often its connection was lost", labels=labels)
        shown = [status for status in statuses if len(status.channel) <= MAX_NAME][:MAX_RELAYS]
        for status in shown:
            values = [status.kind, status.channel, status.id, status.target]
            live.add_metric(values, status.state == "live")
            rate.add_metric(values, status.bit_rate)
            waiting.add_metric(values, status.waiting_bytes)
            moved.add_metric(values, status.total_bytes)
            skips.add_metric(values, status.skips)
            skipped.add_metric(values, status.skipped_bytes)
            again.add_metric(values, status.reconnects)
        yield from (live, rate, waiting, moved, skips, skipped, again)
        states = Counter((status.kind, status.state) for status in statuses)
        family = GaugeMetricFamily("rtmp_relays", "Pushes and pulls, by state", labels=["kind", "state"])
        for labelled, number in states.items():
            family.add_metric(labelled, number)
        yield family

    def _channels(self) -> Iterator[Metric]:
        states = Counter({ON_AIR: 0, ASKING: 0, WAITING: 0})
        players = GaugeMetricFamily("rtmp_channel_players", "Players of a channel", labels=["channel"])
        rates = GaugeMetricFamily("rtmp_channel_bit_rate", "What a publisher sends, in bit/s", labels=["channel"])
        shown = total_players = 0
        channels = all_channels(self._broker)
        for channel in channels:
            state, name = channel.state, channel.name
            if channel.edge:
                state = WAITING  # as far as this process is concerned
            states[state] += 1
            total_players += channel.players
            if shown < MAX_CHANNELS and len(name) <= MAX_NAME:
                shown += 1
                players.add_metric([name], channel.players)
                if state == ON_AIR:
                    rates.add_metric([name], self.sampler.bit_rate(channel))
        family = GaugeMetricFamily("rtmp_channels", "Channels, by state", labels=["state"])
        for state, count in states.items():
            family.add_metric([state], count)
        yield family
        yield GaugeMetricFamily("rtmp_players", "Players, also those that wait for a publisher", total_players)
        yield players
        yield rates
        not_shown = f"Channels without metrics of their own: more than {MAX_CHANNELS}, or a name that is too long"
        yield GaugeMetricFamily("rtmp_channels_not_shown", not_shown, len(channels) - shown)


def refused(reasons: Mapping[str, int], name: str, text: str) -> Iterator[Metric]:
    """Connections refused, by reason."""
    family = CounterMetricFamily(name, text, labels=["reason"])
    for reason, count in reasons.items():
        family.add_metric([reason], count)
    yield family


def guessing_refused(failures: Mapping[str, int], guesses: int) -> Iterator[Metric]:
    """Keys refused: by command, and without a look at them."""
    text = "Refused: plays with a wrong key, and publishes, by command"
    keys = CounterMetricFamily("rtmp_keys_refused", text, labels=["command"])
    for command, count in failures.items():
        keys.add_metric([command], count)
    yield keys
    text = "Publishes and plays refused because of too many wrong keys before from that address on that channel"
    yield CounterMetricFamily("rtmp_guessing_refused", text, guesses)


def links(peers: Mapping[str, Peer]) -> Iterator[Metric]:
    """Whether there are connections to other parties."""
    up = GaugeMetricFamily("rtmp_link_up", "Whether there is a connection to the other party", labels=["link"])
    for name, peer in peers.items():
        up.add_metric([name], peer.connected)
    yield up
