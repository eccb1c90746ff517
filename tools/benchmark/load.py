"""One load process: publishers and players in one thread, around one epoll.

Started by ``runner`` as a program of its own, pinned to its core, and controlled over its standard streams, with one
JSON object a line. It says ``published``, ``joined``, ``done`` (with its figures) or ``failed`` (with a reason); it is
told ``join``, ``measure`` (with a window of the monotonic clock) and ``finish`` (the window ends now). It keeps
publishing and reading until its input ends, so that no process disturbs what another still measures.

Data is first read and later checked: a socket is emptied into an arena and the time is noted; the arena is walked
through only when no socket has more. So the latency of one player contains little of the time that it takes to check
others.

A frame counts when it was *sent* within the window; after the window the load reads on until no more of them come. So a
late frame counts as late, and only a lost frame is missing.
"""

from __future__ import annotations

import array
import gc
import json
import os
import select
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import frames, rtmp
from .client import Connection, Player, Publisher
from .hls import HLSViewer, Playlists
from .http import Viewer, WebViewer
from .walker import RESERVE, Plans, WalkError

ARENA_SIZE = 16 << 20
READ_SIZE = 256 << 10
EVENTS_AT_ONCE = 512
JUDGED_AT_ONCE = 16
JOINING_AT_ONCE = 16
SETUP_TIMEOUT_NS = 60_000_000_000
QUIET_NS = 1_000_000_000
LONGEST_DRAIN_NS = 15_000_000_000
LONGEST_WAIT_NS = 100_000_000
ORDERS_FD = 0
LATENCY_UNIT_NS = 10_000


AnyConnection = Connection | WebViewer


class LoadFailed(Exception):
    """The run cannot go on; the text says why."""


@dataclass
class Job:
    """What one load process has to do. Player ``i`` of ``players`` plays on app ``i`` modulo their number.
    ``publish_port``: where it publishes, if that is not where it plays."""

    host: str
    port: int
    apps: list[str]
    key: str
    players: list[int]
    publishes: bool
    kbps: int
    publisher_chunk: int
    publish_port: int = 0
    format: str = ""
    """What viewers get over HTTP; nothing for RTMP players."""
    secure: bool = False
    """Whether that is HTTPS."""

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def publish_address(self) -> tuple[str, int]:
        return self.host, self.publish_port or self.port

    @property
    def web_address(self) -> tuple[str, int]:
        return self.host, self.port + 1


@dataclass
class Figures:
    """What one load process saw. Latencies are counted by units of LATENCY_UNIT_NS."""

    frames_sent: int = 0
    lost: int = 0
    dup: int = 0
    disorder: int = 0
    closed: int = 0
    bad: int = 0
    no_video: int = 0
    bytes: int = 0
    cpu_ns: int = 0
    pub_late_ns: int = 0
    pub_backlog: int = 0
    first_video_ns: list[int] = field(default_factory=list)
    latencies: dict[int, int] = field(default_factory=dict)


