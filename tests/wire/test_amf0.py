"""rtmp_twisted.wire.amf0: tables of bytes and values, round trips, and hostile messages."""

from __future__ import annotations

import contextlib
import math
import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.wire import amf0
from rtmp_twisted.wire.amf0 import UNDEFINED, Date, ECMAArray, TypedObject, Value, XMLDocument, decode, encode
from rtmp_twisted.wire.errors import ProtocolError

END = b"\x00\x00\x09"

# Values, and the bytes that each is written as.
TABLE: list[tuple[Value, bytes]] = [
    (0.0, b"\x00" + bytes(8)),
    (1.0, b"\x00\x3f\xf0" + bytes(6)),
    (-2.5, b"\x00\xc0\x04" + bytes(6)),
    (True, b"\x01\x01"),
    (False, b"\x01\x00"),
    ("", b"\x02\x00\x00"),
    ("live", b"\x02\x00\x04live"),
    ("\u00e9\u6f22", b"\x02\x00\x05\xc3\xa9\xe6\xbc\xa2"),
    ("x" * 0xFFFF, b"\x02\xff\xff" + b"x" * 0xFFFF),
    ("x" * 0x10000, b"\x0c\x00\x01\x00\x00" + b"x" * 0x10000),
    (None, b"\x05"),
    (UNDEFINED, b"\x06"),
    ({}, b"\x03" + END),
    ({"a": None, "b": True}, b"\x03\x00\x01a\x05\x00\x01b\x01\x01" + END),
    ({"a": {"b": {}}}, b"\x03\x00\x01a\x03\x00\x01b\x03" + END * 3),
    ({"": None}, b"\x03\x00\x00\x05" + END),
    (ECMAArray(), b"\x08\x00\x00\x00\x00" + END),
    (ECMAArray(w=None), b"\x08\x00\x00\x00\x01\x00\x01w\x05" + END),
    ([], b"\x0a\x00\x00\x00\x00"),
    ([None, "a", [True]], b"\x0a\x00\x00\x00\x03\x05\x02\x00\x01a\x0a\x00\x00\x00\x01\x01\x01"),
    (Date(1000.0), b"\x0b\x40\x8f\x40\x00\x00\x00\x00\x00\x00\x00"),
    (Date(0.0, -60), b"\x0b" + bytes(8) + b"\xff\xc4"),
    (XMLDocument("<a/>"), b"\x0f\x00\x00\x00\x04<a/>"),
    (TypedObject("C", {"x": None}), b"\x10\x00\x01C\x00\x01x\x05" + END),
    (b"", b"\x11\x0c\x01"),
    (b"abc", b"\x11\x0c\x07abc"),
]

# Bytes that are accepted, but never written by `encode`.
LENIENT: list[tuple[str, bytes, list[Value]]] = [
    ("a boolean that is neither 0 nor 1", b"\x01\x02", [True]),
    ("the unsupported marker", b"\x0d", [UNDEFINED]),
    ("a short text as a long string", b"\x0c\x00\x00\x00\x01a", ["a"]),
    ("an ECMA array that counts too few", b"\x08\x00\x00\x00\x00\x00\x01a\x05" + END, [ECMAArray(a=None)]),
    ("an ECMA array that counts too many", b"\x08\xff\xff\xff\xff\x00\x01a\x05" + END, [ECMAArray(a=None)]),
    ("an ECMA array without its end", b"\x08\x00\x00\x00\x01\x00\x01a\x05", [ECMAArray(a=None)]),
    ("an ECMA array with half its end", b"\x08\x00\x00\x00\x01\x00\x01a\x05\x00\x00", [ECMAArray(a=None)]),
    ("an object without its end", b"\x03\x00\x01a\x05", [{"a": None}]),
    ("a key that comes twice", b"\x03\x00\x01a\x05\x00\x01a\x06" + END, [{"a": UNDEFINED}]),
    ("Latin-1", b"\x02\x00\x04caf\xe9", ["caf\ufffd"]),
    ("a surrogate in UTF-8", b"\x02\x00\x03\xed\xa0\x80", ["\ufffd\ufffd\ufffd"]),
    ("a reference", b"\x0a\x00\x00\x00\x00\x03" + END + b"\x07\x00\x01", [[], {}, {}]),
    ("a reference within what it does not refer to", b"\x03" + END + b"\x0a\x00\x00\x00\x01\x07\x00\x00", [{}, [{}]]),
    ("AMF 3 for one value", b"\x11\x03\x01\x01", [True, True]),
    ("AMF 3 tables that last", b"\x11\x06\x03a\x05\x11\x06\x00", ["a", None, "a"]),
]

