"""Fragmented MP4: RTMP's audio and video messages as an endless stream, one fragment for each frame.

The stream is an initialisation section, and fragments behind it. Where a track's configuration changes, or a track
comes in addition, another initialisation section follows in mid-stream. Times are the messages' own, from the first
fragment on (``tfdt``), with composition offsets; so sound and picture need no edit list to be together.

A `Muxer` is given messages one by one, and returns what is finished. A video frame is finished when the next one of its
track has come, since only that tells how long it lasts, and browsers take a wrong duration for a gap. Frames behind it
wait with it, so that all leave in the order in which they came.

Sources: ISO/IEC 14496-12, section 8.8 (movie fragments); FLV 10.1, section E.4; Enhanced RTMP v2.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final, NamedTuple, TypeAlias

from rtmp_twisted.media import audio, tags
from rtmp_twisted.media.codecs import describe_keyframe
from rtmp_twisted.media.keyframes import WITH_COMPOSITION_TIME
from rtmp_twisted.media.mp4 import MAX_RECORD, Entry, TrackForm, initialization, track_form
from rtmp_twisted.wire.messages import AUDIO, VIDEO

FRAGMENT_HEADER: Final = 112
"""Bytes of a fragment before its frame."""

PATIENCE: Final = 500
"""Milliseconds of media that are held at the beginning, until both sound and picture are there; and until each track
that has been announced is there."""

HOLD: Final = 250
"""Milliseconds that other frames wait for a video frame that is not finished."""

STALLED: Final = 1000
"""Milliseconds that such a frame is said to last then, at least."""

FIRST_DURATION: Final = 33
"""Milliseconds that a track's only video frame is said to last."""

WITHOUT_KEYFRAMES: Final = 10_000
"""Milliseconds after which a video track is taken that has no keyframe: some sources mark none."""

MAX_TRACKS: Final = 16
"""Tracks at a time. Further ones are left out."""

EARLY: Final = 40
"""Milliseconds that a frame of sound may be earlier than the end of the one before, and is taken to follow it."""

MAX_TRIES: Final = 10
"""Frames that are looked at for a track's properties, before it is given up until it is configured anew."""

MAX_HELD: Final = 512
"""Frames that are held; beyond them, nothing is waited for."""

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""The same in bytes."""

CREDIT: Final = 256 * 1024
"""Bytes of initialisation sections beyond which no more are written than the source has sent: a few bytes of a changed
configuration would else have many written. Frames that need another one are left out."""

_SYNC: Final = 0x02000000  # depends on no other sample
_NOT_SYNC: Final = 0x01010000
_MP3_FORMATS: Final = (2, 14)
_WITH_CONTENT: Final = (tags.SEQUENCE_START, tags.CODED_FRAMES, tags.CODED_FRAMES_X)

_fragment: Final = struct.Struct(">20sI 20sI 12sQ 20sIIIi I4s")
_read_fragment: Final = struct.Struct(">44xI 12xQ 20xII4xi")
_MOVIE: Final = struct.pack(">I4s I4sI", FRAGMENT_HEADER - 8, b"moof", 16, b"mfhd", 0)
_TRACK: Final = struct.pack(">I4s I4sI", FRAGMENT_HEADER - 32, b"traf", 16, b"tfhd", 0x020000)  # default-base-is-moof
_TIME: Final = struct.pack(">I4sI", 20, b"tfdt", 0x01000000)
# Version 1: composition offsets have a sign. One sample, which has a duration, a size, flags and such an offset.
_RUN: Final = struct.pack(">I4sIIi", 36, b"trun", 0x01000F01, 1, FRAGMENT_HEADER)
assert _fragment.size == FRAGMENT_HEADER

Key: TypeAlias = tuple[int, int]
"""A track: its message type id, and its track id there."""


class Fragment(NamedTuple):
    """What a fragment says: times are in its track's units; ``size`` is that of the whole fragment in bytes."""

    track: int
    time: int
    duration: int
    offset: int
    keyframe: bool
    size: int