class Load:
    """The loop. ``tell`` passes an event to the runner."""

    def __init__(self, job: Job, tell: Callable[..., None]) -> None:
        self._job = job
        self._tell = tell
        self._stream = frames.Stream(job.kbps)
        self._plans: Plans = {}
        self._epoll = select.epoll()
        self._connections: dict[int, AnyConnection] = {}
        self._arena = bytearray(ARENA_SIZE)
        self._view = memoryview(self._arena)
        self._arena_end = RESERVE
        self._unjudged: deque[tuple[AnyConnection, int, int, int]] = deque()
        """The parts of the arena: the connection, start and end, and when it was read."""
        self._latencies = array.array("Q")
        self._figures = Figures()
        self._publishers: list[Publisher] = []
        self._players: list[Player | WebViewer] = []
        self._playlists: Playlists = {}
        self._clock_start = 0
        self._sequences = [0, 0]
        self._received = 0
        self._orders: list[dict[str, Any] | None] = []
        self._epoll.register(ORDERS_FD, select.EPOLLIN)

    def publish(self) -> None:
        """Sets all publishers up and starts their clock. Raises LoadFailed."""
        if self._job.publishes:
            self._set_up("publisher", self._new_publishers())
        self._clock_start = frames.clock()
        self._tell("published")

    def join(self) -> None:
        """Lets all players join. Raises LoadFailed."""
        self._set_up("player", self._new_players())
        self._tell("joined")

    def measure(self, start: int, end: int) -> None:
        """Measures what is sent between two moments, or until the next order, and tells. Raises LoadFailed."""
        self._stream.start, self._stream.end = start, end
        self._run_until(start)
        cpu, received, self._figures.pub_late_ns = time.process_time_ns(), self._received, 0
        self._run_until(end)
        if self._orders and self._orders[0]:
            self._orders.pop(0)
            self._stream.end = end = frames.clock()
        self._figures.cpu_ns = time.process_time_ns() - cpu
        self._figures.bytes = self._received - received
        self._drain(end)
        self._judge(len(self._unjudged))
        self._sum_up()
        self._tell("done", figures=vars(self._figures))

    def next_order(self) -> dict[str, Any] | None:
        """Goes on until there is an order; None at the end of the orders."""
        while not self._orders:
            self._turn()
        return self._orders.pop(0)

    def _new_publishers(self) -> Iterator[Publisher]:
        job = self._job
        for app in job.apps:
            publisher = Publisher(job.publish_address, app, job.key, self._stream, self._plans, job.publisher_chunk)
            self._publishers.append(publisher)
            yield publisher

    def _new_players(self) -> Iterator[Player | WebViewer]:
        job = self._job
        for number in job.players:
            app, is_sampled = job.apps[number % len(job.apps)], number < len(job.apps)
            latency = self._latencies.append
            seen = (self._stream, is_sampled, latency)
            player: Player | WebViewer
            if job.format == "hls":
                player = HLSViewer(job.web_address, app, job.key, job.secure, *seen, self._playlists)
            elif job.format:
                player = Viewer(job.web_address, app, job.key, job.format, job.secure, *seen)
            else:
                player = Player(job.address, app, job.key, self._stream, self._plans, is_sampled, latency)
            self._players.append(player)
            yield player

    def _set_up(self, what: str, new: Iterator[AnyConnection]) -> None:
        """Opens connections, a few at a time, until all are ready."""
        joining: list[AnyConnection] = []
        is_all = False
        progress = frames.clock()
        while not is_all or joining:
            while not is_all and len(joining) < JOINING_AT_ONCE:
                try:
                    connection = next(new, None)
                except OSError as error:
                    raise LoadFailed(f"a {what} could not connect: {error}") from error
                if connection is None:
                    is_all = True
                    break
                joining.append(connection)
                self._connections[connection.socket.fileno()] = connection
                self._epoll.register(connection.socket, select.EPOLLIN)
            self._turn()
            waiting = [connection for connection in joining if not connection.is_ready]
            progress = frames.clock() if len(waiting) < len(joining) else progress
            if frames.clock() - progress > SETUP_TIMEOUT_NS:
                raise LoadFailed(f"a {what} on {waiting[0].app} got no answer from the server")
            if closed := [connection for connection in waiting if connection.is_closed]:
                raise LoadFailed(f"the server closed the connection of a {what} on {closed[0].app}")
            joining = waiting

    def _run_until(self, moment: int) -> None:
        while frames.clock() < moment and not self._orders:
            self._turn(moment)

    def _drain(self, end: int) -> None:
        """Reads on until no frame of the window has come for a while."""
        size, last = len(self._latencies), frames.clock()
        while frames.clock() < min(last + QUIET_NS, end + LONGEST_DRAIN_NS):
            self._turn()
            if len(self._latencies) != size:
                size, last = len(self._latencies), frames.clock()

    def _turn(self, until: int | None = None) -> None:
        """Publishes what is due, then reads what has come, or judges what was read if there is nothing.

        Waits no longer than until the next frame is due, and not at all while there is something to judge.
        """
        now = frames.clock()
        wake = now + LONGEST_WAIT_NS if until is None else min(until, now + LONGEST_WAIT_NS)
        if self._clock_start and self._publishers:
            wake = min(wake, self._publish_due())
        # Rounded down to a millisecond, so that the core is awake when a frame is due.
        wait = 0.0 if self._unjudged else max(0, wake - frames.clock()) // 1_000_000 / 1e3
        events = self._epoll.poll(wait, EVENTS_AT_ONCE)
        if events:
            self._read(events)
        else:
            self._judge(JUDGED_AT_ONCE)

    def _read(self, events: list[tuple[int, int]]) -> None:
        connections, view, note, clock = self._connections, self._view, self._unjudged.append, frames.clock
        start = self._arena_end
        for fd, _ in events:
            if fd == ORDERS_FD:
                self._read_orders()
                continue
            if start + READ_SIZE > ARENA_SIZE:
                self._judge(len(self._unjudged))
                start = self._arena_end
            connection = connections[fd]
            try:
                size = connection.receive_into(view[start : start + READ_SIZE])
            except BlockingIOError:
                continue
            except OSError:
                size = 0
            if size:
                note((connection, start, start + size, clock()))
                self._received += size
                start += size + RESERVE
            else:
                self._close(connection)
        self._arena_end = start

    def _judge(self, count: int) -> None:
        """Feeds the ``count`` oldest parts of the arena to their connections."""
        unjudged, arena = self._unjudged, self._arena
        for _ in range(min(count, len(unjudged))):
            connection, start, end, now = unjudged.popleft()
            try:
                connection.feed(arena, start, end, now)
            except WalkError as error:
                raise LoadFailed(f"{connection.app}: what the server sends is malformed: {error}") from error
            except rtmp.Refused as error:
                raise LoadFailed(f"{connection.app}: the server refused: {error}") from error
        if not unjudged:
            self._arena_end = RESERVE

    def _publish_due(self) -> int:
        """Sends each frame that is due on every channel; returns when the next one is."""
        while True:
            kind = 0 if frames.due(0, self._sequences[0]) <= frames.due(1, self._sequences[1]) else 1
            sequence = self._sequences[kind]
            due = self._clock_start + frames.due(kind, sequence)
            if due > frames.clock():
                return due
            self._sequences[kind] += 1
            # Every server numbers message streams from 1, so the channels' bytes are the same.
            stream_id, chunk_size = self._publishers[0].stream_id, self._job.publisher_chunk
            message, stamp_at = self._stream.message(kind, sequence, stream_id, chunk_size)
            now = frames.put_stamp(message, stamp_at)
            for publisher in self._publishers:
                publisher.send(message)
            self._figures.pub_late_ns = max(self._figures.pub_late_ns, now - due)
            self._figures.frames_sent += self._stream.start <= now < self._stream.end

    def _close(self, connection: AnyConnection) -> None:
        fd = connection.socket.fileno()
        self._epoll.unregister(fd)
        del self._connections[fd]
        connection.socket.close()
        connection.is_closed = True
        if connection in self._publishers and connection.is_ready:
            raise LoadFailed(f"the server closed the connection of the publisher of {connection.app}")

    def _read_orders(self) -> None:
        data = os.read(ORDERS_FD, 65536)
        self._orders += [json.loads(line) for line in data.splitlines()] or [None]

    def _sum_up(self) -> None:
        figures, players = self._figures, self._players
        figures.lost = sum(player.lost for player in players)
        figures.dup = sum(player.dup for player in players)
        figures.disorder = sum(player.disorder for player in players)
        figures.bad = sum(player.bad for player in players)
        figures.closed = sum(player.is_closed for player in players)
        figures.first_video_ns = [player.first_video for player in players if player.first_video is not None]
        figures.no_video = len(players) - len(figures.first_video_ns)
        figures.pub_backlog = sum(len(publisher.pending) for publisher in self._publishers)
        figures.latencies = Counter(latency // LATENCY_UNIT_NS for latency in self._latencies)


def main() -> None:
    """Runs the job given as JSON in the first argument."""
    gc.disable()
    try:
        load = Load(Job(**json.loads(sys.argv[1])), tell)
        load.publish()
        while order := load.next_order():
            if order["order"] == "join":
                load.join()
            else:
                load.measure(order["start"], order["end"])
    except LoadFailed as error:
        tell("failed", reason=str(error))


def tell(event: str, **facts: object) -> None:
    """Passes an event to the process that started this one."""
    print(json.dumps({"event": event, **facts}), flush=True)


if __name__ == "__main__":
    main()
