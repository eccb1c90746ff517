"""Chunks to messages and back: the RTMP chunk stream (RTMP 1.0, section 5.3).

Reading: `ChunkDecoder.feed` takes bytes as they come and yields each message as soon as its last byte is there;
it yields nothing where more data is needed, and raises ProtocolError where the rest cannot be understood. Set Chunk
Size and Abort change how chunks are read, so they are obeyed here, and not yielded.

Most of the bytes are the payload of messages that span many chunks, whose continuation headers stand at a fixed
stride. They are checked and cut out as one slice: the cost is per message, not per chunk.

Writing: `encode` makes the chunks of one message, always with a type 0 header, so that they mean the same to
whoever reads them from here on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
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
"""In force in each direction until a Set Chunk Size (section 5.4.1)."""

MAX_CHUNK_SIZE: Final = 0xFFFFFF
"""A larger announced value counts as this one: no message is longer (section 5.4.1)."""

MAX_MESSAGE_LENGTH: Final = 0xFFFFFF
"""What 24 bits of message length can say."""

MAX_CHUNK_STREAMS: Final = 256
"""Chunk streams remembered for one connection: 50 times what any known client uses, and 40 kB of memory at most."""

MAX_RUN: Final = 512
"""Chunks taken at one go, so that looking for where a run ends costs little even where runs are short."""

FEW: Final = 16
"""With fewer chunks than that, gathering their payloads is cheaper than cutting out their headers."""

_EXTENDED: Final = 0xFFFFFF
_NO_MORE: Final = (11, 7, 3, 0)
"""Bytes of message header by chunk type (sections 5.3.1.2.1 to 5.3.1.2.4)."""

_header: Final = struct.Struct(">BHBHBBI").pack
_uint32: Final = struct.Struct(">I").pack


class _ChunkStream:
    """What the chunk headers of one chunk stream have said so far, and the message that is half there."""

    __slots__ = ("body", "delta", "extended", "length", "stream_id", "timestamp", "type_id")

    def __init__(self) -> None:
        self.timestamp = 0
        self.delta = 0
        self.length = 0
        self.type_id = 0
        self.stream_id = 0
        self.extended: bytes = b""
        self.body: bytearray | bytes | None = None


class ChunkDecoder:
    """Reads one direction of one connection.

    ``max_message_length`` (bytes) may be changed at any time; a longer message is a ProtocolError when its header
    arrives. The half-received messages of all chunk streams together hold at most 1 MiB more than that, and the
    chunk that is arriving at most as much again; memory grows with what has arrived, never with what was announced.
    """

    __slots__ = ("_buffer", "_chunk_size", "_held", "_need", "_stream", "_streams", "_stride", "max_message_length")

    def __init__(self, max_message_length: int = MAX_MESSAGE_LENGTH) -> None:
        self.max_message_length = max_message_length
        self._chunk_size = DEFAULT_CHUNK_SIZE
        self._streams: dict[int, _ChunkStream] = {}
        self._stream: _ChunkStream | None = None  # whose chunk has its headers read, but not its payload
        self._stride = b""
        self._buffer = bytearray()
        self._need = 0
        self._held = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yields the messages that ``data`` completes. Has to be iterated to its end, or not be used again."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return
            data = bytes(buffer)
            buffer.clear()
        position = 0
        end = len(data)
        stream = self._stream
        while True:
            if stream is None:
                if position == end:
                    break
                try:
                    stream, position = self._read_header(data, position, end)
                except IndexError:  # the header is not all there
                    self._need = end - position + 1
                    break
            held = stream.body
            rest = stream.length - len(held) if held else stream.length
            if rest <= self._chunk_size:
                if end - position < rest:
                    self._need = rest
                    break
                body = data[position : position + rest]
                position += rest
                if held:
                    self._held -= len(held)
                    held += body
                    body = bytes(held)
            else:
                taken = self._take_run(stream, data, position, end, rest)
                if not taken:
                    self._need = self._chunk_size
                    break
                position += taken
                held = stream.body
                if held is None or len(held) < stream.length:
                    stream = None
                    continue
                self._held -= len(held)
                body = bytes(held)
            stream.body = None
            message = Message(stream.type_id, stream.stream_id, stream.timestamp, body)
            stream = None
            if message.type_id > ABORT:
                yield message
            else:
                self._obey(message)
        self._stream = stream
        if position < end:
            buffer += memoryview(data)[position:]

    def _read_header(self, data: bytes, position: int, end: int) -> tuple[_ChunkStream, int]:
        """Reads one chunk's headers (section 5.3.1); returns its chunk stream, and where its payload starts.

        ``_stride`` is then what the next chunk of the same message begins with (empty: not a single byte).
        Raises IndexError, with nothing changed, where more data is needed.
        """
        basic = data[position]
        chunk_type = basic >> 6
        chunk_stream_id = basic & 0x3F
        header = position + 1
        stride = b""
        if chunk_stream_id == 0:
            chunk_stream_id = 64 + data[header]
            header += 1
        elif chunk_stream_id == 1:
            chunk_stream_id = 64 + data[header] + 256 * data[header + 1]
            header += 2
        else:
            stride = bytes((basic | 0xC0,))
        start = header + _NO_MORE[chunk_type]
        if start > end:
            raise IndexError
        stream = self._streams.get(chunk_stream_id)
        if chunk_type == 3:
            if stream is None:
                raise ProtocolError(f"chunk stream {chunk_stream_id} begins with a type 3 chunk")
            extended = stream.extended
            if extended:
                stride = b""
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
            stride = b""
            start += 4
        if stream is None:
            stream = self._open(chunk_stream_id, chunk_type)
        elif stream.body is not None:  # the sender gave the message up without an Abort
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
        stream.body = bytearray()

    def _drop(self, stream: _ChunkStream) -> None:
        if stream.body is not None:
            self._held -= len(stream.body)
            stream.body = None

    def _take_run(self, stream: _ChunkStream, data: bytes, start: int, end: int, rest: int) -> int:
        """Takes the chunks of this message that stand one behind the other; returns the bytes they span.

        ``rest`` is what the message still lacks, more than one chunk. Returns 0 where not even one is all there.
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
        matching = len(headers) - len(headers.lstrip(self._stride)) if self._stride else 0
        span = min(span, (matching + 1) * step - 1)
        view = memoryview(data)[start : start + span]
        run: bytes | bytearray
        if span == whole and not stream.body and matching < FEW:  # the message in one copy
            run = b"".join([view[at : at + step - 1] for at in range(0, span, step)])
        else:
            run = bytearray(view)
            del run[step - 1 :: step]
        if stream.body:
            stream.body += run
        else:
            stream.body = run
        self._held += len(run)
        if self._held > self.max_message_length + 0x100000:
            raise ProtocolError(f"{self._held} bytes of half-received messages")
        return span

    def _obey(self, message: Message) -> None:
        """A message that changes how chunks are read."""
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
    """The chunks of one message. ``chunk_stream_id`` is 2 to 63; ``chunk_size`` 1 to 16,777,215 bytes."""
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
    """Appends the chunks of one message to ``parts`` without copying its body; returns their length in bytes."""
    length = len(body)
    time = timestamp if timestamp < _EXTENDED else _EXTENDED
    header = _header(chunk_stream_id, time >> 8, time & 0xFF, length >> 8, length & 0xFF, type_id, _swap(stream_id))
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