def read_fragment(data: bytes, offset: int) -> Fragment:
    """Reads one of this muxer's fragments, which must be whole."""
    track, time, duration, size, composition = _read_fragment.unpack_from(data, offset)
    keyframe = data[offset + 96] == _SYNC >> 24
    return Fragment(track, time, duration, composition, keyframe, FRAGMENT_HEADER + size)


class _Track:
    __slots__ = ("begun", "form", "fourcc", "held", "key", "last", "number", "record", "since", "time", "tries")

    def __init__(self, key: Key, fourcc: bytes, record: bytes) -> None:
        self.key = key
        self.number = 2 * key[1] + (1 if key[0] == VIDEO else 2)
        """The track's id in MP4."""
        self.fourcc = fourcc
        self.record = record
        self.form: TrackForm | None = None
        self.begun = False  # it is in the initialisation section
        self.held: _Frame | None = None  # whose duration is not known yet
        self.last = FIRST_DURATION  # the duration of the last video frame
        self.since: int | None = None  # when the first frame without a keyframe came
        self.tries = 0
        self.time = -1  # where the last frame began


class _Frame:
    __slots__ = ("composition", "duration", "keyframe", "payload", "time", "timestamp", "track")

    def __init__(
        self, track: _Track, timestamp: int, time: int, composition: int, keyframe: bool, payload: memoryview
    ) -> None:
        self.track = track
        self.timestamp = timestamp
        self.time = time
        self.composition = composition
        self.duration = 0  # not known
        self.keyframe = keyframe
        self.payload = payload


