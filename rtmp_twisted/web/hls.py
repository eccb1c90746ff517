"""HLS with low-latency parts: a channel's segments, made while somebody asks for them. Used by watch.py.

    request -> HLS.ask -> _Stream (of a channel, while there are requests) -> _Variant (of a video track)
                                                                                  Player -> Segmenter -> playlists

To the channel a variant is a player of fragmented MP4 like any other, whose writer takes everything. Playlists and
parts that are not there yet are waited for, as RFC 8216bis, section 6.2.5.2, wants it. A stream is gone `IDLE_SECONDS`
after the last request, whether its publish goes on or not.

The caller has let the viewer in; only the key is compared here, with the publish that is on air or that comes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web import http

from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.channel import Channel
from rtmp_twisted.live.fragments import FragmentForm
from rtmp_twisted.live.player import Player, same_key
from rtmp_twisted.media.segments import Part, Segmenter
from rtmp_twisted.web.answers import Answer, problem
from rtmp_twisted.web.hls_files import GONE, Wanted
from rtmp_twisted.web.playlists import SUFFIX, media_playlist, multivariant_playlist

IDLE_SECONDS: Final = 30
"""How long segments are made and kept after the last request."""

WAIT_SECONDS: Final = 10
"""How long a request waits for a publisher and the first segment."""

WAIT_TARGETS: Final = 3
"""Target Durations that a request waits for a part or a segment (section 6.2.5.2)."""

MAX_STREAMS: Final = 1000
"""Streams at a time that wait for a publisher. Further ones are told that nobody publishes."""

MAX_VARIANTS: Final = 8
"""Video tracks that are offered."""

MAX_AHEAD: Final = 2
"""How many segments a request may be ahead of the last one (section 6.2.5.2)."""

ANSWERS_AT_ONCE: Final = 64
"""Requests that are answered in one turn of the reactor, of those that have waited."""

MAX_ANSWERS: Final = 64
"""Answers of a stream that are kept until something changes."""

LASTING_SECONDS: Final = 3600
"""How long caches may keep what never changes."""

KEPT_SEGMENTS: Final = 3
"""Segments that are kept when memory is short."""

_PLAYLIST: Final = b"application/vnd.apple.mpegurl"
_SEGMENT: Final = b"video/mp4"

_NOBODY: Final = problem(http.NOT_FOUND, "nobody publishes there now")
_LATE: Final = problem(http.SERVICE_UNAVAILABLE, "the part did not come in time", 0)
_STOPPING: Final = problem(http.SERVICE_UNAVAILABLE, "the server is stopping", 0)

_log = Logger()


class Asker(Protocol):
    """Whoever waits for an answer."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""

    def hold(self) -> None:
        """The answer has to wait."""

    def reply(self, answer: Answer) -> None:
        """Gives the answer, unless it is `gone`."""


@define(eq=False)
class _Waiting:
    """A request that cannot be answered yet."""

    asker: Asker
    wanted: Wanted
    suffix: bytes
    deadline: float
    late: Answer


class _Sink:
    """A player's writer: everything that is written is taken. See `live.cursor.Writer`."""

    blocked = False
    holder: object | None = None

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def send(self, data: bytes) -> int:
        self._take(data)
        return len(data)

    def try_writev(self, buffers: list[bytes | memoryview]) -> int:
        for buffer in buffers:
            self._take(bytes(buffer))
        return sum(map(len, buffers))

    def write(self, data: bytes) -> None:
        self._take(data)

    def hold(self, holder: object) -> None: ...

    def release(self) -> None: ...

    def abandon(self, rest: list[bytes | memoryview]) -> None: ...


