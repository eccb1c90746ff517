"""AMF 0: bytes to values and back. May be used by every other room.

`decode` raises ProtocolError, and nothing else, on any input. Its bounds are the constants that ``amf`` has as well.
It accepts two deviations that encoders have: an object or ECMA array at the end of a message may lack its end marker,
and bytes that are not UTF-8 are replaced by U+FFFD. References are followed, except to a container that they are in.
The unsupported marker (0x0D) is read as UNDEFINED; movie clips and record sets raise ProtocolError.
"""

from __future__ import annotations

import struct
from typing import Final

from rtmp_twisted.wire import amf3
from rtmp_twisted.wire.amf import (
    MAX_DEPTH,
    MAX_EXPANSION,
    MAX_KEY_LENGTH,
    MAX_VALUES,
    UNDEFINED,
    Date,
    ECMAArray,
    Reader,
    References,
    TypedObject,
    Undefined,
    Value,
    XMLDocument,
)
from rtmp_twisted.wire.errors import ProtocolError

__all__ = [
    "MAX_DEPTH",
    "MAX_EXPANSION",
    "MAX_KEY_LENGTH",
    "MAX_VALUES",
    "UNDEFINED",
    "Date",
    "ECMAArray",
    "TypedObject",
    "Undefined",
    "Value",
    "XMLDocument",
    "decode",
    "encode",
]

# Type markers: AMF 0, section 2.1.
NUMBER: Final = 0x00
BOOLEAN: Final = 0x01
STRING: Final = 0x02
OBJECT: Final = 0x03
NULL: Final = 0x05
UNDEFINED_MARKER: Final = 0x06
REFERENCE: Final = 0x07
ECMA_ARRAY: Final = 0x08
OBJECT_END: Final = 0x09
STRICT_ARRAY: Final = 0x0A
DATE: Final = 0x0B
LONG_STRING: Final = 0x0C
UNSUPPORTED: Final = 0x0D
XML_DOCUMENT: Final = 0x0F
TYPED_OBJECT: Final = 0x10
AVMPLUS_OBJECT: Final = 0x11


def decode(data: bytes, offset: int = 0, max_values: int = MAX_VALUES) -> list[Value]:
    """Returns all values from ``offset`` to the end of ``data``. Numbers are returned as float.

    ``max_values`` bounds the values, those within containers included, and with them the time: up to 5 µs for each.
    Raises ProtocolError where there are more of them, and where they cannot be understood.
    """
    decoder = _Decoder(data, offset, max_values)
    values = []
    while decoder.offset < decoder.end:
        values.append(decoder.value())
    return values


class _Decoder(Reader):
    __slots__ = ("_amf3", "_references")

    def __init__(self, data: bytes, offset: int, max_values: int) -> None:
        super().__init__(data, offset, max_values)
        self._references = References()
        self._amf3: amf3.Decoder | None = None

    def value(self) -> Value:
        self.count_values(1)
        marker = self.byte()
        match marker:
            case 0x00:  # NUMBER
                return self.double()
            case 0x01:  # BOOLEAN
                return self.byte() != 0
            case 0x02:  # STRING
                return self.text(self.number(2))
            case 0x03:  # OBJECT
                return self.fill(self._references, {}, self._properties)
            case 0x05:  # NULL
                return None
            case 0x06 | 0x0D:  # UNDEFINED_MARKER, UNSUPPORTED
                return UNDEFINED
            case 0x08:  # ECMA_ARRAY
                self.take(4)  # The count is a hint, and often wrong; the end marker decides.
                return self.fill(self._references, ECMAArray(), self._properties)
            case _:
                return self._rare_value(marker)

    def _rare_value(self, marker: int) -> Value:
        match marker:
            case 0x07:  # REFERENCE
                return self.refer(self._references, self.number(2))
            case 0x0A:  # STRICT_ARRAY
                items: list[Value] = []
                return self.fill(self._references, items, self._items)
            case 0x0B:  # DATE
                milliseconds = self.double()
                return Date(milliseconds, int.from_bytes(self.take(2), "big", signed=True))
            case 0x0C:  # LONG_STRING
                return self.text(self.number(4))
            case 0x0F:  # XML_DOCUMENT
                return XMLDocument(self.text(self.number(4)))
            case 0x10:  # TYPED_OBJECT
                class_name = self.name(self.number(2))
                return self.fill(self._references, TypedObject(class_name), self._properties)
            case 0x11:  # AVMPLUS_OBJECT: one value, then AMF 0 again (Enhanced RTMP v2, "Enabling AMF3")
                if self._amf3 is None:
                    self._amf3 = amf3.Decoder(self)
                return self._amf3.value()
            case _:
                raise ProtocolError(f"AMF0: marker 0x{marker:02x} at offset {self.offset - 1} is not supported")

    def _properties(self, into: dict[str, Value]) -> None:
        while self.offset < self.end:
            key = self.name(self.number(2))
            if not key:
                if self.offset >= self.end:
                    return
                if self.data[self.offset] == OBJECT_END:
                    self.offset += 1
                    return
            into[key] = self.value()

    def _items(self, into: list[Value]) -> None:
        count = self.number(4)
        self.check_count(count)
        for _ in range(count):
            into.append(self.value())