class Muxer:
    """``video_track``: the only video track that is taken, with the audio track 0; None: all tracks."""

    def __init__(self, video_track: int | None = None) -> None:
        self._only = video_track
        self._tracks: dict[Key, _Track] = {}
        self._queue: deque[_Frame] = deque()
        self._queued_bytes = 0
        self._beginning = True  # nothing has been returned since the last reset
        self._anew = False  # a track has ended: times of the next one of its number may be earlier
        self._now = -1  # the latest message's time, without wrapping
        self._sequence = 0
        self._lead: _Track | None = None
        self._initialization = b""  # the last one that was returned
        self._credit = CREDIT
        self._needed = 0  # what the next initialisation section needs of it

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames that are held."""
        return self._queued_bytes

    @property
    def has_video(self) -> bool:
        """Whether a video track has been configured."""
        return any(type_id == VIDEO for type_id, _ in self._tracks)

    def reset(self) -> None:
        """Forgets all tracks: another publish begins. What is held has to be asked for before (`flush`)."""
        self._tracks.clear()
        self._queue.clear()
        self._queued_bytes = 0
        self._beginning = True
        self._lead = None

    def write(self, type_id: int, timestamp: int, body: bytes) -> list[Entry]:
        """Takes a message, and returns what is finished; never raises. Other messages than audio and video are left
        out, and so is what has no place in MP4."""
        entries: list[Entry] = []
        if type_id == VIDEO:
            kind = tags.classify_video(body)
        elif type_id == AUDIO:
            kind = tags.classify_audio(body)
        else:
            return entries
        self._credit += len(body)
        if kind == tags.OTHER:
            self._take_other(type_id, body, entries)
        elif kind == tags.HEADER:
            for key, fourcc, _, record in _tracks(type_id, body):
                self._configure(key, fourcc, bytes(record), entries)
        else:
            now = self._now
            step = (timestamp - now + 0x80000000 & 0xFFFFFFFF) - 0x80000000
            self._now = timestamp if now < 0 else max(0, now + step)
            keyframe = kind == tags.KEYFRAME or type_id == AUDIO
            for key, fourcc, composition, payload in _tracks(type_id, body):
                self._add(key, fourcc, payload, composition, keyframe, entries)
            self._drain(entries)
        return entries

    def flush(self) -> list[Entry]:
        """Returns all that is held."""
        entries: list[Entry] = []
        self._release(entries)
        return entries

    # Messages

    def _take_other(self, type_id: int, body: bytes, entries: list[Entry]) -> None:
        """An end of a sequence ends its tracks."""
        for media, track_id, kind in tags.TrackCodecs().ended_slots(type_id, body):
            track = self._tracks.get((VIDEO if media == "video" else AUDIO, track_id))
            if kind == "sequence" and track is not None:
                self._end(track, entries)

    def _configure(self, key: Key, fourcc: bytes, record: bytes, entries: list[Entry]) -> None:
        """A track begins, or goes on with another configuration."""
        track = self._tracks.get(key)
        if len(record) > MAX_RECORD or (track and track.fourcc == fourcc and track.record == record):
            return
        if not self._selected(key) or (track is None and len(self._tracks) >= MAX_TRACKS):
            return
        if track is not None:
            self._end(track, entries)
        self._tracks[key] = _Track(key, fourcc, record)

    def _end(self, track: _Track, entries: list[Entry]) -> None:
        self._release(entries)
        del self._tracks[track.key]
        self._anew = True

    def _selected(self, key: Key) -> bool:
        return self._only is None or key[1] == (self._only if key[0] == VIDEO else 0)

    # Frames

    def _add(
        self, key: Key, fourcc: bytes, payload: memoryview, composition: int, keyframe: bool, entries: list[Entry]
    ) -> None:
        """Queues a frame."""
        if not payload:
            return
        track = self._tracks.get(key)
        if (track is None or track.fourcc != fourcc) and fourcc in _SELF_CONTAINED:
            self._configure(key, fourcc, b"", entries)
            track = self._tracks.get(key)
        if track is None or track.fourcc != fourcc:
            return
        if keyframe and fourcc == b"vp09":
            track = self._resize(track, payload, entries)
        if track.form is None and not self._begin(track, keyframe, payload):
            return
        assert track.form is not None
        if track.form.counter is not None:
            frame = self._sound(track, track.form.timescale, track.form.counter, payload)
        else:
            frame = self._picture(track, composition, keyframe, payload)
        self._queue.append(frame)
        self._queued_bytes += len(payload)

    def _begin(self, track: _Track, keyframe: bool, payload: memoryview) -> bool:
        """Returns whether a frame is one that its track can begin with."""
        if track.since is None:
            track.since = self._now
        if (not keyframe and self._now - track.since < WITHOUT_KEYFRAMES) or track.tries >= MAX_TRIES:
            return False
        track.tries += 1
        track.form = track_form(track.fourcc, track.record, bytes(payload[:MAX_RECORD]))
        return track.form is not None

    def _resize(self, track: _Track, payload: memoryview, entries: list[Entry]) -> _Track:
        """VP9 may change the size of its pictures at any keyframe, without another configuration."""
        form = track.form
        if form is not None and not form.details.items() >= describe_keyframe("VP9", bytes(payload[:16])).items():
            self._end(track, entries)
            track = self._tracks[track.key] = _Track(track.key, track.fourcc, track.record)
        return track

    def _sound(self, track: _Track, rate: int, counter: audio.Counter, payload: memoryview) -> _Frame:
        """Times that were rounded to milliseconds are made exact again, by counting samples."""
        time = self._now * rate // 1000
        due = track.time + track.last
        if track.time >= 0 and due - rate * EARLY // 1000 <= time <= due + rate // 1000 + 1:
            time = due
        time = max(time, track.time + 1)
        frame = _Frame(track, self._now, time, 0, True, payload)
        frame.duration = track.last = counter(bytes(payload[: audio.PREFIX])) or max(1, rate // 50)
        track.time = time
        return frame

    def _picture(self, track: _Track, composition: int, keyframe: bool, payload: memoryview) -> _Frame:
        time = self._now
        if time <= track.time:  # not in order: no two frames are decoded at the same time
            composition += time - track.time - 1
            time = track.time + 1
        if track.held is not None:
            track.last = track.held.duration = time - track.held.time
        track.time = time
        frame = track.held = _Frame(track, self._now, time, composition, keyframe, payload)
        return frame

    # What is finished

    def _drain(self, entries: list[Entry]) -> None:
        """Returns what is finished, up to the first frame that is not."""
        queue = self._queue
        if not queue:
            return
        full = len(queue) > MAX_HELD or self._queued_bytes > MAX_HELD_BYTES
        waited = self._now - queue[0].timestamp
        if self._beginning and not full and waited < PATIENCE and not self._complete():
            return
        while queue:
            frame = queue[0]
            if not frame.duration:
                if not full and self._now - frame.timestamp < HOLD:
                    return
                frame.duration = max(frame.track.last, STALLED)
                frame.track.held = None
            self._emit(queue.popleft(), entries)

    def _release(self, entries: list[Entry]) -> None:
        """Returns everything, finished or not."""
        while self._queue:
            frame = self._queue.popleft()
            if not frame.duration:
                frame.duration = frame.track.last
                frame.track.held = None
            self._emit(frame, entries)

    def _complete(self) -> bool:
        """Whether sound and picture are there, and all tracks that were announced."""
        kinds = {key[0] for key, track in self._tracks.items() if track.form is not None}
        return len(kinds) == 2 and all(track.form is not None for track in self._tracks.values())

    def _emit(self, frame: _Frame, entries: list[Entry]) -> None:
        track, payload = frame.track, frame.payload
        self._queued_bytes -= len(payload)
        if not track.begun and not self._initialize(frame.timestamp, entries):
            return
        self._beginning = False
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        size = len(payload)
        flags = _SYNC if frame.keyframe else _NOT_SYNC
        head = _fragment.pack(
            *(_MOVIE, self._sequence, _TRACK, track.number, _TIME, frame.time),
            *(_RUN, frame.duration, size, flags, frame.composition, 8 + size, b"mdat"),
        )
        type_id, track_id = track.key
        leads = frame.keyframe and track is self._lead
        entries.append(Entry(type_id, track_id, frame.timestamp & 0xFFFFFFFF, frame.keyframe, leads, head, payload))

    def _initialize(self, timestamp: int, entries: list[Entry]) -> bool:
        """Returns an initialisation section with all tracks that have begun. The same as before is left out, unless a
        track has ended since: then its times may go back, as those of one track never do."""
        if self._credit < self._needed:
            return False
        tracks = sorted((t for t in self._tracks.values() if t.form is not None), key=lambda t: (-t.key[0], t.key[1]))
        made = initialization([(track.number, track.form) for track in tracks if track.form is not None])
        self._needed = len(made)
        if self._credit < self._needed:
            return False
        self._credit -= self._needed
        if made != self._initialization or self._anew:
            self._initialization, self._anew = made, False
            entries.append(Entry(0, 0, timestamp & 0xFFFFFFFF, False, False, made, _NOTHING))
        for track in tracks:
            track.begun = True
        self._lead = tracks[0] if tracks and tracks[0].key[0] == VIDEO else None
        return True


_NOTHING: Final = memoryview(b"")
_SELF_CONTAINED: Final = frozenset((b".mp3", b"ac-3", b"ec-3"))
"""The codecs whose frames say all that is needed."""


def _tracks(type_id: int, body: bytes) -> list[tuple[Key, bytes, int, memoryview]]:
    """Of each track in a frame or a configuration: its codec, its composition offset, and what the codec has made."""
    view = memoryview(body)
    packet = tags.parse(type_id, body)
    if packet is not None:
        if packet.packet_type not in _WITH_CONTENT:
            return []
        found = []
        for number, fourcc, start, stop in packet.tracks:
            composition = 0
            if packet.packet_type == tags.CODED_FRAMES and fourcc in WITH_COMPOSITION_TIME:
                composition = _composition(body, start)
                start += 3
            found.append(((type_id, number), fourcc, composition, view[start:stop]))
        return found
    if type_id == VIDEO:
        codec = tags.LEGACY_FOURCCS.get(body[0] & 0x0F)
        return [] if codec is None else [((VIDEO, 0), codec, _composition(body, 2), view[5:])]
    sound_format = body[0] >> 4
    if sound_format == tags.AAC:
        return [((AUDIO, 0), b"mp4a", 0, view[2:])]
    return [((AUDIO, 0), b".mp3", 0, view[1:])] if sound_format in _MP3_FORMATS else []


def _composition(body: bytes, offset: int) -> int:
    return int.from_bytes(body[offset : offset + 3], "big", signed=True)
