"""All connections of the process: makes those that come in with their session, watches the times of all, and ends them
when the server stops. Made by tap.py; relay/ has it make those that go out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import count
from typing import Final

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from rtmp_twisted.ports import Ports
from rtmp_twisted.rtmp.connection import Connection, ConnectionOptions
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.rtmp.poller import PublisherPoller
from rtmp_twisted.rtmp.protocol import RTMPProtocol
from rtmp_twisted.rtmp.reserve import MemoryReserve
from rtmp_twisted.rtmp.session import ServerSession
from rtmp_twisted.wire.handshake import ClientHandshake, ServerHandshake

PAUSE_SECONDS: Final = 2.0
"""After so long without a check, the process has not run: it was stopped, or had no CPU."""

GRACE_SECONDS: Final = 1.0
"""For so long after a pause nobody is too late: what came in the meantime has to be read first."""

CONNECTION_OVERHEAD: Final = 8192
"""Bytes of memory that a connection takes; over TLS it is five times as much."""

MUCH: Final = 64 * 1024
"""Bytes: a connection that holds no more is not ended when memory is short."""

_log = Logger()


class RTMPFactory(Factory):
    """``limits`` is told of each connection; without one there are none. ``poller`` reads what publishers send; without
    one each transport does. ``debug`` and ``trace``: whether such log events are wanted at all. ``movable``: another
    process may go on with a connection."""

    noisy = False

    def __init__(
        self,
        options: SessionOptions,
        limits: ConnectionLimits | None = None,
        poller: PublisherPoller | None = None,
        debug: bool = False,
        trace: bool = False,
        movable: bool = False,
    ) -> None:
        scheduler = options.broker.scheduler
        self.options = options
        self.limits = limits or ConnectionLimits()
        self.connections: dict[Connection, None] = {}
        """Oldest first; also those that go out."""
        self.accepted = 0
        """Connections that have come in so far."""
        self._exempt: set[Connection] = set()
        self._numbers = count(1)
        self._reserve = MemoryReserve()
        self._connection_options = ConnectionOptions(
            options.clock, self, scheduler.turns, scheduler.flush_pending, poller, self._reserve, debug, trace
        )
        self._connection_options = evolve(self._connection_options, movable=movable)
        self._outgoing_options = evolve(self._connection_options, registry=_Outgoing(self), quiet=True, movable=False)
        self._internal_options = evolve(self._outgoing_options, internal=True)
        self._account = options.broker.memory.open("connections", self._held, self._shrink)
        self._all_gone: Deferred[None] | None = None
        self._leaving: Deferred[None] | None = None
        self._checked_at = self._checks_from = options.clock.seconds()

    def buildProtocol(self, addr: IAddress | None) -> RTMPProtocol:
        self.accepted += 1
        peer = textual_ip(getattr(addr, "host", ""))
        return self._accept(self._connection_options, self.options, peer)

    def accept_peer(self, options: SessionOptions, name: str) -> RTMPProtocol:
        """Returns the protocol for a connection of another worker, ``name``. No limit counts it."""
        return self._accept(self._internal_options, options, name)

    def _accept(self, options: ConnectionOptions, session: SessionOptions, peer: str) -> RTMPProtocol:
        connection = Connection(options, ServerHandshake(os.urandom, self._milliseconds), next(self._numbers), peer)
        if options.internal:
            connection.log = evolve(connection.log, quiet=True)
        connection.handler = ServerSession(session, connection)
        return RTMPProtocol(connection)

    def call(self, peer: str, internal: bool = False) -> Connection:
        """Returns a connection in the client's role, to a server that the log calls ``peer``, or to another worker. It
        needs its handler, and its protocol."""
        options = self._internal_options if internal else self._outgoing_options
        return Connection(options, ClientHandshake(os.urandom, self._milliseconds, None), next(self._numbers), peer)

    def connection_made(self, connection: Connection) -> None:
        self.connections[connection] = None
        self.limits.enter(connection.peer)

    def connection_lost(self, connection: Connection) -> None:
        if connection not in self._exempt:
            self.limits.leave(connection.peer)
        self._exempt.discard(connection)
        self.forget(connection)

    def exempt(self, connection: Connection) -> None:
        """Limits do not count a connection any more."""
        if connection not in self._exempt:
            self._exempt.add(connection)
            self.limits.leave(connection.peer)

    def forget(self, connection: Connection) -> None:
        """A connection is gone, whichever way it went."""
        del self.connections[connection]
        if self._leaving is not None and not self._told():
            left, self._leaving = self._leaving, None
            left.callback(None)
        if self._all_gone is not None and not self.connections:
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)

    def check(self) -> None:
        """Checks each connection's times, and counts what is held. Never raises, or there would be no more checks."""
        try:
            self._account.settle()
            self.options.broker.settle()
            self.options.guessing.forget()
        except Exception:
            _log.failure("a bug, while memory was counted")
        now = self.options.clock.seconds()
        if now - self._checked_at >= PAUSE_SECONDS:
            self._checks_from = now + GRACE_SECONDS
        self._checked_at = now
        self._reserve.refill()
        if now < self._checks_from:
            return
        for connection in list(self.connections):
            try:
                connection.check(now)
            except Exception as error:
                connection.fail(error)
            connection.let_publishers_be_read()

    def clients(self) -> list[Callable[[], object]]:
        """What sends each client away, for `live.drain.Drain`."""
        handlers = [connection.handler for connection in self.connections]
        return [one.send_away for one in handlers if isinstance(one, ServerSession)]

    def request_reconnects(self) -> Deferred[None]:
        """Asks the clients that understand it to connect again; fires when they have left."""
        told = self._told()
        for session in told:
            session.request_reconnect()
        if not told:
            return succeed(None)
        self._leaving = Deferred()
        return self._leaving

    def _told(self) -> list[ServerSession]:
        """The sessions of the clients that understand a request to reconnect."""
        handlers = [connection.handler for connection in self.connections]
        return [one for one in handlers if isinstance(one, ServerSession) and one.reconnects]

    def finish_all(self, reason: str) -> Deferred[None]:
        """Ends every publish, and every connection after what it was sent has arrived; fires when all are gone."""
        self.options.broker.kill_all(reason)  # first: their players are told before they are left
        for connection in list(self.connections):
            connection.finish(reason)
        if not self.connections:
            return succeed(None)
        self._all_gone = Deferred()
        return self._all_gone

    def _held(self) -> int:
        return CONNECTION_OVERHEAD * len(self.connections) + sum(connection.held() for connection in self.connections)

    def _shrink(self) -> None:
        """Ends the connection that holds most, if that is worth it."""
        largest = max(self.connections, key=Connection.held, default=None)
        if largest is not None and largest.held() > MUCH:
            largest.abort("memory is short (MAX_MEMORY_MB), and this connection holds most of it")

    def _milliseconds(self) -> int:
        return int(self.options.clock.seconds() * 1000)


