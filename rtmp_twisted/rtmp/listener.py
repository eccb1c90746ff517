"""What a port makes of each new connection. tap.py makes one `Listener` for each kind of port.

It asks the connection limits first, reads a trusted proxy's header, and then hands the connection to the RTMPFactory,
or to a TLS factory in front of it.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from rtmp_twisted.rtmp.factory import textual_ip
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.rtmp.proxy import read_header
from rtmp_twisted.settings_types import Networks
from rtmp_twisted.wire.errors import ProtocolError

PROXY_HEADER_SECONDS = 10
"""From the connection to the end of a proxy's header."""

_log = Logger()


class Listener(Factory):
    """``factory`` makes the protocol of each connection that may come in. Connections from ``proxies`` must begin
    with a PROXY protocol header; the address in it is then the client's."""

    noisy = False

    def __init__(
        self, limits: ConnectionLimits, factory: IProtocolFactory, proxies: Networks, clock: IReactorTime
    ) -> None:
        self.limits = limits
        self.factory = factory
        self.clock = clock
        self._proxies = proxies

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """None, for a connection that is turned away, closes it before anything else is done."""
        address = textual_ip(getattr(addr, "host", ""))
        if address in self._proxies:
            return None if self.limits.refuses("") else FromProxy(self, address)
        if self.limits.refuses(address):
            return None
        return cast(Protocol, self.factory.buildProtocol(cast(IAddress, addr)))


class FromProxy(Protocol, TimeoutMixin):
    """A proxy's connection: the first bytes say who the client is, all others are for that client's protocol."""

    def __init__(self, listener: Listener, address: str) -> None:
        self._listener = listener
        self._address = address
        self._beginning = b""
        self._client: Any = None

    def callLater(self, period: float, func: Any) -> IDelayedCall:
        """What ``TimeoutMixin`` keeps time with."""
        return self._listener.clock.callLater(period, func)

    def connectionMade(self) -> None:
        self._listener.limits.enter("")
        self.setTimeout(PROXY_HEADER_SECONDS)

    def dataReceived(self, data: bytes) -> None:
        if self._client is not None:
            self._client.dataReceived(data)
            return
        self._beginning += data  # at most proxy's MAX_HEADER and one read
        try:
            header = read_header(self._beginning)
        except ProtocolError as problem:
            self._turn_away(str(problem))
            return
        if header is not None:
            kind = IPv6Address if ":" in header.address else IPv4Address
            where: Any = (
                kind("TCP", header.address, header.port) if header.address else cast(Any, self.transport).getPeer()
            )
            rest, self._beginning = self._beginning[header.size :], b""
            self._hand_over(where, rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.setTimeout(None)
        if self._client is None:
            self._listener.limits.leave("")
        else:
            self._client.connectionLost(reason)

    def timeoutConnection(self) -> None:
        self._turn_away(f"no PROXY header within {PROXY_HEADER_SECONDS} s")

    def _hand_over(self, where: IAddress, rest: bytes) -> None:
        self.setTimeout(None)
        limits = self._listener.limits
        if limits.refuses(textual_ip(getattr(where, "host", ""))):
            cast(Any, self.transport).abortConnection()
            return
        client: Any = self._listener.factory.buildProtocol(where)
        limits.leave("")
        self._client = client
        client.makeConnection(self.transport)
        if rest:
            client.dataReceived(rest)

    def _turn_away(self, reason: str) -> None:
        self._listener.limits.refused["proxy_header"] += 1
        _log.warn("a connection of the proxy {address} is closed: {reason}", address=self._address, reason=reason)
        cast(Any, self.transport).abortConnection()
