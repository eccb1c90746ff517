"""rtmp_twisted.wire.chunks: tables of bytes, each fed whole, byte by byte and at every split; and round trips.

Each is also read with pauses: an iterator is left at each item, and the same one or a new one goes on.
"""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.wire import chunks
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import AUDIO, COMMAND_AMF0, VIDEO, Message


def decode(*parts: bytes, longest: int = chunks.MAX_MESSAGE_LENGTH) -> list[Message]:
    decoder = chunks.ChunkDecoder(longest)
    return [message for part in parts for message in decoder.feed(part) if message is not None]


def items_with_pauses(decoder: chunks.ChunkDecoder, data: bytes) -> Iterator[Message | None]:
    """The items of ``data``, by turns from the same iterator and from a new one."""
    items = decoder.feed(data)
    for number in range(2 * len(data) + 2):
        try:
            yield next(items)
        except StopIteration:
            return
        if number % 2:
            items = decoder.feed(b"")


def decode_with_pauses(*parts: bytes) -> list[Message]:
    decoder = chunks.ChunkDecoder()
    return [item for part in parts for item in items_with_pauses(decoder, part) if item is not None]


def chunk_size(size: int) -> bytes:
    """A Set Chunk Size where the chunk size is still 128."""
    return chunks.encode(Message(1, 0, 0, size.to_bytes(4, "big")), 2, 128)


def chunk(basic: str, header: str, payload: bytes = b"") -> bytes:
    return bytes.fromhex(basic + header.replace(" ", "")) + payload


A, B, C = b"a" * 128, b"b" * 128, b"c" * 44
LONG = A + B + C