HOSTILE: list[tuple[str, bytes]] = [
    ("a number that ends", b"\x00" + bytes(7)),
    ("a boolean that ends", b"\x01"),
    ("a string without a length", b"\x02\x00"),
    ("a string that ends", b"\x02\x00\x05live"),
    ("a long string that ends", b"\x0c\xff\xff\xff\xff" + b"x" * 100),
    ("an object that ends in a key", b"\x03\x00\x05live"),
    ("an object that ends in a key's length", b"\x03\x00"),
    ("an object that ends behind a key", b"\x03\x00\x01a"),
    ("an ECMA array that ends in its count", b"\x08\x00\x00"),
    ("an array of four thousand million values", b"\x0a\xff\xff\xff\xff" + b"\x05" * 100),
    ("an array that ends", b"\x0a\x00\x00\x00\x02\x05"),
    ("a date that ends", b"\x0b" + bytes(9)),
    ("an XML document that ends", b"\x0f\x00\x00\x00\x02<"),
    ("a typed object that ends", b"\x10\x00\x02C"),
    ("an object end that ends nothing", b"\x09"),
    ("a movie clip", b"\x04"),
    ("a record set", b"\x0e"),
    ("a marker that does not exist", b"\x12"),
    ("another", b"\xff"),
    ("a reference to nothing", b"\x07\x00\x00"),
    ("a reference to itself", b"\x0a\x00\x00\x00\x01\x07\x00\x00"),
    ("a reference that ends", b"\x03" + END + b"\x07\x00"),
    ("AMF 3 that ends", b"\x11"),
    ("AMF 3 with an unknown marker", b"\x11\x12"),
    ("a key that is too long", b"\x03\x40\x00" + b"k" * 0x4000 + b"\x05" + END),
]

keys = st.text(max_size=20)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.just(UNDEFINED),
    st.builds(Date, st.floats(allow_nan=False), st.integers(-0x8000, 0x7FFF)),
    st.builds(XMLDocument, st.text()),
)
values: st.SearchStrategy[Value] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(keys, inner),
        st.builds(ECMAArray, st.dictionaries(keys, inner)),
        st.builds(TypedObject, keys, st.dictionaries(keys, inner)),
    ),
    max_leaves=30,
)


def kinds(value: Value) -> object:
    """What a comparison of values does not compare: their types, and the names of classes."""
    inner: list[Value] = []
    if isinstance(value, list):
        inner = value
    elif isinstance(value, dict):
        inner = list(value.values())
    return type(value), getattr(value, "class_name", None), [kinds(item) for item in inner]


def nested(depth: int) -> Value:
    value: Value = None
    for _ in range(depth):
        value = [value]
    return value


class DecodingAndEncoding(SynchronousTestCase):
    def test_table(self) -> None:
        for value, data in TABLE:
            self.assertEqual(encode(value), data)
            self.assertEqual(decode(data), [value])
            self.assertEqual(kinds(decode(data)[0]), kinds(value))

    def test_several_values(self) -> None:
        data = b"".join(data for _, data in TABLE)
        self.assertEqual(decode(data), [value for value, _ in TABLE])
        self.assertEqual(encode(*[value for value, _ in TABLE]), data)
        self.assertEqual(decode(b""), [])
        self.assertEqual(encode(), b"")

    def test_offset(self) -> None:
        self.assertEqual(decode(b"\x00\x05\x06", 1), [None, UNDEFINED])
        self.assertEqual(decode(b"\x05", 1), [])

    def test_int_is_a_number(self) -> None:
        self.assertEqual(encode(3), encode(3.0))
        [value] = decode(encode(3))
        self.assertIs(type(value), float)

    def test_not_a_number(self) -> None:
        [value] = decode(encode(math.nan))
        assert isinstance(value, float)
        self.assertTrue(math.isnan(value))

    def test_lenient(self) -> None:
        for name, data, expected in LENIENT:
            self.assertEqual(decode(data), expected, name)

    def test_undefined_is_false(self) -> None:
        self.assertFalse(UNDEFINED)
        self.assertEqual(repr(UNDEFINED), "UNDEFINED")

    def test_what_cannot_be_encoded(self) -> None:
        self.assertRaises(ValueError, encode, {"k" * 0x10000: None})
        self.assertRaises(TypeError, encode, object())
        self.assertRaises(ValueError, encode, nested(amf0.MAX_DEPTH + 1))

    @given(values)
    def test_round_trip(self, value: Value) -> None:
        [back] = decode(encode(value))
        self.assertEqual(back, value)
        self.assertEqual(kinds(back), kinds(value))

    def test_metadata_with_a_keyframe_index(self) -> None:
        times: list[Value] = [float(n) for n in range(30_000)]
        metadata: Value = ECMAArray(duration=0.0, keyframes={"times": times, "filepositions": times})
        self.assertEqual(decode(encode("onMetaData", metadata)), ["onMetaData", metadata])


