"""Listening on several endpoints, and what happens where that fails. Used by the services that tap.py makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtmp_twisted.rtmp.formatting import address

ACCEPTS_PER_TURN: Final = 16
"""Connections that one port takes in a turn of the reactor. Others wait in the kernel, so that those taken are read
before there are too many of them, and media is sent in between."""

_log = Logger()


class Ports:
    """``endpoints``, each with a name for the log and the factory of its connections. ``fail`` ends the running process
    for the reason given."""

    def __init__(
        self, endpoints: list[tuple[str, IStreamServerEndpoint, IProtocolFactory]], fail: Callable[[str], None]
    ) -> None:
        self._endpoints = endpoints
        self._fail = fail
        self._ports: list[IListeningPort] = []
        self._closed = False

    def listen(self) -> None:
        """Listens. Ends the process with one line where that fails, whether at once or later, as an endpoint may that
        has to look something up first."""
        for name, endpoint, factory in self._endpoints:
            problems: list[Failure] = []
            listening = endpoint.listen(factory).addCallback(self._listens, name)
            listening.addErrback(problems.append)
            if problems:
                raise SystemExit(problems[0].getErrorMessage())
            listening.addCallback(self._check, problems)

    def close(self) -> Deferred[None]:
        """Accepts nothing more; fires when the ports are closed."""
        self._closed = True
        closed = [maybeDeferred(port.stopListening) for port in self._ports]
        return DeferredList(closed, consumeErrors=True).addCallback(lambda _: None)

    def _listens(self, port: IListeningPort, name: str) -> None:
        if self._closed:  # while the endpoint took its time
            port.stopListening()
            return
        self._ports.append(port)
        _limit_accepts(port)
        _log.info("{name} on {address}", name=name, address=address(port.getHost()))

    def _check(self, _: object, problems: list[Failure]) -> None:
        """Ends the server if an endpoint has failed later than at once."""
        if problems and not self._closed:
            self._fail(problems[0].getErrorMessage())


def _limit_accepts(port: Any) -> None:
    """Twisted's ports take 100 connections in a turn, and 20 more in each turn in which there were so many."""
    if hasattr(port, "numberAccepts"):
        accept = port.doRead

        def accept_some() -> None:
            port.numberAccepts = min(port.numberAccepts, ACCEPTS_PER_TURN)
            accept()

        port.doRead = accept_some


class PortsService(Service):
    """Listens, before twistd gives up its privileges, until it stops."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._ports.listen()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._ports.close()
