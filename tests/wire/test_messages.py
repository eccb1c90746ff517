"""rtmp_twisted.wire.messages: the bodies of messages, made, read, and refused."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import (
    AGGREGATE,
    AUDIO,
    COMMAND_AMF0,
    COMMAND_AMF3,
    DATA_AMF0,
    DATA_AMF3,
    VIDEO,
    Message,
)


def tag(type_id: int, time: int, body: bytes) -> bytes:
    """An FLV tag with its back pointer (FLV 10.1, section E.4.1)."""
    head = bytes((type_id,)) + len(body).to_bytes(3, "big")
    head += (time & 0xFFFFFF).to_bytes(3, "big") + bytes((time >> 24,)) + bytes(3)
    return head + body + (11 + len(body)).to_bytes(4, "big")


class MakingTests(SynchronousTestCase):
    def test_bytes(self) -> None:
        for message, type_id, body in (
            (messages.set_chunk_size(4096), 1, "00001000"),
            (messages.acknowledgement(0x1_0000_0002), 3, "00000002"),
            (messages.window_acknowledgement_size(5_000_000), 5, "004c4b40"),
            (messages.set_peer_bandwidth(5_000_000), 6, "004c4b40 02"),
            (messages.user_control(messages.STREAM_BEGIN, 1), 4, "0000 00000001"),
            (messages.user_control(messages.PING_REQUEST, 0x1_0000_0001), 4, "0006 00000001"),
        ):
            self.assertEqual(message, Message(type_id, 0, 0, bytes.fromhex(body)))

    def test_status(self) -> None:
        message = messages.status(7, "error", "NetStream.Play.Failed", "why")
        self.assertEqual((message.type_id, message.stream_id), (COMMAND_AMF0, 7))
        info: amf0.Value = {"level": "error", "code": "NetStream.Play.Failed", "description": "why"}
        self.assertEqual(messages.parse_command(message), messages.Command("onStatus", 0, [None, info]))


class ReadingTests(SynchronousTestCase):
    def test_command(self) -> None:
        body = amf0.encode("play", 4, None, "key")
        for message in Message(COMMAND_AMF0, 1, 0, body), Message(COMMAND_AMF3, 1, 0, b"\0" + body):
            command = messages.parse_command(message)
            self.assertEqual(command, messages.Command("play", 4.0, [None, "key"]))
            self.assertEqual([command.argument(n) for n in range(4)], [None, "key", None, None])

    def test_command_without_transaction_id(self) -> None:
        self.assertEqual(
            messages.parse_command(Message(COMMAND_AMF0, 0, 0, amf0.encode("close"))),
            messages.Command("close", 0.0, []),
        )

    def test_no_command(self) -> None:
        for body, reason in (
            (b"", "begin with its name"),
            (amf0.encode(1.0, "play"), "begin with its name"),
            (amf0.encode("play", "1"), "no transaction id"),
            (amf0.encode("play", True), "no transaction id"),
            (b"\x02\x00\x09play", ""),
            (b"\xff", ""),
        ):
            error = self.assertRaises(ProtocolError, messages.parse_command, Message(COMMAND_AMF0, 0, 0, body))
            self.assertIn(reason, str(error))

    def test_bounds_of_a_command(self) -> None:
        """Values within objects count, and so do those of AMF 3."""
        begin = amf0.encode("connect", 1)
        most = messages.MAX_COMMAND_VALUES - 2
        for good, bad in (
            (b"\5" * most, b"\5" * (most + 1)),
            (amf0.encode([None] * (most - 1)), amf0.encode([None] * most)),
            (b"\x11\x01" * (most // 2), b"\x11\x01" * (most // 2 + 1)),
            (amf0.encode("x" * (65_536 - len(begin) - 3)), amf0.encode("x" * (65_536 - len(begin) - 2))),
        ):
            messages.parse_command(Message(COMMAND_AMF0, 0, 0, begin + good))
            self.assertRaises(ProtocolError, messages.parse_command, Message(COMMAND_AMF0, 0, 0, begin + bad))

    def test_short_control_messages(self) -> None:
        for length in range(4):
            self.assertRaises(ProtocolError, messages.four_bytes, Message(1, 0, 0, bytes(length)))
        self.assertEqual(messages.four_bytes(Message(6, 0, 0, b"\0\0\1\0\2")), 256)
        for length in range(2):
            self.assertRaises(ProtocolError, messages.parse_user_control, Message(4, 0, 0, bytes(length)))
        self.assertEqual(messages.parse_user_control(Message(4, 0, 0, b"\0\3abc")), (3, b"abc"))

    @given(st.binary(max_size=60), st.sampled_from([COMMAND_AMF0, COMMAND_AMF3]))
    def test_any_command(self, body: bytes, type_id: int) -> None:
        with contextlib.suppress(ProtocolError):
            messages.parse_command(Message(type_id, 0, 0, body))


class DataTests(SynchronousTestCase):
    def test_names(self) -> None:
        metadata = amf0.encode("onMetaData", {"width": 640.0})
        addressed = amf0.encode("@setDataFrame") + metadata
        text = amf0.encode("onTextData", "hello")
        flash = b"\x06\x15onMetaData"  # does not begin with the AMF 0 marker of a string
        for type_id, body, name, type_out, out in (
            (DATA_AMF0, addressed, "onMetaData", DATA_AMF0, metadata),
            (DATA_AMF3, b"\0" + addressed, "onMetaData", DATA_AMF0, metadata),
            (DATA_AMF0, metadata, "onMetaData", DATA_AMF0, metadata),
            (DATA_AMF0, text, "onTextData", DATA_AMF0, text),
            (DATA_AMF3, flash, "", DATA_AMF3, flash),
            (DATA_AMF0, amf0.encode("@setDataFrame"), "", DATA_AMF0, b""),
            (DATA_AMF0, b"", "", DATA_AMF0, b""),
            (DATA_AMF0, amf0.encode(1.0), "", DATA_AMF0, amf0.encode(1.0)),
            (DATA_AMF0, b"\x02\x00\x02\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2, DATA_AMF0, b"\x02\x00\x02\xff\xfe"),
        ):
            message = Message(type_id, 1, 40, body)
            self.assertEqual(messages.data_name(message), (name, Message(type_out, 1, 40, out)))

    @given(st.binary(max_size=60), st.sampled_from([DATA_AMF0, DATA_AMF3]))
    def test_any_bytes(self, body: bytes, type_id: int) -> None:
        messages.data_name(Message(type_id, 1, 0, body))


class AggregateTests(SynchronousTestCase):
    def split(self, timestamp: int, body: bytes) -> list[Message]:
        return list(messages.split_aggregate(Message(AGGREGATE, 1, timestamp, body)))

    def test_times_are_moved(self) -> None:
        body = tag(AUDIO, 1000, b"a") + tag(VIDEO, 1010, b"bc") + tag(DATA_AMF0, 1005, b"")
        self.assertEqual(
            self.split(40, body),
            [Message(AUDIO, 1, 40, b"a"), Message(VIDEO, 1, 50, b"bc"), Message(DATA_AMF0, 1, 45, b"")],
        )

    def test_times_go_round(self) -> None:
        """The upper 8 bits of a tag's time are its last byte, and time is modulo 2**32."""
        body = tag(AUDIO, 0xFFFFFFFF, b"a") + tag(AUDIO, 4, b"b")
        self.assertEqual([m.timestamp for m in self.split(0xFFFFFFFE, body)], [0xFFFFFFFE, 3])

    def test_without_the_last_back_pointer(self) -> None:
        self.assertEqual(self.split(0, tag(AUDIO, 0, b"abc")[:-4]), [Message(AUDIO, 1, 0, b"abc")])

    def test_empty(self) -> None:
        self.assertEqual(self.split(0, b""), [])

    def test_longer_than_itself(self) -> None:
        good = tag(AUDIO, 0, b"a")
        parts = messages.split_aggregate(Message(AGGREGATE, 1, 0, good + tag(AUDIO, 0, b"abc")[:-5]))
        self.assertEqual(next(parts), Message(AUDIO, 1, 0, b"a"))
        self.assertRaises(ProtocolError, next, parts)

    def test_too_many(self) -> None:
        many = tag(AUDIO, 0, b"") * messages.MAX_PARTS
        self.assertEqual(len(self.split(0, many)), messages.MAX_PARTS)
        self.assertRaises(ProtocolError, self.split, 0, many + tag(AUDIO, 0, b""))

    @given(st.binary(max_size=100))
    def test_any_bytes(self, body: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            self.split(0, body)
