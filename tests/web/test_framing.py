"""How a stream's messages are wrapped for HTTP/1.1 and for WebSocket."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.media.flv import FLVFormat, append_tag
from rtmp_twisted.web import framing
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF3, VIDEO


class FramingTests(SynchronousTestCase):
    def wrapped(self, form: Any, size: int) -> tuple[bytes, bytes]:
        """One tag with a body of so many bytes: as it is, and wrapped; what is said to be its length must be true."""
        plain: list[bytes | memoryview] = []
        body = bytes(size)
        append_tag(plain, VIDEO, 40, body)
        parts: list[bytes | memoryview] = [b"before"]
        length = form().append(parts, VIDEO, 40, body)
        data = b"".join(parts[1:])
        self.assertEqual((parts[0], len(data)), (b"before", length))
        return b"".join(plain), data

    def test_chunks(self) -> None:
        form: Any = framing.chunked(FLVFormat)
        for size in 0, 1, 100, 70_000:
            plain, data = self.wrapped(form, size)
            self.assertEqual(data, b"%x\r\n%s\r\n" % (len(plain), plain))
        header = FLVFormat().preamble((AUDIO,))
        self.assertEqual(form().preamble((AUDIO,)), b"d\r\n%s\r\n" % header)

    def test_websocket(self) -> None:
        """Lengths of 7, 16 and 64 bits (RFC 6455, section 5.2)."""
        form: Any = framing.websocket(FLVFormat)
        for length, head in (
            (125, b"\x82\x7d"),
            (126, b"\x82\x7e\0\x7e"),
            (65_535, b"\x82\x7e\xff\xff"),
            (65_536, b"\x82\x7f\0\0\0\0\0\x01\0\0"),
        ):
            plain, data = self.wrapped(form, length - 15)
            self.assertEqual((len(plain), data), (length, head + plain))

    def test_what_is_left_out(self) -> None:
        """It has no frame either."""
        for wrap in framing.chunked, framing.websocket:
            form: Any = wrap(FLVFormat)
            parts: list[bytes | memoryview] = []
            self.assertEqual((form().append(parts, DATA_AMF3, 0, b"x"), parts), (0, []))
            self.assertFalse(form().all_tracks)