TABLE: dict[str, tuple[bytes, list[Message]]] = {
    "type 0": (
        chunk("04", "000010 000003 08 01000000", b"abc"),
        [Message(AUDIO, 1, 16, b"abc")],
    ),
    "type 1 is a difference in time, on the same message stream": (
        chunk("04", "000010 000003 08 05000000", b"abc") + chunk("44", "000005 000002 09", b"de"),
        [Message(AUDIO, 5, 16, b"abc"), Message(VIDEO, 5, 21, b"de")],
    ),
    "type 2 has the length and type of the one before": (
        chunk("04", "000010 000003 08 01000000", b"abc") + chunk("84", "000007", b"def"),
        [Message(AUDIO, 1, 16, b"abc"), Message(AUDIO, 1, 23, b"def")],
    ),
    "type 3 that begins a message repeats the last difference": (
        chunk("04", "000010 000003 08 01000000", b"abc") + chunk("84", "000007", b"def") + chunk("c4", "", b"ghi"),
        [Message(AUDIO, 1, 16, b"abc"), Message(AUDIO, 1, 23, b"def"), Message(AUDIO, 1, 30, b"ghi")],
    ),
    "type 3 behind type 0 takes its time for the difference (5.3.1.2.4)": (
        chunk("04", "000010 000003 08 01000000", b"abc") + chunk("c4", "", b"def"),
        [Message(AUDIO, 1, 16, b"abc"), Message(AUDIO, 1, 32, b"def")],
    ),
    "three chunks of one message": (
        chunk("06", "000001 00012c 09 01000000", A) + chunk("c6", "", B) + chunk("c6", "", C),
        [Message(VIDEO, 1, 1, LONG)],
    ),
    "a message that ends with its chunk": (
        chunk("06", "000001 000100 09 01000000", A) + chunk("c6", "", B),
        [Message(VIDEO, 1, 1, A + B)],
    ),
    "two chunk streams taking turns": (
        chunk("06", "000001 00012c 09 01000000", A)
        + chunk("04", "000002 000081 08 01000000", B)
        + chunk("c6", "", B)
        + chunk("c4", "", b"!")
        + chunk("c6", "", C),
        [Message(AUDIO, 1, 2, B + b"!"), Message(VIDEO, 1, 1, LONG)],
    ),
    "basic headers of two and three bytes": (
        chunk("0000", "000001 000001 08 01000000", b"x")
        + chunk("00ff", "000002 000001 08 01000000", b"y")
        + chunk("010001", "000003 000001 08 01000000", b"z")
        + chunk("c10001", "", b"Z")
        + chunk("c000", "", b"X"),
        [
            Message(AUDIO, 1, 1, b"x"),
            Message(AUDIO, 1, 2, b"y"),
            Message(AUDIO, 1, 3, b"z"),
            Message(AUDIO, 1, 6, b"Z"),
            Message(AUDIO, 1, 2, b"X"),
        ],
    ),
    "the same chunk stream in two and three bytes": (
        chunk("0005", "000001 000081 08 01000000", A) + chunk("c10500", "", b"!"),
        [Message(AUDIO, 1, 1, A + b"!")],
    ),
    "an extended timestamp, on type 3 chunks as well": (
        chunk("04", "ffffff 000081 08 01000000 01000000", A) + chunk("c4", "01000000", b"!"),
        [Message(AUDIO, 1, 0x1000000, A + b"!")],
    ),
    "an encoder that leaves it out of type 3 chunks": (
        chunk("04", "ffffff 000084 08 01000000 01000000", A)
        + chunk("c4", "", b"1234")
        + chunk("44", "000001 000001 08", b"?"),
        [Message(AUDIO, 1, 0x1000000, A + b"1234"), Message(AUDIO, 1, 0x1000001, b"?")],
    ),
    "an extended difference, repeated by a new message": (
        chunk("04", "000001 000001 08 01000000", b"a")
        + chunk("84", "ffffff 01000000", b"b")
        + chunk("c4", "01000000", b"c"),
        [
            Message(AUDIO, 1, 1, b"a"),
            Message(AUDIO, 1, 0x1000001, b"b"),
            Message(AUDIO, 1, 0x2000001, b"c"),
        ],
    ),
    "time goes round at 32 bits": (
        chunk("04", "ffffff 000001 08 01000000 fffffff0", b"a") + chunk("84", "000020", b"b"),
        [Message(AUDIO, 1, 0xFFFFFFF0, b"a"), Message(AUDIO, 1, 0x10, b"b")],
    ),
    "an empty message": (
        chunk("04", "000001 000000 08 01000000") + chunk("04", "000002 000001 08 01000000", b"x"),
        [Message(AUDIO, 1, 1, b""), Message(AUDIO, 1, 2, b"x")],
    ),
    "Set Chunk Size in the middle of a message of another chunk stream": (
        chunk("06", "000001 000100 09 01000000", A)
        + chunk("02", "000000 000004 01 00000000", b"\0\0\0\x40")
        + chunk("c6", "", B[:64])
        + chunk("c6", "", B[:64]),
        [Message(VIDEO, 1, 1, A + B)],
    ),
    "a chunk size of one byte": (
        chunk("02", "000000 000004 01 00000000", b"\0\0\0\1")
        + chunk("06", "000001 000003 09 01000000", b"a")
        + chunk("c6", "", b"b")
        + chunk("c6", "", b"c"),
        [Message(VIDEO, 1, 1, b"abc")],
    ),
    "a chunk size above all messages counts as that": (
        chunk("02", "000000 000004 01 00000000", b"\x7f\xff\xff\xff") + chunk("06", "000001 00012c 09 01000000", LONG),
        [Message(VIDEO, 1, 1, LONG)],
    ),
    "Abort drops what is half there": (
        chunk("06", "000001 00012c 09 01000000", A)
        + chunk("02", "000000 000004 02 00000000", b"\0\0\0\6")
        + chunk("06", "000002 000001 09 01000000", b"x"),
        [Message(VIDEO, 1, 2, b"x")],
    ),
    "Abort of a chunk stream that nobody knows": (
        chunk("02", "000000 000004 02 00000000", b"\0\0\0\x09") + chunk("06", "000002 000001 09 01000000", b"x"),
        [Message(VIDEO, 1, 2, b"x")],
    ),
    "a message given up without an Abort": (
        chunk("06", "000001 00012c 09 01000000", A) + chunk("06", "000002 000001 09 01000000", b"x"),
        [Message(VIDEO, 1, 2, b"x")],
    ),
}

BROKEN: dict[str, tuple[bytes, str]] = {
    "begins with type 3": (chunk("c4", "", b"x"), "begins with a type 3"),
    "begins with type 2": (chunk("84", "000001", b"x"), "begins with a type 2"),
    "a chunk size of 0": (chunk("02", "000000 000004 01 00000000", b"\0\0\0\0"), "chunk size of 0"),
    "a chunk size with its top bit": (chunk("02", "000000 000004 01 00000000", b"\x80\0\0\1"), "chunk size of"),
    "Set Chunk Size of two bytes": (chunk("02", "000000 000002 01 00000000", b"\0\0"), "2 bytes, not 4"),
    "Abort of no bytes": (chunk("02", "000000 000000 02 00000000"), "0 bytes, not 4"),
}