class _Variant:
    """A video track with the first sound track, or sound alone."""

    def __init__(self, stream: _Stream, track: int, number: int, keyframe_seconds: float | None) -> None:
        options = stream.hls
        self.name = f"v{track}"
        self.segmenter = Segmenter(options.segment_seconds, options.part_seconds, number, keyframe_seconds)
        self.player = Player(stream, _Sink(self._take), stream.key, form=FragmentForm(track), watcher=stream)
        self._stream = stream
        self._playlists: dict[bool, bytes] = {}  # as templates, by whether they are delta updates

    @property
    def ready(self) -> bool:
        """Whether there is a playlist."""
        return self.segmenter.target is not None and self.segmenter.newest is not None

    def playlist(self, skip: bool) -> bytes:
        made = self._playlists.get(skip)
        if made is None:
            self.segmenter.tell_times()
            others = {v.name: v.segmenter for v in self._stream.variants.values() if v is not self}
            made = self._playlists[skip] = media_playlist(self.segmenter, self.name, skip, others).encode()
        return made

    def changed(self) -> None:
        self._playlists.clear()
        self._stream.changed()

    def end(self) -> None:
        self.segmenter.end()
        self.changed()

    def _take(self, data: bytes) -> None:
        if self.segmenter.feed(data, self._stream.hls.now()):
            self.changed()
            self._stream.grown()


