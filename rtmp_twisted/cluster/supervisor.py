"""The supervisor: it listens, hands each connection to a worker, and keeps what there must be one of. Made by tap.py.

There is one of: the ports and the limits of connections and of guessing, the authority, the places of channels
(places.py), the log. Media it never sees. Each worker has a control channel (control.py); a worker that dies or hangs
is replaced at once, and what it had is given back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from zlib import crc32

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtmp_twisted.cluster.control import Failed, Gone
from rtmp_twisted.cluster.handover import PEER, WEB, WEBS, close, from_address
from rtmp_twisted.cluster.keys import SECRET_SIZE
from rtmp_twisted.cluster.places import Claimed, Places, Starts
from rtmp_twisted.cluster.process import PING_SECONDS, Worker
from rtmp_twisted.rtmp.factory import textual_ip
from rtmp_twisted.rtmp.guessing import GuessingLimits, source_of
from rtmp_twisted.rtmp.limits import ConnectionLimits

AT_ONCE_SECONDS: Final = 10.0
"""A worker that has lived for so long is replaced at once when it dies."""

RETRY_SECONDS: Final = 1.0
"""From the death of any other to its replacement."""

DRAIN_SECONDS: Final = 5.0
"""How long workers may take to stop, beyond three times SHUTDOWN_GRACE_SECONDS."""

LATE_SECONDS: Final = 2.0
"""After so long between two checks of the workers, this process itself has not run."""

_log = Logger()


@frozen
class _Arrived:
    """A connection that is to be handed over."""

    kind: str
    descriptor: int
    address: list[Any]
    read: str = ""
    record: str | None = None

    @property
    def ip(self) -> str:
        return textual_ip(self.address[0]) if self.address else ""


class Supervisor(Service):
    """``workers`` is how many; ``about`` is what they are told. ``limits`` are those of each kind of connection.
    ``authority`` decides who may publish. ``close_ports`` stops listening, ``grace`` is SHUTDOWN_GRACE_SECONDS."""

    def __init__(
        self,
        reactor: Any,
        workers: int,
        about: Callable[[], dict[str, Any]],
        limits: Mapping[str, ConnectionLimits],
        guessing: GuessingLimits,
        authority: Any,
        grace: float,
        fail: Callable[[str], None],
        spawn: Callable[..., Worker] = Worker,
    ) -> None:
        self.workers: dict[int, Worker] = {}
        self.limits = limits
        self.guessing = guessing
        self.secret = os.urandom(SECRET_SIZE)
        self.places = Places(self.secret, self._tell_place)
        self.starts = Starts(reactor, authority)
        self.replaced = 0
        """Workers that have died or were ended, and were replaced."""
        self.begun: list[Callable[[Worker], None]] = []
        """Called with each worker that is ready."""
        self.more: Callable[[Worker], dict[str, Callable[..., Any]]] = lambda worker: {}
        """What a worker may ask besides, or what else answers it: a node of a cluster (node_of_workers.py)."""
        self.lost: Callable[[Worker], Deferred[Any]] = lambda worker: succeed(None)
        """Called with a worker that is gone. Fires when none of its claims is on its way any more."""
        self.paused: Callable[[], None] = lambda: None
        """Called when this process has not run for a while, before anything is handed over."""
        self._reactor = reactor
        self._count = workers
        self._about = about
        self._grace = grace
        self._fail = fail
        self._spawn = spawn
        self._waiting: list[_Arrived] = []  # until a worker is ready
        self._suspects: set[str] = set()
        self._checks = LoopingCall(self._check)
        self._checks.clock = reactor
        self._checked_at = 0.0
        self._was_ready = False

    # Service

    def startService(self) -> None:
        super().startService()
        self._checked_at = self._reactor.seconds()
        for number in range(1, self._count + 1):
            self._begin(number)
        self._checks.start(PING_SECONDS, now=False)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._checks.running:
            self._checks.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for arrived in self._waiting:
            self._drop(arrived)
        self._waiting.clear()
        alive = [worker for worker in self.workers.values() if not worker.ended]
        drained = DeferredList([worker.control.call("drain") for worker in alive if worker.ready], consumeErrors=True)
        await _within(self._reactor, drained, 3 * self._grace + DRAIN_SECONDS)
        await DeferredList([worker.finish() for worker in alive], consumeErrors=True)

    # Connections

    def take(self, kind: str, descriptor: int, address: IAddress | None, read: bytes) -> None:
        """A connection has come, which `limits` have counted."""
        self._hand_over(_Arrived(kind, descriptor, from_address(address), read.decode("latin-1")))

    def _hand_over(self, arrived: _Arrived, to: Worker | None = None) -> None:
        if not self.running:
            self._drop(arrived)
            return
        self._notice_pause()
        worker = to or self._choose(arrived)
        if worker is None:
            self._waiting.append(arrived)  # bounded, as all connections are
            return
        self._count_in(worker, arrived)
        asked = worker.control.call(
            "take",
            descriptor=arrived.descriptor,
            kind=arrived.kind,
            address=arrived.address,
            read=arrived.read,
            record=arrived.record,
            loads=self.loads(),
        )
        asked.addCallbacks(lambda _: close(arrived.descriptor), partial(self._not_taken, worker, arrived))

    def _choose(self, arrived: _Arrived) -> Worker | None:
        """The worker for a connection. Those of one address to the web server go to one worker, since what it has cut
        into HLS segments another one has cut elsewhere."""
        if arrived.kind in (WEB, WEBS) and arrived.ip:
            worker = self.workers.get(crc32(source_of(arrived.ip).encode()) % self._count + 1)
            return worker if worker is not None and worker.ready else None
        ready = [worker for worker in self.workers.values() if worker.ready]
        return min(ready, key=lambda worker: worker.load, default=None)

    def loads(self) -> dict[str, int]:
        """The connections of each worker that is ready."""
        return {str(worker.number): worker.load for worker in self.workers.values() if worker.ready}

    def _count_in(self, worker: Worker, arrived: _Arrived) -> None:
        worker.connections[arrived.kind, arrived.ip] += 1
        worker.load += 1

    def _count_out(self, worker: Worker, kind: str, ip: str) -> bool:
        """Returns whether the worker had such a connection."""
        if not worker.connections[kind, ip]:
            return False
        worker.connections[kind, ip] -= 1
        if not worker.connections[kind, ip]:
            del worker.connections[kind, ip]
        worker.load -= 1
        return True

    def _not_taken(self, worker: Worker, arrived: _Arrived, failure: Failure) -> None:
        """The worker has died over it, which has given back what it had; or it could make nothing of it."""
        failure.trap(Gone, Failed)
        if failure.check(Failed) and self._count_out(worker, arrived.kind, arrived.ip):
            self._drop(arrived)
        else:
            close(arrived.descriptor)

    def _drop(self, arrived: _Arrived) -> None:
        close(arrived.descriptor)
        self.limits[arrived.kind].leave(arrived.ip)

    # Workers

    def _begin(self, number: int) -> None:
        about = {**self._about(), "number": number, "workers": self._count, "secret": self.secret}
        self.workers[number] = self._spawn(self._reactor, number, about, self._handlers, self._ready, self._ended)

    def _ended(self, worker: Worker) -> None:
        """The worker is gone, whatever ended it."""
        for (kind, ip), count in worker.connections.items():
            for _ in range(count):
                self.limits[kind].leave(ip)
        worker.connections.clear()
        worker.load = 0
        settled = self.lost(worker)
        self.places.lost(worker.number)
        settled.addCallback(lambda _: self.starts.lost(worker))
        if not self.running:
            return
        if not self._was_ready:
            self._fail("a worker could not begin")
            return
        self.replaced += 1
        lived = self._reactor.seconds() - worker.began_at
        _log.error("worker {number} (process {pid}) has died, and is replaced", number=worker.number, pid=worker.pid)
        self._reactor.callLater(0 if lived >= AT_ONCE_SECONDS else RETRY_SECONDS, self._begin_again, worker.number)

    def _begin_again(self, number: int) -> None:
        if self.running:
            self._begin(number)

    def _notice_pause(self) -> None:
        now = self._reactor.seconds()
        if now - self._checked_at > LATE_SECONDS:
            self._checked_at = now
            for worker in self.workers.values():
                worker.forgive()
            self.paused()

    def _check(self) -> None:
        self._notice_pause()
        self._checked_at = self._reactor.seconds()
        self.guessing.forget()
        self._tell_suspects()
        for worker in self.workers.values():
            worker.check()

    def tell_all(self, name: str, **values: Any) -> None:
        """Tells every worker something."""
        for worker in self.workers.values():
            if not worker.ended:
                worker.control.tell(name, **values)

    def _tell_place(self, channel: str, claimed: Claimed | None) -> None:
        self.tell_all("changed", channel=channel, place=None if claimed is None else claimed.told())

    def _tell_suspects(self) -> None:
        suspects = set(self.guessing.sources)
        if suspects != self._suspects:
            come, gone = sorted(suspects - self._suspects), sorted(self._suspects - suspects)
            self._suspects = suspects
            self.tell_all("suspects", come=come, gone=gone)

    # What workers ask

    def _handlers(self, worker: Worker) -> dict[str, Callable[..., Any]]:
        return {
            "left": partial(self._left, worker),
            "move": partial(self._move, worker),
            "reach": partial(self._reach, worker),
            "claim": partial(self._claim, worker),
            "release": partial(self._release, worker),
            "make_room": self.make_room,
            "start": partial(self.starts.start, worker),
            "end": self._end_start,
            "attempt": self._attempt,
            "fail": self._fail_key,
            **self.more(worker),
        }

    def _ready(self, worker: Worker) -> None:
        self._was_ready = True
        worker.control.tell("suspects", come=sorted(self._suspects), gone=[])
        for claimed in self.places:
            worker.control.tell("changed", channel=claimed.channel, place=claimed.told())
        _log.info("worker {number} is ready (process {pid})", number=worker.number, pid=worker.pid)
        for begun in self.begun:
            begun(worker)
        waiting, self._waiting = self._waiting, []
        for arrived in waiting:
            self._hand_over(arrived)

    def _left(self, worker: Worker, kind: str, address: list[Any]) -> None:
        ip = textual_ip(address[0]) if address else ""
        if self._count_out(worker, kind, ip):
            self.limits[kind].leave(ip)

    def _move(self, worker: Worker, to: int, descriptor: int, kind: str, address: list[Any], record: str) -> None:
        """A worker gives a connection to another one."""
        arrived = _Arrived(kind, descriptor, address, record=record)
        target = self.workers.get(to)
        if not self._count_out(worker, kind, arrived.ip):
            close(descriptor)  # the worker has died in the meantime
        elif target is None or not target.ready:
            self._drop(arrived)
        else:
            self._hand_over(arrived, target)

    def _reach(self, worker: Worker, to: int, number: int) -> Any:
        """A worker wants to pull from another one: each gets an end of a socket pair."""
        target = self.workers.get(to)
        if target is None or not target.ready:
            raise Gone
        ends = socket.socketpair()
        name = f"worker-{worker.number}"
        peer = target.control.call("take", descriptor=ends[0].fileno(), kind=PEER, address=[name, 0])
        own = worker.control.call("reached", descriptor=ends[1].fileno(), number=number)
        both = DeferredList([peer, own], fireOnOneErrback=True, consumeErrors=True)

        def done(result: Any) -> Any:
            for end in ends:
                end.close()
            if isinstance(result, Failure):
                raise Gone
            return {}

        return both.addBoth(done)

    def _claim(
        self, worker: Worker, channel: str, pulled: bool, key: str | None, stream_id: str, client_ip: str
    ) -> dict[str, Any]:
        return self.places.claim(worker.number, channel, pulled, key, stream_id)

    def _release(self, worker: Worker, channel: str, epoch: int) -> None:
        self.places.release(worker.number, channel, epoch)

    def make_room(self, channel: str, epoch: int, key: str) -> Any:
        """Has the worker that holds a place give it up. Returns what it answers (directory.py, `refusal`)."""
        claimed = self.places.find(channel)
        holder = None if claimed is None else self.workers.get(claimed.worker)
        if claimed is None or claimed.epoch != epoch or holder is None:
            return {}
        asked = holder.control.call("make_room", channel=channel, epoch=epoch, key=key)
        return asked.addErrback(lambda failure: failure.trap(Gone) and {})

    def _end_start(self, number: int) -> Any:
        return self.starts.end(number).addCallback(lambda _: {})

    def _attempt(self, address: str, channel: str, key: str) -> Deferred[dict[str, Any]]:
        judged: Deferred[dict[str, Any]] = Deferred()

        def judge(refused: bool) -> None:
            judged.callback({"refused": refused})

        self.guessing.attempt(address, channel, key, judge, lambda: judge(True))
        return judged

    def _fail_key(self, command: str, address: str, channel: str, key: str) -> None:
        self.guessing.fail(command, address, channel, key)
        self._tell_suspects()


async def _within(reactor: Any, done: Deferred[Any], seconds: float) -> None:
    """Returns when something is done, or after some seconds."""
    limit: Deferred[None] = deferLater(reactor, seconds)
    limit.addErrback(lambda _: None)
    await DeferredList([done, limit], fireOnOneCallback=True)
    limit.cancel()
