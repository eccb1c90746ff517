"""The client's half of RTMP that a load generator needs: what it says, and how it reads the answers.

Bytes only: no sockets, no clock. Section numbers are RTMP 1.0's.
"""

from __future__ import annotations

import struct

SET_CHUNK_SIZE = 1
ABORT = 2
USER_CONTROL = 4
AUDIO = 8
VIDEO = 9
DATA = 18
COMMAND = 20

PING_REQUEST = 6
PING_RESPONSE = 7

HANDSHAKE_PART = 1536
ANSWER_SIZE = 1 + 2 * HANDSHAKE_PART
"""Length of S0, S1 and S2 (section 5.2)."""

DEFAULT_CHUNK_SIZE = 128
EXTENDED = 0xFFFFFF
"""The value of a 24-bit time stamp field that says: the real one is in four bytes of its own (section 5.3.1.3)."""

CREATE_STREAM_TRANSACTION = 2

Value = str | float | bool | None | dict[str, "Value"]


class Refused(Exception):
    """The server refused a command; the text says which status it gave."""


def chunks(chunk_stream: int, type_id: int, timestamp: int, stream_id: int, body: bytes, chunk_size: int) -> bytes:
    """One message as a type 0 chunk and the type 3 chunks that follow it (section 5.3.1).

    ``chunk_stream`` is 2 to 63, ``timestamp`` in milliseconds.
    """
    field = min(timestamp, EXTENDED)
    extended = struct.pack(">I", timestamp) if field == EXTENDED else b""
    head = struct.pack(">BHBHBB", chunk_stream, field >> 8, field & 255, len(body) >> 8, len(body) & 255, type_id)
    parts = [head, struct.pack("<I", stream_id), extended, body[:chunk_size]]
    continuation = bytes([0xC0 | chunk_stream]) + extended
    for start in range(chunk_size, len(body), chunk_size):
        parts += (continuation, body[start : start + chunk_size])
    return b"".join(parts)


def handshake(random: bytes) -> bytes:
    """C0 and C1 without a digest. ``random`` is 1528 bytes."""
    return b"\x03" + bytes(8) + random


def amf0(*values: Value) -> bytes:
    """Encodes values one after another (AMF 0, section 2)."""
    return b"".join(map(_value, values))


def _value(value: Value) -> bytes:
    match value:
        case None:
            return b"\x05"
        case bool():
            return bytes([1, value])
        case str():
            return b"\x02" + _text(value)
        case dict():
            pairs = b"".join(_text(name) + _value(item) for name, item in value.items())
            return b"\x03" + pairs + b"\x00\x00\x09"
        case _:
            return struct.pack(">Bd", 0, value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def command(*values: Value, stream_id: int = 0, chunk_size: int = DEFAULT_CHUNK_SIZE) -> bytes:
    """A command message, on chunk stream 3 for the connection and 8 for a message stream."""
    return chunks(8 if stream_id else 3, COMMAND, 0, stream_id, amf0(*values), chunk_size)


def connect(host: str, port: int, app: str) -> bytes:
    """``connect`` and ``createStream``, in one piece: neither needs the other's answer to be sent."""
    details: Value = {
        "app": app,
        "flashVer": "LNX 9,0,124,2",
        "tcUrl": f"rtmp://{host}:{port}/{app}",
        "fpad": False,
        "capabilities": 15.0,
        "audioCodecs": 4071.0,
        "videoCodecs": 252.0,
        "videoFunction": 1.0,
    }
    return command("connect", 1.0, details) + command("createStream", float(CREATE_STREAM_TRANSACTION), None)


def play(stream_id: int, key: str) -> bytes:
    return command("play", 3.0, None, key, -2000.0, stream_id=stream_id)


def publish(stream_id: int, key: str, chunk_size: int) -> bytes:
    """Set Chunk Size and ``publish``."""
    announced = chunks(2, SET_CHUNK_SIZE, 0, 0, struct.pack(">I", chunk_size), DEFAULT_CHUNK_SIZE)
    return announced + command("publish", 3.0, None, key, "live", stream_id=stream_id, chunk_size=chunk_size)


def pong(head: bytes) -> bytes:
    """The answer to a Ping Request, ``head`` being the body of that (section 7.1.7)."""
    return chunks(2, USER_CONTROL, 0, 0, struct.pack(">H", PING_RESPONSE) + head[2:6], DEFAULT_CHUNK_SIZE)


def is_ping(type_id: int, head: bytes) -> bool:
    return type_id == USER_CONTROL and head[:2] == struct.pack(">H", PING_REQUEST) and len(head) >= 6


def created_stream(body: bytes) -> int | None:
    """The stream id in the answer to ``createStream``; None for any other command.

    Raises Refused for an ``_error`` or a status of level error, whichever command it answers.
    """
    name, transaction, rest = _command_head(body)
    if name == "_error" or _text_property(body, "level") == "error":
        raise Refused(status_code(body) or f"{name} without a code")
    if name != "_result" or transaction != CREATE_STREAM_TRANSACTION:
        return None
    if rest[:2] != b"\x05\x00" or len(rest) < 10:
        raise Refused("createStream was answered without a stream id")
    return int(struct.unpack_from(">d", rest, 2)[0])


def status_code(body: bytes) -> str:
    """The ``code`` of an ``onStatus`` or ``_error`` command, empty where there is none."""
    return _text_property(body, "code")


def _text_property(body: bytes, name: str) -> str:
    _, _, rest = body.partition(_text(name) + b"\x02")
    return rest[2 : 2 + int.from_bytes(rest[:2], "big")].decode(errors="replace")


def _command_head(body: bytes) -> tuple[str, float, bytes]:
    """Name, transaction id, and what follows; a body that is no command has an empty name."""
    if len(body) < 3 or body[0] != 2:
        return "", 0.0, b""
    end = 3 + int.from_bytes(body[1:3], "big")
    if len(body) < end + 9 or body[end] != 0:
        return "", 0.0, b""
    return body[3:end].decode(errors="replace"), struct.unpack_from(">d", body, end + 1)[0], body[end + 9 :]