def encode(*values: Value) -> bytes:
    """Returns the bytes of the values, one after another.

    An ``int`` becomes a number, a ``dict`` an object, a ``list`` a strict array, and ``bytes`` an AMF 3 byte array.
    References are never written. Raises ValueError where values are nested deeper than `MAX_DEPTH` or a key is longer
    than 65,535 bytes, which does not happen with values that `decode` returned.
    """
    out = bytearray()
    for value in values:
        _encode(out, value, 0)
    return bytes(out)


def _encode(out: bytearray, value: Value, depth: int) -> None:
    if isinstance(value, str):
        _encode_string(out, value)
    elif value is None:
        out.append(NULL)
    elif isinstance(value, bool):
        out += b"\x01\x01" if value else b"\x01\x00"
    elif isinstance(value, (int, float)):
        out += struct.pack(">Bd", NUMBER, value)
    elif value is UNDEFINED:
        out.append(UNDEFINED_MARKER)
    elif isinstance(value, Date):
        out += struct.pack(">Bdh", DATE, value.milliseconds, value.timezone)
    elif isinstance(value, bytes):
        out.append(AVMPLUS_OBJECT)
        out += amf3.encode_byte_array(value)
    elif isinstance(value, (dict, list)):
        if depth >= MAX_DEPTH:
            raise ValueError(f"values nested more than {MAX_DEPTH} deep")
        _encode_container(out, value, depth + 1)
    else:
        raise TypeError(f"AMF0 has no {type(value).__name__}")


def _encode_string(out: bytearray, value: str) -> None:
    text = value.encode("utf-8", "replace")
    if isinstance(value, XMLDocument):
        out += struct.pack(">BI", XML_DOCUMENT, len(text))
    elif len(text) > 0xFFFF:
        out += struct.pack(">BI", LONG_STRING, len(text))
    else:
        out += struct.pack(">BH", STRING, len(text))
    out += text


def _encode_container(out: bytearray, value: dict[str, Value] | list[Value], depth: int) -> None:
    if isinstance(value, list):
        out += struct.pack(">BI", STRICT_ARRAY, len(value))
        for item in value:
            _encode(out, item, depth)
        return
    if isinstance(value, ECMAArray):
        out += struct.pack(">BI", ECMA_ARRAY, len(value))
    elif isinstance(value, TypedObject):
        out.append(TYPED_OBJECT)
        _encode_name(out, value.class_name)
    else:
        out.append(OBJECT)
    for key, item in value.items():
        _encode_name(out, key)
        _encode(out, item, depth)
    out += b"\x00\x00\x09"


def _encode_name(out: bytearray, name: str) -> None:
    text = name.encode("utf-8", "replace")
    if len(text) > 0xFFFF:
        raise ValueError(f"a name of {len(text)} bytes")
    out += len(text).to_bytes(2, "big")
    out += text
