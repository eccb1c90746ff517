"""The state of the server, as this room reads it. No other module here reads the objects of ``live/`` and ``rtmp/``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.channel import Channel
from rtmp_twisted.live.publication import Publication, PublishState
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.web.site import LimitedSite
from rtmp_twisted.web.viewer import Viewers
from rtmp_twisted.wire.messages import Message

ON_AIR: Final = PublishState.ON_AIR.value
ASKING: Final = PublishState.ASKING.value
WAITING: Final = "waiting"


@frozen
class PublisherStatus:
    """``client`` is the encoder's name for itself, ``connection`` its number in the log."""

    address: str
    client: str
    connection: int


@frozen
class ChannelStatus:
    """One channel, as it is at the moment of each call. Times are in seconds of the broker's clock."""

    _channel: Channel
    _publication: Publication | None

    @property
    def name(self) -> str:
        return self._channel.name

    @property
    def edge(self) -> bool:
        """Whether another worker has it, from which this one pulls."""
        return self._publication is not None and self._publication.edge

    @property
    def state(self) -> str:
        """``ON_AIR``, ``ASKING`` (the publisher waits for its answer) or ``WAITING`` (players wait for a publisher)."""
        if self._publication is None:
            return WAITING
        return ON_AIR if self._publication.state is PublishState.ON_AIR else ASKING

    @property
    def players(self) -> int:
        return len(self._channel.players)

    @property
    def web_viewers(self) -> int:
        """Those of the players that are viewers of the web server. Takes some time for each player."""
        return sum(player.form is not None for player in self._channel.players)

    @property
    def received_bytes(self) -> int:
        """Bytes of media in this publish."""
        return 0 if self._publication is None else self._publication.received_bytes

    @property
    def received_messages(self) -> int:
        return 0 if self._publication is None else self._publication.received_messages

    def traffic(self) -> Traffic:
        """Everything since the channel was created. Takes some time for each player."""
        return self._channel.traffic()

    @property
    def publish(self) -> object:
        """Identifies the publish: another object for each publish, None without one."""
        return self._publication

    @property
    def on_air_since(self) -> float | None:
        return None if self._publication is None else self._publication.on_air_since

    @property
    def publisher(self) -> PublisherStatus | None:
        publication = self._publication
        if publication is None:
            return None
        return PublisherStatus(publication.client_ip, publication.owner.agent, publication.owner.connection_number)

    @property
    def keyframe_interval(self) -> float | None:
        """Seconds between the last two keyframes; None before there were two."""
        milliseconds = None if self._publication is None else self._publication.keyframe_interval
        return None if milliseconds is None else milliseconds / 1000

    @property
    def headers(self) -> tuple[Message, ...]:
        """The publisher's metadata and codec headers."""
        return self._channel.program.headers.messages


def all_channels(broker: Broker) -> list[ChannelStatus]:
    """Returns each channel that has a publish or a player, the oldest first."""
    return [ChannelStatus(*entry) for entry in broker.channels()]


def one_channel(broker: Broker, name: str) -> ChannelStatus | None:
    """Returns the channel ``name``, or None if it has neither a publish nor a player."""
    entry = broker.channel(name)
    return None if entry is None else ChannelStatus(*entry)


@frozen
class ServerStatus:
    """The whole server. `merge_interval` is in seconds."""

    broker: Broker
    factory: RTMPFactory

    @property
    def connections(self) -> int:
        return sum(not connection.options.internal for connection in self.factory.connections)

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self.factory.accepted

    @property
    def refused(self) -> Mapping[str, int]:
        """Connections refused so far, by reason: a few fixed words."""
        return self.factory.limits.refused

    @property
    def failed_keys(self) -> Mapping[str, int]:
        """Publishes and plays that were refused so far for their key, by command."""
        return self.factory.options.guessing.failures

    @property
    def refused_guesses(self) -> int:
        """Publishes and plays that were refused so far because of too many wrong keys before."""
        return self.factory.options.guessing.refused

    def traffic(self) -> Traffic:
        """Everything since the start. Takes some time for each channel and player."""
        return self.broker.traffic()

    @property
    def held(self) -> int:
        """Bytes of memory that channels and connections hold."""
        return self.broker.memory.held

    @property
    def memory_limit(self) -> int:
        return self.broker.memory.limit

    @property
    def shrinks(self) -> int:
        """How often a channel or a connection had to give memory back."""
        return self.broker.memory.shrinks

    @property
    def merge_interval(self) -> float:
        return self.broker.merge_interval


@frozen
class WebStatus:
    """The public web server."""

    viewers: Viewers
    site: LimitedSite
    limits: ConnectionLimits

    @property
    def connections(self) -> int:
        return len(self.site.connections)

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self.site.accepted

    @property
    def refused(self) -> Mapping[str, int]:
        """Connections refused so far, by reason: a few fixed words."""
        return self.limits.refused

    @property
    def answers(self) -> Mapping[int, int]:
        """Answers so far, by HTTP status."""
        return self.site.answers

    def watching(self) -> Mapping[tuple[str, str], int]:
        """Viewers that get an endless stream, by format and by what it comes over."""
        return Counter((one.stream.name, one.transport_name) for one in self.viewers.all if one.watching)