class _Stream:
    """The segments of a channel's publish. Between publishes, it waits for the next one."""

    def __init__(self, hls: HLS, channel_name: str, key: str | None) -> None:
        self.hls = hls
        self.channel_name = channel_name
        self.key = key
        self.asked_at = hls.clock.seconds()
        self.variants: dict[int, _Variant] = {}
        self.on_air = False
        self._channel: Channel | None = None
        self._waiting: deque[_Waiting] = deque()
        self._answers: dict[Wanted, Answer] = {}  # those of the moment that many may ask for
        self._answering = False
        self._unseen = 0  # of those who wait, while some are answered
        # Never started: it waits for publishes, and is told of those that may not be seen.
        self._watch = Player(self, _Sink(lambda data: None), key, watcher=self)

    def open(self) -> None:
        """Enters the channel. Raises Refused where the key is not the publisher's."""
        on_air = self.hls.broker.play(self.channel_name, self._watch)
        found = self.hls.broker.channel(self.channel_name)
        assert found is not None
        self._channel = found[0]
        self._channel.keep(self)
        if on_air:
            self._begin()

    def close(self, answer: Answer) -> None:
        """Lets go of everything, and answers all who wait. Safe to call again."""
        if self._channel is None:
            return
        self._channel.discard(self)
        self._channel = None
        for player in (self._watch, *(variant.player for variant in self.variants.values())):
            self.hls.broker.leave(player)
        self.hls.forget(self)
        for waiting in self._waiting:
            waiting.asker.reply(answer)
        self._waiting.clear()
        self._answers.clear()

    # What the channel asks for

    def held(self) -> int:
        """Bytes of memory that its segments and answers take."""
        segments = sum(variant.segmenter.held for variant in self.variants.values())
        return segments + sum(answer.held for answer in self._answers.values())

    def shrink(self) -> None:
        self.changed()
        for variant in self.variants.values():
            variant.segmenter.forget(KEPT_SEGMENTS)
            variant.changed()

    # What the broker tells its players

    def publish_began(self, player: Player) -> None:
        if not self.on_air:
            self._begin()

    def publish_ended(self, player: Player) -> None:
        if self.on_air:
            self.on_air = False
            for variant in self.variants.values():
                variant.end()
            self.grown()

    def play_refused(self, player: Player, reason: str) -> None:
        self.close(_NOBODY)

    def play_ended(self, player: Player, reason: str) -> None:
        self.publish_ended(player)

    # Variants

    def _begin(self) -> None:
        """A publish is on air."""
        for variant in self.variants.values():
            self.hls.broker.leave(variant.player)
        self.variants.clear()
        self.changed()
        self.on_air = True
        self._add(0, int(self.hls.now()))
        self._add_tracks()

    def _add(self, track: int, number: int) -> None:
        broker = self.hls.broker
        found = broker.channel(self.channel_name)
        interval = found[1].keyframe_interval if found is not None and found[1] is not None else None
        variant = self.variants[track] = _Variant(self, track, number, interval and interval / 1000)
        broker.play(self.channel_name, variant.player)
        broker.start(variant.player)

    def _add_tracks(self) -> None:
        """Adds a variant for each video track that has begun."""
        if self._channel is None or not self.on_air:
            return
        for track in sorted(self._channel.program.video_tracks.difference(self.variants)):
            if len(self.variants) < MAX_VARIANTS:
                current = self.variants[0].segmenter.current
                self._add(track, self.variants[0].segmenter.number if current is None else current.number)

    # Requests

    def ask(self, asker: Asker, wanted: Wanted, suffix: bytes) -> None:
        """Answers a request, now or when it can be answered."""
        self.asked_at = self.hls.clock.seconds()
        if wanted.track is None:
            self._add_tracks()
        answer = self._find(wanted, suffix)
        if answer is not None:
            asker.reply(answer)
            return
        target = None
        if wanted.track in self.variants:
            target = self.variants[wanted.track].segmenter.target
        seconds = WAIT_SECONDS if target is None else WAIT_TARGETS * target
        late = _LATE if self.on_air else _NOBODY
        asker.hold()
        self._waiting.append(_Waiting(asker, wanted, suffix, self.asked_at + seconds, late))

    def changed(self) -> None:
        """Answers may be others than before."""
        self._answers.clear()

    def grown(self) -> None:
        """There is something new: answers those who have waited for it, in the next turns."""
        self._unseen = len(self._waiting)
        if self._unseen and not self._answering:
            self._answering = True
            self.hls.broker.scheduler.turns.add(self._answer_some)

    def _answer_some(self) -> bool:
        """Answers some of those who wait; returns whether there are more to be looked at."""
        for _ in range(min(ANSWERS_AT_ONCE, self._unseen, len(self._waiting))):
            self._unseen -= 1
            waiting = self._waiting.popleft()
            if waiting.asker.gone:
                continue
            answer = self._find(waiting.wanted, waiting.suffix)
            if answer is None:
                self._waiting.append(waiting)
            else:
                waiting.asker.reply(answer)
        self._answering = self._unseen > 0 and bool(self._waiting)
        return self._answering

    def check(self, now: float) -> None:
        """Ends waits that have been too long, and itself when nobody asks for it any more."""
        if now - self.asked_at >= IDLE_SECONDS or not (self.variants or self._waiting):
            self.close(_NOBODY)
            return
        for waiting in list(self._waiting):
            if waiting.asker.gone or now >= waiting.deadline:
                self._waiting.remove(waiting)
                waiting.asker.reply(waiting.late)

    def _find(self, wanted: Wanted, suffix: bytes) -> Answer | None:
        """The answer to a request; None where it has to wait."""
        if suffix and wanted.kind == "playlist":
            return self._make(wanted, suffix)
        answer = self._answers.get(wanted)
        if answer is None:
            answer = self._make(wanted, suffix)
            if answer is not None:
                if len(self._answers) >= MAX_ANSWERS:
                    self._answers.clear()
                self._answers[wanted] = answer
        return answer

    def _make(self, wanted: Wanted, suffix: bytes) -> Answer | None:
        if not self.variants:
            return None
        if wanted.track is None:
            return self._index(suffix)
        variant = self.variants.get(wanted.track)
        if variant is None:
            return GONE
        segmenter = variant.segmenter
        if wanted.kind == "playlist":
            return self._playlist(variant, wanted, suffix)
        if wanted.kind == "part":
            if wanted.number == segmenter.part_number and not segmenter.ended:
                return None
            part = segmenter.part(wanted.number)
            return GONE if part is None else _lasting([part])
        for segment in segmenter.segments:
            if segment.number == wanted.number and wanted.kind == "segment":
                return _lasting(segment.parts)
        init = segmenter.init(wanted.number) if wanted.kind == "init" else None
        return GONE if init is None else Answer(http.OK, (init,), _SEGMENT, LASTING_SECONDS, True)

    def _index(self, suffix: bytes) -> Answer | None:
        if not all(variant.ready for variant in self.variants.values()):
            return None
        text = multivariant_playlist({variant.name: variant.segmenter for variant in self.variants.values()})
        return Answer(http.OK, (_with_suffix(text.encode(), suffix),), _PLAYLIST)

    def _playlist(self, variant: _Variant, wanted: Wanted, suffix: bytes) -> Answer | None:
        if not variant.ready:
            return None
        segmenter = variant.segmenter
        seconds = 1
        if wanted.reload is None:
            if not segmenter.segments and not segmenter.ended:
                return None  # players that know no parts take a playlist without a segment for a broken one
        else:
            segment, part = wanted.reload
            if segment > segmenter.number - 1 + MAX_AHEAD:
                return problem(http.BAD_REQUEST, "_HLS_msn is too far ahead")
            if not segmenter.has(segment, part) and not segmenter.ended:
                return None
            seconds = 6 * (segmenter.target or 1)
        body = _with_suffix(variant.playlist(wanted.skip), suffix)
        return Answer(http.OK, (body,), _PLAYLIST, seconds)