class DecoderTests(SynchronousTestCase):
    def test_table(self) -> None:
        for name, (data, expected) in TABLE.items():
            self.assertEqual(decode(data), expected, name)
            self.assertEqual(decode_with_pauses(data), expected, f"{name}, with pauses")
            self.assertEqual(decode(*(data[i : i + 1] for i in range(len(data)))), expected, f"{name}, byte by byte")
            for split in range(len(data)):
                for way in decode, decode_with_pauses:
                    self.assertEqual(way(data[:split], data[split:]), expected, f"{name}, split at {split}")

    def test_broken(self) -> None:
        for name, (data, reason) in BROKEN.items():
            for parts in [data], [data[i : i + 1] for i in range(len(data))]:
                problem = self.assertRaises(ProtocolError, decode, *parts)
                self.assertIn(reason, str(problem), name)

    def test_messages_before_the_broken_one_are_delivered(self) -> None:
        decoder = chunks.ChunkDecoder()
        messages = decoder.feed(chunk("04", "000010 000003 08 01000000", b"abc") + chunk("c7", ""))
        self.assertEqual(next(messages), Message(AUDIO, 1, 16, b"abc"))
        self.assertRaises(ProtocolError, next, messages)

    def test_too_long(self) -> None:
        data = chunk("04", "000000 000065 08 01000000")
        self.assertEqual(decode(data + b"x" * 101, longest=101), [Message(AUDIO, 1, 0, b"x" * 101)])
        problem = self.assertRaises(ProtocolError, decode, data, longest=100)
        self.assertIn("101 bytes, where at most 100", str(problem))

    def test_many_chunk_streams(self) -> None:
        data = b"".join(
            chunks.encode(Message(AUDIO, 1, n, b"x"), 2, 128).replace(b"\x02", b"\x00" + bytes([n]), 1)
            for n in range(256)
        )
        self.assertEqual([message.timestamp for message in decode(data)], list(range(256)))
        problem = self.assertRaises(ProtocolError, decode, data + chunk("010101", "000000 000001 08 01000000", b"x"))
        self.assertIn("more than 256 chunk streams", str(problem))

    def test_half_received_messages_are_bounded_in_sum(self) -> None:
        decoder = chunks.ChunkDecoder(0x100000)
        list(decoder.feed(chunk_size(0x10000)))
        part = b"x" * 0x10000

        def fill() -> None:
            for number in range(40):
                list(decoder.feed(bytes((0, number)) + bytes.fromhex("000000 0fffff 08 01000000") + part))

        problem = self.assertRaises(ProtocolError, fill)
        self.assertIn("half-received", str(problem))

    def test_what_is_announced_costs_nothing(self) -> None:
        announced = [bytes((0, n)) + bytes.fromhex("000000 ffffff 09 01000000") + b"x" * 128 for n in range(200)]
        decoder = chunks.ChunkDecoder()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for data in announced:
            list(decoder.feed(data))
        current, _ = tracemalloc.get_traced_memory()
        self.assertLess(current, 200 * 1024)
        self.assertLess(current, decoder.held_bytes * 1.5)
        self.assertGreater(current, decoder.held_bytes / 1.5)

    @given(st.binary(max_size=300), st.integers(1, 300))
    def test_any_bytes_at_all(self, data: bytes, split: int) -> None:
        with contextlib.suppress(ProtocolError):
            decode(data[:split], data[split:])


HALF = "000000 00ffff 09 01000000"
"""The header of a message of 65,535 bytes, which stays half received in these tests."""

