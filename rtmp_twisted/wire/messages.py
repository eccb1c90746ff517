"""RTMP messages: their types, those that either side makes itself, and what is in them (RTMP 1.0, sections 5.4 and 7).

A message is a value; ``chunks`` turns it into bytes and back. May be used by every other room.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from rtmp_twisted.wire import amf0
from rtmp_twisted.wire.errors import ProtocolError

# Message type ids: RTMP 1.0, sections 5.4 and 7.1.
SET_CHUNK_SIZE: Final = 1
ABORT: Final = 2
ACKNOWLEDGEMENT: Final = 3
USER_CONTROL: Final = 4
WINDOW_ACKNOWLEDGEMENT_SIZE: Final = 5
SET_PEER_BANDWIDTH: Final = 6
AUDIO: Final = 8
VIDEO: Final = 9
DATA_AMF3: Final = 15
COMMAND_AMF3: Final = 17
DATA_AMF0: Final = 18
COMMAND_AMF0: Final = 20
AGGREGATE: Final = 22

MEDIA: Final = frozenset((AUDIO, VIDEO, DATA_AMF0, DATA_AMF3))
"""The types of what a publisher sends to its players; an `AGGREGATE` message has such messages in it."""

# User Control event types: section 7.1.7.
STREAM_BEGIN: Final = 0
STREAM_EOF: Final = 1
SET_BUFFER_LENGTH: Final = 3
PING_REQUEST: Final = 6
PING_RESPONSE: Final = 7

LIMIT_DYNAMIC: Final = 2
"""Set Peer Bandwidth limit type (section 5.4.5)."""


class Message(NamedTuple):
    """One whole message.

    ``type_id`` is 0 to 255, ``stream_id`` the message stream id (32 bits), ``timestamp`` in milliseconds
    modulo 2**32, ``body`` up to 16,777,215 bytes.
    """

    type_id: int
    stream_id: int
    timestamp: int
    body: bytes


class Command(NamedTuple):
    """A command. The first of its ``arguments`` is the command object (section 7.2)."""

    name: str
    transaction_id: float
    arguments: list[amf0.Value]

    def argument(self, index: int) -> amf0.Value:
        """Returns the argument at ``index`` (0 is the command object), or None where the sender left it out."""
        return self.arguments[index] if index < len(self.arguments) else None


def set_chunk_size(size: int) -> Message:
    return Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", size))


def acknowledgement(sequence_number: int) -> Message:
    """``sequence_number`` is the number of bytes received so far; it is sent modulo 2**32 (section 5.4.3)."""
    return Message(ACKNOWLEDGEMENT, 0, 0, struct.pack(">I", sequence_number & 0xFFFFFFFF))


def window_acknowledgement_size(size: int) -> Message:
    return Message(WINDOW_ACKNOWLEDGEMENT_SIZE, 0, 0, struct.pack(">I", size))


def set_peer_bandwidth(size: int, limit_type: int = LIMIT_DYNAMIC) -> Message:
    return Message(SET_PEER_BANDWIDTH, 0, 0, struct.pack(">IB", size, limit_type))


def user_control(event: int, data: int) -> Message:
    """A User Control message whose event data is one 32-bit number: a stream id, or the time of a ping."""
    return Message(USER_CONTROL, 0, 0, struct.pack(">HI", event, data & 0xFFFFFFFF))


def command(name: str, transaction_id: float, *arguments: amf0.Value, stream_id: int = 0) -> Message:
    return Message(COMMAND_AMF0, stream_id, 0, amf0.encode(name, transaction_id, *arguments))


def status(
    stream_id: int, level: str, code: str, description: str, more: dict[str, amf0.Value] | None = None
) -> Message:
    """An ``onStatus`` command (section 7.2.2); ``level`` is "status" or "error". ``more``: further properties."""
    info: amf0.Value = {"level": level, "code": code, "description": description, **(more or {})}
    return command("onStatus", 0, None, info, stream_id=stream_id)


def data(timestamp: int, *values: amf0.Value, stream_id: int = 0) -> Message:
    return Message(DATA_AMF0, stream_id, timestamp, amf0.encode(*values))


def four_bytes(message: Message) -> int:
    """Returns the number in a Set Chunk Size, Abort, Acknowledgement, Window Ack Size or Set Peer Bandwidth message.

    What follows it is ignored. Raises ProtocolError where the body has fewer than 4 bytes.
    """
    if len(message.body) < 4:
        raise ProtocolError(f"message type {message.type_id} holds {len(message.body)} bytes, not 4")
    return int.from_bytes(message.body[:4], "big")


def parse_user_control(message: Message) -> tuple[int, bytes]:
    """Returns the event type and its data. Raises ProtocolError where there is no event type."""
    if len(message.body) < 2:
        raise ProtocolError(f"a User Control message of {len(message.body)} bytes has no event type")
    return int.from_bytes(message.body[:2], "big"), message.body[2:]


MAX_COMMAND_VALUES: Final = 256
"""Values in one command, those within its objects included. Known clients send fewer than 60."""

MAX_COMMAND_LENGTH: Final = 65_536
"""Bytes of one command. Known clients send fewer than 2,000."""


def parse_command(message: Message) -> Command:
    """Reads a command: of type 20, or of type 17 behind its leading byte.

    Raises ProtocolError where it is none, and where it has more than `MAX_COMMAND_VALUES` values or is longer than
    `MAX_COMMAND_LENGTH`. These bounds keep the time within 2 ms.
    """
    if len(message.body) > MAX_COMMAND_LENGTH:
        raise ProtocolError(f"a command of {len(message.body)} bytes")
    values = amf0.decode(message.body, 1 if message.type_id == COMMAND_AMF3 else 0, MAX_COMMAND_VALUES)
    if not values or not isinstance(values[0], str):
        raise ProtocolError("a command does not begin with its name")
    transaction_id = values[1] if len(values) > 1 else 0.0
    if isinstance(transaction_id, bool) or not isinstance(transaction_id, (int, float)):
        raise ProtocolError(f"command {values[0][:64]!r} has no transaction id")
    return Command(values[0], float(transaction_id), values[2:])


_SET_DATA_FRAME: Final = amf0.encode("@setDataFrame")

MAX_AMF3_LENGTH: Final = 65_536
"""Bytes of a data message whose AMF 3 values are written as AMF 0."""

MAX_AMF3_VALUES: Final = 1024
"""Values in such a message. Known encoders send fewer than 60."""

MAX_AMF3_EXPANSION: Final = 1024
"""Bytes that references in such a message may add."""


def data_name(message: Message) -> tuple[str, Message]:
    """Returns the name of a data message, and the message as players get it.

    A leading ``@setDataFrame`` is meant for the server and is removed; the name is the one behind it. A type 15 message
    whose leading byte says AMF 0 becomes a type 18 message. Values in AMF 3 that it has (Enhanced RTMP v2, "Enabling
    AMF3") are written as AMF 0, which takes up to 5 ms. They stay as they are where they exceed the bounds above,
    cannot be understood or have a byte array. Nothing else is read or changed. Where a message has no name, an empty
    one is returned.
    """
    type_id, body = message.type_id, message.body
    if type_id == DATA_AMF3 and body[:1] == b"\0":
        type_id, body = DATA_AMF0, _without_amf3(body[1:])
    if body.startswith(_SET_DATA_FRAME):
        body = body[len(_SET_DATA_FRAME) :]
    name = body[3 : 3 + int.from_bytes(body[1:3], "big")] if type_id == DATA_AMF0 and body[:1] == b"\2" else b""
    return name.decode("utf-8", "replace"), message._replace(type_id=type_id, body=body)


def _without_amf3(body: bytes) -> bytes:
    if len(body) > MAX_AMF3_LENGTH:
        return body
    try:
        return amf0.without_amf3(body, MAX_AMF3_VALUES, MAX_AMF3_EXPANSION)
    except ProtocolError:
        return body


MAX_PARTS: Final = 4096
"""Messages in one aggregate message: minutes of media."""


def split_aggregate(message: Message) -> Iterator[Message]:
    """Yields the messages in an aggregate message (section 7.1.6), which are FLV tags.

    Their times are moved so that the first has the time of the aggregate. The iterator may be left between two messages
    and continued later. It raises ProtocolError when it comes to a tag that is cut, or to one more than `MAX_PARTS`.
    """
    body, position = message.body, 0
    count = shift = 0
    while position + 11 <= len(body):
        length = int.from_bytes(body[position + 1 : position + 4], "big")
        time = int.from_bytes(body[position + 4 : position + 7], "big") | body[position + 7] << 24
        start = position + 11
        if start + length > len(body):
            raise ProtocolError("an aggregate message whose parts are longer than itself")
        if count == 0:
            shift = message.timestamp - time
        elif count == MAX_PARTS:
            raise ProtocolError(f"an aggregate message of more than {MAX_PARTS} parts")
        count += 1
        timestamp = (time + shift) & 0xFFFFFFFF
        yield Message(body[position], message.stream_id, timestamp, body[start : start + length])
        position = start + length + 4  # the back pointer
