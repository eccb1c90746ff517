"""rtmp_twisted.rtmp.proxy: the PROXY protocol's header."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp.proxy import MAX_HEADER, MAX_LINE, ProxyHeader, read_header
from rtmp_twisted.wire.errors import ProtocolError
from tests.support.proxied import SIGNATURE, version_2

FOUR = version_2(0x11, bytes((192, 0, 2, 7, 10, 0, 0, 1)) + (50000).to_bytes(2, "big") + b"\x07\x8f")
SIX = version_2(0x21, bytes.fromhex("20010db8" + "00" * 11 + "01") + bytes(16) + b"\0\1\0\2")

UNDERSTOOD = {
    b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 1935\r\n": ("192.0.2.7", 50000),
    b"PROXY TCP6 2001:db8::1 ::1 1 1935\r\n": ("2001:db8::1", 1),
    b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 1935\r\n": ("::ffff:c000:207", 1),
    b"PROXY UNKNOWN\r\n": ("", 0),
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": ("", 0),
    FOUR: ("192.0.2.7", 50000),
    SIX: ("2001:db8::1", 1),
    # Additions (type, length, value) stand behind the addresses.
    version_2(0x11, bytes((192, 0, 2, 7, 10, 0, 0, 1)) + b"\xc3\x50\x07\x8f" + b"\x02\0\3abc"): ("192.0.2.7", 50000),
    version_2(0x11, bytes(12), command=0): ("", 0),  # LOCAL
    version_2(0x00, b""): ("", 0),
    version_2(0x31, bytes(216)): ("", 0),  # UNIX sockets
}

WRONG = (
    b"\x03",
    b"GET / HTTP/1.1\r\n",
    b"PROXY\r\n",
    b"PROXYTCP4",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 50000\r\n",
    b"PROXY TCP4 192.0.2.256 10.0.0.1 50000 1935\r\n",
    b"PROXY TCP4 2001:db8::1 ::1 50000 1935\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 1935\r\n",
    b"PROXY TCP4  192.0.2.7 10.0.0.1 50000 1935\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 1935 \r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.1 50000 1935\r\n",
    b"PROXY " + b"x" * MAX_LINE,
    SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),
    SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),
    version_2(0x11, bytes(11)),
    version_2(0x21, bytes(35)),
    version_2(0x41, bytes(36)),
    version_2(0x11, bytes(MAX_HEADER - 15)),
)


class HeaderTests(SynchronousTestCase):
    def test_understood(self) -> None:
        for data, (address, port) in UNDERSTOOD.items():
            for rest in b"", b"\x03and so on", data:
                self.assertEqual(read_header(data + rest), ProxyHeader(len(data), address, port), data)

    def test_not_all_there(self) -> None:
        for data in UNDERSTOOD:
            self.assertEqual([read_header(data[:end]) for end in range(len(data))], [None] * len(data))

    def test_wrong(self) -> None:
        for data in WRONG:
            self.assertRaises(ProtocolError, read_header, data)

    @given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0"]))
    def test_anything(self, data: bytes, beginning: bytes) -> None:
        try:
            header = read_header(beginning + data)
        except ProtocolError:
            return
        if header is not None:
            self.assertLessEqual(header.size, len(beginning + data))
