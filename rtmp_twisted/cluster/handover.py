"""How a connection goes from the supervisor to a worker, or from one worker to another: its socket is handed over.

The supervisor's ports make a `HandOver` of each connection that may come in, which takes the socket away from its
transport. The worker gets the descriptor, and makes a transport of its own, which tells when it is gone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from rtmp_twisted.rtmp.connection import detach
from rtmp_twisted.rtmp.factory import textual_ip
from rtmp_twisted.rtmp.limits import ConnectionLimits

RTMP: Final = "rtmp"
RTMPS: Final = "rtmps"
WEB: Final = "web"
WEBS: Final = "webs"
"""The kinds of connections: what a worker makes of a socket."""

PEER: Final = "peer"
"""The kind of another worker's, which pulls."""


class HandOver(Protocol):
    """Hands the socket over in the turn after it was made, with what its transport has read by then."""

    def __init__(self, factory: HandOverFactory, address: IAddress | None) -> None:
        self._factory = factory
        self._address = address
        self._read: list[bytes] = []

    def connectionMade(self) -> None:
        cast(Any, self.transport).stopReading()
        self._factory.limits.enter(textual_ip(getattr(self._address, "host", "")))
        self._factory.clock.callLater(0, self._hand_over)

    def dataReceived(self, data: bytes) -> None:
        self._read.append(data)  # what came behind a proxy's header

    def connectionLost(self, reason: Failure | None = None) -> None:
        """It is lost before it was handed over, which does not happen."""

    def _hand_over(self) -> None:
        transport: Any = self.transport
        self.transport = None
        self._factory.take(detach(transport), self._address, b"".join(self._read))


class HandOverFactory(Factory):
    """``take`` gets the descriptor of each connection, the client's address, and what has been read. ``limits`` are
    told that it has come."""

    noisy = False

    def __init__(
        self, clock: Any, limits: ConnectionLimits, take: Callable[[int, IAddress | None, bytes], None]
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.take = take

    def buildProtocol(self, addr: IAddress | None) -> HandOver:
        return HandOver(self, addr)


class _Handed:
    """A transport that tells when it is gone."""

    gone: Callable[[], None] | None = None

    def connectionLost(self, reason: Failure) -> None:
        gone, self.gone = self.gone, None
        super().connectionLost(reason)  # type: ignore[misc]
        if gone is not None:
            gone()


class _HandedTCP(_Handed, tcp.Server): ...


class _HandedUNIX(_Handed, unix.Server): ...


def as_address(address: list[Any]) -> IAddress:
    """The address that `from_address` has made to values."""
    if not address:
        return UNIXAddress(None)
    host, port = address
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


def from_address(address: IAddress | None) -> list[Any]:
    """An address as JSON has it; nothing for a UNIX socket's."""
    host = getattr(address, "host", None)
    return [] if host is None else [host, getattr(address, "port", 0)]


def adopt(reactor: Any, descriptor: int, protocol: IProtocol, gone: Callable[[], None] | None = None) -> None:
    """Makes a connection of a socket that was handed over, which it owns from now on. ``gone`` is called when the
    transport is. Raises OSError where there is no such socket any more."""
    handle = socket.socket(fileno=descriptor)
    try:
        handle.setblocking(False)
        made: Any
        if handle.family == socket.AF_UNIX:
            made = _HandedUNIX(handle, protocol, None, None, 0, reactor)
        else:
            peer = handle.getpeername()
            made = _HandedTCP(handle, protocol, peer, cast(Any, None), peer[1], reactor)
        made.repstr = f"<{type(protocol).__name__} on a socket that was handed over>"
    except OSError:
        handle.close()
        raise
    made.gone = gone
    protocol.makeConnection(made)


def close(descriptor: int) -> None:
    """Closes this process's copy of a socket."""
    os.close(descriptor)
