"""Chunks to messages and back: the RTMP chunk stream (RTMP 1.0, section 5.3).

Reading: `ChunkDecoder.feed` takes bytes as they arrive. Iterating over what it returns reads them: each message is
yielded as soon as its last byte is there, the iteration ends where more bytes are needed, and ProtocolError is raised
where the rest cannot be understood. Set Chunk Size and Abort change how chunks are read, so they are obeyed here and
not yielded.

Most bytes belong to messages of many chunks, whose continuation headers are at a fixed distance from each other. These
headers are checked and cut out with a few slices: such a message costs about the same however many chunks it has.

Writing: `encode` makes the chunks of one message. Its header is always of type 0, so that the chunks mean the same to
every reader, whatever that reader received before.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Collection, Iterator
from typing import Final

from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import (
    ABORT,
    AUDIO,
    COMMAND_AMF0,
    DATA_AMF0,
    DATA_AMF3,
    SET_CHUNK_SIZE,
    USER_CONTROL,
    VIDEO,
    Message,
    four_bytes,
)

DEFAULT_CHUNK_SIZE: Final = 128
"""Bytes of payload per chunk in each direction until a Set Chunk Size (section 5.4.1)."""

MAX_CHUNK_SIZE: Final = 0xFFFFFF
"""A larger announced chunk size counts as this one: no message is longer (section 5.4.1)."""

MAX_MESSAGE_LENGTH: Final = 0xFFFFFF
"""The longest message, in bytes, that the 24 bits of a message length can announce."""

MAX_CHUNK_STREAMS: Final = 256
"""Chunk streams remembered for one connection: 50 times what any known client uses."""

MAX_HALF_MESSAGES: Final = 0x100000
"""Bytes that all half-received messages together may hold beyond the longest accepted message."""

CHUNKS_AT_ONCE: Final = 64
"""Chunk headers that are read between two items of `ChunkDecoder.feed`. Reading one takes some microseconds."""

MAX_RUN: Final = 512
"""Chunks of a message that are taken in one step. It bounds the cost of finding out where a run ends."""

MAX_JOINED_CHUNKS: Final = 16
"""A whole message of up to so many chunks is joined from slices. A longer one is copied whole, and the headers within
it are deleted, which is then faster."""

_STREAM_OVERHEAD: Final = 256
"""Bytes of memory for each remembered chunk stream: its object, numbers, dictionary entry and half-message object."""

_EXTENDED: Final = 0xFFFFFF
"""The value of a timestamp field that says that the timestamp is in the extended field (section 5.3.1.3)."""

_HEADER_SIZES: Final = (11, 7, 3, 0)
"""Bytes of message header by chunk type (sections 5.3.1.2.1 to 5.3.1.2.4)."""

_header: Final = struct.Struct(">BHBHBBI").pack
_uint32: Final = struct.Struct(">I").pack


class Exhausted(enum.Enum):
    """The type of `EXHAUSTED`."""

    EXHAUSTED = enum.auto()


EXHAUSTED: Final = Exhausted.EXHAUSTED
"""No message is complete any more."""


class _ChunkStream:
    """What the last chunk headers of one chunk stream said, and the message that is half received."""

    __slots__ = ("body", "delta", "extended", "length", "stream_id", "timestamp", "type_id")

    def __init__(self) -> None:
        self.timestamp = 0
        self.delta = 0
        self.length = 0
        self.type_id = 0
        self.stream_id = 0
        self.extended: bytes = b""
        self.body: bytearray | bytes | None = None  # None: the next chunk begins a message


class ChunkDecoder:
    """Reads one direction of one connection. It is also the iterator that `feed` returns.

    ``max_message_length`` (bytes) may be changed at any time; a longer message is a ProtocolError when its header
    arrives. The half-received messages of all chunk streams together hold at most 1 MiB more than that. Memory grows
    with what has arrived, never with what was announced. After a ProtocolError only `clear` may be called.
    """

    __slots__ = (
        "_chunk_left",
        "_chunk_size",
        "_data",
        "_half_bytes",
        "_position",
        "_stream",
        "_streams",
        "_stride",
        "max_message_length",
    )

    def __init__(self, max_message_length: int = MAX_MESSAGE_LENGTH) -> None:
        self.max_message_length = max_message_length
        self._chunk_size = DEFAULT_CHUNK_SIZE
        self._streams: dict[int, _ChunkStream] = {}
        self._data: bytes = b""  # bytes that have not been read from ``_position`` on
        self._position = 0
        self._stream: _ChunkStream | None = None  # the one whose chunk is half received
        self._chunk_left = 0  # bytes that this chunk lacks
        self._stride = 0
        self._half_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that are held for what has arrived, roughly; 0 before `feed` and after `clear`.

        The sum of: the input that is being read, as a whole until its last message has been yielded; the half-received
        messages, 1.125 times, since a bytearray that grows allocates an eighth more than it holds; and 256 bytes for
        each chunk stream that was ever used. It is computed from counters: its cost does not grow with them.
        """
        half = self._half_bytes
        return len(self._data) + half + (half >> 3) + _STREAM_OVERHEAD * len(self._streams)

    @property
    def partial(self) -> bool:
        """Whether a message or a chunk header is half received, or input is unread."""
        return self._position < len(self._data) or self._stream is not None or self._half_bytes > 0

    def feed(self, data: bytes) -> Iterator[Message | None]:
        """Adds ``data`` to the unread input, and returns an iterator over the messages that are complete.

        The iterator may be left at any item and continued at any later time: nothing is lost in between. All
        iterators of a decoder read the same input, so it makes no difference whether one is continued or ``feed(b"")``
        returns another. More data should be fed only when an iterator has ended, since each call copies what is unread.

        The iterator yields None after `CHUNKS_AT_ONCE` chunk headers that completed no message (those of Set Chunk
        Size and Abort are among them), so that a caller can stop there. The cost of each step is therefore bounded,
        whatever arrives: it is that of as many headers, and of copying ``data`` and one message.
        """
        if self._position < len(self._data):
            data = self._data[self._position :] + data
        self._data = data
        self._position = 0
        return self

    def clear(self) -> None:
        """Drops all that is held, at once, for the end of a connection. Its iterators end; nothing may be fed again."""
        self._data = b""
        self._position = 0
        self._stream = None
        self._streams.clear()
        self._half_bytes = 0

    def __iter__(self) -> Iterator[Message | None]:
        return self

    def __next__(self) -> Message | None:
        item = self.read()
        if item is EXHAUSTED:
            raise StopIteration
        return item

    def read(self) -> Message | Exhausted | None:
        """Returns what the iterator yields next, or `EXHAUSTED` where that ends, which is cheaper than an exception."""
        data = self._data
        end = len(data)
        position = self._position
        if position == end:
            self._data = b""
            self._position = 0
            return EXHAUSTED
        headers = left = 0
        stream = self._stream
        if stream is not None:
            self._stream = None
            left = self._chunk_left
        while True:
            if stream is None:
                if position == end:
                    break
                if headers == CHUNKS_AT_ONCE:
                    self._position = position
                    return None
                headers += 1
                try:
                    stream, position = self._read_header(data, position, end)
                except IndexError:  # the header is not all there
                    break
                left = stream.length - len(stream.body or b"")
                if left > self._chunk_size:
                    taken = self._take_run(stream, data, position, end, left)
                    position += taken
                    left = 0 if taken else self._chunk_size
            if end - position < left:  # the chunk is not all there
                self._append(stream, data[position:])
                self._stream, self._chunk_left = stream, left - (end - position)
                position = end
                break
            payload = data[position : position + left]
            position += left
            half = stream.body or b""
            if len(half) + left < stream.length:
                self._append(stream, payload)
                stream = None
                continue
            if half:
                self._half_bytes -= len(half)
                payload = b"".join((half, payload)) if payload else bytes(half)
            stream.body = None
            message = Message(stream.type_id, stream.stream_id, stream.timestamp, payload)
            stream = None
            if message.type_id > ABORT:
                self._position = position
                return message
            self._obey(message)
        self._data = data[position:]
        self._position = 0
        return EXHAUSTED

    def _read_header(self, data: bytes, position: int, end: int) -> tuple[_ChunkStream, int]:
        """Reads one chunk's headers (section 5.3.1). Returns its chunk stream and the offset of its payload.

        ``_stride`` is then the one byte that the next chunk of the same message begins with, or 0 where the headers of
        that chunk are longer. Raises IndexError, with nothing changed, where more data is needed.
        """
        basic = data[position]
        chunk_type = basic >> 6
        chunk_stream_id = basic & 0x3F
        header = position + 1
        stride = 0
        if chunk_stream_id == 0:
            chunk_stream_id = 64 + data[header]
            header += 1
        elif chunk_stream_id == 1:
            chunk_stream_id = 64 + data[header] + 256 * data[header + 1]
            header += 2
        else:
            stride = basic | 0xC0
        start = header + _HEADER_SIZES[chunk_type]
        if start > end:
            raise IndexError
        stream = self._streams.get(chunk_stream_id)
        if chunk_type == 3:
            if stream is None:
                raise ProtocolError(f"chunk stream {chunk_stream_id} begins with a type 3 chunk")
            extended = stream.extended
            if extended:
                stride = 0
                repeated = data[start : start + 4]
                if len(repeated) < 4:
                    raise IndexError
                # Some encoders leave the field out of type 3 chunks, against section 5.3.1.3.
                if repeated == extended or stream.body is None:
                    start += 4
            if stream.body is None:
                self._begin(stream, (stream.timestamp + stream.delta) & 0xFFFFFFFF)
            self._stride = stride
            return stream, start
        time = data[header] << 16 | data[header + 1] << 8 | data[header + 2]
        extended = b""
        if time == _EXTENDED:
            extended = data[start : start + 4]
            if len(extended) < 4:
                raise IndexError
            time = int.from_bytes(extended, "big")
            stride = 0
            start += 4
        if stream is None:
            stream = self._open(chunk_stream_id, chunk_type)
        elif stream.body is not None:  # the sender has given up the message without an Abort
            self._drop(stream)
        stream.extended = extended
        stream.delta = time
        if chunk_type < 2:
            stream.length = data[header + 3] << 16 | data[header + 4] << 8 | data[header + 5]
            stream.type_id = data[header + 6]
            if chunk_type == 0:
                stream.stream_id = int.from_bytes(data[header + 7 : header + 11], "little")
        self._begin(stream, time if chunk_type == 0 else (stream.timestamp + time) & 0xFFFFFFFF)
        self._stride = stride
        return stream, start

    def _open(self, chunk_stream_id: int, chunk_type: int) -> _ChunkStream:
        if chunk_type == 2:
            raise ProtocolError(f"chunk stream {chunk_stream_id} begins with a type 2 chunk")
        if len(self._streams) >= MAX_CHUNK_STREAMS:
            raise ProtocolError(f"more than {MAX_CHUNK_STREAMS} chunk streams")
        stream = self._streams[chunk_stream_id] = _ChunkStream()
        return stream

    def _begin(self, stream: _ChunkStream, timestamp: int) -> None:
        if stream.length > self.max_message_length:
            raise ProtocolError(
                f"a message (type {stream.type_id}) of {stream.length} bytes, "
                f"where at most {self.max_message_length} are accepted"
            )
        stream.timestamp = timestamp
        stream.body = b""

    def _drop(self, stream: _ChunkStream) -> None:
        if stream.body is not None:
            self._half_bytes -= len(stream.body)
            stream.body = None

    def _append(self, stream: _ChunkStream, payload: bytes | bytearray) -> None:
        """Adds to a half-received message."""
        if not payload:
            return
        body = stream.body
        if isinstance(body, bytearray):
            body += payload
        else:
            stream.body = payload if isinstance(payload, bytearray) else bytearray(payload)
        self._half_bytes += len(payload)
        if self._half_bytes > self.max_message_length + MAX_HALF_MESSAGES:
            raise ProtocolError(f"{self._half_bytes} bytes of half-received messages")

    def _take_run(self, stream: _ChunkStream, data: bytes, start: int, end: int, rest: int) -> int:
        """Takes the chunks of one message that follow each other, up to the first that has not wholly arrived.

        The first one's payload is at ``start``; the message lacks ``rest`` bytes, more than one chunk has. Returns the
        number of bytes that the chunks span: 0 where not even the first has wholly arrived.
        """
        step = self._chunk_size + 1
        available = end - start
        span = whole = rest + (rest - 1) // self._chunk_size
        if available < span:
            span = (available + 1) // step * step - 1
            if span < 0:
                return 0
        span = min(span, MAX_RUN * step - 1)
        headers = data[start + step - 1 : start + span : step]
        matching = len(headers) - len(headers.lstrip(bytes((self._stride,)))) if self._stride else 0
        span = min(span, (matching + 1) * step - 1)
        view = memoryview(data)[start : start + span]
        if span == whole and not stream.body and matching < MAX_JOINED_CHUNKS:
            body = b"".join([view[at : at + step - 1] for at in range(0, span, step)])
            stream.body = body
            self._half_bytes += len(body)
        else:
            run = bytearray(view)
            del run[step - 1 :: step]
            self._append(stream, run)
        return span

    def _obey(self, message: Message) -> None:
        """Does what a message asks that changes how chunks are read."""
        if message.type_id == SET_CHUNK_SIZE:
            size = four_bytes(message)
            if not 0 < size < 0x80000000:
                raise ProtocolError(f"a chunk size of {size}")
            self._chunk_size = min(size, MAX_CHUNK_SIZE)
        elif message.type_id == ABORT:
            aborted = self._streams.get(four_bytes(message))
            if aborted is not None:
                self._drop(aborted)


