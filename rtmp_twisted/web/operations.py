"""What operators may ask and do, of a server that is one process. Made by tap.py, and by worker.py for its part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Factory, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.drain import Drain
from rtmp_twisted.live.relays import Relays
from rtmp_twisted.web.rates import Sampler
from rtmp_twisted.web.serializers import serialize_channel, serialize_relay
from rtmp_twisted.web.status import WAITING, all_channels, one_channel


@frozen
class LocalOperations:
    """``text`` returns the text of /metrics; ``other_nodes`` what is known of a cluster's nodes. ``away`` sends clients
    away."""

    clock: IReactorTime
    broker: Broker
    sampler: Sampler
    text: Callable[[], bytes]
    pushes_and_pulls: Relays | None = None
    other_nodes: Callable[[], Deferred[list[dict[str, Any]]]] | None = None
    away: Drain = field(default=Factory(lambda self: Drain(self.clock, self.broker), takes_self=True))

    def start(self) -> None:
        self.sampler.start()

    def stop(self) -> None:
        self.sampler.stop()

    def healthy(self) -> bool:
        return True

    def draining(self) -> bool:
        return self.broker.draining

    def drain(self, on: bool) -> None:
        self.away.turn(on)

    def left(self) -> dict[str, int]:
        return self.away.left()

    def channels(self, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        now = self.clock.seconds()
        channels = all_channels(self.broker)
        shown = [serialize_channel(channel, now, self.sampler) for channel in channels[offset : offset + limit]]
        return len(channels), shown

    def channel(self, name: str) -> dict[str, Any] | None:
        channel = one_channel(self.broker, name)
        return None if channel is None else serialize_channel(channel, self.clock.seconds(), self.sampler)

    def states(self) -> dict[str, str]:
        """The states of all channels, by name; of one that another worker has, that there are players."""
        return {channel.name: WAITING if channel.edge else channel.state for channel in all_channels(self.broker)}

    def kill(self, name: str, reason: str) -> bool:
        return self.broker.kill(name, None, reason)

    def relays(self, channel: str | None) -> list[dict[str, Any]] | None:
        if self.pushes_and_pulls is None:
            return None
        return [serialize_relay(status) for status in self.pushes_and_pulls.statuses(channel)]

    def add_push(self, channel: str, url: str) -> dict[str, Any]:
        if self.pushes_and_pulls is None:
            raise ValueError("this server does not push")
        return serialize_relay(self.pushes_and_pulls.add_push(channel, url))

    def remove_push(self, channel: str, id: str) -> bool:
        return self.pushes_and_pulls is not None and self.pushes_and_pulls.remove_push(channel, id)

    def nodes(self) -> Deferred[list[dict[str, Any]]] | None:
        return None if self.other_nodes is None else self.other_nodes()

    def metrics(self) -> bytes:
        return self.text()
