"""Segments and parts for HLS, cut out of a stream of fragmented MP4. Used by web/ and whoever else needs segments.

A `Segmenter` is given the bytes that ``fmp4`` made, and keeps the newest segments: each begins with a keyframe and
lasts about as long as wanted; a part is a run of its fragments. Sound goes with the pictures that it came with. Without
video, frames of sound are cut like keyframes. Bytes are copied once, when a part is complete.

Source: RFC 8216bis, sections 3.3, 4.4.3 and 4.4.4 (what players may expect of segments and parts).
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Final

from rtmp_twisted.media.fmp4 import read_fragment

MAX_SEGMENTS: Final = 16
"""Segments that are kept, the one that is being made included."""

MAX_TARGET: Final = 10
"""Seconds that a segment lasts at most, whatever the source does. Beyond its target, it ends without a keyframe."""

FIRST_SECONDS: Final = 4.0
"""Seconds after which a source without a second keyframe is taken for one that has them rarely."""

NEARLY: Final = 0.1
"""Seconds that a segment may be shorter than wanted, when a keyframe comes."""

SHORTEST_PART: Final = 0.85
"""How much of the Part Target Duration a part has at least, unless it is the last one of its segment."""

SHORT_FRAME: Final = 0.13
"""The part of the longest part that a frame may last, for parts of any number of frames to be long enough."""

PART_NUMBERS: Final = 100
"""More than the parts of a second: where the number of the first segment is the time, no two parts ever have the same
name."""

PART_OVERHEAD: Final = 400
"""Bytes of memory that a part takes beside its data."""

_MAX_GAP: Final = 1.0  # seconds from the end of one frame to the next, beyond which the timeline is another
_ROUNDING: Final = 0.0005  # seconds: times are whole milliseconds


class Part:
    """``number`` counts all parts; ``duration`` is in seconds; ``independent``: it has a keyframe."""

    __slots__ = ("data", "duration", "independent", "number")

    def __init__(self, number: int, data: bytes, duration: float, independent: bool) -> None:
        self.number = number
        self.data = data
        self.duration = duration
        self.independent = independent


class Initialization:
    """An initialisation section, the ``number`` of the first segment that needs it, and what it says of itself."""

    __slots__ = ("data", "number", "text")

    def __init__(self, data: bytes, number: int) -> None:
        self.data = data
        self.number = number
        length = int.from_bytes(data[:4], "big")
        self.text: dict[str, Any] = json.loads(
            data[length + 8 : length + int.from_bytes(data[length : length + 4], "big")]
        )

    @property
    def tracks(self) -> list[dict[str, Any]]:
        tracks: list[dict[str, Any]] = self.text["tracks"]
        return tracks

    @property
    def codecs(self) -> str:
        """The RFC 6381 codec strings of its tracks, with commas."""
        return ",".join(str(track["codec"]) for track in self.tracks)


class Timeline:
    """Media time without a gap. ``offset`` is the Unix time of the media time 0; it does not change any more once it is
    ``told``."""

    __slots__ = ("offset", "told")

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.told = False


class Segment:
    """``number`` is its Media Sequence Number. It begins at ``begin`` of its timeline, and has lasted ``duration`` so
    far, which is that of all its parts; both in seconds. ``frames`` counts those of its first track, ``size`` is in
    bytes. ``independent``: it begins with a keyframe; ``discontinuity``: it does not go on where the one before ended.
    """

    __slots__ = (
        "begin",
        "discontinuity",
        "duration",
        "frames",
        "independent",
        "init",
        "number",
        "parts",
        "size",
        "timeline",
    )

    def __init__(
        self,
        number: int,
        init: Initialization,
        timeline: Timeline,
        begin: float,
        independent: bool,
        discontinuity: bool,
    ) -> None:
        self.number = number
        self.init = init
        self.timeline = timeline
        self.begin = begin
        self.independent = independent
        self.discontinuity = discontinuity
        self.parts: list[Part] = []
        self.duration = 0.0
        self.frames = 0
        self.size = 0

    @property
    def time(self) -> float:
        """When it begins, in Unix time."""
        return self.timeline.offset + self.begin


class Segmenter:
    """``segment_seconds`` is about how long a segment lasts, ``part_seconds`` the longest part. ``number`` is that of
    the first segment. ``keyframe_seconds``: the time between two keyframes, if that is known.

    `segments` are complete, the oldest first; `current` is being made, and has parts already, or None.
    """

    def __init__(
        self, segment_seconds: float, part_seconds: float, number: int, keyframe_seconds: float | None = None
    ) -> None:
        self.segments: deque[Segment] = deque()
        self.current: Segment | None = None
        self.discontinuities = 0
        """How many discontinuities there were before the oldest segment. Not from ``number`` on: hls.js has an array
        as long as that."""
        self.target: int | None = None
        """The Target Duration, in seconds; None until it is known. It never changes after that."""
        self.part_target = part_seconds
        """The Part Target Duration, in seconds. It never changes after the first frame."""
        self.ended = False
        self.peak = 0.0
        """The highest bit rate of a segment so far, in bits per second."""
        self.number = number
        """That of the next segment; of its first part: `part_number`."""
        self.part_number = number * PART_NUMBERS
        self._segment_seconds = segment_seconds
        self._init: Initialization | None = None
        self._lead = 0  # the track that is counted: video, or else sound
        self._timescale = 1
        self._video = False
        self._timeline: Timeline | None = None
        self._start = 0.0  # media time of the current segment
        self._pieces: list[memoryview] = []  # of the part that is being made
        self._began = 0.0  # media time of that part
        self._independent = False
        self._time: float | None = None  # when the last frame of the lead began
        self._end = 0.0  # and ended
        self._length = 0.0  # how long it lasted
        self._keyframe: float | None = None  # when the last keyframe began
        self._group = keyframe_seconds or 0.0  # the longest time between two
        self._discontinuity = False
        if keyframe_seconds is not None:
            self._set_target(keyframe_seconds)

    @property
    def held(self) -> int:
        """Bytes of memory that all of it takes."""
        made = sum(segment.size + PART_OVERHEAD * len(segment.parts) for segment in self._all)
        return made + sum(map(len, self._pieces))

    @property
    def frame_rate(self) -> float:
        """Frames of the first track in a second, or 0 where no segment is complete."""
        last = self.segments[-1] if self.segments else None
        return last.frames / last.duration if last is not None and last.duration > 0 else 0.0

    def feed(self, data: bytes, now: float) -> int:
        """Takes whole fragments and initialisation sections, as ``fmp4.Muxer`` made them, which have arrived at Unix
        time ``now``. Returns how many parts are new."""
        before = self.part_number
        offset = 0
        view = memoryview(data)
        while offset < len(data) and not self.ended:
            if data[offset + 4 : offset + 8] == b"ftyp":
                offset = self._take_init(data, offset)
                continue
            fragment = read_fragment(data, offset)
            piece = view[offset : offset + fragment.size]
            offset += fragment.size
            if fragment.track == self._lead:
                begin = fragment.time / self._timescale
                length = fragment.duration / self._timescale
                if length > max(_MAX_GAP, 3 * self._length) and self._length:
                    length = self._length  # the source paused behind this frame
                self._length = length
                self._take_lead(piece, begin, begin + length, fragment.keyframe, now)
            elif self.current is not None:
                self._pieces.append(piece)
        return self.part_number - before

    @property
    def newest(self) -> Segment | None:
        """The last segment that has a part."""
        if self.current is not None and self.current.parts:
            return self.current
        return self.segments[-1] if self.segments else None

    def has(self, segment: int, part: int) -> bool:
        """Whether part ``part`` of a segment, or the whole segment (-1), or something behind it is there."""
        newest = self.newest
        if newest is None or newest.number != segment:
            return newest is not None and newest.number > segment
        return newest is not self.current if part < 0 else part < len(newest.parts)

    def part(self, number: int) -> Part | None:
        """Returns a part that is kept."""
        for segment in self._all:
            if segment.parts and 0 <= number - segment.parts[0].number < len(segment.parts):
                return segment.parts[number - segment.parts[0].number]
        return None

    def init(self, number: int) -> bytes | None:
        """Returns the initialisation section that segments need since segment ``number``."""
        for segment in self._all:
            if segment.init.number == number:
                return segment.init.data
        return None

    def tell_times(self) -> None:
        """Somebody is told when segments begin. Up to then, the newest frame decides it: older ones may have come late,
        out of a cache."""
        for segment in self._all:
            segment.timeline.told = True

    def end(self) -> None:
        """The stream is over: completes the last segment."""
        if not self.ended:
            self._end_segment(self._end)
            self.ended = True
            self.target = self.target or self._rounded(max((s.duration for s in self.segments), default=0.0))

    def forget(self, keep: int) -> None:
        """Keeps the newest ``keep`` complete segments at most."""
        while len(self.segments) > keep:
            self.discontinuities += self.segments.popleft().discontinuity

    # Inside

    @property
    def _all(self) -> list[Segment]:
        return [*self.segments, *([] if self.current is None else [self.current])]

    def _take_init(self, data: bytes, offset: int) -> int:
        """Takes an initialisation section; returns the offset behind it."""
        end = offset
        kind = b""
        while kind != b"moov":
            kind = data[end + 4 : end + 8]
            end += int.from_bytes(data[end : end + 4], "big")
        section = data[offset:end]
        if self._init is None or section != self._init.data:
            self._end_segment(self._end)
            self._discontinuity = self._init is not None
            self._init = Initialization(section, self.number)
            lead = self._init.tracks[0]
            self._lead, self._timescale, self._video = lead["id"], lead["timescale"], lead["kind"] == "video"
            self._time = self._keyframe = None
        return end

    def _take_lead(self, piece: memoryview, begin: float, end: float, keyframe: bool, now: float) -> None:
        """A fragment of the track that is counted."""
        last = self._time
        if last is not None and not last < begin <= self._end + _MAX_GAP:
            self._end_segment(self._end)
            self._discontinuity = True
            self._keyframe = None
        elif last is None and self._timeline is None:
            self._fit_parts(end - begin)
        if self.current is not None:
            if self._ends_segment(begin, end, keyframe):
                self._end_segment(begin, goes_on=True)
            elif self._pieces and end - self._began > self.part_target + _ROUNDING:
                self._end_part(begin)
        if self.current is None:
            if not keyframe and self._discontinuity:
                self._time, self._end = begin, end
                return
            self._begin_segment(begin, keyframe, now)
        assert self.current is not None and self._timeline is not None
        if not self._pieces:
            self._began = begin
        self._pieces.append(piece)
        self._independent |= keyframe
        self.current.frames += 1
        if not self._timeline.told:
            self._timeline.offset = min(self._timeline.offset, now - begin)
        if keyframe:
            if self._keyframe is not None:
                self._group = max(self._group, begin - self._keyframe)
            self._keyframe = begin
        self._time, self._end = begin, end
        self._close_early(begin, end)

    def _fit_parts(self, frame: float) -> None:
        """Parts consist of whole frames, and must not be much shorter than the longest one. Where frames (of so many
        seconds, give or take a millisecond) are long, the longest one is a whole number of them."""
        if SHORT_FRAME * self.part_target < frame < _MAX_GAP:  # else it may be a guess of the muxer's
            count = max(1, int((self.part_target + _ROUNDING) / frame))
            self.part_target = count * frame + 0.001 * (count + 1)

    def _close_early(self, begin: float, end: float) -> None:
        """Ends a part at once where a frame as long as this one (but for rounding) would be too much; otherwise, the
        next frame ends it."""
        length = end - begin
        if length <= self.part_target and end + length - 0.001 - self._began > self.part_target + _ROUNDING:
            self._end_part(end)

    def _ends_segment(self, begin: float, end: float, keyframe: bool) -> bool:
        """Whether a fragment belongs to the next segment."""
        assert self.current is not None
        length = begin - self._start
        if self.target is None:
            if keyframe and self._video and length > 0:
                self._set_target(length)
            elif not self._video:
                self._set_target(0.0)
            elif length > FIRST_SECONDS:
                self._set_target(MAX_TARGET)
        if self.target is None:
            return False
        limit = self.target + 0.5 - _ROUNDING
        if keyframe:
            return length >= self._segment_seconds - NEARLY or length + (self._group if self._video else 0) > limit
        return end - self._start > limit

    def _set_target(self, group: float) -> None:
        """``group``: seconds between two keyframes."""
        length = self._segment_seconds
        if group > 0:
            count = max(1, -int(-(self._segment_seconds - NEARLY) // group))
            length = max(length, count * group)
        self.target = self._rounded(length)
        self._segment_seconds = max(self._segment_seconds, self.target / 2)

    def _rounded(self, seconds: float) -> int:
        return min(MAX_TARGET, max(1, int(seconds + 0.5), int(self._segment_seconds + 0.5)))

    def _begin_segment(self, begin: float, keyframe: bool, now: float) -> None:
        assert self._init is not None
        if self._timeline is None or self._discontinuity:
            self._timeline = Timeline(now - begin)
        self._start = self._began = begin
        self.current = Segment(self.number, self._init, self._timeline, begin, keyframe, self._discontinuity)
        self._discontinuity = False
        self.number += 1

    def _end_part(self, end: float) -> None:
        if self.current is None or not self._pieces:
            return
        data = b"".join(self._pieces)
        part = Part(self.part_number, data, max(0.0, end - self._began), self._independent)
        self._pieces.clear()
        self._independent = False
        self._began = end
        self.part_number += 1
        self.current.parts.append(part)
        self.current.duration = max(0.0, end - self._start)
        self.current.size += len(data)

    def _end_segment(self, end: float, goes_on: bool = False) -> None:
        """``goes_on``: sound alone, behind the last part, is for the next segment."""
        if not goes_on or end > self._began:
            self._end_part(end)
        segment, self.current = self.current, None
        if segment is not None and segment.parts:
            self.segments.append(segment)
            if segment.duration > 0:
                self.peak = max(self.peak, 8 * segment.size / segment.duration)
            self.forget(MAX_SEGMENTS - 1)