def encode(message: Message, chunk_stream_id: int, chunk_size: int) -> bytes:
    """Returns the chunks of one message. ``chunk_stream_id`` is 2 to 63; ``chunk_size`` 1 to 16,777,215 bytes."""
    parts: list[bytes | memoryview] = []
    type_id, stream_id, timestamp, body = message
    append_chunks(parts, chunk_stream_id, chunk_size, type_id, stream_id, timestamp, body)
    return b"".join(parts)


def append_chunks(
    parts: list[bytes | memoryview],
    chunk_stream_id: int,
    chunk_size: int,
    type_id: int,
    stream_id: int,
    timestamp: int,
    body: bytes,
) -> int:
    """Appends the chunks of one message to ``parts`` without copying its body. Returns their length in bytes."""
    length = len(body)
    time = timestamp if timestamp < _EXTENDED else _EXTENDED
    # A message stream id is the one little-endian field of the protocol (section 5.3.1.2.1).
    swapped = stream_id << 24 if stream_id < 0x100 else int.from_bytes(stream_id.to_bytes(4, "little"), "big")
    header = _header(chunk_stream_id, time >> 8, time & 0xFF, length >> 8, length & 0xFF, type_id, swapped)
    extended = b""
    if time == _EXTENDED:
        extended = _uint32(timestamp)
        header += extended
    parts.append(header)
    if length <= chunk_size:
        parts.append(body)
        return len(header) + length
    continuation = bytes((chunk_stream_id | 0xC0,)) + extended
    view = memoryview(body)
    parts.append(view[:chunk_size])
    for start in range(chunk_size, length, chunk_size):
        parts.append(continuation)
        parts.append(view[start : start + chunk_size])
    return len(header) + length + (length - 1) // chunk_size * len(continuation)


