"""What only time tells: the bit rate of each channel, and how late the reactor is. Used by http, metrics and views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.publication import Publication

#: Seconds between two looks at the reactor's lateness.
LAG_INTERVAL: Final = 0.5

#: Seconds between two looks at the channels: a bit rate is the average of the last one to two of these.
RATE_INTERVAL: Final = 5.0


@frozen
class _Sample:
    publication: Publication
    time: float
    size: int


class Sampler:
    """Between `start` and `stop` it looks now and then. ``lag`` is told each lateness, in seconds."""

    def __init__(self, clock: IReactorTime, broker: Broker, lag: Callable[[float], object]) -> None:
        self._clock = clock
        self._broker = broker
        self._lag = lag
        self._older: dict[str, _Sample] = {}
        self._newer: dict[str, _Sample] = {}
        self._due = 0.0
        self._look = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        self._look = self._clock.seconds() + RATE_INTERVAL
        self._schedule()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def bit_rate(self, name: str, publication: Publication, received: int) -> float:
        """What a publish that has brought ``received`` bytes so far brings now, in bit/s: 0.0 at its beginning."""
        sample = self._older.get(name)
        if sample is None or sample.publication is not publication:
            sample = _Sample(publication, publication.on_air_since or 0.0, 0)
        elapsed = self._clock.seconds() - sample.time
        if publication.on_air_since is None or elapsed <= 0:
            return 0.0
        return 8 * (received - sample.size) / elapsed

    def _schedule(self) -> None:
        self._due = self._clock.seconds() + LAG_INTERVAL
        self._timer = self._clock.callLater(LAG_INTERVAL, self._tick)

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._lag(max(0.0, now - self._due))
        if now >= self._look:
            self._look = now + RATE_INTERVAL
            self._older, self._newer = (
                self._newer,
                {
                    channel.name: _Sample(publication, now, publication.received_bytes)
                    for channel, publication in self._broker.channels()
                    if publication is not None and channel.on_air
                },
            )
        self._schedule()
