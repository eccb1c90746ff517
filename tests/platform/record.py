"""What happened on a platform, as those saw it who publish and who decides, and what is wrong with it. Pure.

What must hold:

- a publish is asked about once at most, and who is on air has been accepted;
- what was accepted goes on air, unless its publisher left before the answer or the stream id could not be used;
- each accepted stream gets one end, with its own id, channel and key, by the way it was asked about;
- nothing gets an end that was not accepted;
- while a stream is on air, and until its end has been answered, nothing else is asked about its channel.

What is excused, and nothing else:

- a server that was killed (SIGKILL) and a connection to the coordinator that was cut: what was asked about or accepted
  by that way, and had no end yet, may go without one;
- a question that the application went down with, unanswered: it is as good as denied, and must get no end;
- an end that the application heard and went down with before it had answered: it may come once more;
- while the application is down it hears of ends late, perhaps after the next question about the channel.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterator

from attrs import define, field

STARTED = "NetStream.Publish.Start"


@define(eq=False)
class Way:
    """How questions and ends come: one life of the server, or one connection of it to the coordinator."""

    name: str
    used: bool = False
    stopping: bool = False
    cut: bool = False


class Answer(enum.Enum):
    NONE = "no answer yet"
    ACCEPTED = "accepted"
    DENIED = "denied"
    LOST = "never answered"


@define(eq=False)
class Publish:
    """One publish as its publisher sees it. ``told`` is the status code it got, empty before."""

    channel: str
    key: str
    told: str = ""
    left: bool = False
    """It has gone, or begun to go, by its own will."""
    over: bool = False

    @property
    def on_air(self) -> bool:
        return self.told == STARTED and not self.left and not self.over


@define(eq=False)
class Stream:
    """One publish as the party that decides sees it: a question, its answer, and an end. The times are places in the
    record's order."""

    way: Way
    channel: str
    key: str
    asked: int
    answer: Answer = Answer.NONE
    stream_id: str = ""
    usable: bool = True
    """Whether the answer's stream id is one that the server takes."""
    accepted: int = 0
    ended: int | None = None
    """When it had its end, or lost it with its way."""
    told: int | None = None
    """When the end was answered: until then the server has to wait with its next question."""
    excused: bool = False
    repeats: int = 0
    """How often the end may come again."""
    interrupted: bool = False
    """The server was about to stop before the publisher had its answer."""
    may_be_late: bool = False

    def __str__(self) -> str:
        return f"stream {self.stream_id!r} of channel {self.channel!r}, key {self.key!r}, {self.way.name}"


