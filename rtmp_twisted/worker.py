"""``python -m rtmp_twisted.worker``: one worker of a server with several. Started by cluster/process.py only.

It is the composition root of a worker, as tap.py is of the server: the same parts, but for those of which there is one
in the supervisor. Its control channel is descriptor 3, over which it is told all it has to know. It ends with that
channel, and with the supervisor, whatever happens to that one.
"""

from __future__ import annotations

import base64
import ctypes
import os
import pickle
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Final, cast
from zlib import crc32

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogBeginner

from rtmp_twisted.cluster.authority import SupervisorAuthority, SupervisorGuessing
from rtmp_twisted.cluster.control import Control, Failed, attach
from rtmp_twisted.cluster.directory import Node, WorkerDirectory, refusal
from rtmp_twisted.cluster.edges import EdgePull, Edges, WorkerEndpoint, WorkerPull
from rtmp_twisted.cluster.handover import PEER, RTMP, RTMPS, WEB, WEBS, adopt, as_address, close
from rtmp_twisted.cluster.process import CONTROL
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.log_stream import BackgroundStream
from rtmp_twisted.logs import observer, standard_output
from rtmp_twisted.ports import Ports
from rtmp_twisted.process import GarbageService, return_freed_memory, use_monotonic_clock
from rtmp_twisted.relay.pulls import rule_for
from rtmp_twisted.relay.relays import RelayService
from rtmp_twisted.rtmp.connection import Connection
from rtmp_twisted.rtmp.factory import RTMPService
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.services import SequentialService
from rtmp_twisted.settings import Settings
from rtmp_twisted.tap import media_factory, relay_options, web_site

SLACK: Final = 128
"""Connections that a worker may have more than another one, or a quarter of all if that is more, before those of its
channels stay with the other one, which then begins to pull."""

_PR_SET_PDEATHSIG: Final = 1  # sys/prctl.h

_log = Logger()


class EdgeService(Service):
    """The pulls from other workers; they end before the connections do."""

    def __init__(self, edges: Edges) -> None:
        self._edges = edges

    def stopService(self) -> None:
        super().stopService()
        self._edges.stop()


