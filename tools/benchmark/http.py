"""One viewer of the load, over HTTP or HTTPS: reads endless FLV or fragmented MP4, whatever chunks it comes in.

As a player does (``client``), it recognises each frame by its first bytes and skips the rest; only the viewers that
are sampled look at every byte. ``rtmp.Refused`` is raised for an answer other than 200, and ``walker.WalkError`` for
what is no such stream.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from . import frames, rtmp
from .client import CONNECT_TIMEOUT_S, Checks
from .walker import WalkError

STREAMS = ("flv", "mp4")
"""Formats that are one endless answer."""

FORMATS = (*STREAMS, "hls")

REQUEST = "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"

_FLV_HEADER = 13
_TAG_HEADER = 11
_PREVIOUS_SIZE = 4
_BOX_HEADER = 8
_LONGEST_LINE = 20
_RECORD = 1 << 14
_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_tls.check_hostname = False
_tls.verify_mode = ssl.CERT_NONE


class WebViewer(Checks):
    """A connection to a web server at ``address``, over TLS if it is ``secure``; its certificate is not looked at.
    ``feed(buffer, start, end, now)`` takes received bytes."""

    feed: Callable[[bytearray, int, int, int], None]

    def __init__(
        self,
        address: tuple[str, int],
        app: str,
        secure: bool,
        stream: frames.Stream,
        is_sampled: bool,
        on_latency: Callable[[int], None],
    ) -> None:
        super().__init__(stream, is_sampled, on_latency)
        self.app = app
        self.is_ready = False
        self.is_closed = False
        self.host = f"{address[0]}:{address[1]}"
        self.socket = socket.create_connection(address, CONNECT_TIMEOUT_S)
        self.asked_at = frames.clock()
        if secure:
            self.socket = _tls.wrap_socket(self.socket)
        self.socket.setblocking(False)
        self.receive_into = self._receive_records if secure else self.socket.recv_into

    def _receive_records(self, view: memoryview) -> int:
        """Receives whole TLS records, as many as there are and have room. Raises OSError."""
        received = 0
        while len(view) - received >= _RECORD:
            try:
                size = self.socket.recv_into(view[received:])
            except ssl.SSLWantReadError:
                break
            if not size:
                return received
            received += size
        if not received:
            raise BlockingIOError
        return received


class Viewer(WebViewer):
    """One that reads an endless stream."""

    def __init__(
        self,
        address: tuple[str, int],
        app: str,
        key: str,
        format: str,
        secure: bool,
        stream: frames.Stream,
        is_sampled: bool,
        on_latency: Callable[[int], None],
    ) -> None:
        super().__init__(address, app, secure, stream, is_sampled, on_latency)
        self.reader = Reader(self) if format == "flv" else MP4Reader(self)
        self.feed = self._read_head
        self._head = bytearray()
        self._in_chunks = False
        self._chunk_left = 0  # of the chunk's data
        self._line = bytearray()  # what has come of a line with a chunk's size
        self.socket.send(REQUEST.format(path=f"/{app}/{key}.{format}", host=self.host).encode())

    def _read_head(self, buffer: bytearray, start: int, end: int, now: int) -> None:
        before = len(self._head)
        self._head += buffer[start:end]
        size = self._head.find(b"\r\n\r\n")
        if size < 0:
            return
        head = bytes(self._head[:size]).decode("latin-1").lower()
        if " 200 " not in head.partition("\r\n")[0] + " ":
            raise rtmp.Refused(head.partition("\r\n")[0])
        self._in_chunks = "transfer-encoding: chunked" in head
        self.is_ready = True
        self.feed = self._read_chunks if self._in_chunks else self.reader.read
        self.feed(buffer, start + size + 4 - before, end, now)

    def _read_chunks(self, buffer: bytearray, start: int, end: int, now: int) -> None:
        while start < end:
            if self._chunk_left:
                stop = min(end, start + self._chunk_left)
                self.reader.read(buffer, start, stop, now)
                self._chunk_left -= stop - start
                start = stop
                continue
            stop = buffer.find(b"\n", start, start + _LONGEST_LINE)
            if stop < 0 or stop >= end:
                self._line += buffer[start:end]
                if len(self._line) > _LONGEST_LINE:
                    raise WalkError("a line of a chunk is too long")
                return
            line = bytes(self._line + buffer[start:stop]).strip()
            self._line.clear()
            start = stop + 1
            if line:  # else the end of the chunk before
                self._chunk_left = int(line, 16)


class Reader:
    """Reads FLV, for a viewer. The first bytes of a tag may come in pieces."""

    def __init__(self, viewer: Checks) -> None:
        self._viewer = viewer
        self._begun = False
        self._head = bytearray()
        self._left = 0
        """Bytes until the end of the tag."""
        self._frame: frames.Frame | None = None
        self._time: int | None = None
        self._body_at = 0
        self._body_size = 0
        self._bytes = bytearray()  # of the whole tag, of a viewer that is sampled

    def read(self, buffer: bytearray, start: int, end: int, now: int) -> None:
        is_sampled = self._viewer.is_sampled
        while start < end:
            if not self._left:
                # Usually all that identifies the frame is there.
                needed = self.head_size(buffer, start, end) if not self._head else 0
                if needed and start + needed <= end:
                    self._left = self.begin(buffer, start)
                else:
                    self._head += buffer[start : start + 1]
                    start += 1
                    needed = self.head_size(self._head, 0, len(self._head))
                    if not needed or len(self._head) < needed:
                        continue
                    self._left = self.begin(self._head, 0) - len(self._head)
                    if is_sampled:
                        self._bytes += self._head
                    self._head.clear()
                    if self._left:
                        continue
            stop = min(end, start + self._left)
            if is_sampled:
                self._bytes += buffer[start:stop]
            self._left -= stop - start
            start = stop
            if not self._left:
                self._end(now)

    def head_size(self, buffer: bytearray, start: int, end: int) -> int:
        """How many bytes identify what begins at ``start``, 0 while that cannot be told."""
        if not self._begun:
            return _FLV_HEADER
        if end - start < 4:
            return 0
        return _TAG_HEADER + min(int.from_bytes(buffer[start + 1 : start + 4], "big"), frames.HEAD)

    def begin(self, buffer: bytearray, start: int) -> int:
        """Identifies what begins at ``start``; returns how long it is."""
        if not self._begun:
            self._begun = True
            if buffer[start : start + 3] != b"FLV":
                raise WalkError("it is no FLV")
            self._frame = None
            return _FLV_HEADER
        size = int.from_bytes(buffer[start + 1 : start + 4], "big")
        head = bytes(buffer[start + _TAG_HEADER : start + _TAG_HEADER + min(size, frames.HEAD)])
        self._frame = self._viewer.stream.identify(buffer[start], size, head)
        self._time = int.from_bytes(buffer[start + 4 : start + 7], "big") | buffer[start + 7] << 24
        self._body_at, self._body_size = _TAG_HEADER, size
        return _TAG_HEADER + size + _PREVIOUS_SIZE

    def _end(self, now: int) -> None:
        frame = self._frame
        if frame is not None:
            self._viewer.on_frame(frame, now)
            if self._viewer.is_sampled:
                body = bytes(self._bytes[self._body_at : self._body_at + self._body_size])
                self._viewer.compare(frame, self.whole(frame, body), self._time)
        self._bytes.clear()

    def whole(self, frame: frames.Frame, body: bytes) -> bytes:
        """The frame as it was sent."""
        return body


class MP4Reader(Reader):
    """Reads fragments of one frame each."""

    def head_size(self, buffer: bytearray, start: int, end: int) -> int:
        if end - start < _BOX_HEADER:
            return 0
        size = int.from_bytes(buffer[start : start + 4], "big")
        if buffer[start + 4 : start + 8] != b"moof":
            return _BOX_HEADER
        return size + _BOX_HEADER + frames.HEAD - min(frames.STAMP_AT)

    def begin(self, buffer: bytearray, start: int) -> int:
        size = int.from_bytes(buffer[start : start + 4], "big")
        self._frame = None
        if buffer[start + 4 : start + 8] != b"moof":
            return size
        data = start + size
        length = int.from_bytes(buffer[data : data + 4], "big")
        head = bytes(buffer[data + _BOX_HEADER : data + _BOX_HEADER + frames.HEAD])
        self._frame = self._viewer.stream.identify_payload(length - _BOX_HEADER, head)
        self._body_at, self._body_size = size + _BOX_HEADER, length - _BOX_HEADER
        return size + length

    def whole(self, frame: frames.Frame, body: bytes) -> bytes:
        return self._viewer.stream.body(frame.kind, frame.sequence, frame.stamp)[: frames.TAG_HEADER[frame.kind]] + body