@define
class Record:
    """Takes what happens, in order. ``counts`` and ``problems`` are what came of it."""

    counts: Counter[str] = field(factory=Counter)
    problems: list[str] = field(factory=list)
    streams: list[Stream] = field(factory=list)
    publishes: dict[str, list[Publish]] = field(factory=lambda: defaultdict(list))
    """By key."""
    open: set[Stream] = field(factory=set)
    """What waits for its answer or its end."""
    _by_id: dict[str, Stream] = field(factory=dict)
    _now: int = 0

    # What publishers do

    def publishing(self, channel: str, key: str) -> Publish:
        publish = Publish(channel, key)
        self.publishes[key].append(publish)
        self.counts["publishes"] += 1
        return publish

    # What the party that decides hears and says

    def ask(self, way: Way, channel: str, key: str) -> Stream:
        self.counts["questions"] += 1
        stream = Stream(way, channel, key, self._next())
        self.streams.append(stream)
        way.used = True
        stream.interrupted = way.stopping
        if way.cut:
            self._excuse(stream)
        else:
            self.open.add(stream)
        return stream

    def accept(self, stream: Stream, stream_id: str, usable: bool = True) -> None:
        self.counts["accepted"] += 1
        stream.answer, stream.stream_id, stream.usable = Answer.ACCEPTED, stream_id, usable
        stream.accepted = self._next()
        self._by_id[stream_id] = stream

    def deny(self, stream: Stream) -> None:
        self.counts["denied"] += 1
        stream.answer = Answer.DENIED
        self.open.discard(stream)

    def lose(self, stream: Stream) -> None:
        """Whoever was asked went down without an answer."""
        self.counts["unanswered"] += 1
        stream.answer = Answer.LOST
        self.open.discard(stream)

    def end(self, way: Way, channel: str, stream_id: str, key: str | None = None) -> Stream | None:
        """A stream's end is heard. Returns the stream, if there is such a one."""
        self.counts["ends"] += 1
        stream = self._by_id.get(stream_id)
        if stream is None:
            self.problems.append(f"an end of what was never accepted: id {stream_id!r} of channel {channel!r}")
            return None
        if way is not stream.way:
            self.problems.append(f"{stream}: its end came from {way.name}")
        if channel != stream.channel or key not in (None, stream.key):
            self.problems.append(f"{stream}: its end is one of channel {channel!r}, key {key!r}")
        if stream.ended is None or stream.excused:
            stream.ended = self._next()
            stream.excused = False
        elif stream.repeats:
            stream.repeats -= 1
            self.counts["ends repeated"] += 1
        else:
            self.problems.append(f"{stream}: it ended twice")
        self.open.discard(stream)
        return stream

    def tell(self, stream: Stream) -> None:
        """The server knows that the end has been heard."""
        stream.told = self._next()

    def repeat(self, stream: Stream) -> None:
        """Whoever heard the end went down without an answer to it."""
        stream.repeats += 1
        stream.may_be_late = True

    # What happens to them

    def stopping(self, way: Way) -> None:
        """The server is told to stop."""
        way.stopping = True
        for stream in self.open:
            stream.interrupted = True

    def cut(self, way: Way) -> None:
        """Nothing more comes by this way, except what is on it already."""
        self.stopping(way)
        way.cut = True
        for stream in [stream for stream in self.open if stream.way is way]:
            self._excuse(stream)

    def down(self) -> None:
        """The application hears nothing for a while."""
        for stream in self.open:
            stream.may_be_late = True

    # What must hold

    def on_air(self) -> dict[str, Stream]:
        """The streams that were accepted and have no end yet, by key."""
        return {stream.key: stream for stream in self.open if stream.accepted}

    def under_way(self) -> list[Publish]:
        """The publishes whose publisher has not gone."""
        return [publish for of_one_key in self.publishes.values() for publish in of_one_key if not publish.over]

    def owed(self) -> list[Stream]:
        """The streams whose publisher has gone and whose end has not come yet."""
        return [stream for stream in self.open if all(publish.over for publish in self.publishes[stream.key])]

    def asking(self) -> bool:
        """Whether there is a question without an answer."""
        return any(stream.answer is Answer.NONE for stream in self.open)

    def verify(self) -> list[str]:
        """All that is wrong, when all publishers have gone and all that was open should be closed."""
        excused = [stream for stream in self.streams if stream.excused and stream.answer is Answer.ACCEPTED]
        self.counts["ends excused"] = len(excused)
        publishes = [publish for of_one_key in self.publishes.values() for publish in of_one_key]
        self.counts["on air"] = sum(publish.told == STARTED for publish in publishes)
        problems = [*self.problems, *(f"{stream}: no end" for stream in self.streams if stream in self.open)]
        asked = defaultdict(list)
        for stream in self.streams:
            asked[stream.key].append(stream)
        on_air: list[Stream] = []
        for key in {**asked, **self.publishes}:
            problems += self._compare(key, asked[key], self.publishes[key], on_air)
        return problems + self._overlaps(on_air)

    def _compare(self, key: str, asked: list[Stream], publishes: list[Publish], on_air: list[Stream]) -> Iterator[str]:
        """What publishers with one key saw, and what was asked and answered about them. Adds to ``on_air`` what was."""
        if len(asked) > len(publishes):
            yield f"key {key!r}: {len(asked)} questions for {len(publishes)} publishes"
        accepted = [stream for stream in asked if stream.answer is Answer.ACCEPTED and stream.usable]
        started = sum(publish.told == STARTED for publish in publishes)
        if started == len(accepted):
            on_air += accepted
        elif started > len(accepted):
            yield f"key {key!r}: {started} went on air, of {len(accepted)} that were accepted"
        elif not (
            any(publish.left and not publish.told for publish in publishes)
            or any(stream.interrupted for stream in accepted)
            or started >= len(accepted) - sum(self._had_rivals(stream) for stream in accepted)
        ):
            yield f"key {key!r}: {len(accepted)} were accepted, {started} went on air, and nobody left"

    def _had_rivals(self, stream: Stream) -> bool:
        """Whether another one was asked about at the same time, and accepted for the same channel: one of them went on
        air, and the other had its end at once, which is looked at elsewhere."""
        return any(
            other.channel == stream.channel
            and other.answer is Answer.ACCEPTED
            and other is not stream
            and stream.asked < other.accepted
            and other.asked < stream.accepted
            for other in self.streams
        )

    def _overlaps(self, on_air: list[Stream]) -> list[str]:
        """What was asked about a channel while something was on air there."""
        asked = defaultdict(list)
        for stream in self.streams:
            asked[stream.channel].append(stream)
        return [
            f"{other}: asked about while {stream} was on air"
            for stream in on_air
            for other in asked[stream.channel]
            if not stream.may_be_late and stream.accepted < other.asked < (stream.told or self._now)
        ]

    def _excuse(self, stream: Stream) -> None:
        stream.excused = True
        stream.ended = stream.told = self._next()
        self.open.discard(stream)

    def _next(self) -> int:
        self._now += 1
        return self._now
