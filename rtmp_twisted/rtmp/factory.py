"""Who connects: makes a protocol for each connection, watches their times, and ends them when the server stops."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtmp_twisted.rtmp.connection import Client
from rtmp_twisted.rtmp.formatting import address
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.rtmp.poller import PublisherPoller
from rtmp_twisted.rtmp.protocol import RTMPProtocol
from rtmp_twisted.rtmp.session import SessionOptions


class RTMPFactory(Factory):
    """``gate`` is told of each connection; without one there are no limits. ``intake`` reads what publishers send;
    without one each transport does. ``debug`` and ``trace``: whether such log events are wanted at all."""

    noisy = False

    def __init__(
        self,
        options: SessionOptions,
        gate: ConnectionLimits | None = None,
        intake: PublisherPoller | None = None,
        debug: bool = False,
        trace: bool = False,
    ) -> None:
        self.options = options
        self.gate = gate or ConnectionLimits()
        self.intake = intake
        self.debug = debug
        self.trace = trace
        self.connections: set[Client] = set()
        self.accepted = 0
        """Connections so far: the number of the newest."""
        self._all_gone: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> RTMPProtocol:
        self.accepted += 1
        return RTMPProtocol(self, self.accepted, textual_ip(getattr(addr, "host", "")))

    def connection_ended(self) -> None:
        """Called by each client, once, at its end; it is not among the connections any more."""
        if self._all_gone is not None and not self.connections:
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)

    def check(self) -> None:
        """Checks each connection's times."""
        now = self.options.clock.seconds()
        for client in list(self.connections):
            client.check(now)

    def finish_all(self, reason: str) -> Deferred[None]:
        """Ends every publish, and every connection after what it was sent has arrived; fires when all are gone."""
        self.options.broker.kill_all(reason)  # first: their players are told before they are left
        for client in list(self.connections):
            client.finish(reason)
        if not self.connections:
            return succeed(None)
        self._all_gone = Deferred()
        return self._all_gone


class RTMPService(Service):
    """Listens on endpoints, each with a name for the log and the factory of its connections. ``stopService`` stops
    accepting, ends the connections, and fires when they have gone, at the latest after ``grace`` seconds, when it
    drops those that are left."""

    _log = Logger()

    def __init__(
        self,
        factory: RTMPFactory,
        endpoints: list[tuple[str, IStreamServerEndpoint, IProtocolFactory]],
        grace: float,
    ) -> None:
        self.factory = factory
        self._endpoints = endpoints
        self._grace = grace
        self._ports: list[IListeningPort] = []
        self._checks = LoopingCall(factory.check)
        self._checks.clock = factory.options.clock

    def privilegedStartService(self) -> None:
        """Listens, before twistd gives up its privileges. Ends the process with one line where that fails."""
        for name, endpoint, factory in self._endpoints:
            problems: list[Failure] = []
            endpoint.listen(factory).addCallback(self._listens, name).addErrback(problems.append)
            if problems:
                raise SystemExit(f"{name}: {problems[0].getErrorMessage()}")

    def startService(self) -> None:
        super().startService()
        self._checks.start(1, now=False)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._checks.running:
            self._checks.stop()
        for port in self._ports:
            port.stopListening()
        gone = self.factory.finish_all("the server is stopping")
        patience = deferLater(self.factory.options.clock, self._grace, self._drop)

        def done(_: object) -> None:
            patience.addErrback(lambda failure: None)
            patience.cancel()

        return gone.addCallback(done)

    def _listens(self, port: IListeningPort, name: str) -> None:
        self._ports.append(port)
        self._log.info("{name} on {address}", name=name, address=address(port.getHost()))

    def _drop(self) -> None:
        for client in list(self.factory.connections):
            client.abort("the server is stopping")


@lru_cache(1024)  # asked several times for each connection
def textual_ip(host: str) -> str:
    """An address as logs, limits and callbacks want it: IPv4 where it is an IPv4-mapped IPv6 address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
