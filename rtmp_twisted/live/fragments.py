"""A channel's media as fragmented MP4, made from its log while somebody reads it. Made by channel.

A `FragmentRendition` is a rendition whose messages are fragments, one for each frame (media/fmp4.py). Readers take it
for any other log: what they have to have before their first fragment is the initialisation section, and a keyframe of
the first video track begins a group of pictures. Where the configuration changes, another initialisation section is an
entry of the log that every reader gets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple, TypeAlias

from rtmp_twisted.live.audience import Audience, FlushScheduler
from rtmp_twisted.live.headers import NO_HEADERS, Headers, Program
from rtmp_twisted.live.log import Block, MediaLog
from rtmp_twisted.live.rendition import Rendition
from rtmp_twisted.media.fmp4 import Muxer
from rtmp_twisted.media.mp4 import Entry
from rtmp_twisted.wire.messages import VIDEO, Message

INITIALIZATION: Final = 0
"""The message type id of an initialisation section; no RTMP message has it."""


Framing: TypeAlias = tuple[Callable[[int], bytes], bytes]
"""How fragments are wrapped on their way: what stands before one of so many bytes, and what behind it."""


class FragmentForm(NamedTuple):
    """What a player reads (``Player(form=...)``): a video track and the first audio track, or (None) all tracks."""

    video_track: int | None = 0
    framing: Framing | None = None

    @property
    def format(self) -> EncodedFormat:
        return EncodedFormat(self.video_track is None, self.framing)


class EncodedFormat:
    """The form of a log whose messages are bytes as they leave, but for their ``framing``."""

    def __init__(self, all_tracks: bool, framing: Framing | None) -> None:
        self.all_tracks = all_tracks
        self._framing = framing

    def preamble(self, types: Collection[int]) -> bytes:
        """Nothing."""
        return b""

    def append(self, parts: list[bytes | memoryview], type_id: int, timestamp: int, body: bytes) -> int:
        """Appends ``body``."""
        framed = self.frame((body,))
        parts += framed
        return sum(map(len, framed))

    def frame(self, parts: tuple[bytes | memoryview, ...]) -> tuple[bytes | memoryview, ...]:
        """Returns the parts of one message with their framing."""
        if self._framing is None:
            return parts
        head, tail = self._framing
        return head(sum(map(len, parts))), *parts, tail


class FragmentContents:
    """What the log's readers have to know, in place of the channel's own ``program``."""

    def __init__(self, program: Program) -> None:
        self.headers = NO_HEADERS
        """The last initialisation section, as the body of one message."""
        self.has_video = False
        self.video_tracks = program.video_tracks


class FragmentRendition(Rendition):
    """``form`` says which tracks, ``log`` has its ``format`` and ``contents``. All else is as for a `Rendition`."""

    def __init__(
        self,
        form: FragmentForm,
        log: MediaLog,
        format: EncodedFormat,
        contents: FragmentContents,
        source: Audience,
        chunk_size: int,
        scheduler: FlushScheduler,
        merge_messages: int,
    ) -> None:
        self._muxer = Muxer(form.video_track)
        self._format = format
        self._contents = contents
        self._read: Headers | None = None  # the channel's headers that the muxer knows
        super().__init__(log, source, chunk_size, scheduler, merge_messages)
        if not source.log.groups:
            self._read_headers(source.log.program.headers)

    def held(self) -> int:
        return super().held() + self._muxer.held_bytes

    def restart(self) -> None:
        super().restart()
        self._append_entries(self._muxer.flush())
        self._muxer.reset()
        self._contents.has_video = False
        self._read = None
        self.log.restart(whole=False)
        self.audience.flush()

    def _append(self, block: Block) -> Iterator[int]:
        if block.headers is not None:
            self._read_headers(block.headers)
        for message in self._messages(block):
            self._append_entries(self._muxer.write(message.type_id, message.timestamp, message.body))
            self._contents.has_video = self._muxer.has_video
            yield len(message.body)

    def _read_headers(self, headers: Headers) -> None:
        if headers is not self._read:
            self._read = headers
            for message in headers.messages:
                self._append_entries(self._muxer.write(message.type_id, message.timestamp, message.body))
            self._contents.has_video = self._muxer.has_video

    def _append_entries(self, entries: list[Entry]) -> None:
        log = self.log
        for type_id, track_id, timestamp, keyframe, leads, head, frame in entries:
            if type_id == INITIALIZATION:
                self._contents.headers = Headers((Message(INITIALIZATION, 0, timestamp, head),))
            elif leads:
                log.begin_group(self._contents.headers)
            if type_id == VIDEO and self._format.all_tracks:
                log.note_tracks((track_id,), keyframe)
            log.append_encoded(type_id, timestamp, self._format.frame((head, frame)), type_id == INITIALIZATION)