INCOMPLETE: dict[str, tuple[bytes, bytes, int]] = {
    # What is fed first, what is fed repeatedly, and how many chunk headers the latter has.
    "chunks of one byte": (chunk_size(1) + chunk("0004", HALF, b"x"), chunk("c004", "", b"x"), 1),
    "chunks of one byte, by turns": (
        chunk_size(1) + chunk("04", HALF, b"x") + chunk("06", HALF, b"x"),
        chunk("c4", "", b"x") + chunk("c6", "", b"x"),
        2,
    ),
    "messages that are given up": (chunk_size(1), chunk("04", HALF, b"x"), 1),
    "messages that are given up, with short headers": (
        chunk_size(1) + chunk("04", HALF, b"x"),
        chunk("84", "000000", b"x"),
        1,
    ),
    "extended timestamps": (
        chunk_size(1) + chunk("04", "ffffff 00ffff 09 01000000 01000000", b"x"),
        chunk("c4", "01000000", b"x"),
        1,
    ),
    "Set Chunk Size": (b"", chunk_size(128), 1),
    "Set Chunk Size in chunks of one byte": (
        chunk_size(1),
        chunk("02", "000000 000004 01 00000000", b"\0") + b"\xc2\0\xc2\0\xc2\1",
        1,  # the other chunks belong to its run
    ),
    "Abort": (b"", chunk("02", "000000 000004 02 00000000", b"\0\0\0\x09"), 1),
    "empty messages of type 0": (chunk("04", "000000 000000 00 00000000"), b"\xc4", 1),
}
"""Bytes that complete no message, however often they are repeated."""


