"""The way out of a connection, for its answers and its players' media. Made by connection.

Messages leave whole. A player that has written a part of a message holds the writer until the rest has left, and what
others write in the meantime waits. So answers and the media of several players can share a connection.

Writers are Twisted's producers. They do not declare the interfaces: nobody asks, and a decorated class is not compiled
as what it is (setup.py).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime, ITransport

MAX_ABANDONED: Final = 1024 * 1024
"""Bytes of a message that are still sent for a player that leaves in the middle of it. Where more are left, the
connection is closed."""

MAX_TAKEN: Final = 128 * 1024
"""Bytes that a transport that buffers takes in one call: it says only behind a write that it is full."""


class Writer:
    """``drained`` is called when what waited has left, ``blocked`` when something begins to wait, and ``broken`` when
    the connection has to be closed. ``blocked_since`` is the clock's time at which something began to wait that is
    still waiting, or None."""

    __slots__ = ("_blocked", "_broken", "_clock", "_drained", "_queue", "_transport", "blocked_since", "holder")

    def __init__(
        self,
        transport: Any,
        clock: IReactorTime,
        drained: Callable[[], None],
        blocked: Callable[[], None],
        broken: Callable[[str], None],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._drained = drained
        self._blocked = blocked
        self._broken = broken
        self._queue: list[bytes] = []  # behind the holder's message
        self.blocked_since: float | None = None
        self.holder: object | None = None
        self._register(transport)

    def _register(self, transport: Any) -> None:
        """Makes this the transport's producer."""
        raise NotImplementedError

    @property
    def blocked(self) -> bool:
        return self.blocked_since is not None

    @property
    def send(self) -> Callable[[bytes], int]:
        """Takes what can leave at once, or raises OSError. Only while the writer is not blocked, and has no holder."""
        raise NotImplementedError

    def try_writev(self, buffers: list[bytes | memoryview]) -> int:
        """Takes what can leave at once, one buffer behind the other, and returns how many bytes that is."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Takes all of ``data``, which is whole messages."""
        if self.holder is not None:
            self._queue.append(data)
        else:
            self._write(data)

    def wait(self) -> None:
        """Others may have written to the transport: takes nothing before that has left."""

    def hold(self, holder: object) -> None:
        """``holder`` has written a part of a message."""
        self.holder = holder

    def release(self) -> None:
        """The holder's message has left."""
        self.holder = None
        if self._queue:
            queue, self._queue = self._queue, []
            self._write(b"".join(queue))

    def abandon(self, rest: list[bytes | memoryview]) -> None:
        """The holder leaves before its message has: takes the rest, or closes the connection if that is long."""
        if sum(map(len, rest)) > MAX_ABANDONED:
            self.holder = None
            self._broken("it left in the middle of a long message")
            return
        self._write(b"".join(rest))
        self.release()

    def close(self) -> None:
        """Nothing will be written any more: the transport may close once all has left."""
        self._transport.unregisterProducer()

    def clear(self) -> None:
        """The connection is lost: keeps nothing."""
        self._queue.clear()
        self.holder = None
        self._transport = None
        self._drained = self._blocked = _nothing
        self._broken = _nothing_for

    def _write(self, data: bytes) -> None:
        raise NotImplementedError

    def _block(self) -> None:
        if self.blocked_since is None:
            self.blocked_since = self._clock.seconds()
            self._blocked()

    # What the transport calls

    def resumeProducing(self) -> None:
        """The transport has nothing left to send."""
        if self.blocked_since is not None:
            self.blocked_since = None
            self._drained()

    def stopProducing(self) -> None:
        """The connection is lost, which the protocol is told as well."""


class SocketWriter(Writer):
    """IPullProducer: straight to a TCP connection's socket while nothing waits, else through the transport.

    A write through the transport costs a copy, and two changes of what the reactor waits for. Media never goes through
    it: what does not fit into the socket is tried again when the reactor says that there is room.

    A pull producer should write only when it is asked to. This one writes to the socket unasked, which is safe while
    it is not blocked: then the transport's own buffer is empty, and no byte can overtake another.
    """

    __slots__ = ("_send", "_sendmsg")

    def _register(self, transport: Any) -> None:
        handle: socket.socket = transport.getHandle()
        self._send = handle.send
        self._sendmsg = handle.sendmsg
        transport.registerProducer(self, False)

    @property
    def send(self) -> Callable[[bytes], int]:
        return self._send

    def wait(self) -> None:
        self._block()
        self._transport.startWriting()

    def resumeProducing(self) -> None:
        assert not self._transport.dataBuffer
        super().resumeProducing()

    def try_writev(self, buffers: list[bytes | memoryview]) -> int:
        if self.blocked_since is not None:
            return 0
        try:
            sent = self._sendmsg(buffers)
        except OSError:  # full, or lost, which the reactor will find out
            sent = 0
        if sent < sum(map(len, buffers)):
            self._block()
            if self._transport.connected:
                self._transport.startWriting()
        return sent

    def _write(self, data: bytes) -> None:
        sent = 0
        if self.blocked_since is None:
            try:
                sent = self._send(data)
            except OSError:
                sent = 0
        if sent < len(data):
            self._transport.write(data[sent:] if sent else data)
            self._block()


class TransportWriter(Writer):
    """IPushProducer: through the transport, whatever it is (TLS, or one in memory). Its buffer is what may wait."""

    __slots__ = ()

    def _register(self, transport: Any) -> None:
        transport.registerProducer(self, True)

    @property
    def send(self) -> Callable[[bytes], int]:
        return self._send

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._block()

    def try_writev(self, buffers: list[bytes | memoryview]) -> int:
        if self.blocked_since is not None:
            return 0
        taken = 0
        pieces: list[bytes | memoryview] = []
        for buffer in buffers:
            room = MAX_TAKEN - taken
            piece = buffer if len(buffer) <= room else memoryview(buffer)[:room]
            pieces.append(piece)
            taken += len(piece)
            if taken == MAX_TAKEN:
                break
        self._transport.write(b"".join(pieces))
        return taken

    def _send(self, data: bytes) -> int:
        if len(data) > MAX_TAKEN:
            return self.try_writev([data])
        self._transport.write(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)


def writer_for(
    transport: ITransport,
    clock: IReactorTime,
    drained: Callable[[], None],
    blocked: Callable[[], None],
    broken: Callable[[str], None],
) -> Writer:
    """Returns the writer that suits the transport."""
    handle = getattr(transport, "getHandle", lambda: None)()
    kind = SocketWriter if isinstance(handle, socket.socket) else TransportWriter
    return kind(transport, clock, drained, blocked, broken)


def _nothing() -> None:
    pass


def _nothing_for(reason: str) -> None:
    pass