@define(eq=False)
class HLS:
    """``segment_seconds`` is about how long segments last, ``part_seconds`` the longest part. ``now`` is Unix time."""

    clock: IReactorTime
    broker: Broker
    segment_seconds: float = 2
    part_seconds: float = 0.3
    now: Callable[[], float] = time.time
    _streams: dict[tuple[str, str | None], _Stream] = field(factory=dict)

    def ask(self, asker: Asker, channel: str, key: str | None, wanted: Wanted, suffix: bytes = b"") -> None:
        """Answers a request for a file of a channel, now or later.

        ``key`` is what the publisher's key has to be, None where the viewer was let in by other means. ``suffix`` is
        the query string for the URIs in playlists, such as ``?token=…``. Raises Refused where the key is wrong.
        """
        stream = self._streams.get((channel, key))
        if stream is None:
            if wanted.track is not None and wanted.kind != "playlist":
                self._compare(channel, key)
                asker.reply(GONE)
                return
            if sum(not other.on_air for other in self._streams.values()) >= MAX_STREAMS:
                asker.reply(_NOBODY)
                return
            stream = _Stream(self, channel, key)
            stream.open()
            self._streams[channel, key] = stream
        stream.ask(asker, wanted, suffix)

    def ask_again(self, asker: Asker, channel: str, key: str | None, wanted: Wanted, suffix: bytes) -> bool:
        """The same for somebody who has been answered before. Returns False where there is no stream any more, and
        everything has to be looked at again."""
        stream = self._streams.get((channel, key))
        if stream is None:
            return False
        stream.ask(asker, wanted, suffix)
        return True

    def check(self) -> None:
        """Called every second. Never raises."""
        now = self.clock.seconds()
        for stream in list(self._streams.values()):
            try:
                stream.check(now)
            except Exception:
                _log.failure("a bug, while HLS streams were checked")

    def close(self) -> None:
        """The server is stopping."""
        for stream in list(self._streams.values()):
            stream.close(_STOPPING)

    def forget(self, stream: _Stream) -> None:
        """The stream is closed."""
        self._streams.pop((stream.channel_name, stream.key), None)

    def _compare(self, channel: str, key: str | None) -> None:
        """Of files too, a wrong key has to be told: else they would tell it from the right one, at no risk."""
        found = self.broker.channel(channel)
        if key is not None and found is not None and found[0].key and not same_key(key, found[0].key):
            raise Refused("the key is not the publisher's")


def _lasting(parts: list[Part]) -> Answer:
    return Answer(http.OK, tuple(part.data for part in parts), _SEGMENT, LASTING_SECONDS, True)


def _with_suffix(template: bytes, suffix: bytes) -> bytes:
    return template.replace(SUFFIX.encode(), suffix)
