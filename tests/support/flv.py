"""FLV files (FLV 10.1, annex E) as lists of RTMP messages."""

from __future__ import annotations

from pathlib import Path

from rtmp_twisted.wire.messages import Message


def read_flv(path: Path) -> list[Message]:
    """The tags of a file, in order, for message stream 1."""
    return read(path.read_bytes())


def read(data: bytes) -> list[Message]:
    """The same for a file's bytes."""
    position = 9 + 4
    tags = []
    while position + 11 <= len(data):
        length = int.from_bytes(data[position + 1 : position + 4], "big")
        timestamp = int.from_bytes(data[position + 4 : position + 7], "big") | data[position + 7] << 24
        tags.append(Message(data[position], 1, timestamp, data[position + 11 : position + 11 + length]))
        position += 11 + length + 4
    return tags
