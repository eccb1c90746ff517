"""AMF 3: bytes to values. An AMF 0 message switches to it for one value at a time, by the avmplus-object marker (0x11).

Used by ``amf0``; `decode_value` is for tests and fuzzers. Raises ProtocolError, and nothing else, on any input. The
bounds are those of ``amf``. The three reference tables are kept for a whole message (AMF 3, section 4.1). Numbers
become floats and vectors lists. A dictionary becomes a list of keys and values by turns, since its keys may be any
values. Externalizable objects raise ProtocolError, since only the program that wrote them knows where they end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from rtmp_twisted.wire.amf import (
    MAX_KEY_LENGTH,
    MAX_VALUES,
    UNDEFINED,
    Date,
    ECMAArray,
    Reader,
    References,
    TypedObject,
    Value,
    XMLDocument,
)
from rtmp_twisted.wire.errors import ProtocolError

_BYTE_ARRAY: Final = 0x0C
_EMPTY_NAME: Final = b"\x01"
_MAX_BYTE_ARRAY: Final = 0x0FFFFFFF


class _Traits(NamedTuple):
    """Section 3.12. ``weight`` is the length of all names: an object that refers to these traits counts it."""

    class_name: str
    names: list[str]
    dynamic: bool
    weight: int


def decode_value(data: bytes, offset: int = 0) -> tuple[Value, int]:
    """Returns the value at ``offset`` and the offset behind it. Raises ProtocolError."""
    reader = Reader(data, offset, MAX_VALUES)
    return Decoder(reader).value(), reader.offset


def encode_byte_array(value: bytes) -> bytes:
    """Returns a byte array with its marker (section 3.14). Raises ValueError for more than 2**28 - 1 bytes."""
    if len(value) > _MAX_BYTE_ARRAY:
        raise ValueError(f"a byte array of {len(value)} bytes")
    return bytes((_BYTE_ARRAY,)) + _encode_u29(len(value) << 1 | 1) + value


def _encode_u29(number: int) -> bytes:
    """Section 1.3.1: seven bits in each of the first three bytes, eight in a fourth."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number >> 7 | 0x80, number & 0x7F))
    if number < 0x200000:
        return bytes((number >> 14 | 0x80, number >> 7 & 0x7F | 0x80, number & 0x7F))
    return bytes((number >> 22 | 0x80, number >> 15 & 0x7F | 0x80, number >> 8 & 0x7F | 0x80, number & 0xFF))


