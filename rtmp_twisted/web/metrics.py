"""Numbers for Prometheus. Made by tap.py, only when HTTP_PORT is set: importing this file imports prometheus_client.

Nothing is counted for this on a message's way: what the other rooms know anyway is read when it is asked for.
"""

from __future__ import annotations

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
from rtmp_twisted.live.publication import PublishState
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.web.rates import Sampler
from rtmp_twisted.web.serializers import state_of

#: Channels that have numbers of their own: those that have been there longest. ``rtmp_channels_not_shown`` counts
#: the others, which are in the sums.
MAX_CHANNELS: Final = 100

#: Characters of the longest channel name that is a label.
MAX_NAME: Final = 128

disable_created_metrics()  # one more series for each histogram, which nobody reads


class Link(Protocol):
    """A connection that is kept to another party."""

    @property
    def connected(self) -> bool:
        """Whether there is one right now."""


_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)


@implementer(IPublishAuthority)
class TimedAuthority:
    """Asks another authority, and notes how long its answers take."""

    def __init__(self, authority: Any, clock: IReactorTime) -> None:
        self._authority = authority
        self._clock = clock
        self.histogram = Histogram(
            "rtmp_authority_seconds",
            "How long the callback or the coordinator took to answer",
            ["event", "outcome"],
            registry=None,
            buckets=_SECONDS,
        )

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        return self._timed("start", self._authority.start(channel, key, client_ip))

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        return self._timed("stop", self._authority.end(channel, key, stream_id, client_ip))

    def _timed(self, event: str, answer: Deferred[Any]) -> Deferred[Any]:
        began = self._clock.seconds()

        def note(result: Any) -> Any:
            outcome = "done" if event == "stop" else "refused" if isinstance(result, Failure) else "accepted"
            self.histogram.labels(event, outcome).observe(max(0.0, self._clock.seconds() - began))
            return result

        return answer.addBoth(note)


class Metrics(Collector):
    """``links`` are the connections that are kept to other parties, by name; `text` is what a scrape gets."""

    def __init__(
        self,
        clock: IReactorTime,
        broker: Broker,
        factory: RTMPFactory,
        authority: TimedAuthority,
        links: Mapping[str, Link],
    ) -> None:
        self._broker = broker
        self._factory = factory
        self._links = links
        self._registry = CollectorRegistry()
        lag = Histogram(
            "rtmp_reactor_lag_seconds",
            "How late the process comes to what it is to do at a time; looked at twice a second",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.sampler = Sampler(clock, broker, lag.observe)
        self._registry.register(authority.histogram)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All numbers, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        return []  # else the registry would collect to find the names

    def collect(self) -> Iterator[Metric]:
        version = GaugeMetricFamily("rtmp_version_info", "The server's version", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        yield from self._connections()
        yield from self._traffic()
        yield from self._channels()
        up = GaugeMetricFamily("rtmp_link_up", "Whether there is a connection to the other party", labels=["link"])
        for name, link in self._links.items():
            up.add_metric([name], link.connected)
        yield up

    def _connections(self) -> Iterator[Metric]:
        factory = self._factory
        yield GaugeMetricFamily("rtmp_connections", "Connections now", len(factory.connections))
        yield CounterMetricFamily("rtmp_connections", "Connections that were let in", factory.accepted)
        refused = CounterMetricFamily("rtmp_connections_refused", "Connections turned away", labels=["reason"])
        for reason, count in factory.limits.refused.items():
            refused.add_metric([reason], count)
        yield refused

    def _traffic(self) -> Iterator[Metric]:
        traffic = self._broker.traffic()
        for name, text, value in (
            ("received_bytes", "Media that publishers sent, in bytes", traffic.received_bytes),
            ("received_messages", "Media that publishers sent, in messages", traffic.received_messages),
            ("delivered_bytes", "Media handed over to players, in bytes", traffic.delivered_bytes),
            ("delivered_messages", "Media handed over to players, in messages", traffic.delivered_messages),
            ("player_skips", "How often a player that was too slow lost a part of the stream", traffic.skips),
            ("player_skipped_bytes", "Media that players that were too slow have lost", traffic.skipped_bytes),
        ):
            yield CounterMetricFamily(f"rtmp_{name}", text, value)
        text = "How long media is held back on channels that many watch"
        yield GaugeMetricFamily("rtmp_merge_interval_seconds", text, self._broker.merge_interval)

    def _channels(self) -> Iterator[Metric]:
        states = dict.fromkeys(("on air", "asking", "waiting"), 0)
        players = GaugeMetricFamily("rtmp_channel_players", "Players of a channel", labels=["channel"])
        rates = GaugeMetricFamily("rtmp_channel_bit_rate", "What a publisher sends, in bit/s", labels=["channel"])
        shown = total_players = 0
        channels = self._broker.channels()
        for channel, publication in channels:
            states[state_of(publication)] += 1
            total_players += len(channel.players)
            if shown < MAX_CHANNELS and len(channel.name) <= MAX_NAME:
                shown += 1
                players.add_metric([channel.name], len(channel.players))
                if publication is not None and publication.state is PublishState.ON_AIR:
                    rate = self.sampler.bit_rate(channel.name, publication, publication.received_bytes)
                    rates.add_metric([channel.name], rate)
        family = GaugeMetricFamily("rtmp_channels", "Channels, by what they do", labels=["state"])
        for state, count in states.items():
            family.add_metric([state], count)
        yield family
        yield GaugeMetricFamily("rtmp_players", "Players, also those that wait for a publisher", total_players)
        yield players
        yield rates
        text = f"Channels beyond the first {MAX_CHANNELS}, which have no numbers of their own"
        yield GaugeMetricFamily("rtmp_channels_not_shown", text, len(channels) - shown)
