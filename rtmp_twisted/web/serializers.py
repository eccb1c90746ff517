"""What an operator is shown of a channel, as plain values for JSON. Used by http.

Never a key. Nor a stream id: it is the key where nobody decides who publishes, and a secret in other platforms.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from rtmp_twisted.live.channel import Channel
from rtmp_twisted.live.publication import Publication, PublishState
from rtmp_twisted.media.codecs import Details, describe_header
from rtmp_twisted.web.rates import Sampler
from rtmp_twisted.wire import amf0
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO, Message, data_name

#: Bytes of the longest codec header whose description is remembered, and how many are.
_REMEMBERED_SIZE: Final = 4096
_REMEMBERED: Final = 1024

#: Bytes of metadata that are looked at, for what the codec headers do not say; more are not.
MAX_METADATA: Final = 16 * 1024

#: What metadata may add: the name there, the name here, and the largest value that is believed.
_FROM_METADATA: Final = (("width", "width", 65_536), ("height", "height", 65_536), ("framerate", "frame_rate", 1000))


def channel_view(channel: Channel, publication: Publication | None, now: float, sampler: Sampler) -> dict[str, Any]:
    """One channel. ``now`` is the time of the clock that the broker has; rates are in bit/s, times in seconds."""
    traffic = channel.traffic()
    view: dict[str, Any] = {
        "name": channel.name,
        "state": state_of(publication),
        "players": len(channel.players),
        "delivered": {"bytes": traffic.delivered_bytes, "messages": traffic.delivered_messages},
        "skipped": {"times": traffic.skips, "bytes": traffic.skipped_bytes},
    }
    if publication is None:
        view["received"] = {"bytes": 0, "messages": 0}
        return view
    view["received"] = {"bytes": publication.received_bytes, "messages": publication.received_messages}
    view["publisher"] = _publisher(publication)
    if publication.on_air_since is not None:
        interval = publication.keyframe_interval
        view["on_air_seconds"] = round(now - publication.on_air_since, 3)
        view["bit_rate"] = round(sampler.bit_rate(channel.name, publication, publication.received_bytes))
        view["keyframe_interval"] = None if interval is None else interval / 1000
        view["tracks"] = tracks(channel.program.headers.messages)
    return view


def state_of(publication: Publication | None) -> str:
    """ "on air", "asking" (also while it waits to take over) or, without a publish, "waiting"."""
    if publication is None:
        return "waiting"
    return "on air" if publication.state is PublishState.ON_AIR else "asking"


def _publisher(publication: Publication) -> dict[str, Any]:
    owner = publication.owner
    return {"address": publication.client_ip, "client": owner.agent, "connection": owner.connection_number}


def tracks(headers: tuple[Message, ...]) -> list[dict[str, Any]]:
    """What the codec headers say, video first; the first video track's gaps filled from the metadata."""
    found: list[dict[str, Any]] = []
    for kind, type_id in ("video", VIDEO), ("audio", AUDIO):
        for message in headers:
            if message.type_id == type_id:
                details = _describe(type_id, message.body)
                if details:
                    found.append({"kind": kind, **details})
    if found and found[0]["kind"] == "video":
        for message in headers:
            if message.type_id == DATA_AMF0:
                found[0] = {**_metadata(message), **found[0]}
    return found


def _describe(type_id: int, body: bytes) -> Details:
    return _describe_once(type_id, body) if len(body) <= _REMEMBERED_SIZE else describe_header(type_id, body)


_describe_once = lru_cache(_REMEMBERED)(describe_header)


def _metadata(message: Message) -> Details:
    """Numbers out of an ``onMetaData`` message; nothing where it is not understood."""
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
