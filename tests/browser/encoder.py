"""An encoder that tests can steer: it sends prepared media at its own pace, and knows when it sent what."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.trial.unittest import TestCase

from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support.clips import current_ffmpeg
from tests.support.fakes import reactor, until
from tests.support.flv import read_flv
from tests.support.relay import is_keyframe
from tests.support.rtmp_client import RTMPClient, client

SECONDS = 20
"""The length of a film, which is repeated."""

_H264 = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-x264-params", "scenecut=0")
_ENCODERS: dict[str, tuple[str, ...]] = {
    "H.264": (*_H264, "-c:a", "aac"),
    "HEVC": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-c:a", "aac"),
    "AV1": ("-c:v", "libsvtav1", "-preset", "12", "-svtav1-params", "lookahead=0", "-c:a", "libopus"),
    "VP9": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"),
}

_films: dict[tuple[str, str, str], list[Message]] = {}
_directory: Path | None = None


async def film(case: TestCase, color: str, codecs: str = "H.264", size: str = "320x180") -> list[Message]:
    """Messages of a picture in one colour with a small clock, and a tone of 440 Hz. A keyframe every 2 s."""
    global _directory
    wanted = (color, codecs, size)
    if wanted not in _films:
        if _directory is None:
            _directory = Path(tempfile.mkdtemp(prefix="films-"))
            atexit.register(shutil.rmtree, _directory, True)
        path = _directory / f"{color}-{codecs}-{size}.flv"
        picture = ("-f", "lavfi", "-i", f"color={color}:size={size}:rate=30,noise=alls=5:allf=t")
        tone = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000")
        length = ("-t", str(SECONDS), "-pix_fmt", "yuv420p", "-g", "60", "-ac", "2")
        await current_ffmpeg(case, *picture, *tone, *_ENCODERS[codecs], *length, "-f", "flv", str(path))
        _films[wanted] = [one for one in read_flv(path) if one.type_id in (AUDIO, VIDEO)]
    return _films[wanted]


class Encoder:
    """Publishes a film over and over. A message with timestamp t leaves at ``zero`` + t ms, by the time of day."""

    def __init__(self, case: TestCase, port: int, film: list[Message], key: str = "key", channel: str = "tv") -> None:
        self.zero = 0.0
        self.sent = -1
        """The timestamp of the last message that has left, in milliseconds."""
        self._port = port
        self._film = film
        self._key = key
        self._channel = channel
        self._next = 0  # of the film
        self._shift = 0  # of its timestamps, in milliseconds
        self._call: IDelayedCall | None = None
        self._following: list[Message] | None = None
        self._client: RTMPClient
        case.addCleanup(self.pause)

    async def start(self, at: int = 0) -> None:
        """Returns when it is on air. ``at`` is the first timestamp."""
        self._client = await client(self._port)
        await self._client.open(self._channel)
        self._client.set_chunk_size(65536)
        await self._client.publish(self._key)
        self._shift = at
        self.zero = time.time() - at / 1000
        self._send()

    async def until_sent(self, more: int) -> None:
        """Returns when it has sent so many more milliseconds of media."""
        wanted = max(self.sent, 0) + more
        await until(lambda: self.sent >= wanted, f"{more} ms of media")

    def switch(self, film: list[Message]) -> None:
        """Goes on with another film, at once: pictures that are not sent in the order in which they are shown may be
        missing before it."""
        self._film = film
        self._shift = self.sent + 34
        self._next = 0

    async def follow(self, film: list[Message]) -> None:
        """Goes on with another film in place of the next keyframe, so that no picture is missing. Returns then."""
        self._following = film
        await until(lambda: self._following is None, "the next keyframe")

    def pause(self) -> None:
        """Sends nothing any more, and keeps its connection."""
        if self._call is not None and self._call.active():
            self._call.cancel()

    def lose(self) -> None:
        """Its connection is lost."""
        self.pause()
        transport: Any = self._client.transport
        transport.abortConnection()

    def stop(self) -> None:
        """Ends the publish as an encoder does that is stopped."""
        self.pause()
        self._client.call("deleteStream", None, 1.0)

    def _send(self) -> None:
        now = int((time.time() - self.zero) * 1000)
        due = []
        while (timestamp := self._film[self._next].timestamp + self._shift) <= now:
            if self._following is not None and is_keyframe(self._film[self._next]):
                self._film, self._following = self._following, None
                self._shift, self._next = timestamp, 0
            due.append(self._film[self._next]._replace(timestamp=timestamp))
            self.sent = max(self.sent, timestamp)
            self._next += 1
            if self._next == len(self._film):
                self._next = 0
                self._shift += SECONDS * 1000
        if due:
            self._client.send(*due)
        self._call = reactor.callLater(max(0.001, self.zero + timestamp / 1000 - time.time()), self._send)