_ALL_ONES: Final = b"\xff\xff\xff"
"""In place of a timestamp that is extended."""

LOG_STREAM_ID: Final = 1
"""The message stream id that a `ChunkFormat` writes: the first that createStream gives a connection."""

LOG_CHUNK_STREAM_IDS: Final = {USER_CONTROL: 2, COMMAND_AMF0: 3, AUDIO: 4, DATA_AMF0: 5, DATA_AMF3: 5, VIDEO: 6}
"""Chunk stream by message type. 2 is prescribed for control messages (section 5.4); the others are a free choice. All
of them fit a basic header of one byte, so that the message stream id is at a fixed place (`restream`)."""


class ChunkFormat:
    """The form of a channel's own log: chunks of ``chunk_size`` bytes.

    Messages are for message stream `LOG_STREAM_ID`, but User Control messages, as always, for stream 0.
    """

    all_tracks: Final = True

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size

    def preamble(self, types: Collection[int]) -> bytes:
        """Nothing."""
        return b""

    def append(self, parts: list[bytes | memoryview], type_id: int, timestamp: int, body: bytes) -> int:
        """Appends the chunks of one message without copying its body. Returns their length in bytes."""
        stream_id = 0 if type_id == USER_CONTROL else LOG_STREAM_ID
        chunk_stream_id = LOG_CHUNK_STREAM_IDS[type_id]
        return append_chunks(parts, chunk_stream_id, self._chunk_size, type_id, stream_id, timestamp, body)