def refused(data: bytes) -> bool:
    try:
        decode(data)
    except ProtocolError:
        return True
    return False


class Hostile(SynchronousTestCase):
    def test_table(self) -> None:
        self.assertEqual([name for name, data in HOSTILE if not refused(data)], [])

    def test_every_cut(self) -> None:
        """A message that is cut anywhere is either decoded or refused."""
        data = encode("connect", 1, {"app": "live", "n": [1, None]}, ECMAArray(a=Date(0)), TypedObject("C"), b"bytes")
        for stop in range(len(data)):
            with contextlib.suppress(ProtocolError):
                decode(data[:stop])

    def test_depth(self) -> None:
        deepest = nested(amf0.MAX_DEPTH)
        self.assertEqual(decode(encode(deepest)), [deepest])
        array, item = b"\x0a\x00\x00\x00\x01", b"\x03\x00\x01a"
        for opening in (array, item, b"\x08\x00\x00\x00\x00\x00\x01a", b"\x10\x00\x00\x00\x01a", b"\x11\x09\x03\x01"):
            for depth in (amf0.MAX_DEPTH + 1, 1000, 100_000):
                self.assertRaises(ProtocolError, decode, opening * depth + b"\x05")

    def test_depth_through_references(self) -> None:
        """Each array has a reference to the one before it. The bytes are not nested, but the values are."""
        link = b"\x0a\x00\x00\x00\x01\x07"
        chain = [b"\x0a\x00\x00\x00\x00"] + [link + struct.pack(">H", n) for n in range(amf0.MAX_DEPTH - 1)]
        decoded = decode(b"".join(chain))
        self.assertEqual(decode(encode(*decoded)), decoded)
        one_more = link + struct.pack(">H", amf0.MAX_DEPTH - 1)
        self.assertRaises(ProtocolError, decode, b"".join(chain) + one_more)

    def test_count_of_values(self) -> None:
        self.assertEqual(len(decode(b"\x05" * amf0.MAX_VALUES)), amf0.MAX_VALUES)
        self.assertRaises(ProtocolError, decode, b"\x05" * (amf0.MAX_VALUES + 1))
        self.assertRaises(ProtocolError, decode, encode([None] * amf0.MAX_VALUES))

    def test_a_smaller_count_of_values(self) -> None:
        for data in b"\5" * 10, encode([None] * 9), b"\x11\x01" * 5:
            self.assertEqual(decode(data, max_values=10), decode(data))
            error = self.assertRaises(ProtocolError, decode, data, max_values=9)
            self.assertIn("more than 9 values", str(error))

    def test_references_cannot_multiply(self) -> None:
        """Thirty arrays, each with ten references to the one before it, would be 10**30 values."""
        levels = [b"\x0a\x00\x00\x00\x0a" + b"\x05" * 10]
        for n in range(30):
            levels.append(b"\x0a\x00\x00\x00\x0a" + (b"\x07" + struct.pack(">H", n)) * 10)
        self.assertRaises(ProtocolError, decode, b"".join(levels))
        sizes = [len(encode(*decode(b"".join(levels[:n])))) for n in (1, 2, 3, 4)]
        self.assertTrue(all(a < b for a, b in pairwise(sizes)))

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        self.check(data)

    @given(st.lists(st.sampled_from([d for _, d in TABLE if len(d) < 99] + [d for _, d in HOSTILE if len(d) < 99])))
    def test_any_pieces(self, pieces: list[bytes]) -> None:
        self.check(b"".join(pieces))

    @given(st.integers(0, 0x11), st.binary(max_size=60))
    def test_any_bytes_behind_a_marker(self, marker: int, data: bytes) -> None:
        self.check(bytes((marker,)) + data)

    def check(self, data: bytes) -> None:
        """Only ProtocolError is raised. What was decoded can be encoded again, and its size is bounded."""
        try:
            decoded = decode(data)
        except ProtocolError:
            return
        again = encode(*decoded)
        self.assertLessEqual(len(again), 16 * len(data) + 4 * amf0.MAX_EXPANSION)
        self.assertEqual(repr(decode(again)), repr(decoded))
