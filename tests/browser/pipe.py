"""A path of TCP between a client and a server on which nothing may pass for a while, without anybody noticing."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase


class _End(Protocol):
    """One side of a connection; ``other`` is the opposite one."""

    transport: Any
    other: _End | None = None

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._early = b""

    def connectionMade(self) -> None:
        self._pipe.ends.append(self)

    def join(self, other: _End) -> None:
        self.other, other.other = other, self
        other.transport.write(self._early)

    def dataReceived(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        else:
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pipe.ends.remove(self)
        if self.other is not None:
            self.other.transport.loseConnection()


class Pipe(Factory):
    """Passes on what clients and the server say to each other."""

    noisy = False

    def __init__(self, upstream: IStreamClientEndpoint) -> None:
        self.ends: list[_End] = []
        self._upstream = upstream

    async def listen(self, case: TestCase, endpoint: IStreamServerEndpoint) -> int:
        """Accepts clients until the test has ended. Returns the port."""
        listening: Any = await endpoint.listen(self)

        def stop() -> Deferred[None]:
            for end in list(self.ends):
                end.transport.abortConnection()
            stopped: Deferred[None] = listening.stopListening()
            return stopped

        case.addCleanup(stop)
        port: int = listening.getHost().port
        return port

    def buildProtocol(self, addr: object) -> Protocol:
        end = _End(self)
        upstream = connectProtocol(self._upstream, _End(self))
        upstream.addCallbacks(end.join, lambda _: end.transport.abortConnection())
        return end

    def stall(self) -> None:
        for end in self.ends:
            end.transport.pauseProducing()

    def go_on(self) -> None:
        for end in self.ends:
            end.transport.resumeProducing()
