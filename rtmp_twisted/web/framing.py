"""How a stream's messages are wrapped on their way to a viewer: as chunks of an HTTP/1.1 body, or WebSocket frames.

Each wrapping is a form of its own (`Format`), and so a rendition: it is done once for all viewers who get it, and the
bytes that the server itself puts between messages, such as a close frame, always come between two frames.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Final

from rtmp_twisted.live.fragments import FragmentForm
from rtmp_twisted.live.player import Form

LAST_CHUNK: Final = b"0\r\n\r\n"
"""The end of a chunked body (RFC 9112, section 7.1)."""

_BINARY: Final = 0x82  # the only frame of a binary message


def chunked(form: Form) -> Form:
    """A form whose messages are chunks (RFC 9112, section 7.1). A body that is cut off can so be told from one that has
    ended."""
    return _framed(form, lambda size: b"%x\r\n" % size, b"\r\n")


def websocket(form: Form) -> Form:
    """A form whose messages are binary WebSocket messages of one frame (RFC 6455, section 5.2)."""
    return _framed(form, _frame_header, b"")


def _frame_header(size: int) -> bytes:
    if size < 126:
        return bytes((_BINARY, size))
    if size < 0x10000:
        return struct.pack(">BBH", _BINARY, 126, size)
    return struct.pack(">BBQ", _BINARY, 127, size)


def _framed(form: Form, head: Callable[[int], bytes], tail: bytes) -> Form:
    if isinstance(form, FragmentForm):
        return form._replace(framing=(head, tail))
    inner = form

    class Framed:
        def __init__(self) -> None:
            self._form = inner()

        @property
        def all_tracks(self) -> bool:
            return self._form.all_tracks

        def preamble(self, types: Collection[int]) -> bytes:
            data = self._form.preamble(types)
            return head(len(data)) + data + tail if data else b""

        def append(self, parts: list[bytes | memoryview], type_id: int, timestamp: int, body: bytes) -> int:
            place = len(parts)
            size = self._form.append(parts, type_id, timestamp, body)
            if not size:
                return 0
            first = head(size)
            parts.insert(place, first)
            parts.append(tail)
            return len(first) + size + len(tail)

    return Framed