class _Outgoing:
    """Keeps the connections that go out together with the others. They count in the total, and for no address."""

    def __init__(self, factory: RTMPFactory) -> None:
        self._factory = factory

    def connection_made(self, connection: Connection) -> None:
        self._factory.connections[connection] = None
        self._factory.limits.enter("")

    def exempt(self, connection: Connection) -> None:
        """No limit counts it anyway."""

    def connection_lost(self, connection: Connection) -> None:
        self._factory.limits.leave("")
        self._factory.forget(connection)


class RTMPService(Service):
    """Listens on endpoints, each with a name for the log and the factory of its connections. ``fail`` ends the process
    for the reason given.

    ``stopService`` stops accepting, asks clients to reconnect, and gives those that understand it ``grace`` seconds to
    leave. Then it ends the connections, and fires when the ports are closed and the connections have gone. After
    ``grace`` seconds more it drops those that are left.
    """

    def __init__(
        self,
        factory: RTMPFactory,
        endpoints: list[tuple[str, IStreamServerEndpoint, IProtocolFactory]],
        grace: float,
        fail: Callable[[str], None],
    ) -> None:
        self.factory = factory
        self._ports = Ports(endpoints, fail)
        self._grace = grace
        self._checks = LoopingCall(factory.check)
        self._checks.clock = factory.options.clock

    def privilegedStartService(self) -> None:
        """Listens, before twistd gives up its privileges."""
        self._ports.listen()

    def startService(self) -> None:
        super().startService()
        self._checks.start(1, now=False)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        clock = self.factory.options.clock
        closed = self._ports.close()
        with suppress(TimeoutError):
            await self.factory.request_reconnects().addTimeout(self._grace, clock)
        if self._checks.running:
            self._checks.stop()
        gone = self.factory.finish_all("the server is stopping")
        patience: Deferred[None] = deferLater(clock, self._grace, self._drop)
        await gone
        patience.addErrback(lambda failure: None)
        patience.cancel()
        await closed

    def _drop(self) -> None:
        for connection in list(self.factory.connections):
            connection.abort("the server is stopping")


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
