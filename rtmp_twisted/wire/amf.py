"""What AMF 0 and AMF 3 share: the values, the bounds, and the reader that enforces them.

Used by ``amf0`` and ``amf3`` only. All other modules import ``amf0``, which re-exports the values and the bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, TypeAlias, TypeVar

from rtmp_twisted.wire.errors import ProtocolError

MAX_DEPTH: Final = 32
"""Levels of containers within containers. A deeper value raises ProtocolError when decoded, ValueError when encoded."""

MAX_VALUES: Final = 65_536
"""Values in one message, unless the caller asks for fewer. The onMetaData of a long file may have an index of its
keyframes, with two values for each."""

MAX_KEY_LENGTH: Final = 16_383
"""Bytes (in AMF 3: characters) of the name of a property or a class. A character takes at most four bytes, so that each
name that was decoded can be encoded again within the 65,535 bytes of AMF 0."""

MAX_EXPANSION: Final = 262_144
"""Bytes that references add to one message. Each counts as many as the value it refers to has. Without this bound, the
values of a message of some kilobytes could take gigabytes when they are encoded again."""


class Undefined(Enum):
    """The type of `UNDEFINED`, which is false."""

    UNDEFINED = "undefined"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "UNDEFINED"


UNDEFINED: Final = Undefined.UNDEFINED


class Date(NamedTuple):
    """AMF 0 section 2.13: ``milliseconds`` since 1970 in UTC; ``timezone`` is reserved and 0."""

    milliseconds: float
    timezone: int = 0


class XMLDocument(str):
    """AMF 0 section 2.17, and both XML types of AMF 3: the document's text."""

    __slots__ = ()


class ECMAArray(dict[str, "Value"]):
    """AMF 0 section 2.10, and an AMF 3 array with an associative part (dense items under "0", "1" …)."""

    __slots__ = ()


class TypedObject(dict[str, "Value"]):
    """AMF 0 section 2.18, and an AMF 3 object with a class name."""

    __slots__ = ("class_name",)

    def __init__(self, class_name: str, properties: dict[str, Value] | None = None) -> None:
        super().__init__(properties or {})
        self.class_name = class_name

    def __repr__(self) -> str:
        return f"TypedObject({self.class_name!r}, {dict.__repr__(self)})"


Value: TypeAlias = "bool | float | str | bytes | Undefined | Date | list[Value] | dict[str, Value] | None"
"""``bytes`` is an AMF 3 byte array. XMLDocument is a str, ECMAArray and TypedObject are dicts."""


class _Shared(NamedTuple):
    """A value that references can refer to: its length in bytes, and the levels of containers that it has."""

    value: Value
    weight: int
    height: int


_T = TypeVar("_T", bound=Value)


class References:
    """The values that references can refer to, in the order in which they began."""

    __slots__ = ("table",)

    def __init__(self) -> None:
        # None stands for a container that has not ended: a reference to it would make a cycle.
        self.table: list[_Shared | None] = []


class Reader:
    """A position in a message, and how much of each bound is left.

    Each method raises ProtocolError where the bytes end too early or a bound is exceeded.
    """

    __slots__ = ("data", "deepest", "depth", "end", "expanded", "max_values", "offset", "values_left")

    def __init__(self, data: bytes, offset: int, max_values: int) -> None:
        self.data = data
        self.offset = offset
        self.end = len(data)
        self.max_values = max_values
        self.values_left = max_values
        self.expanded = 0
        self.depth = 0
        self.deepest = 0

    def take(self, count: int) -> bytes:
        start = self.offset
        stop = start + count
        if stop > self.end:
            raise ProtocolError(f"AMF: {count} bytes announced at offset {start}, {self.end - start} left")
        self.offset = stop
        return self.data[start:stop]

    def byte(self) -> int:
        offset = self.offset
        if offset >= self.end:
            raise ProtocolError(f"AMF: the data ends at offset {offset} in the middle of a value")
        self.offset = offset + 1
        return self.data[offset]

    def number(self, size: int) -> int:
        """Returns an unsigned number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def double(self) -> float:
        (value,) = struct.unpack(">d", self.take(8))
        return float(value)

    def text(self, length: int) -> str:
        # Some encoders write Latin-1. To lose a letter is better than to lose the stream.
        return self.take(length).decode("utf-8", "replace")

    def name(self, length: int) -> str:
        if length > MAX_KEY_LENGTH:
            raise ProtocolError(f"AMF: a name of {length} bytes")
        return self.text(length)

    def check_count(self, count: int) -> None:
        """Refuses more values than bytes are left: each value takes at least one."""
        if count > self.end - self.offset:
            raise ProtocolError(f"AMF: {count} values announced, {self.end - self.offset} bytes left")

    def count_values(self, count: int) -> None:
        """Counts ``count`` values that begin here."""
        self.check_count(count)
        self.values_left -= count
        if self.values_left < 0:
            raise ProtocolError(f"AMF: more than {self.max_values} values in one message")

    def expand(self, weight: int) -> None:
        """Counts a reference to a value of ``weight`` bytes."""
        self.expanded += weight
        if self.expanded > MAX_EXPANSION:
            raise ProtocolError(f"AMF: references stand for more than {MAX_EXPANSION} bytes")

    def fill(self, references: References, container: _T, read: Callable[[_T], None]) -> _T:
        """Adds ``container`` to ``references``, calls ``read`` to fill it, one level deeper, and returns it."""
        table = references.table
        index = len(table)
        table.append(None)
        start = self.offset + self.expanded
        outer = self.deepest
        self._deeper(1)
        self.deepest = self.depth = self.depth + 1
        read(container)
        height = self.deepest - self.depth + 1
        self.depth -= 1
        self.deepest = max(outer, self.deepest)
        table[index] = _Shared(container, self.offset + self.expanded - start, height)
        return container

    def share(self, references: References, value: _T, weight: int) -> _T:
        """Adds a value that is no container to ``references``, and returns it."""
        references.table.append(_Shared(value, weight, 0))
        return value

    def refer(self, references: References, index: int) -> Value:
        """Returns the value that reference ``index`` refers to."""
        shared = references.table[index] if index < len(references.table) else None
        if shared is None:
            raise ProtocolError(f"AMF: reference {index} is to no value, or to one that has not ended")
        self.expand(shared.weight)
        self._deeper(shared.height)
        self.deepest = max(self.deepest, self.depth + shared.height)
        return shared.value

    def _deeper(self, levels: int) -> None:
        if self.depth + levels > MAX_DEPTH:
            raise ProtocolError(f"AMF: values nested more than {MAX_DEPTH} deep")