def _swap(stream_id: int) -> int:
    """The message stream id is the protocol's one little-endian field (section 5.3.1.2.1)."""
    return stream_id << 24 if stream_id < 0x100 else int.from_bytes(stream_id.to_bytes(4, "little"), "big")


LOG_STREAM_ID: Final = 1
"""The message stream id of what a `ChunkFormat` writes: what createStream gives a connection first."""

LOG_CHUNK_STREAM_IDS: Final = {USER_CONTROL: 2, COMMAND_AMF0: 3, AUDIO: 4, DATA_AMF0: 5, DATA_AMF3: 5, VIDEO: 6}
"""Chunk stream by message type; 2 is prescribed for control messages (section 5.4), the others are free.
All fit a one-byte basic header, so that a message's stream id stands at a fixed place (`restream`)."""


class ChunkFormat:
    """The form of a channel's own log: chunks of ``chunk_size`` bytes, for message stream `LOG_STREAM_ID` (a User
    Control message for stream 0, as all of them)."""

    preamble: Final = b""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size

    def append(self, parts: list[bytes | memoryview], type_id: int, timestamp: int, body: bytes) -> int:
        """Appends the chunks of one message without copying its body; returns their length in bytes."""
        stream_id = 0 if type_id == USER_CONTROL else LOG_STREAM_ID
        chunk_stream_id = LOG_CHUNK_STREAM_IDS[type_id]
        return append_chunks(parts, chunk_stream_id, self._chunk_size, type_id, stream_id, timestamp, body)


def restream(data: bytes, start: int, end: int, stream_id: int) -> list[bytes | memoryview]:
    """Gives one message of a `ChunkFormat`'s bytes, which is at ``start`` to ``end``, another message stream id.

    The id is in bytes 8 to 11 of the type 0 header (section 5.3.1.2.1). A User Control message names the stream in its
    event data instead (section 7.1.7), which ends it.
    """
    if data[start + 7] == USER_CONTROL:
        return [data[start : end - 4] + stream_id.to_bytes(4, "big")]
    return [data[start : start + 8] + stream_id.to_bytes(4, "little"), memoryview(data)[start + 12 : end]]
