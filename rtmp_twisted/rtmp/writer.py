"""The way out of a connection, for its session's answers and its players' media. Made by client.

Whole messages only: what waits to leave always ends at a message's end, so that anything may be written behind it.

Outlets are Twisted's producers. They do not declare the interfaces: nobody asks, and a decorated class is not compiled
as what it is (setup.py).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime, ITransport


class Writer:
    """``drained`` is called when what waited has left. ``blocked_since`` is the clock's time at which something
    began to wait that is still waiting, or None."""

    __slots__ = ("_clock", "_drained", "_transport", "blocked_since")

    def __init__(self, transport: Any, clock: IReactorTime, drained: Callable[[], None]) -> None:
        self._transport = transport
        self._clock = clock
        self._drained = drained
        self.blocked_since: float | None = None

    @property
    def blocked(self) -> bool:
        return self.blocked_since is not None

    def resumeProducing(self) -> None:
        """Called by the transport: it has nothing left to send."""
        if self.blocked_since is not None:
            self.blocked_since = None
            self._drained()

    def stopProducing(self) -> None:
        """Called by the transport: the connection is lost, which the protocol is told as well."""

    def offer(self, data: bytes) -> int:
        """Takes what can leave at once, from the beginning of ``data``, and returns how much that is."""
        raise NotImplementedError

    def offer_all(self, buffers: list[bytes | memoryview]) -> int:
        """The same for several buffers, one behind the other."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Takes all of ``data``, whole messages or the rest of one."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing will be written any more: the transport may close once all has left."""
        self._transport.unregisterProducer()


class SocketWriter(Writer):
    """IPullProducer: straight to a TCP connection's socket while nothing waits, else through the transport.

    A write through the transport costs a copy, and two changes of what the reactor waits for.
    """

    __slots__ = ("_send", "_sendmsg")

    def __init__(self, transport: Any, clock: IReactorTime, drained: Callable[[], None]) -> None:
        super().__init__(transport, clock, drained)
        handle: socket.socket = transport.getHandle()
        self._send = handle.send
        self._sendmsg = handle.sendmsg
        transport.registerProducer(self, False)

    def offer(self, data: bytes) -> int:
        if self.blocked_since is not None:
            return 0
        try:
            return self._send(data)
        except OSError:  # full, or lost, which the reactor will find out
            return 0

    def offer_all(self, buffers: list[bytes | memoryview]) -> int:
        if self.blocked_since is not None:
            return 0
        try:
            return self._sendmsg(buffers)
        except OSError:
            return 0

    def write(self, data: bytes) -> None:
        sent = self.offer(data)
        if sent < len(data):
            if self.blocked_since is None:
                self.blocked_since = self._clock.seconds()
            self._transport.write(data[sent:] if sent else data)


class TransportWriter(Writer):
    """IPushProducer: through the transport, whatever it is (TLS, or one in memory). Its buffer is what may wait."""

    __slots__ = ()

    def __init__(self, transport: Any, clock: IReactorTime, drained: Callable[[], None]) -> None:
        super().__init__(transport, clock, drained)
        transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        """Called by the transport: its buffer is full."""
        if self.blocked_since is None:
            self.blocked_since = self._clock.seconds()

    def offer(self, data: bytes) -> int:
        if self.blocked_since is not None:
            return 0
        self._transport.write(data)
        return len(data)

    def offer_all(self, buffers: list[bytes | memoryview]) -> int:
        return self.offer(b"".join(buffers))

    def write(self, data: bytes) -> None:
        self._transport.write(data)


def writer_for(transport: ITransport, clock: IReactorTime, drained: Callable[[], None]) -> Writer:
    """The outlet that suits the transport."""
    handle = getattr(transport, "getHandle", lambda: None)()
    kind = SocketWriter if isinstance(handle, socket.socket) else TransportWriter
    return kind(transport, clock, drained)
