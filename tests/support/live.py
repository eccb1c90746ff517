"""The live room without a server around it: a channel with a publish, and players whose connections take what a test
says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.task import Clock

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.channel import Channel, ChannelOptions
from rtmp_twisted.live.cursor import Change
from rtmp_twisted.live.memory import NO_LIMIT, Memory
from rtmp_twisted.live.player import Cache, Form, Player
from rtmp_twisted.live.publication import Publication, PublishState
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.wire import chunks
from rtmp_twisted.wire.chunks import restream
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support import flv

PLENTY = 10**12


@define(eq=False)
class FakeWriter:
    """Takes ``room`` bytes at once; what is written beyond that waits until `take` makes room."""

    room: int = PLENTY
    taken: bytearray = field(factory=bytearray)
    waiting: bytearray = field(factory=bytearray)
    calls: int = 0
    holder: object | None = None
    full: bool = False
    viewers: list[Viewer] = field(factory=list)
    queue: bytearray = field(factory=bytearray)
    broken: bool = False

    @property
    def blocked(self) -> bool:
        return self.full or bool(self.waiting)

    def _take(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)

    def _block(self, change: Callable[[], object]) -> None:
        was_blocked = self.blocked
        change()
        if self.blocked and not was_blocked:
            for viewer in self.viewers:
                viewer.player.blocked()

    def send(self, data: bytes) -> int:
        assert not self.blocked and self.holder is None
        self.calls += 1
        if not self.room:
            raise BlockingIOError
        return self._take(data)

    def try_writev(self, buffers: list[bytes | memoryview]) -> int:
        self.calls += 1
        if self.blocked:
            return 0
        data = b"".join(buffers)
        taken = self._take(data)
        self._block(lambda: setattr(self, "full", taken < len(data)))
        return taken

    def write(self, data: bytes) -> None:
        if self.holder is not None:
            self.queue += data
        else:
            rest = data if self.blocked else data[self._take(data) :]
            self._block(lambda: self.waiting.extend(rest))

    def hold(self, holder: object) -> None:
        self.holder = holder

    def release(self) -> None:
        self.holder = None
        queue, self.queue = bytes(self.queue), bytearray()
        self.write(queue)

    def abandon(self, rest: list[bytes | memoryview]) -> None:
        self.holder = None
        self.write(b"".join(rest))
        self.release()

    def take(self, room: int) -> bool:
        """Makes room; tells whether what waited has left with it."""
        was_blocked = self.blocked
        self.room += room
        leaving = self.waiting[: self.room]
        del self.waiting[: len(leaving)]
        self.taken += leaving
        self.room -= len(leaving)
        if self.room:
            self.full = False
        return was_blocked and not self.blocked


@define(eq=False)
class Viewer:
    """A player's owner, writer and everything that it got."""

    clock: Clock
    writer: FakeWriter
    player: Player = field(init=False)
    refusals: list[str] = field(factory=list)
    ends: list[str] = field(factory=list)

    def play_refused(self, player: Player, reason: str) -> None:
        self.refusals.append(reason)

    def play_ended(self, player: Player, reason: str) -> None:
        self.ends.append(reason)

    def take(self, room: int = PLENTY) -> None:
        """Makes room, and lets every player on the connection go on until it has taken all that it can."""
        while self.writer.take(room):
            room = 0
            for viewer in sorted(
                self.writer.viewers, key=lambda viewer: viewer.player.cursor is not self.writer.holder
            ):
                viewer.player.resume()
            self.clock.advance(0)

    @property
    def plain(self) -> bool:
        """Whether it gets the log's own bytes."""
        cursor = self.player.cursor
        return cursor is not None and cursor.plain

    def messages(self, chunk_size: int = 4096) -> list[Message]:
        """What has arrived; fails unless all of it is whole messages."""
        if self.player.form is not None:
            return flv.parse_flv(bytes(self.writer.taken))
        decoder = chunks.ChunkDecoder()
        set_size = chunks.encode(Message(1, 0, 0, chunk_size.to_bytes(4, "big")), 2, 128)
        found = list(filter(None, decoder.feed(set_size + bytes(self.writer.taken))))
        assert not decoder.partial, "part of a message"
        return found

    def media(self, chunk_size: int = 4096) -> list[Message]:
        return [message for message in self.messages(chunk_size) if message.type_id in (AUDIO, VIDEO)]

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.media()]


class Owner:
    """A publish's owner that nobody asks."""

    heard_at = 0.0
    bytes_received = 0
    agent = "test"
    connection_number = 1

    def publish_started(self, publication: Publication) -> None: ...

    def publish_refused(self, publication: Publication, reason: str) -> None: ...

    def publish_ended(self, publication: Publication, reason: str) -> None: ...


class Stage:
    """A channel, and what is published on it. ``form``: what players that join get, None for RTMP."""

    def __init__(self, channel: Channel, scheduler: FlushScheduler, clock: Clock, form: Form | None) -> None:
        self.channel = channel
        self.scheduler = scheduler
        self.clock = clock
        self.form = form
        self.publication: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel, name)

    def begin(self, key: str) -> list[Player]:
        strangers = self.channel.begin(key)
        self.publication = Publication("channel", key, "192.0.2.1", Owner())
        self.publication.open(self.channel, 0.0)
        return strangers

    def end(self, lost: bool = False) -> None:
        self.channel.end(lost)
        self.publication.close(PublishState.LOST if lost else PublishState.ENDED)

    def publish(self, message: Message) -> None:
        self.publication.write(message)

    def flush_when_due(self) -> None:
        self.scheduler.flush_pending()

    def flush(self) -> None:
        self.channel.audience.flush()
        self.scheduler.flush_pending()  # those that follow
        for _ in range(100):  # those that need more than one turn
            self.clock.advance(0)

    def join(
        self,
        cache: Cache = Cache.GOP,
        room: int = PLENTY,
        stream_id: int = 1,
        key: str = "key",
        writer: FakeWriter | None = None,
        turns: bool = True,
        push: bool = False,
        change: Change | None = None,
    ) -> Viewer:
        viewer = Viewer(self.clock, writer or FakeWriter(room))
        if stream_id != 1:
            change = lambda data, start, end: restream(data, start, end, stream_id)  # noqa: E731
        viewer.player = Player(viewer, viewer.writer, key, cache, change, self.form, push=push)
        viewer.writer.viewers.append(viewer)
        self.channel.add(viewer.player)
        self.channel.start(viewer.player)
        if turns:
            self.clock.advance(0)
        return viewer


def join(stage: Stage, *arguments: Any, **options: Any) -> Viewer:
    return stage.join(*arguments, **options)


def make_channel(
    longest: float = 0,
    clock: Clock | None = None,
    cost: float = 0,
    form: Form | None = None,
    **options: object,
) -> Stage:
    """A channel whose rounds all seem to cost ``cost`` seconds."""
    time = [0.0]

    def stopwatch() -> float:
        time[0] += cost
        return time[0]

    clock = clock or Clock()
    scheduler = FlushScheduler(clock, longest, stopwatch, Turns(clock))
    memory = Memory(NO_LIMIT, scheduler.turns)
    channel = Channel("channel", ChannelOptions(**options), scheduler, memory, clock)  # type: ignore[arg-type]
    return Stage(channel, scheduler, clock, form)
