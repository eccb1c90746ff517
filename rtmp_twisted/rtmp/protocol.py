"""Twisted's side of a connection: what its transport calls, handed on to its `Connection`. Made by factory."""

from __future__ import annotations

from twisted.internet import error
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.rtmp.connection import Connection

_SILENT_ENDS = (error.ConnectionDone, error.ConnectionLost, error.ConnectionAborted)


@implementer(IHandshakeListener)
class RTMPProtocol(Protocol):
    """One RTMP connection over a transport of Twisted's."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def connectionMade(self) -> None:
        self.connection.connected(self.transport)

    def handshakeCompleted(self) -> None:
        """TLS is ready. With version 1.3 nothing needs to be answered, and the client has to wait for no answer."""
        self.connection.acknowledge_at_once()

    def dataReceived(self, data: bytes) -> None:
        self.connection.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connection.lost("the client left" if reason.check(*_SILENT_ENDS) else reason.getErrorMessage())
        self.transport = None
