"""A record of what happened on a platform, as the publishers and the deciding party saw it. Finds what is wrong. Pure.

What must hold:

- there is at most one question about a publish, and each publish on air has been accepted;
- each accepted publish goes on air, unless its publisher left before the answer or its stream id could not be used;
- each accepted stream gets one end, with its own id, channel and key, from the sender of its question;
- no other stream gets an end;
- from the acceptance of a stream until its end is answered, there is no other question about its channel. (Where its
  publisher has heard that it is on air, this holds for publishes that begin after that: those that began before may
  have been asked about side by side, and this process may read of that in any order.)

What is excused, and nothing else:

- a worker is killed with a question: what is accepted then goes not on air, and has its end at once;
- a server is killed (SIGKILL), or its connection to the coordinator is cut: the streams of that sender that have no end
  yet may go without one;
- the application goes down with an unanswered question: it counts as denied, and must get no end;
- the application goes down with an unanswered end: that end may come once more;
- the application is down: it may hear of ends late, even after the next question about the channel.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterator

from attrs import define, field

STARTED = "NetStream.Publish.Start"


@define(eq=False)
class Sender:
    """Sends questions and ends: one run of the server, or one of its connections to the coordinator."""

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
    """One publish as its publisher sees it. ``told`` is the status code that it got, and empty before."""

    channel: str
    key: str
    begun: int = 0
    """When it was asked for, in the record's order."""
    told: str = ""
    told_at: int = 0
    """The place of that in the record's order."""
    left: bool = False
    """It has left, or begun to leave, by itself."""
    over: bool = False

    @property
    def on_air(self) -> bool:
        return self.told == STARTED and not self.left and not self.over


@define(eq=False)
class Stream:
    """One publish as the deciding party sees it: a question, its answer, and an end. The times are numbers in the
    record's order."""

    sender: Sender
    channel: str
    key: str
    asked: int
    answer: Answer = Answer.NONE
    stream_id: str = ""
    usable: bool = True
    """Whether the answer's stream id is one that the server takes."""
    accepted: int = 0
    on_air: int = 0
    """When its publisher had heard that it is on air; 0 where that is not known."""
    ended: int | None = None
    """When it had its end, or was excused."""
    told: int | None = None
    """When the end was answered. Until then the server must not ask the next question."""
    excused: bool = False
    repeats: int = 0
    """How many more ends may come."""
    interrupted: bool = False
    """The server began to stop before the publisher had its answer."""
    may_be_late: bool = False

    def __str__(self) -> str:
        return f"stream {self.stream_id!r} of channel {self.channel!r}, key {self.key!r}, {self.sender.name}"


