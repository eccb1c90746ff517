"""Counters of the media that was received and delivered, for operators. They are updated when players come and go, not
for each message."""

from __future__ import annotations

from attrs import frozen


@frozen
class Traffic:
    """Numbers that only ever grow. Bytes received are those of message bodies, bytes delivered those of chunks."""

    received_bytes: int = 0
    received_messages: int = 0
    delivered_bytes: int = 0
    delivered_messages: int = 0
    skips: int = 0
    """How often a player that was too slow lost a part of the stream."""
    skipped_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.received_bytes + other.received_bytes,
            self.received_messages + other.received_messages,
            self.delivered_bytes + other.delivered_bytes,
            self.delivered_messages + other.delivered_messages,
            self.skips + other.skips,
            self.skipped_bytes + other.skipped_bytes,
        )
