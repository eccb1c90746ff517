"""The states of a connection, and the interfaces through which it reaches its handshake, its handler and its sink.

Used by connection. A server's session is a `Handler`, a publication a `MediaSink`.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

from rtmp_twisted.states import Transitions
from rtmp_twisted.wire.messages import Message


class ConnectionState(enum.Enum):
    """See `CONNECTION_TRANSITIONS`."""

    HANDSHAKE = "handshake"
    CONNECT = "connect"
    IDLE = "idle"
    PUBLISHING = "publishing"
    PLAYING = "playing"
    CLOSING = "closing"


CONNECTION_TRANSITIONS: Final = Transitions(
    {
        ConnectionState.HANDSHAKE: (ConnectionState.CONNECT, ConnectionState.CLOSING),
        ConnectionState.CONNECT: (ConnectionState.IDLE, ConnectionState.CLOSING),
        ConnectionState.IDLE: (ConnectionState.PUBLISHING, ConnectionState.PLAYING, ConnectionState.CLOSING),
        ConnectionState.PUBLISHING: (ConnectionState.IDLE, ConnectionState.PLAYING, ConnectionState.CLOSING),
        ConnectionState.PLAYING: (ConnectionState.IDLE, ConnectionState.PUBLISHING, ConnectionState.CLOSING),
        ConnectionState.CLOSING: (),
    }
)
"""A connection's life. One that publishes and plays counts as publishing; asking to publish is part of it."""


class Handshake(Protocol):
    """One side's handshake (wire/handshake.py)."""

    @property
    def done(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...

    def start(self) -> bytes: ...

    def receive(self, data: bytes) -> bytes: ...


class MediaSink(Protocol):
    """Where the media that arrives goes: a publication."""

    @property
    def full(self) -> bool:
        """Whether the other side has to wait with what it sends."""

    @property
    def held_bytes(self) -> int:
        """What it holds because it cannot be handed on yet."""

    def write(self, message: Message) -> None:
        """Takes one message of a type in ``messages.MEDIA``."""


class Handler(Protocol):
    """What stands above a connection, and decides what its messages mean."""

    def handshaken(self) -> None:
        """Messages may be sent from now on."""

    def receive(self, message: Message) -> None:
        """One message that is neither for the connection itself nor for the sink. Raises ProtocolError where the
        connection cannot go on."""

    def drained(self) -> None:
        """What waited to leave has left."""

    def blocked(self) -> None:
        """Something waits to leave."""

    def delivered(self) -> int:
        """Bytes of media that were handed over so far."""

    def check(self, received: int, seconds: float) -> None:
        """Called every second or so, in which ``received`` bytes came."""

    def end(self, reason: str) -> None:
        """The connection is lost, or will be closed. Called once."""