@define
class Record:
    """Notes what happens, in order. ``counts`` and ``problems`` are the results."""

    counts: Counter[str] = field(factory=Counter)
    problems: list[str] = field(factory=list)
    streams: list[Stream] = field(factory=list)
    publishes: dict[str, list[Publish]] = field(factory=lambda: defaultdict(list))
    """By key."""
    open: set[Stream] = field(factory=set)
    """Streams that wait for an answer or an end."""
    _by_id: dict[str, Stream] = field(factory=dict)
    _now: int = 0

    # What publishers do

    def publishing(self, channel: str, key: str) -> Publish:
        publish = Publish(channel, key, self._next())
        self.publishes[key].append(publish)
        self.counts["publishes"] += 1
        return publish

    def told(self, publish: Publish, code: str) -> None:
        """A publisher has had its answer."""
        publish.told = code
        publish.told_at = self._next()

    # What the deciding party receives and answers

    def ask(self, sender: Sender, channel: str, key: str) -> Stream:
        self.counts["questions"] += 1
        stream = Stream(sender, channel, key, self._next())
        self.streams.append(stream)
        sender.used = True
        stream.interrupted = sender.stopping
        if sender.cut:
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
        """The deciding party went down without an answer."""
        self.counts["unanswered"] += 1
        stream.answer = Answer.LOST
        self.open.discard(stream)

    def end(self, sender: Sender, channel: str, stream_id: str, key: str | None = None) -> Stream | None:
        """A stream's end has been received. Returns the stream, or None if there is none with that id."""
        self.counts["ends"] += 1
        stream = self._by_id.get(stream_id)
        if stream is None:
            self.problems.append(f"an end of what was never accepted: id {stream_id!r} of channel {channel!r}")
            return None
        if sender is not stream.sender:
            self.problems.append(f"{stream}: its end came from {sender.name}")
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
        """The end has been answered."""
        stream.told = self._next()

    def repeat(self, stream: Stream) -> None:
        """The deciding party went down before it had answered the end."""
        stream.repeats += 1
        stream.may_be_late = True

    # What happens to the parties

    def stopping(self, sender: Sender) -> None:
        """The server is told to stop."""
        sender.stopping = True
        for stream in self.open:
            stream.interrupted = True

    def cut(self, sender: Sender) -> None:
        """Nothing more is sent by this sender; what it has sent may still arrive."""
        self.stopping(sender)
        sender.cut = True
        for stream in [stream for stream in self.open if stream.sender is sender]:
            self._excuse(stream)

    def interrupt(self) -> None:
        """Publishers may be disconnected before they have their answers: a worker is killed. That excuses no end."""
        for stream in self.open:
            stream.interrupted = True

    def down(self) -> None:
        """The application receives nothing for a while."""
        for stream in self.open:
            stream.may_be_late = True

    # What must hold

    def on_air(self) -> dict[str, Stream]:
        """Returns the streams that were accepted and have no end yet, by key."""
        return {stream.key: stream for stream in self.open if stream.accepted}

    def under_way(self) -> list[Publish]:
        """Returns the publishes whose publisher has not left."""
        return [publish for of_one_key in self.publishes.values() for publish in of_one_key if not publish.over]

    def owed(self) -> list[Stream]:
        """Returns the streams whose publisher has left and whose end has not come yet."""
        return [stream for stream in self.open if all(publish.over for publish in self.publishes[stream.key])]

    def asking(self) -> bool:
        """Whether there is a question without an answer."""
        return any(stream.answer is Answer.NONE for stream in self.open)

    def verify(self) -> list[str]:
        """Returns all problems. To be called when all publishers have left and all streams should have ended."""
        excused = [stream for stream in self.streams if stream.excused and stream.answer is Answer.ACCEPTED]
        self.counts["ends excused"] = len(excused)
        publishes = [publish for of_one_key in self.publishes.values() for publish in of_one_key]
        self.counts["on air"] = sum(publish.told == STARTED for publish in publishes)
        problems = [*self.problems, *(f"{stream}: no end" for stream in self.streams if stream in self.open)]
        asked = defaultdict(list)
        for stream in self.streams:
            asked[stream.key].append(stream)
        on_air: list[Stream] = []
        problems_of_keys: list[str] = []
        for _ in range(2):  # the first time to find out when each stream was on air
            on_air.clear()
            problems_of_keys.clear()
            for key in {**asked, **self.publishes}:
                problems_of_keys += self._compare(key, asked[key], self.publishes[key], on_air)
        problems += problems_of_keys
        return problems + self._overlaps(on_air)

    def _compare(self, key: str, asked: list[Stream], publishes: list[Publish], on_air: list[Stream]) -> Iterator[str]:
        """Compares what publishers with one key saw with the questions about them. Adds to ``on_air`` what was so."""
        if len(asked) > len(publishes):
            yield f"key {key!r}: {len(asked)} questions for {len(publishes)} publishes"
        accepted = [stream for stream in asked if stream.answer is Answer.ACCEPTED and stream.usable]
        started = sum(publish.told == STARTED for publish in publishes)
        if started == len(accepted):
            on_air += accepted
            places = sorted(publish.told_at for publish in publishes if publish.told == STARTED)
            for stream, place in zip(accepted, places, strict=True):
                stream.on_air = place
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
            and other.key != stream.key
            and self._begun(stream, other) < (other.on_air or other.accepted)
            and other.asked < stream.accepted
            for other in self.streams
        )

    def _overlaps(self, on_air: list[Stream]) -> list[str]:
        """Finds questions about a channel that was on air."""
        asked = defaultdict(list)
        for stream in self.streams:
            asked[stream.channel].append(stream)
        return [
            f"{other}: asked about while {stream} was on air"
            for stream in on_air
            for other in asked[stream.channel]
            if not stream.may_be_late
            and (stream.on_air or stream.accepted) < self._begun(other, stream)
            and other.asked < (stream.told or self._now)
        ]

    def _begun(self, stream: Stream, rival: Stream) -> int:
        """When ``stream`` was asked for by its publisher, where the rival's publisher is known to have been on air;
        else when the question about it came."""
        if not rival.on_air:
            return stream.asked
        return max(
            (publish.begun for publish in self.publishes[stream.key] if publish.begun < stream.asked),
            default=stream.asked,
        )

    def _excuse(self, stream: Stream) -> None:
        stream.excused = True
        stream.ended = stream.told = self._next()
        self.open.discard(stream)

    def _next(self) -> int:
        self._now += 1
        return self._now
