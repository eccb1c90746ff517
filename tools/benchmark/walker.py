"""Reads one player's chunk stream (RTMP 1.0, section 5.3) in a few steps per message, whatever its size.

A load generator in Python has about ten microseconds for a message, so it must not touch the payload. Three ideas:

- *Stride.* Within a message the continuation headers stand ``chunk size + 1`` bytes apart. The walker
  skips a whole run of chunks, and one slice with that stride checks that each header is where it must be. The same
  check notices other chunks in between: the run ends there and the next header is read.
- *Memory.* Many players get the same bytes. The plan for a message (its length on the wire, which frame it is) is kept
  by the message's first bytes and used by all walkers. Only a message's start is looked up; every walker still walks
  every message.
- *Sampling.* A walker that is told to ``collect`` takes chunk after chunk, and passes each whole message on with its
  timestamp, to be compared with what was sent.

No sockets and no clock: it is fed a buffer. The server may send wrong bytes: WalkError says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import rtmp
from .frames import HEAD, Frame

LONGEST_HEADER = 3 + 11 + 4
RESERVE = LONGEST_HEADER + HEAD
"""Bytes that must stand before those that ``feed`` is given: an incomplete header is put there."""

KEY_SIZE = 12 + HEAD
MOST_PLANS = 20_000
LARGEST_CHUNK_SIZE = 0xFFFFFF

_MESSAGE_HEADER_SIZE = (11, 7, 3, 0)


class WalkError(Exception):
    """What the server sent is not a valid chunk stream."""


class Message(NamedTuple):
    """What a chunk stream remembers of its last message: ``timestamp`` and ``delta`` in milliseconds."""

    timestamp: int = 0
    delta: int = 0
    size: int = 0
    type_id: int = 0
    extended: bool = False
    head: bytes = b""
    frame: Frame | None = None


class Plan(NamedTuple):
    """How to skip a run of chunks on one chunk stream.

    ``header_size`` is that of the first chunk's header, ``wire`` the run's length behind it, ``payload`` how much of
    the message it holds, ``marks`` the first byte of each continuation header.
    """

    header_size: int
    wire: int
    payload: int
    marks: bytes
    chunk_stream: int
    message: Message
    frame: Frame | None
    """The frame, where the run is the whole of it."""


Plans = dict[int, dict[bytes, Plan]]
"""Plans by chunk size and first bytes, for all walkers of a process to share."""

Identify = Callable[[int, int, bytes], Frame | None]
"""(message type id, size, first bytes) -> the frame that it is."""


class Walker:
    """The reading end of one connection, from the first byte after the handshake on.

    ``on_frame(frame, now)`` is called at the end of each frame, ``on_control(type id, first bytes)`` for protocol
    control messages, and ``on_message(type id, timestamp, body)`` for all others while ``collect`` is true.
    ``collect`` may be turned off in ``on_message``, and not be turned on again.
    """

    __slots__ = (
        "_bodies", "_done", "_identify", "_left", "_messages", "_phase", "_plan", "_plans", "_shared", "_stride",
        "_tail", "chunk_size", "collect", "on_control", "on_frame", "on_message",
    )  # fmt: skip

    def __init__(
        self,
        identify: Identify,
        shared: Plans,
        on_frame: Callable[[Frame, int], None],
        on_control: Callable[[int, bytes], None],
        on_message: Callable[[int, int, bytes], None],
    ) -> None:
        self._identify = identify
        self._shared = shared
        self.on_frame = on_frame
        self.on_control = on_control
        self.on_message = on_message
        self.collect = True
        self._tail = b""
        self._plan: Plan
        self._left = 0
        """Bytes until the run's end, and until its next continuation header."""
        self._phase = 0
        self._stride = 0
        self._messages: dict[int, Message] = {}
        self._done: dict[int, int] = {}
        """By chunk stream: how much has come of a message that is not complete, and its bytes while collecting."""
        self._bodies: dict[int, bytearray] = {}
        self._set_chunk_size(rtmp.DEFAULT_CHUNK_SIZE)

    def feed(self, buffer: bytearray, start: int, end: int, now: int) -> None:
        """Takes the bytes in ``buffer[start:end]``, received at ``now``. Raises WalkError.

        The RESERVE bytes before ``start`` are there to be overwritten.
        """
        position = start
        if self._tail:
            position -= len(self._tail)
            buffer[position:start] = self._tail
            self._tail = b""
        while position < end:
            if self._left:
                position = self._advance(buffer, position, end, now)
                continue
            plan = None if self.collect else self._plans.get(bytes(buffer[position : position + KEY_SIZE]))
            if plan is None:
                plan = self._read_header(buffer, position, end)
                if plan is None:
                    self._tail = bytes(buffer[position:end])
                    return
            header_size, wire, _, marks, chunk_stream, message, frame = plan
            position += header_size
            stop = position + wire
            # The usual case: the whole frame has arrived. Everything else takes the slower path.
            if frame and stop <= end and buffer[position + self.chunk_size : stop : self.chunk_size + 1] == marks:
                self._messages[chunk_stream] = message
                self.on_frame(frame, now)
                position = stop
            else:
                self._enter(plan, now)

    def _read_header(self, buffer: bytearray, position: int, end: int) -> Plan | None:
        """Reads a chunk's header (section 5.3.1); None if it, or what identifies the message, is not all there."""
        form, chunk_stream = buffer[position] >> 6, buffer[position] & 63
        at = position + 1
        if chunk_stream < 2:
            at += chunk_stream + 1
            if at > end:
                return None
            chunk_stream = 64 + int.from_bytes(buffer[position + 1 : at], "little")
        field, at = at, at + _MESSAGE_HEADER_SIZE[form]
        last = self._messages.get(chunk_stream)
        if last is None:
            if form > 1:
                raise WalkError(f"chunk stream {chunk_stream} begins with a header of type {form}")
            last = Message()
        time = int.from_bytes(buffer[field : field + 3], "big") if form < 3 else last.delta
        extended = time == rtmp.EXTENDED if form < 3 else last.extended
        if extended:
            at += 4
            time = int.from_bytes(buffer[at - 4 : at], "big")
        if at > end:
            return None
        done = self._done.get(chunk_stream, 0)
        if done:
            if form != 3:
                raise WalkError(f"a message on chunk stream {chunk_stream} ends after {done} of {last.size} bytes")
            return self._plan_run(chunk_stream, last, at - position, done)
        size = int.from_bytes(buffer[field + 3 : field + 6], "big") if form < 2 else last.size
        type_id = buffer[field + 6] if form < 2 else last.type_id
        head = bytes(buffer[at : min(end, at + HEAD)])[:size]
        if len(head) < min(size, HEAD):
            return None
        frame = self._identify(type_id, size, head)
        now = time if form == 0 else (last.timestamp + (last.delta if form == 3 else time)) & 0xFFFFFFFF
        message = Message(now, last.delta if form == 3 else time, size, type_id, extended, head, frame)
        plan = self._plan_run(chunk_stream, message, at - position, 0)
        if plan.frame and form < 2:
            self._remember(bytes(buffer[position : position + KEY_SIZE]), plan)
        return plan

    def _plan_run(self, chunk_stream: int, message: Message, header_size: int, done: int) -> Plan:
        """A run to the message's end, or of one chunk where a stride would not do."""
        payload = message.size - done
        if self.collect or chunk_stream > 63:
            payload = min(payload, self.chunk_size)
        continued = max(0, payload - 1) // self.chunk_size
        wire = payload + continued * (5 if message.extended else 1)
        marks = bytes([0xC0 | chunk_stream]) * continued if continued else b""
        is_simple = payload == message.size and not self.collect and not message.extended
        frame = message.frame if is_simple else None
        return Plan(header_size, wire, payload, marks, chunk_stream, message, frame)

    def _remember(self, key: bytes, plan: Plan) -> None:
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        if len(key) == KEY_SIZE:
            self._plans[key] = plan

    def _enter(self, plan: Plan, now: int) -> None:
        self._plan = plan
        self._messages[plan.chunk_stream] = plan.message
        self._left = plan.wire
        self._phase = self.chunk_size
        self._stride = self.chunk_size + (5 if plan.message.extended else 1)
        if not plan.wire:
            self._end_run(now)

    def _advance(self, buffer: bytearray, position: int, end: int, now: int) -> int:
        """Goes on in the run, as far as there are bytes; returns the new position."""
        plan = self._plan
        take = min(self._left, end - position)
        stop = position + take
        if self.collect:
            self._bodies.setdefault(plan.chunk_stream, bytearray()).extend(memoryview(buffer)[position:stop])
        if self._phase < take:
            marks = buffer[position + self._phase : stop : self._stride]
            if marks.count(plan.marks[:1]) != len(marks):
                return self._cut(marks, position)
        self._left -= take
        self._phase = (self._phase - take) % self._stride
        if not self._left:
            self._end_run(now)
        return stop

    def _cut(self, marks: bytearray, position: int) -> int:
        """Ends the run before a chunk that does not belong to it."""
        plan = self._plan
        wrong = next(index for index, byte in enumerate(marks) if byte != plan.marks[0])
        boundary = position + self._phase + wrong * self._stride
        walked = plan.wire - self._left + boundary - position
        chunk_count = (walked - self.chunk_size) // self._stride + 1
        done = self._done.get(plan.chunk_stream, 0)
        self._done[plan.chunk_stream] = done + chunk_count * self.chunk_size
        self._left = 0
        return boundary

    def _end_run(self, now: int) -> None:
        plan = self._plan
        message = plan.message
        done = self._done.pop(plan.chunk_stream, 0) + plan.payload
        if done < message.size:
            self._done[plan.chunk_stream] = done
            return
        body = bytes(self._bodies.pop(plan.chunk_stream, b""))
        if message.type_id < rtmp.AUDIO:
            self._control(message.type_id, message.head)
            return
        if message.frame:
            self.on_frame(message.frame, now)
        if self.collect:
            self.on_message(message.type_id, message.timestamp, body)

    def _control(self, type_id: int, head: bytes) -> None:
        number = int.from_bytes(head[:4], "big")
        if type_id == rtmp.SET_CHUNK_SIZE:
            if len(head) < 4 or number < HEAD:
                raise WalkError(f"a chunk size of {number} is too small for this tool")
            self._set_chunk_size(min(number, LARGEST_CHUNK_SIZE))
        elif type_id == rtmp.ABORT:
            self._done.pop(number, None)
            self._bodies.pop(number, None)
        self.on_control(type_id, head)

    def _set_chunk_size(self, size: int) -> None:
        self.chunk_size = size
        self._plans = self._shared.setdefault(size, {})
