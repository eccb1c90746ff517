"""Publishers that come and go: most are simple ones in this process, some are ffmpeg. Each notes what it saw."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ConnectError
from twisted.internet.task import LoopingCall, deferLater

from rtmp_twisted.wire.messages import Message
from tests.platform.parties import DENIED, LONGEST_DELAY, SPOILED
from tests.platform.record import STARTED, Publish, Record
from tests.support.fakes import reactor, until, within
from tests.support.programs import Case, Program
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, METADATA, RTMPClient, aac, avc, client, codes

FRAME_SECONDS = 0.1
LONGEST_STAY = 3.0
"""Most seconds on air; ffmpeg, which takes longer to start, has twice as many."""
LONGEST_PAUSE = 0.3
"""Most seconds from one publish to the next."""

KEY = "the-key-"
"""A part of every key. It must never be seen in a log."""

FFMPEG = ("ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-f", "lavfi")
PICTURE = ("-i", "testsrc2=size=160x90:rate=15", "-c:v", "flv1", "-progress", "pipe:1", "-f", "flv")

T = TypeVar("T")


class Broadcast:
    """One publish that is on air. Its publisher stays until its time is over, it is told to `leave`, or the server ends
    the publish. If it is ``held``, its time does not end."""

    def __init__(self, publish: Publish, connection: RTMPClient | None) -> None:
        self.publish = publish
        self.connection = connection
        """None for ffmpeg."""
        self.held = False
        self.done: Deferred[None] = Deferred()

    def begin(self, seconds: float) -> None:
        limit = reactor.callLater(seconds, self._time_is_up)
        self.done.addCallback(lambda _: limit.cancel() if limit.active() else None)

    def leave(self) -> None:
        if not self.done.called:
            self.publish.left = True
            self.done.callback(None)

    def ended_with(self, result: T) -> T:
        """The server has ended it. Returns ``result``, as a callback does."""
        if not self.done.called:
            self.done.callback(None)
        return result

    def _time_is_up(self) -> None:
        if not self.held:
            self.leave()


class Crowd:
    """All publishers. ``port`` returns the server's port; ``random`` chooses what they do."""

    def __init__(self, record: Record, random: Random, case: Case, port: Callable[[], int]) -> None:
        self.record = record
        self.on_air: set[Broadcast] = set()
        self._random = random
        self._case = case
        self._port = port
        self._stopping = False
        self._last_key = 0
        self._running: list[Deferred[None]] = []

    def start(self, cheap: int, ffmpegs: int) -> None:
        """Starts ``cheap`` publishers on as many channels, so that some meet. Each ffmpeg has its own channel."""
        channels = [f"tv-{number}" for number in range(cheap)]
        publishers = [self._come_and_go(channels) for _ in range(cheap)]
        publishers += [self._run_ffmpegs(f"ffmpeg-{number}") for number in range(ffmpegs)]
        self._running = [Deferred.fromCoroutine(publisher) for publisher in publishers]

    async def stop(self) -> list[str]:
        """Lets all leave. Returns what went wrong with them. May be called again."""
        self._stopping = True
        for broadcast in list(self.on_air):
            broadcast.leave()
        running, self._running = self._running, []
        results = await DeferredList(running, consumeErrors=True)
        return [f"a publisher failed: {result}" for good, result in results if not good]

    async def victim(self, cheap: bool = False) -> Broadcast:
        """Returns one that is on air, and does not leave by itself any more."""

        def candidates() -> list[Broadcast]:
            known = self.record.on_air()  # ffmpeg may take a second to see that it is not on air any more
            return [
                broadcast
                for broadcast in self.on_air
                if broadcast.publish.on_air and broadcast.publish.key in known and not broadcast.held
                if broadcast.connection is not None or not cheap
            ]

        await until(candidates, "a publish on air")
        chosen = self._random.choice(sorted(candidates(), key=lambda broadcast: broadcast.publish.key))
        chosen.held = True
        return chosen

    async def take_over(self) -> None:
        """A publisher falls silent, and publishes again on a new connection."""
        lost = self.new_publish("taken-over")
        again = self.record.publishing(lost.channel, lost.key)
        connections = []
        for publish in lost, again:
            connection = await client(self._port())
            connections.append(connection)
            await connection.open(publish.channel)
            await connection.publish(publish.key)
            self.record.told(publish, STARTED)
        await within(connections[0].lost)
        lost.over = again.left = True
        connections[1].transport.loseConnection()
        await within(connections[1].lost)
        again.over = True

    def new_publish(self, channel: str, prefix: str = "") -> Publish:
        self._last_key += 1
        return self.record.publishing(channel, f"{prefix}{KEY}{self._last_key}")

    # Simple publishers

    async def _come_and_go(self, channels: list[str]) -> None:
        while not self._stopping:
            with contextlib.suppress(ConnectError):  # the server is away
                await self._connect(self._random.choice(channels))
            await self._pause(LONGEST_PAUSE)

    async def _connect(self, channel: str) -> None:
        connection = await client(self._port())
        try:
            await connection.open(channel)
            while await self._publish(connection, channel):
                pass
        except AssertionError:
            if not connection.closed:
                raise
        finally:
            connection.transport.abortConnection()

    async def _publish(self, connection: RTMPClient, channel: str) -> bool:
        """Makes one publish. Returns whether the connection is to be used for another one."""
        prefix = self._random.choices(("", DENIED, SPOILED), (20, 2, 1))[0]
        publish = self.new_publish(channel, prefix)
        try:
            connection.received.clear()
            connection.call("publish", None, publish.key, "live", stream_id=1)
            if self._random.random() < 0.1:
                await self._pause(LONGEST_DELAY / 2)
                publish.left = True
                return False
            self.record.told(publish, codes([await connection.until(is_answer, "the answer to the publish")])[0])
            if publish.told != STARTED:
                return False
            sending = LoopingCall(send_frame, connection, count())
            sending.start(FRAME_SECONDS)
            broadcast = Broadcast(publish, connection)
            connection.lost.addCallback(broadcast.ended_with)
            try:
                await self._stay(broadcast, LONGEST_STAY)
            finally:
                sending.stop()
            return publish.left and await self._leave(connection)
        finally:
            publish.over = True

    async def _leave(self, connection: RTMPClient) -> bool:
        """Leaves in one of several ways. Returns the result of `_publish`."""
        match self._random.randrange(4):
            case 0:
                connection.transport.loseConnection()
                return False
            case 1:
                connection.transport.abortConnection()
                return False
        connection.call("closeStream", None, stream_id=1)
        await connection.status("NetStream.Unpublish.Success")
        return not self._stopping and self._random.random() < 0.5

    async def _stay(self, broadcast: Broadcast, longest: float) -> None:
        self.on_air.add(broadcast)
        broadcast.begin(0 if self._stopping else self._random.uniform(0, longest))
        await broadcast.done
        self.on_air.discard(broadcast)

    # ffmpeg

    async def _run_ffmpegs(self, channel: str) -> None:
        while not self._stopping:
            publish = self.new_publish(channel)
            url = f"rtmp://127.0.0.1:{self._port()}/{channel}/{publish.key}"
            program = Program(self._case, *FFMPEG, *PICTURE, url)
            broadcast = Broadcast(publish, None)
            program.ended.addCallback(broadcast.ended_with)
            with contextlib.suppress(AssertionError):  # it has ended: the server is away
                await program.until("^frame=[1-9]")
                self.record.told(publish, STARTED)
                await self._stay(broadcast, 2 * LONGEST_STAY)
                program.signal(self._random.choice((signal.SIGINT, signal.SIGKILL)))
            await within(program.ended)
            publish.over = True
            await self._pause(LONGEST_PAUSE)

    def _pause(self, longest: float) -> Deferred[None]:
        return deferLater(reactor, self._random.uniform(0, longest))


def is_answer(message: Message) -> bool:
    """Whether this is the answer to a publish."""
    return any(code.startswith("NetStream.Publish.") for code in codes([message]))


def send_frame(connection: RTMPClient, numbers: Iterator[int]) -> None:
    """Sends the next frame, with headers before the first one, and a keyframe each second."""
    number = next(numbers)
    time = round(number * FRAME_SECONDS * 1000)
    headers = () if number else (METADATA, AVC_HEADER, AAC_HEADER)
    connection.send(*headers, avc(time, number % 10 == 0), aac(time))
