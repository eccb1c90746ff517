"""One viewer of the load that watches by HLS with low-latency parts, over one connection, one request after the other.

It reads the multivariant playlist, the first variant's, the initialisation section, and the parts of the newest
segment. From then on it asks for each next part with a playlist that the server holds back until the part is there
(blocking reload), and then for the part. All bytes of parts together are a fragmented MP4, which is checked as one.

Source: RFC 8216bis, section 6.2.5.2.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from . import frames, rtmp
from .http import REQUEST, MP4Reader, WebViewer
from .walker import WalkError

MAX_PLAYLISTS = 64

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_URI = re.compile(r'URI="([^"]+)"')


class Playlist(NamedTuple):
    """What a viewer needs of a media playlist. ``parts`` are all that are listed, in order; ``first`` is the index of
    the newest segment's first one; ``reload`` is the query for the playlist with the next one."""

    init: str
    parts: list[str]
    first: int
    reload: str


Playlists = dict[bytes, Playlist]
"""Playlists that have been read: most viewers get the same ones."""


def read_playlist(body: bytes, playlists: Playlists) -> Playlist:
    """Raises WalkError for what is no playlist with parts."""
    found = playlists.get(body)
    if found is None:
        init, parts, first, number, index = "", [], 0, 0, 0
        for line in body.decode().splitlines():
            if line.startswith("#EXT-X-MEDIA-SEQUENCE:"):
                number = int(line.partition(":")[2])
            elif line.startswith("#EXT-X-MAP:"):
                init = _URI.findall(line)[0]
            elif line.startswith("#EXT-X-PART:"):
                first = first if index else len(parts)
                parts += _URI.findall(line)
                index += 1
            elif line and not line.startswith("#"):
                number, index = number + 1, 0
        if not init or not parts:
            raise WalkError("it is no playlist with parts")
        if len(playlists) >= MAX_PLAYLISTS:
            playlists.clear()
        found = playlists[body] = Playlist(init, parts, first, f"?_HLS_msn={number}&_HLS_part={index}")
    return found


class HLSViewer(WebViewer):
    """As a `http.Viewer`. ``playlists`` are shared by all viewers of a process."""

    def __init__(
        self,
        address: tuple[str, int],
        app: str,
        key: str,
        secure: bool,
        stream: frames.Stream,
        is_sampled: bool,
        on_latency: Callable[[int], None],
        playlists: Playlists,
    ) -> None:
        super().__init__(address, app, secure, stream, is_sampled, on_latency)
        self._playlists = playlists
        self._base = f"/{app}/{key}/"
        self._names: deque[str] = deque()  # of parts and initialisation sections, to be asked for
        self._playlist = ""  # the media playlist's name
        self._reload = ""
        self._last = ""  # the last part that was asked for
        self._reader = MP4Reader(self)
        self._head = bytearray()
        self._left = 0  # of the body of an answer
        self._text: bytearray | None = bytearray()  # of a playlist's body
        self.feed = self._read
        self._ask("index.m3u8")

    def _ask(self, name: str) -> None:
        self.socket.send(REQUEST.format(path=self._base + name, host=self.host).encode())

    def _read(self, buffer: bytearray, start: int, end: int, now: int) -> None:
        while start < end:
            if not self._left:
                before = len(self._head)
                self._head += buffer[start:end]
                size = self._head.find(b"\r\n\r\n", max(0, before - 3))
                if size < 0:
                    return
                self._left = self._begin(bytes(self._head[:size]))
                self._head.clear()
                start += size + 4 - before
                continue
            stop = min(end, start + self._left)
            if self._text is not None:
                self._text += buffer[start:stop]
            else:
                self._reader.read(buffer, start, stop, now)
            self._left -= stop - start
            start = stop
            if not self._left:
                self._go_on()

    def _begin(self, head: bytes) -> int:
        """Reads the head of an answer; returns the length of its body."""
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            raise rtmp.Refused(head.partition(b"\r\n")[0].decode("latin-1"))
        return int(length[1])

    def _go_on(self) -> None:
        """An answer is complete: asks for what comes behind it."""
        if self._text is not None:
            text = bytes(self._text)
            self._text.clear()
            if self._playlist:
                self._take(read_playlist(text, self._playlists))
            else:
                self._playlist = next(line for line in text.decode().splitlines() if line and line[0] != "#")
        else:
            self.is_ready = self.is_ready or bool(self._last)
        if self._names:
            self._text = None
            name = self._names.popleft()
        else:
            self._text = bytearray() if self._text is None else self._text
            name = self._playlist + self._reload
        self._ask(name)

    def _take(self, playlist: Playlist) -> None:
        if not self._last:
            self._names += [playlist.init, *playlist.parts[playlist.first :]]
        elif self._last in playlist.parts:
            self._names += playlist.parts[playlist.parts.index(self._last) + 1 :]
        else:
            raise WalkError("the playlist does not have the last part any more")
        self._last = playlist.parts[-1]
        self._reload = playlist.reload
