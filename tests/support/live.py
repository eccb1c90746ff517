"""The live room without a server around it: a channel, and players whose connections take what a test says."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.task import Clock

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.channel import Channel, ChannelOptions
from rtmp_twisted.live.cursor import Cache, Player
from rtmp_twisted.wire import chunks
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message

PLENTY = 10**12


@define(eq=False)
class FakeWriter:
    """Takes ``room`` bytes at once; what is written beyond that waits until `take` makes room."""

    room: int = PLENTY
    taken: bytearray = field(factory=bytearray)
    waiting: bytearray = field(factory=bytearray)
    calls: int = 0

    @property
    def blocked(self) -> bool:
        return bool(self.waiting)

    def offer(self, data: bytes) -> int:
        self.calls += 1
        if self.waiting:
            return 0
        taken = data[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)

    def offer_all(self, buffers: list[bytes | memoryview]) -> int:
        return self.offer(b"".join(buffers))

    def write(self, data: bytes) -> None:
        self.waiting += data[self.offer(data) :]

    def take(self, room: int) -> bool:
        """Makes room; tells whether what waited has left with it."""
        was_blocked = self.blocked
        self.room += room
        leaving = self.waiting[: self.room]
        del self.waiting[: len(leaving)]
        self.taken += leaving
        self.room -= len(leaving)
        return was_blocked and not self.blocked


@define(eq=False)
class Viewer:
    """A player's owner, outlet and all that it got."""

    channel: Channel
    outlet: FakeWriter
    player: Player = field(init=False)
    skips: list[int] = field(factory=list)
    refusals: list[str] = field(factory=list)

    def play_accepted(self, player: Player, on_air: bool) -> None:
        pass

    def play_refused(self, player: Player, reason: str) -> None:
        self.refusals.append(reason)

    def play_skipped(self, player: Player, skipped: int) -> None:
        self.skips.append(skipped)

    def take(self, room: int = PLENTY) -> None:
        if self.outlet.take(room):
            self.player.resume()

    def messages(self, chunk_size: int = 4096) -> list[Message]:
        """What has arrived; fails unless all of it is whole messages."""
        decoder = chunks.ChunkDecoder()
        set_size = chunks.encode(Message(1, 0, 0, chunk_size.to_bytes(4, "big")), 2, 128)
        found = list(filter(None, decoder.feed(set_size + bytes(self.outlet.taken))))
        assert not decoder.partial, "part of a message"
        return found

    def media(self, chunk_size: int = 4096) -> list[Message]:
        return [message for message in self.messages(chunk_size) if message.type_id in (AUDIO, VIDEO)]

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.media()]


def join(
    channel: Channel, cache: Cache = Cache.GOP, room: int = PLENTY, stream_id: int = 1, key: str = "key"
) -> Viewer:
    viewer = Viewer(channel, FakeWriter(room))
    viewer.player = Player(viewer, viewer.outlet, stream_id, key, cache)
    channel.join(viewer.player)
    return viewer


def make_channel(longest: float = 0, clock: Clock | None = None, cost: float = 0, **options: object) -> Channel:
    """A channel whose rounds all seem to cost ``cost`` seconds."""
    time = [0.0]

    def stopwatch() -> float:
        time[0] += cost
        return time[0]

    return Channel("channel", ChannelOptions(**options), FlushScheduler(longest, stopwatch), clock or Clock())  # type: ignore[arg-type]