class BudgetTests(SynchronousTestCase):
    """How much is read for one item, and what is held between two items."""

    def test_whatever_completes_no_message_yields_none(self) -> None:
        for name, (before, again, headers) in INCOMPLETE.items():
            decoder = chunks.ChunkDecoder()
            self.assertEqual(list(decoder.feed(before)), [], name)
            count = 10 * chunks.CHUNKS_AT_ONCE // headers
            self.assertEqual(list(decoder.feed(again * count)), [None] * 9, name)
            self.assertEqual(list(decoder.feed(again * (count + 1))), [None] * 10, name)

    def test_a_run_of_chunks_costs_one_header(self) -> None:
        body = bytes(3 * chunks.MAX_RUN)
        data = chunk_size(1) + chunks.encode(Message(VIDEO, 1, 0, body), 4, 1)
        self.assertEqual(list(chunks.ChunkDecoder().feed(data)), [Message(VIDEO, 1, 0, body)])

    def test_every_message_is_an_item(self) -> None:
        data = chunk("04", "000010 000000 08 01000000") + b"\xc4" * 999
        items = list(chunks.ChunkDecoder().feed(data))
        self.assertEqual([item and item.timestamp for item in items], [16 * n for n in range(1, 1001)])

    def test_more_data_while_an_iterator_is_left(self) -> None:
        """The data is added to what is unread, and either iterator reads it."""
        data = b"".join(chunks.encode(Message(AUDIO, 1, n, bytes(n)), 4, 128) for n in range(200))
        for size in 1, 50, 1000:
            decoder = chunks.ChunkDecoder()
            old = decoder.feed(b"")
            found = []
            for start in range(0, len(data), size):
                new = decoder.feed(data[start : start + size])
                found += [next(old, None), next(new, None)]
            found += old
            self.assertEqual([item.timestamp for item in found if item], list(range(200)))

    def test_nothing_is_read_before_it_is_asked_for(self) -> None:
        decoder = chunks.ChunkDecoder()
        items = decoder.feed(chunk("c4", ""))
        self.assertTrue(decoder.partial)
        self.assertRaises(ProtocolError, next, items)

    def test_half_messages_that_are_given_up_are_forgotten(self) -> None:
        """A new message on the same chunk stream gives one up, and so does Abort. Its bytes no longer count."""
        abort = chunk("02", "000000 000004 02 00000000", b"\0\0\0\x04")
        half = chunk("04", "000000 01ffff 09 01000000", b"x" * 0x10000)
        for name, again in ("replaced", half), ("aborted", half + abort):
            decoder = chunks.ChunkDecoder(0x20000)
            list(decoder.feed(chunk_size(0x10000) + again))
            once = decoder.held_bytes
            for _ in range(100):
                self.assertEqual(list(decoder.feed(again)), [], name)
                self.assertEqual(decoder.held_bytes, once, name)
            list(decoder.feed(abort))
            self.assertFalse(decoder.partial)
            self.assertLess(decoder.held_bytes, 2000)

    def test_held_bytes(self) -> None:
        decoder = chunks.ChunkDecoder()
        self.assertEqual((decoder.held_bytes, decoder.partial), (0, False))
        list(decoder.feed(chunk_size(0x10000)))
        idle = decoder.held_bytes
        self.assertFalse(decoder.partial)
        items = decoder.feed(chunk("04", "000000 001000 09 01000000", b"x" * 4096) * 2)
        self.assertGreater(decoder.held_bytes, idle + 8192)
        next(items)
        self.assertGreater(decoder.held_bytes, idle + 8192, "the input is held as a whole")
        self.assertEqual(len(list(items)), 1)
        self.assertLess(decoder.held_bytes, idle + 1000)
        self.assertFalse(decoder.partial)
        idle = decoder.held_bytes
        list(decoder.feed(chunk("04", "000000 001000 09 01000000", b"x" * 4095)))
        self.assertEqual(decoder.held_bytes - idle, 4095 + 4095 // 8)
        list(decoder.feed(b"x"))
        self.assertEqual(decoder.held_bytes, idle)

    def test_partial(self) -> None:
        """In the middle of a header, of a chunk, and of a message; also where nothing of the payload is there."""
        decoder = chunks.ChunkDecoder()
        for data, expected in (
            (b"\x04", True),
            (bytes.fromhex("000000 00012c 09 01000000"), True),
            (A[:-1], True),
            (A[-1:], True),
            (b"\xc4" + B + b"\xc4" + C[:-1], True),
            (C[-1:], False),
            (chunk("84", "000000") + LONG[:64], True),
        ):
            list(decoder.feed(data))
            self.assertEqual(decoder.partial, expected, data)

    def test_nothing_is_held_between_messages(self) -> None:
        """However many chunks they have, and however these arrive."""
        for length in 0, 100, 300, 3000, 100_000:
            data = chunks.encode(Message(VIDEO, 1, 0, bytes(length)), 4, 128)
            for size in 1, 127, 5000, len(data):
                if len(data) // size > 10_000:
                    continue
                decoder = chunks.ChunkDecoder()
                held = set()
                for _ in range(3):
                    for start in range(0, len(data), size):
                        list(decoder.feed(data[start : start + size]))
                    self.assertFalse(decoder.partial)
                    held.add(decoder.held_bytes)
                self.assertEqual(len(held), 1, (length, size, held))
                self.assertLess(held.pop(), 1000)

    def test_cleared(self) -> None:
        """Nothing is held, also while there is an iterator that was left in the middle."""
        decoder = chunks.ChunkDecoder()
        half = chunk("06", "000000 01ffff 09 01000000", bytes(0x10000))
        data = chunk_size(0x10000) + half + chunk("04", "000000 000400 08 01000000", bytes(1024)) * 3
        references = sys.getrefcount(data)
        items = decoder.feed(data)
        message = next(items)
        self.assertIsNotNone(message)
        references_to_body = sys.getrefcount(message and message.body)
        decoder.clear()
        self.assertEqual(sys.getrefcount(data), references)
        self.assertEqual(sys.getrefcount(message and message.body), references_to_body)
        self.assertEqual((decoder.held_bytes, decoder.partial), (0, False))
        self.assertEqual(list(items), [])


# An independent writer, which uses all chunk types, sizes and orders that are legal.

BODIES = st.one_of(st.binary(max_size=12), st.integers(0, 700).map(lambda n: bytes(i * 7 & 0xFF for i in range(n))))
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([3, 4, 6, 63, 64, 319, 320, 65599]),
        st.builds(
            Message,
            st.sampled_from([AUDIO, VIDEO, COMMAND_AMF0]),
            st.sampled_from([0, 1, 2, 0x01020304]),
            st.one_of(st.integers(0, 100), st.integers(0xFFFFF0, 0x100000F), st.integers(0, 0xFFFFFFFF)),
            BODIES,
        ),
    ),
    max_size=12,
)