class Decoder:
    """Reads values from ``reader``. Keeps the reference tables of a message (section 2.2)."""

    __slots__ = ("_reader", "_references", "_strings", "_traits")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._strings: list[str] = []
        self._references = References()
        self._traits: list[_Traits] = []

    def value(self) -> Value:
        """Returns the next value. Raises ProtocolError."""
        self._reader.count_values(1)
        match self._reader.byte():
            case 0x00:
                return UNDEFINED
            case 0x01:
                return None
            case 0x02:
                return False
            case 0x03:
                return True
            case 0x04:
                number = self._u29()
                return float(number - 0x20000000 if number & 0x10000000 else number)
            case 0x05:
                return self._reader.double()
            case 0x06:
                return self._string()
            case marker:
                return self._referable(marker)

    def _referable(self, marker: int) -> Value:
        """Reads a value, or a reference to one: the lowest bit says which (section 2.2)."""
        if not 0x07 <= marker <= 0x11:
            raise ProtocolError(f"AMF3: marker 0x{marker:02x} at offset {self._reader.offset - 1} is not known")
        header = self._u29()
        if not header & 1:
            return self._reader.refer(self._references, header >> 1)
        rest = header >> 1
        match marker:
            case 0x07 | 0x0B:
                return self._reader.share(self._references, XMLDocument(self._reader.text(rest)), rest)
            case 0x08:
                return self._reader.share(self._references, Date(self._reader.double()), 8)
            case 0x09:
                return self._array(rest)
            case 0x0A:
                return self._object(rest)
            case 0x0C:
                return self._reader.share(self._references, self._reader.take(rest), rest)
            case 0x10:
                return self._vector(rest)
            case 0x11:
                return self._dictionary(rest)
            case _:
                return self._number_vector(marker, rest)

    def _u29(self) -> int:
        number = 0
        for _ in range(3):
            byte = self._reader.byte()
            number = number << 7 | byte & 0x7F
            if byte < 0x80:
                return number
        return number << 8 | self._reader.byte()

    def _string(self) -> str:
        header = self._u29()
        if header & 1:
            text = self._reader.text(header >> 1)
            if text:
                self._strings.append(text)
            return text
        index = header >> 1
        if index >= len(self._strings):
            raise ProtocolError(f"AMF3: string reference {index} of {len(self._strings)}")
        text = self._strings[index]
        self._reader.expand(len(text))
        return text

    def _name(self) -> str:
        name = self._string()
        if len(name) > MAX_KEY_LENGTH:
            raise ProtocolError(f"AMF3: a name of {len(name)} characters")
        return name

    def _array(self, count: int) -> Value:
        """Section 3.11: the associative part comes before the dense one."""
        if self._reader.data[self._reader.offset : self._reader.offset + 1] == _EMPTY_NAME:
            items: list[Value] = []
            return self._reader.fill(self._references, items, partial(self._dense_part, count))
        return self._reader.fill(self._references, ECMAArray(), partial(self._mixed_parts, count))

    def _dense_part(self, count: int, into: list[Value]) -> None:
        self._reader.byte()
        into.extend(self._values(count))

    def _mixed_parts(self, count: int, into: ECMAArray) -> None:
        self._members(into)
        for index, value in enumerate(self._values(count)):
            into[str(index)] = value

    def _values(self, count: int) -> Iterator[Value]:
        self._reader.check_count(count)
        for _ in range(count):
            yield self.value()

    def _members(self, into: dict[str, Value]) -> None:
        """Reads pairs of a name and a value up to an empty name."""
        while name := self._name():
            into[name] = self.value()

    def _object(self, header: int) -> Value:
        traits = self._read_traits(header)
        container = TypedObject(traits.class_name) if traits.class_name else {}
        return self._reader.fill(self._references, container, partial(self._object_members, traits))

    def _object_members(self, traits: _Traits, into: dict[str, Value]) -> None:
        for name in traits.names:
            into[name] = self.value()
        if traits.dynamic:
            self._members(into)

    def _read_traits(self, header: int) -> _Traits:
        """Section 3.12. ``header`` is the U29 without its lowest bit."""
        if not header & 1:
            index = header >> 1
            if index >= len(self._traits):
                raise ProtocolError(f"AMF3: traits reference {index} of {len(self._traits)}")
            traits = self._traits[index]
            self._reader.expand(traits.weight)
            return traits
        class_name = self._name()
        if header & 2:
            raise ProtocolError(f"AMF3: an externalizable object of class {class_name[:64]!r}")
        count = header >> 3
        self._reader.count_values(count)
        names = [self._name() for _ in range(count)]
        weight = len(class_name) + sum(map(len, names))
        traits = _Traits(class_name, names, bool(header & 4), weight)
        self._traits.append(traits)
        return traits

    def _number_vector(self, marker: int, count: int) -> Value:
        """Section 3.15: vectors of int, uint and double."""
        letter, size = {0x0D: ("i", 4), 0x0E: ("I", 4), 0x0F: ("d", 8)}[marker]
        self._reader.byte()  # Whether its length is fixed.
        self._reader.count_values(count)
        numbers = struct.unpack(f">{count}{letter}", self._reader.take(count * size))
        vector: list[Value] = [float(number) for number in numbers]
        return self._reader.share(self._references, vector, count * size)

    def _vector(self, count: int) -> Value:
        """Section 3.15: a vector of objects."""
        items: list[Value] = []
        return self._reader.fill(self._references, items, partial(self._vector_items, count))

    def _vector_items(self, count: int, into: list[Value]) -> None:
        self._reader.byte()
        self._name()  # The base type.
        into.extend(self._values(count))

    def _dictionary(self, count: int) -> Value:
        entries: list[Value] = []
        return self._reader.fill(self._references, entries, partial(self._entries, count))

    def _entries(self, count: int, into: list[Value]) -> None:
        """Section 3.16."""
        self._reader.byte()  # Whether its keys are weak.
        self._reader.check_count(count)
        for _ in range(count):
            into.append(self.value())
            into.append(self.value())
