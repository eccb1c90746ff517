"""FLV files (FLV 10.1, annex E) as lists of RTMP messages."""

from __future__ import annotations

from pathlib import Path

from rtmp_twisted.wire.messages import Message


def read_flv(path: Path) -> list[Message]:
    """The tags of a file, in order, for message stream 1."""
    return parse_flv(path.read_bytes())


def parse_flv(data: bytes) -> list[Message]:
    """The tags in ``data``, as `read_flv` has them. Half a tag at the end is left out."""
    position = 9 + 4
    tags = []
    while position + 11 <= len(data):
        length = int.from_bytes(data[position + 1 : position + 4], "big")
        timestamp = int.from_bytes(data[position + 4 : position + 7], "big") | data[position + 7] << 24
        body = data[position + 11 : position + 11 + length]
        if len(body) == length:
            tags.append(Message(data[position], 1, timestamp, body))
        position += 11 + length + 4
    return tags