class Writer:
    """Writes messages as chunks, choosing among what section 5.3.1.2 allows."""

    def __init__(self, choose: st.DataObject) -> None:
        self.choose = choose
        self.size = 128
        self.before: dict[int, tuple[Message, int]] = {}

    def basic(self, chunk_type: int, chunk_stream_id: int) -> bytes:
        top = chunk_type << 6
        if chunk_stream_id < 64:
            return bytes((top | chunk_stream_id,))
        number = chunk_stream_id - 64
        if number < 256 and self.choose.draw(st.booleans()):
            return bytes((top, number))
        return bytes((top | 1, number & 0xFF, number >> 8))

    def chunks(self, chunk_stream_id: int, message: Message) -> list[bytes]:
        types = [0]
        before, delta = self.before.get(chunk_stream_id, (None, 0))
        time = message.timestamp
        if before is not None and before.stream_id == message.stream_id:
            difference = (message.timestamp - before.timestamp) & 0xFFFFFFFF
            types.append(1)
            if (before.type_id, len(before.body)) == (message.type_id, len(message.body)):
                types.append(2)
                if difference == delta:
                    types.append(3)
        chunk_type = self.choose.draw(st.sampled_from(types))
        if chunk_type:
            time = (message.timestamp - (before.timestamp if before else 0)) & 0xFFFFFFFF
        field = min(time, 0xFFFFFF).to_bytes(3, "big")
        tail = (
            len(message.body).to_bytes(3, "big") + bytes((message.type_id,)) + message.stream_id.to_bytes(4, "little")
        )
        header = (field + tail)[: (11, 7, 3, 0)[chunk_type]]
        extended = time.to_bytes(4, "big") if time >= 0xFFFFFF else b""
        self.before[chunk_stream_id] = message, time
        size = self.size
        parts = [message.body[i : i + size] for i in range(0, len(message.body), size)] or [b""]
        first = self.basic(chunk_type, chunk_stream_id) + header + extended + parts[0]
        return [first] + [self.basic(3, chunk_stream_id) + extended + part for part in parts[1:]]


class RoundTripTests(SynchronousTestCase):
    @given(MESSAGES, st.data())
    def test_any_legal_writing_of_any_messages(
        self, messages: list[tuple[int, Message]], choose: st.DataObject
    ) -> None:
        writer = Writer(choose)
        data = b""
        expected: list[Message] = []
        open_streams: dict[int, tuple[list[bytes], Message]] = {}

        def advance(chunk_stream_id: int) -> bytes:
            left, message = open_streams[chunk_stream_id]
            part = left.pop(0)
            if not left:
                expected.append(message)
                del open_streams[chunk_stream_id]
            return part

        for chunk_stream_id, message in messages:
            while chunk_stream_id in open_streams:
                data += advance(choose.draw(st.sampled_from(sorted(open_streams))))
            if not open_streams and choose.draw(st.booleans()):
                size = choose.draw(st.sampled_from([1, 2, 5, 128, 300, 65536]))
                # Only these messages are on chunk stream 2, and always with a type 0 header.
                data += chunks.encode(Message(1, 0, 0, size.to_bytes(4, "big")), 2, writer.size)
                writer.size = size
            open_streams[chunk_stream_id] = writer.chunks(chunk_stream_id, message), message
            data += advance(chunk_stream_id)
        while open_streams:
            data += advance(choose.draw(st.sampled_from(sorted(open_streams))))
        split = choose.draw(st.integers(0, len(data)))
        self.assertEqual(decode(data[:split], data[split:]), expected)
        self.assertEqual(decode_with_pauses(data[:split], data[split:]), expected)
        step = choose.draw(st.integers(1, 50))
        for way in decode, decode_with_pauses:
            self.assertEqual(way(*(data[i : i + step] for i in range(0, len(data), step))), expected)

    @given(
        st.lists(st.builds(Message, st.integers(3, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), BODIES)),
        st.integers(2, 63),
        st.sampled_from([1, 2, 127, 128, 129, 4096, 65536]),
    )
    def test_encode(self, messages: list[Message], chunk_stream_id: int, size: int) -> None:
        data = chunk_size(size)
        data += b"".join(chunks.encode(message, chunk_stream_id, size) for message in messages)
        self.assertEqual(decode(data), messages)

    def test_encode_says_how_long_it_is(self) -> None:
        for length in 0, 1, 127, 128, 129, 256, 257:
            for timestamp in 0, 0xFFFFFE, 0xFFFFFF, 0xFFFFFFFF:
                parts: list[bytes | memoryview] = []
                told = chunks.append_chunks(parts, 6, 128, VIDEO, 1, timestamp, bytes(length))
                self.assertEqual(told, len(b"".join(parts)), (length, timestamp))