class WorkerProcess:
    """A worker, from its beginning on the control channel to its end."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._loads: dict[int, int] = {}
        self._numbers = count(1)
        self._reached: dict[int, Deferred[int]] = {}
        self._factories: dict[str, Any] = {}
        self._stream: Any = None
        self.control = Control({"begin": self.begin, "ping": lambda: None}, self._supervisor_gone)

    def begin(self, number: int, about: str) -> None:
        """The supervisor has told what this worker is to do."""
        told: dict[str, Any] = pickle.loads(base64.b64decode(about))  # from the supervisor, which nobody else can be
        settings: Settings = told["settings"]
        self.number = number
        self._log_as(settings, f"w{number}")
        self._workers: int = told["workers"]
        of_cluster = settings.cluster_secret.encode() if settings.cluster_use else None
        self.directory = WorkerDirectory(self.control, number, told["secret"], of_cluster)
        self._assemble(settings, told)
        self._root.privilegedStartService()
        self._root.startService()

    def _log_as(self, settings: Settings, name: str) -> None:
        self._stream = stream = standard_output()
        assert stream is not None
        globalLogBeginner.beginLoggingTo([observer(settings, stream, name)], redirectStandardIO=False)

    def _assemble(self, settings: Settings, told: dict[str, Any]) -> None:
        reactor, control = self._reactor, self.control
        guessing = SupervisorGuessing(reactor, control)
        secret = clock = None
        make: Callable[..., EdgePull] = WorkerPull
        if settings.cluster_use:
            from rtmp_twisted.cluster.secret import ClusterSecret
            from rtmp_twisted.cluster.stall import STALL_SECONDS, StallClock

            secret = ClusterSecret(settings.cluster_secret)
            clock = StallClock(reactor, STALL_SECONDS)
        self._factory = factory = media_factory(
            settings,
            reactor,
            SupervisorAuthority(control),
            ConnectionLimits(),
            guessing,
            self.directory,
            self._steer,
            clock,
            None if secret is None else secret.signed,
        )
        self._broker = broker = factory.options.broker
        broker.server_id = told["server_id"]
        everything = NameRules(2**16, allow_empty=True, allow_special=True)
        self._peer_options = SessionOptions(
            broker, reactor, everything, settings.rtmp_chunk_size, guessing=guessing, peers=True
        )
        relays = relay_options(settings, reactor, factory)
        if secret is not None:
            make = partial(_make_pull, secret, relays)
        edges = Edges(
            evolve(relays, endpoint=lambda host, port: WorkerEndpoint(reactor, self._reach, host)),
            self.directory,
            lambda channel, key: self._home(channel) if rule_for(settings.pull, channel, key) else None,
            make,
        )
        broker.notices.observers.append(edges)
        self._relays = RelayService(relays, settings.push, settings.pull, self._pulls_itself)
        self.directory.moved = partial(self._moved, edges)
        services: list[Service] = [broker]
        self._factories[RTMP] = factory
        certificates = None
        if settings.rtmps:
            from rtmp_twisted.rtmp.tls import GivenCertificates, SecuredFactory

            certificates = GivenCertificates(*told["pem"])
            self._factories[RTMPS] = SecuredFactory(certificates, False, factory, reactor)
            control.handlers["certificate"] = partial(_change, certificates)
        self._web: Any = None
        if settings.web:
            services.append(self._assemble_web(settings, certificates))
        services.append(RTMPService(factory, [], settings.shutdown_grace_seconds, self._fail))
        if settings.http_port:
            self._assemble_operations()
        if clock is not None:
            self._assemble_cluster(clock, edges)
        services += [EdgeService(edges), self._relays]
        self._root = SequentialService()
        for service in services:
            service.setServiceParent(self._root)
        GarbageService(reactor).setServiceParent(self._root)
        control.handlers.update(
            take=self._take,
            reached=lambda number, descriptor: self._reached.pop(number).callback(descriptor),
            changed=self.directory.changed,
            suspects=guessing.note,
            make_room=self._make_room,
            kill=lambda channel, stream_id, reason: _nothing(broker.kill(channel, stream_id, reason)),
            kill_all=lambda reason: _nothing(broker.kill_all(reason)),
            lose=self._lose,
            drain=lambda: self._root.stopService().addCallback(lambda _: {}),
        )

    def _assemble_cluster(self, clock: Any, edges: Edges) -> None:
        """What a worker does in a cluster; the supervisor alone speaks with Redis."""
        from rtmp_twisted.cluster.stall import Withholding

        broker, control = self._broker, self.control
        stall = Withholding(broker, lambda: control.call("stalled"), edges.renew)
        clock.stalled = stall.begin

        def ping() -> dict[str, Any]:
            self.directory.forget(lambda channel: broker.channel(channel) is not None)
            return edges.said()

        control.handlers.update(stalled=stall.begin, ping=ping)

    def _assemble_web(self, settings: Settings, certificates: Any) -> Service:
        from rtmp_twisted.web.watch import WatchHTTP

        limits = ConnectionLimits()
        viewers, site = web_site(settings, self._reactor, self._factory.options, limits)
        self._factories[WEB] = site
        if settings.web_ssl_port:
            from rtmp_twisted.rtmp.tls import SecuredFactory

            self._factories[WEBS] = SecuredFactory(certificates, False, site, self._reactor)
        self._web = WatchHTTP(viewers, site, limits, Ports([], self._fail), settings.shutdown_grace_seconds)
        return cast(Service, self._web)

    def _assemble_operations(self) -> None:
        """What operators may ask and do here; the supervisor puts it together."""
        from rtmp_twisted.web.metrics import Metrics
        from rtmp_twisted.web.operations import LocalOperations
        from rtmp_twisted.web.status import WebStatus
        from rtmp_twisted.web.totals import as_values

        web = None if self._web is None else WebStatus(self._web.viewers, self._web.site, self._web.limits)
        metrics = Metrics(self._reactor, self._broker, self._factory, None, {}, web, self._relays)
        operations = LocalOperations(self._reactor, self._broker, metrics.sampler, metrics.text, self._relays)
        operations.start()

        def channels(names: list[str]) -> dict[str, Any]:
            return {name: one for name in names if (one := operations.channel(name)) is not None}

        def add_push(channel: str, url: str, id: str) -> dict[str, Any]:
            try:
                self._relays.add_push(channel, url, id)
            except ValueError as mistake:
                return {"mistake": str(mistake)}
            [added] = [one for one in operations.relays(channel) or () if one["id"] == id]
            return added

        asked: dict[str, Callable[..., Any]] = {
            "states": operations.states,
            "channels": channels,
            "relays": operations.relays,
            "add_push": add_push,
            "remove_push": operations.remove_push,
            "metrics": lambda: as_values(metrics.families()),
            "left": operations.left,
        }
        self.control.handlers.update({name: partial(_answer, call) for name, call in asked.items()})
        operations.away.clients += [self._factory.clients, *([] if self._web is None else [self._web.viewers.clients])]
        self.control.handlers["send_away"] = operations.drain

    # Connections

    def _take(
        self,
        kind: str,
        descriptor: int,
        address: list[Any],
        read: str = "",
        record: str | None = None,
        loads: dict[str, int] | None = None,
    ) -> None:
        """The supervisor hands a connection over. Raises Failed where it is lost already."""
        if loads is not None:
            self._loads = {int(number): load for number, load in loads.items()}
        protocol: Any
        gone: Callable[[], None] | None = None
        if kind == PEER:
            protocol = self._factory.accept_peer(self._peer_options, address[0])
        else:
            protocol = self._factories[kind].buildProtocol(as_address(address))
            gone = partial(self.control.tell, "left", kind=kind, address=address)
        if record is not None:
            protocol.connection.replaying = True
        try:
            adopt(self._reactor, descriptor, protocol, gone)
        except OSError:
            raise Failed from None
        if record is not None:
            protocol.connection.replay(record.encode("latin-1"))
        elif read:
            protocol.dataReceived(read.encode("latin-1"))

    def _steer(self, connection: Connection, channel: str) -> bool:
        """Gives a connection to the worker that has its channel, unless that one has much more to do."""
        place = self.directory.found(channel)
        if place is None or place.worker not in self._loads:
            return False
        loads, other = self._loads, place.worker
        found = self._broker.channel(channel)
        pulled = found is not None and found[0].on_air  # so one viewer more costs nothing here
        slack = 0 if pulled else max(SLACK, sum(loads.values()) // 4)
        if loads[other] - loads.get(self.number, 0) > slack:
            return False
        address = [connection.peer, 0] if connection.peer else []
        given = connection.give_away()
        if given is None:
            return False
        descriptor, record = given
        loads[other] += 1
        loads[self.number] = loads.get(self.number, 0) - 1
        moved = self.control.call(
            "move", to=other, descriptor=descriptor, kind=RTMP, address=address, record=record.decode("latin-1")
        )
        moved.addBoth(lambda _: close(descriptor))
        return True

    def _reach(self, worker: int) -> Deferred[int]:
        """Fires with a socket to another worker."""
        number = next(self._numbers)
        reached: Deferred[int] = Deferred()
        self._reached[number] = reached

        def failed(failure: Any) -> None:
            if self._reached.pop(number, None) is not None:
                reached.errback(OSError("the worker is not there"))

        self.control.call("reach", to=worker, number=number).addErrback(failed)
        return reached

    def _make_room(self, channel: str, epoch: int, key: str) -> Any:
        made = Deferred.fromCoroutine(self._broker.make_room(channel, epoch, key))
        return made.addCallbacks(lambda _: {}, refusal)

    def _lose(self, channel: str, epoch: int, reason: str) -> None:
        """Another machine's node has taken the channel from a publish here."""
        claim = self.directory.held(channel)
        if claim is not None and claim.epoch == epoch:
            self._broker.lose(cast(Publication, claim.holder), reason)

    def _moved(self, edges: Edges, channel: str) -> None:
        """The supervisor has told of a channel's place."""
        edges.moved(channel)
        if self._home(channel) == self.number:
            place = self.directory.place(channel)
            if place is None or place.worker != self.number:
                self._relays.moved(channel, place is not None)

    def _pulls_itself(self, channel: str) -> bool:
        """Whether this worker pulls a channel from another server, where a rule says that somebody does."""
        return self._home(channel) == self.number and self.directory.found(channel) is None

    def _home(self, channel: str) -> int:
        """The worker that pulls a channel from another server."""
        return crc32(channel.encode("utf-8", "surrogatepass")) % self._workers + 1

    # The end

    def _fail(self, line: str) -> None:
        _log.error("{line}", line=line)
        self._supervisor_gone()

    def _supervisor_gone(self) -> None:
        if isinstance(self._stream, BackgroundStream):
            self._stream.drain()
        os._exit(0)


def _make_pull(secret: Any, outward: Any, options: Any, place: Any, channel: str, key: str | None) -> EdgePull:
    """A pull from another worker, or from another machine's node."""
    from rtmp_twisted.cluster.node_pull import NodePull

    if isinstance(place, Node):
        return NodePull(secret, outward, place, channel, key)
    return WorkerPull(options, place, channel, key)


def _change(certificates: Any, certificate: str, key: str) -> None:
    certificates.change(certificate.encode("latin-1"), key.encode("latin-1"))


def _answer(call: Callable[..., Any], **values: Any) -> dict[str, Any]:
    return {"answer": call(**values)}


def _nothing(_: object) -> None:
    """For a handler whose result nobody wants."""


def main() -> None:
    with suppress(OSError, AttributeError):  # where there is no prctl, the end of the channel has to do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # they are the supervisor's, also where a terminal sends them to all
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    return_freed_memory()
    channel = socket.socket(fileno=CONTROL)
    channel.setblocking(False)
    made: Any = reactor
    attach(made, CONTROL, WorkerProcess(reactor).control)
    channel.close()
    made.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
