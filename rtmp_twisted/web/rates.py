"""Figures that need time: the bit rate of each channel, and how late the reactor is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.web.status import ChannelStatus, all_channels

LAG_INTERVAL: Final = 0.5
"""Seconds between two measurements of the reactor's lag."""

RATE_INTERVAL: Final = 5.0
"""Seconds between two samples of the channels. A bit rate is the average over the last one to two intervals."""


@frozen
class _Sample:
    publish: object
    time: float
    size: int


class Sampler:
    """Measures at intervals, from `start` to `stop`. Calls ``lag`` with each lag of the reactor, in seconds."""

    def __init__(self, clock: IReactorTime, broker: Broker, lag: Callable[[float], object]) -> None:
        self._clock = clock
        self._broker = broker
        self._lag = lag
        self._older: dict[str, _Sample] = {}
        self._newer: dict[str, _Sample] = {}
        self._due = self._next_samples_at = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        self._schedule()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def bit_rate(self, channel: ChannelStatus) -> float:
        """Returns what the channel's publisher sends now, in bit/s: 0.0 before it has gone on air."""
        on_air_since = channel.on_air_since
        if on_air_since is None:
            return 0.0
        sample = self._older.get(channel.name)
        if sample is None or sample.publish is not channel.publish:
            sample = _Sample(channel.publish, on_air_since, 0)
        elapsed = self._clock.seconds() - sample.time
        return 8 * (channel.received_bytes - sample.size) / elapsed if elapsed > 0 else 0.0

    def _schedule(self) -> None:
        self._due = self._clock.seconds() + LAG_INTERVAL
        self._timer = self._clock.callLater(LAG_INTERVAL, self._tick)

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._lag(max(0.0, now - self._due))
        if now >= self._next_samples_at:
            self._next_samples_at = now + RATE_INTERVAL
            self._older, self._newer = self._newer, self._samples(now)
        self._schedule()

    def _samples(self, now: float) -> dict[str, _Sample]:
        return {
            channel.name: _Sample(channel.publish, now, channel.received_bytes)
            for channel in all_channels(self._broker)
            if channel.on_air_since is not None
        }
