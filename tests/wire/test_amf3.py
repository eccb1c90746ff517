"""rtmp_twisted.wire.amf3: tables of bytes and values, and hostile messages."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.wire import amf0, amf3
from rtmp_twisted.wire.amf0 import UNDEFINED, Date, ECMAArray, TypedObject, Value, XMLDocument
from rtmp_twisted.wire.amf3 import decode_value
from rtmp_twisted.wire.errors import ProtocolError

ONE = struct.pack(">d", 1.0)


def u29(number: int) -> bytes:
    """Section 1.3.1, implemented independently."""
    if number < 1 << 7:
        groups = [number]
    elif number < 1 << 14:
        groups = [number >> 7, number & 0x7F]
    elif number < 1 << 21:
        groups = [number >> 14, number >> 7 & 0x7F, number & 0x7F]
    else:
        groups = [number >> 22, number >> 15 & 0x7F, number >> 8 & 0x7F, number & 0xFF]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def text(value: str) -> bytes:
    data = value.encode()
    return u29(len(data) << 1 | 1) + data


def array(*items: bytes) -> bytes:
    return b"\x09" + u29(len(items) << 1 | 1) + b"\x01" + b"".join(items)


TABLE: list[tuple[bytes, Value]] = [
    (b"\x00", UNDEFINED),
    (b"\x01", None),
    (b"\x02", False),
    (b"\x03", True),
    (b"\x04\x00", 0.0),
    (b"\x04\x7f", 127.0),
    (b"\x04\x81\x00", 128.0),
    (b"\x04\xff\x7f", 16383.0),
    (b"\x04\x81\x80\x00", 16384.0),
    (b"\x04\x80\xc0\x80\x00", 2097152.0),
    (b"\x04\xbf\xff\xff\xff", 268435455.0),
    (b"\x04\xc0\x80\x80\x00", -268435456.0),
    (b"\x04\xff\xff\xff\xff", -1.0),
    (b"\x05" + ONE, 1.0),
    (b"\x06\x01", ""),
    (b"\x06\x03a", "a"),
    (b"\x06\x07a\xe9b", "a\ufffdb"),
    (b"\x07\x09<a/>", XMLDocument("<a/>")),
    (b"\x0b\x09<a/>", XMLDocument("<a/>")),
    (b"\x08\x01" + ONE, Date(1.0)),
    (array(), []),
    (array(b"\x01", b"\x06\x03a"), [None, "a"]),
    (b"\x09\x03\x03k\x03\x01\x02", ECMAArray({"k": True, "0": False})),
    (b"\x0a\x0b\x01\x01", {}),
    (b"\x0a\x0b\x01\x03k\x03\x01", {"k": True}),
    (b"\x0a\x23\x03C\x03x\x03y\x02\x03", TypedObject("C", {"x": False, "y": True})),
    (b"\x0a\x1b\x03C\x03x\x02\x03k\x03\x01", TypedObject("C", {"x": False, "k": True})),
    (b"\x0c\x05\x00\xff", b"\x00\xff"),
    (b"\x0d\x05\x00\x00\x00\x00\x01\xff\xff\xff\xff", [1.0, -1.0]),
    (b"\x0e\x03\x01\xff\xff\xff\xff", [4294967295.0]),
    (b"\x0f\x03\x00" + ONE, [1.0]),
    (b"\x10\x05\x00\x03*\x01\x03", [None, True]),
    (b"\x11\x05\x00\x06\x03a\x01\x04\x05\x03", ["a", None, 5.0, True]),
    # References to strings, also in names. The empty string is not in the table.
    (array(b"\x06\x01", b"\x06\x03a", b"\x06\x00"), ["", "a", "a"]),
    (array(b"\x06\x03a", b"\x0a\x0b\x01\x00\x03\x01"), ["a", {"a": True}]),
    # References to objects of every kind. The first object is the array that they are in.
    (array(b"\x0a\x0b\x01\x01", b"\x0a\x02"), [{}, {}]),
    (array(array(b"\x01"), b"\x09\x02"), [[None], [None]]),
    (array(b"\x08\x01" + ONE, b"\x08\x02"), [Date(1.0), Date(1.0)]),
    (array(b"\x0c\x03\xff", b"\x0c\x02"), [b"\xff", b"\xff"]),
    (array(b"\x07\x03<", b"\x0b\x02"), [XMLDocument("<"), XMLDocument("<")]),
    (array(b"\x0f\x03\x00" + ONE, b"\x0f\x02"), [[1.0], [1.0]]),
    (array(b"\x10\x03\x00\x01\x03", b"\x10\x02"), [[True], [True]]),
    (array(b"\x11\x03\x00\x01\x03", b"\x11\x02"), [[None, True], [None, True]]),
    # References to traits.
    (
        array(b"\x0a\x13\x03C\x03x\x02", b"\x0a\x01\x03"),
        [TypedObject("C", {"x": False}), TypedObject("C", {"x": True})],
    ),
]

HOSTILE: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("an unknown marker", b"\x12"),
    ("another", b"\xff"),
    ("an integer that ends", b"\x04\xff\xff\xff"),
    ("a double that ends", b"\x05" + bytes(7)),
    ("a string that ends", b"\x06\x05a"),
    ("a string of 256 MB", b"\x06\xff\xff\xff\xff"),
    ("a reference to no string", b"\x06\x00"),
    ("a reference to no object", b"\x0a\x00"),
    ("a reference to itself", array(b"\x09\x00")),
    ("a reference to no traits", b"\x0a\x01"),
    ("an externalizable object", b"\x0a\x07\x03C"),
    ("an XML document that ends", b"\x07\x05<"),
    ("a date that ends", b"\x08\x01" + bytes(7)),
    ("an array of 268 million values", b"\x09\xff\xff\xff\xff\x01" + bytes(50)),
    ("an array that ends", b"\x09\x05\x01\x01"),
    ("an array that ends in its associative part", b"\x09\x01\x03k\x03"),
    ("an array without its end of names", b"\x09\x01"),
    ("traits of 33 million names", b"\x0a\xff\xff\xff\xf3\x01" + b"\x01" * 50),
    ("traits that end", b"\x0a\x23\x03C\x03x"),
    ("a dynamic object that ends", b"\x0a\x0b\x01\x03k\x03"),
    ("a byte array that ends", b"\x0c\x05\xff"),
    ("a vector that ends", b"\x0d\x05\x00\x00\x00\x00\x01"),
    ("a vector of 268 million", b"\x0f\xff\xff\xff\xff\x00" + bytes(50)),
    ("a vector of objects that ends", b"\x10\x05\x00\x01\x01"),
    ("a dictionary that ends", b"\x11\x03\x00\x01"),
    ("a dictionary of 268 million", b"\x11\xff\xff\xff\xff\x00" + bytes(50)),
    ("a name that is too long", b"\x0a\x0b\x01" + text("k" * 20_000) + b"\x01\x01"),
    ("a class name that is too long", b"\x0a\x03" + text("k" * 20_000)),
]


class Decoding(SynchronousTestCase):
    def test_table(self) -> None:
        for data, expected in TABLE:
            for prefix in (b"", b"\xff\xff"):
                value, offset = decode_value(prefix + data + b"\x55", len(prefix))
                self.assertEqual(value, expected)
                self.assertIs(type(value), type(expected))
                self.assertEqual(offset, len(prefix) + len(data))

    def test_from_amf0(self) -> None:
        data = b"".join(b"\x11" + data for data, _ in TABLE[:30])
        self.assertEqual(amf0.decode(data), [value for _, value in TABLE[:30]])

    def test_class_name(self) -> None:
        value, _ = decode_value(b"\x0a\x13\x03C\x03x\x02")
        assert isinstance(value, TypedObject)
        self.assertEqual(value.class_name, "C")

    def test_byte_arrays_of_every_length_of_length(self) -> None:
        for size in (0, 63, 64, 8191, 8192, 1048575, 1048576):
            data = amf3.encode_byte_array(bytes(size))
            self.assertEqual(data, b"\x0c" + u29(size << 1 | 1) + bytes(size))
            self.assertEqual(decode_value(data), (bytes(size), len(data)))

    @given(st.integers(-(1 << 28), (1 << 28) - 1))
    def test_any_integer(self, number: int) -> None:
        self.assertEqual(decode_value(b"\x04" + u29(number & 0x1FFFFFFF))[0], float(number))


def refused(data: bytes) -> bool:
    try:
        decode_value(data)
    except ProtocolError:
        return True
    return False


class Hostile(SynchronousTestCase):
    def test_table(self) -> None:
        self.assertEqual([name for name, data in HOSTILE if not refused(data)], [])

    def test_every_cut(self) -> None:
        for data, _ in TABLE:
            for stop in range(len(data)):
                self.assertRaises(ProtocolError, decode_value, data[:stop])

    def test_depth(self) -> None:
        for opening in (b"\x09\x03\x01", b"\x0a\x0b\x01\x03k", b"\x10\x03\x00\x01", b"\x11\x03\x00", b"\x09\x01\x03k"):
            for depth in (amf0.MAX_DEPTH + 1, 1000, 100_000):
                self.assertRaises(ProtocolError, decode_value, opening * depth)

    def test_references_cannot_multiply(self) -> None:
        levels = [array(*[b"\x01"] * 10)]
        for n in range(30):
            levels.append(array(*[b"\x09" + u29(n + 1 << 1)] * 10))
        self.assertRaises(ProtocolError, decode_value, array(*levels))

    def test_strings_cannot_multiply(self) -> None:
        long = b"\x06" + text("x" * 60_000)
        decode_value(array(long, *[b"\x06\x00"] * 4))
        self.assertRaises(ProtocolError, decode_value, array(long, *[b"\x06\x00"] * 5))

    def test_names_cannot_multiply(self) -> None:
        first = b"\x0a\x13\x01" + text("k" * 16_000) + b"\x01"
        decode_value(array(first, *[b"\x0a\x01\x01"] * 16))
        self.assertRaises(ProtocolError, decode_value, array(first, *[b"\x0a\x01\x01"] * 17))

    def test_empty_names_are_counted(self) -> None:
        """Without that, each byte of a message would cost eight bytes of memory and a function call."""
        count = amf0.MAX_VALUES + 1
        self.assertRaises(ProtocolError, decode_value, b"\x0a" + u29(count << 4 | 3) + b"\x01" * (2 * count + 2))

    def test_count_of_values(self) -> None:
        allowed = amf0.MAX_VALUES - 1
        decode_value(b"\x0d" + u29(allowed << 1 | 1) + b"\x00" + bytes(4 * allowed))
        allowed += 1
        vector = b"\x0d" + u29(allowed << 1 | 1) + b"\x00" + bytes(4 * allowed)
        self.assertRaises(ProtocolError, decode_value, vector)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        self.check(data)

    @given(st.integers(4, 0x11), st.binary(max_size=60))
    def test_any_bytes_behind_a_marker(self, marker: int, data: bytes) -> None:
        self.check(bytes((marker,)) + data)

    @given(st.lists(st.sampled_from([data for data, _ in TABLE + [(d, None) for _, d in HOSTILE if len(d) < 99]])))
    def test_any_array(self, items: list[bytes]) -> None:
        self.check(array(*items))

    def check(self, data: bytes) -> None:
        """Only ProtocolError is raised, and what was decoded can be encoded as AMF 0."""
        try:
            value, offset = decode_value(data)
        except ProtocolError:
            return
        self.assertLessEqual(offset, len(data))
        self.assertEqual(repr(amf0.decode(amf0.encode(value))), repr([value]))
