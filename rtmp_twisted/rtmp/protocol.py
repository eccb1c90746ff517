"""Twisted's side of a connection: what its transport calls, handed on to its `Client`. Made by factory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet import error
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.rtmp.connection import Client

if TYPE_CHECKING:
    from rtmp_twisted.rtmp.factory import RTMPFactory

_SILENT_ENDS = (error.ConnectionDone, error.ConnectionLost, error.ConnectionAborted)


@implementer(IHandshakeListener)
class RTMPProtocol(Protocol):
    """``number`` names the connection in the log; ``client_ip`` is textual, IPv4 where it is IPv4-mapped."""

    def __init__(self, factory: RTMPFactory, number: int, client_ip: str) -> None:
        self.client = Client(factory, number, client_ip)

    def connectionMade(self) -> None:
        self.client.connected(self.transport)

    def handshakeCompleted(self) -> None:
        """TLS is ready. With version 1.3 nothing needs to be answered, and the client has to wait for no answer."""
        self.client.acknowledge_at_once()

    def dataReceived(self, data: bytes) -> None:
        self.client.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.client.lost("the client left" if reason.check(*_SILENT_ENDS) else reason.getErrorMessage())