def restream(data: bytes, start: int, end: int, stream_id: int) -> list[bytes | memoryview]:
    """Returns the chunks of one message, ``data[start:end]``, with another message stream id.

    A `ChunkFormat` must have written them. The id is in bytes 8 to 11, in the type 0 header (section 5.3.1.2.1). A User
    Control message ends with the id of the stream that it is about (section 7.1.7): that one is replaced.
    """
    if data[start + 7] == USER_CONTROL:
        return [data[start : end - 4] + stream_id.to_bytes(4, "big")]
    return [data[start : start + 8] + stream_id.to_bytes(4, "little"), memoryview(data)[start + 12 : end]]


def time_of(data: bytes, start: int) -> int:
    """Returns the timestamp of the message at ``start``, which a `ChunkFormat` must have written."""
    time = data[start + 1 : start + 4]
    return int.from_bytes(data[start + 12 : start + 16] if time == _ALL_ONES else time, "big")


def retime(
    data: bytes, start: int, end: int, stream_id: int, timestamp: int, chunk_size: int
) -> list[bytes | memoryview]:
    """Returns the chunks of one message, ``data[start:end]``, with another message stream id and another timestamp.

    A `ChunkFormat` must have written them, and no User Control message. Only where either timestamp is extended
    (section 5.3.1.3), each of the chunks is written anew.
    """
    if timestamp < _EXTENDED and data[start + 1 : start + 4] != _ALL_ONES:
        head = data[start : start + 1] + timestamp.to_bytes(3, "big") + data[start + 4 : start + 8]
        return [head + stream_id.to_bytes(4, "little"), memoryview(data)[start + 12 : end]]
    parts: list[bytes | memoryview] = []
    append_chunks(
        parts, data[start], chunk_size, data[start + 7], stream_id, timestamp, body_of(data, start, end, chunk_size)
    )
    return parts


def body_of(data: bytes, start: int, end: int, chunk_size: int) -> bytes:
    """Returns the body of the message ``data[start:end]``, which a `ChunkFormat` must have written."""
    extended = 4 if data[start + 1 : start + 4] == _ALL_ONES else 0
    # A basic header of one byte, and perhaps the timestamp again, before each chunk but the first.
    first, step = start + 12 + extended, chunk_size + 1 + extended
    return b"".join([data[place : min(place + chunk_size, end)] for place in range(first, end, step)])
