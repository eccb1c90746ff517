"""What a server that is published to gets in place of the log's messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.relay.push import PublishedForm
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.chunks import ChunkFormat
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, USER_CONTROL, VIDEO, Message
from tests.support.rtmp_client import AVC_HEADER, aac, avc

LATE = 0xFFFFFF
"""From this time on timestamps are extended."""


class FormTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.left = 0

    def through(self, log: list[Message], chunk_size: int = 128, stream_id: int = 7) -> list[Message]:
        """What arrives of a log with these messages; the form is asked for one after the other."""
        form = ChunkFormat(chunk_size)
        self.form = PublishedForm(stream_id, chunk_size, self.leave)
        return self.more(log, form, chunk_size)

    def more(self, log: list[Message], form: ChunkFormat, chunk_size: int) -> list[Message]:
        data, ends = b"some bytes of the block", []
        for message in log:
            parts: list[bytes | memoryview] = []
            form.append(parts, message.type_id, message.timestamp, message.body)
            data += b"".join(parts)
            ends.append(len(data))
        decoder = chunks.ChunkDecoder()
        list(decoder.feed(chunks.encode(messages.set_chunk_size(chunk_size), 2, 128)))
        received, start = [], len(b"some bytes of the block")
        for end in ends:
            received += list(filter(None, decoder.feed(b"".join(self.form(data, start, end)))))
            start = end
        self.assertFalse(decoder.partial)
        return received

    def leave(self) -> None:
        self.left += 1

    def test_time_begins_at_0(self) -> None:
        sound = Message(AUDIO, 1, 4990, b"\xaf\x01early")
        log = [AVC_HEADER._replace(timestamp=5000), avc(5000, True), sound, avc(5040, False), aac(5045)]
        received = self.through(log)
        self.assertEqual([message.timestamp for message in received], [0, 0, 0, 40, 45])
        self.assertEqual([message.body for message in received], [message.body for message in log])
        self.assertEqual({message.stream_id for message in received}, {7})

    def test_time_wraps(self) -> None:
        """After 24.8 days it is in the upper half of its range, and after 49.7 days it begins at 0 again."""
        times = [5000, 5000 + 70_000, *(5000 + day * 86_400_000 for day in (20, 25, 49, 50))]
        received = self.through([aac(time % 2**32) for time in times])
        self.assertEqual([message.timestamp for message in received], [(time - 5000) % 2**32 for time in times])

    def test_what_players_are_told_is_left_out(self) -> None:
        told = [
            messages.user_control(messages.STREAM_BEGIN, 1),
            messages.status(1, "status", "NetStream.Play.PublishNotify", "published"),
        ]
        self.assertEqual(told[0].type_id, USER_CONTROL)
        self.assertEqual([message.type_id for message in self.through([*told, avc(0, True)])], [VIDEO])

    def test_metadata(self) -> None:
        """As a publisher sends it; its time is no beginning. Other data is media like any."""
        text = messages.data(9000, "onTextData", {"text": "x" * 300})
        received = self.through([messages.data(0, "onMetaData", {"title": "t" * 300}), avc(8000, True), text])
        self.assertEqual([message.timestamp for message in received], [0, 0, 1000])
        self.assertEqual(received[0].body, messages.data(0, "@setDataFrame", "onMetaData", {"title": "t" * 300}).body)
        self.assertEqual(received[2].body, text.body)

    def test_leaves_at_a_keyframe(self) -> None:
        log = [avc(0, True), avc(40, False)]
        self.through(log)
        self.form.leave_at_keyframe = True
        form = ChunkFormat(128)
        self.assertEqual(len(self.more([avc(80, False), aac(90)], form, 128)), 2)
        self.assertEqual(self.left, 0)
        self.assertEqual(self.more([avc(120, True), avc(160, False), avc(200, True)], form, 128), [])
        self.assertEqual(self.left, 1)

    @given(
        st.integers(0, 2**32 - 1),
        st.lists(st.tuples(st.integers(0, 40_000_000), st.binary(min_size=2, max_size=700)), min_size=1, max_size=4),
        st.integers(128, 300),
    )
    def test_any(self, zero: int, frames: list[tuple[int, bytes]], chunk_size: int) -> None:
        """Times that are extended in the log, or there, or in both; messages of any number of chunks."""
        log = [Message(AUDIO, 1, zero, b"first")]
        log += [Message(VIDEO, 1, (zero + time) % 2**32, body) for time, body in frames]
        received = self.through(log, chunk_size)
        self.assertEqual([message.timestamp for message in received], [0, *(time for time, _ in frames)])
        self.assertEqual([message.body for message in received], [message.body for message in log])

    def test_extended(self) -> None:
        """Both sides of the border, without luck."""
        for zero in LATE - 1, LATE, 2**32 - 1:
            for time in LATE - 1, LATE, LATE + 1:
                log = [Message(AUDIO, 1, zero, b"a" * 500), Message(DATA_AMF0, 1, (zero + time) % 2**32, b"d" * 500)]
                received = self.through(log)
                self.assertEqual([(m.timestamp, m.body) for m in received], [(0, b"a" * 500), (time, b"d" * 500)])
