"""A channel, a push or a pull as an operator sees it: plain values for JSON.

They never hold a key or a stream id: where nobody decides who publishes, the stream id is the key, and on other
platforms it is a secret too.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any, Final

from rtmp_twisted.live.relays import RelayStatus
from rtmp_twisted.media.codecs import Details, describe_header
from rtmp_twisted.web.rates import Sampler
from rtmp_twisted.web.status import ChannelStatus, PublisherStatus
from rtmp_twisted.wire import amf0
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO, Message, data_name

MAX_TRACKS: Final = 16
"""Tracks of each kind that are described."""

MAX_METADATA: Final = 16 * 1024
"""Bytes of the longest metadata that is read, for what the codec headers do not tell."""

_MAX_REMEMBERED_SIZE: Final = 4096
"""Bytes of the longest codec header or metadata whose description is remembered."""

_MAX_REMEMBERED: Final = 1024
"""Descriptions of codec headers that are remembered, and as many of metadata."""

_FROM_METADATA: Final = (("width", "width", 65_536), ("height", "height", 65_536), ("framerate", "frame_rate", 1000))
"""What is read from metadata: its name there, its name here, and the largest value that is plausible."""


def serialize_channel(channel: ChannelStatus, now: float, sampler: Sampler) -> dict[str, Any]:
    """Returns one channel. ``now`` is the time of the broker's clock. Rates are in bit/s, times in seconds."""
    traffic = channel.traffic()
    values: dict[str, Any] = {
        "name": channel.name,
        "state": channel.state,
        "players": channel.players,
        "web_viewers": channel.web_viewers,
        "received": {"bytes": channel.received_bytes, "messages": channel.received_messages},
        "delivered": {"bytes": traffic.delivered_bytes, "messages": traffic.delivered_messages},
        "skipped": {"times": traffic.skips, "bytes": traffic.skipped_bytes},
    }
    if channel.edge:
        values["edge"] = True
    publisher = channel.publisher
    if publisher is not None:
        values["publisher"] = _serialize_publisher(publisher)
    if channel.on_air_since is not None:
        values["on_air_seconds"] = round(now - channel.on_air_since, 3)
        values["bit_rate"] = round(sampler.bit_rate(channel))
        values["keyframe_interval"] = channel.keyframe_interval
        values["tracks"] = tracks(channel.headers)
    return values


def serialize_relay(status: RelayStatus) -> dict[str, Any]:
    """Returns a push or pull."""
    return {
        "id": status.id,
        "kind": status.kind,
        "channel": status.channel,
        "target": status.target,
        "made_by": status.made_by,
        "state": status.state,
        "live_seconds": None if status.live_seconds is None else round(status.live_seconds, 3),
        "bit_rate": round(status.bit_rate),
        "bytes": status.total_bytes,
        "waiting_bytes": status.waiting_bytes,
        "skipped": {"times": status.skips, "bytes": status.skipped_bytes},
        "reconnects": status.reconnects,
        "last_error": status.last_error,
    }


def _serialize_publisher(publisher: PublisherStatus) -> dict[str, Any]:
    return {"address": publisher.address, "client": publisher.client, "connection": publisher.connection}


def tracks(headers: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Returns what the codec headers tell about each track, video first.

    What they do not tell about the first video track is taken from the metadata.
    """
    found: list[dict[str, Any]] = []
    for kind, type_id in ("video", VIDEO), ("audio", AUDIO):
        bodies = (message.body for message in headers if message.type_id == type_id)
        for body in islice(bodies, MAX_TRACKS):
            details = _describe(type_id, body)
            if details:
                found.append({"kind": kind, **details})
    if found and found[0]["kind"] == "video":
        for message in headers:
            if message.type_id == DATA_AMF0:
                found[0] = {**_describe_metadata(message), **found[0]}
    return found


def _describe(type_id: int, body: bytes) -> Details:
    return _describe_once(type_id, body) if len(body) <= _MAX_REMEMBERED_SIZE else describe_header(type_id, body)


_describe_once = lru_cache(_MAX_REMEMBERED)(describe_header)


def _describe_metadata(message: Message) -> Details:
    return _read_metadata_once(message) if len(message.body) <= _MAX_REMEMBERED_SIZE else _read_metadata(message)


def _read_metadata(message: Message) -> Details:
    """Returns the picture's size and frame rate from an ``onMetaData`` message, or nothing if they are not there."""
    name, message = data_name(message)
    if name != "onMetaData" or len(message.body) > MAX_METADATA:
        return {}
    try:
        values = amf0.decode(message.body)
    except ProtocolError:
        return {}
    fields = values[1] if len(values) > 1 and isinstance(values[1], dict) else {}
    found: Details = {}
    for theirs, ours, largest in _FROM_METADATA:
        value = fields.get(theirs)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= largest:
            found[ours] = round(value, 3)
    return found


_read_metadata_once = lru_cache(_MAX_REMEMBERED)(_read_metadata)
