"""A channel under any schedule: whatever players do, what each gets can be decoded, its chunks and its media."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import cursor as cursor_module
from rtmp_twisted.live.player import Cache
from rtmp_twisted.media import tags
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support.live import PLENTY, FakeWriter, Viewer, join, make_channel
from tests.support.rtmp_client import aac, avc

WHICH = st.integers(0, 9)
JOIN = st.tuples(st.just("join"), st.tuples(WHICH, st.sampled_from(list(Cache))))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), st.integers(0, 400)),
        st.tuples(st.just("frame"), st.integers(0, 400)),
        st.tuples(st.just("sound"), st.integers(0, 60)),
        st.tuples(st.just("header"), st.sampled_from([AUDIO, VIDEO])),
        JOIN,
        st.tuples(st.just("take"), st.tuples(WHICH, st.sampled_from([1, 50, 700, 10**6]))),
        st.tuples(st.just("receive"), st.tuples(WHICH, st.sampled_from([AUDIO, VIDEO]), st.booleans())),
        st.tuples(st.just("pause"), WHICH),
        st.tuples(st.just("answer"), WHICH),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("wait"), st.none()),
    ),
    min_size=20,
    max_size=150,
)


class Run:
    """One schedule. Media bodies tell their number and that of their configuration; headers that of theirs."""

    def __init__(self, merge: int, cache: int, whole: bool, gop: int) -> None:
        self.clock = Clock()
        options: dict[str, Any] = {
            "cache_bytes": cache,
            "whole_stream": whole,
            "merge_messages": merge,
            "chunk_size": 128,
        }
        self.channel = make_channel(0.1, self.clock, cost=0.001, **options)
        self.gop = gop
        self.viewers: list[Viewer] = []
        self.streams: dict[Viewer, tuple[FakeWriter, int]] = {}
        self.sent: list[Message] = []
        self.configurations = {AUDIO: 0, VIDEO: 0}
        self.frames = 0
        self.begin()

    def begin(self) -> None:
        self.frames = 0
        self.channel.begin("key")
        for kind in VIDEO, AUDIO:
            self.header(kind)

    def publish(self, message: Message) -> None:
        self.channel.publish(message)
        self.channel.flush_when_due()

    def header(self, kind: int) -> None:
        self.configurations[kind] += 1
        start = b"\x17\x00\0\0\0" if kind == VIDEO else b"\xaf\x00"
        self.publish(Message(kind, 1, len(self.sent), start + b"%06d" % self.configurations[kind]))
        if kind == VIDEO:
            self.frames = 0  # an encoder begins anew with a keyframe

    def content(self, kind: int, size: int) -> bytes:
        return b"%06d%06d" % (self.configurations[kind], len(self.sent)) + bytes(size)

    def do(self, step: str, argument: Any) -> None:
        viewer = self.viewers[argument[0] % len(self.viewers)] if isinstance(argument, tuple) and self.viewers else None
        if step == "frame":
            message = avc(len(self.sent), self.frames % self.gop == 0, self.content(VIDEO, argument))
            self.frames += 1
            self.sent.append(message)
            self.publish(message)
        elif step == "sound":
            message = aac(len(self.sent), self.content(AUDIO, argument))
            self.sent.append(message)
            self.publish(message)
        elif step == "header":
            self.header(argument)
        elif step == "restart":
            self.channel.end()
            self.begin()
        elif step == "wait":
            self.clock.advance(0.2)
        elif step == "join":
            self.join(*argument)
        elif viewer is None:
            pass
        elif step == "take":
            self.take(viewer.writer, argument[1])
        elif step == "receive":
            viewer.player.enable(**{"audio" if argument[1] == AUDIO else "video": argument[2]})

    def join(self, which: int, cache: Cache) -> None:
        """On a connection of its own, or as another stream of one that is there."""
        others = [viewer for viewer in self.viewers if viewer.writer is self.viewers[which % len(self.viewers)].writer]
        writer = others[0].writer if others and which % 3 == 0 else FakeWriter(500)
        stream_id = 1 + len(others) if others and writer is others[0].writer else 1 + which % 2
        if (writer, stream_id) in self.streams.values():
            return
        viewer = join(self.channel, cache, stream_id=stream_id, writer=writer)
        self.viewers.append(viewer)
        self.streams[viewer] = writer, stream_id

    def take(self, writer: FakeWriter, room: int) -> None:
        writer.viewers[0].take(room)

    def pause(self, which: int) -> None:
        if self.viewers:
            player = self.viewers[which % len(self.viewers)].player
            if player.paused:
                player.send_headers()
                self.channel.start(player)
            else:
                player.pause()

    def answer(self, which: int) -> None:
        """Something else is written on a connection; a message of a type that is of no interest here."""
        if self.viewers:
            self.viewers[which % len(self.viewers)].writer.write(b"\x03\0\0\0\0\0\x03\x63\0\0\0\0abc")


class AnyScheduleTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(
        st.lists(JOIN, min_size=1, max_size=5),
        STEPS,
        st.sampled_from([1, 3, 8]),
        st.sampled_from([0, 2000, 10**6]),
        st.booleans(),
        st.integers(2, 12),
    )
    def test_any(
        self,
        joins: list[tuple[str, Any]],
        steps: list[tuple[str, Any]],
        merge: int,
        cache: int,
        whole: bool,
        gop: int,
    ) -> None:
        """Each frame comes behind the configuration it was made with, and each gap in the video ends at a keyframe."""
        self.patch(cursor_module, "MAX_LAG", 1500)
        run = Run(merge, cache, whole, gop)
        for step, argument in joins + steps:
            if step in ("pause", "answer"):
                getattr(run, step)(argument)
            else:
                run.do(step, argument)
        run.channel.flush()
        for viewer in run.viewers:
            run.take(viewer.writer, PLENTY)
        for viewer in run.viewers:
            mine = [m for m in viewer.media(128) if m.stream_id == run.streams[viewer][1]]
            self.check(mine, run.sent)

    def check(self, received: list[Message], sent: list[Message]) -> None:
        configurations = {AUDIO: b"", VIDEO: b""}
        place = -1
        for message in received:
            kind = message.type_id
            start = 5 if kind == VIDEO else 2
            if message.body[1] == 0:
                configurations[kind] = message.body[start : start + 6]
                continue
            self.assertEqual(message.body[start : start + 6], configurations[kind])
            number = int(message.body[start + 6 : start + 12])
            self.assertEqual(message.body, sent[number].body)
            if kind == VIDEO:
                if tags.classify_video(message.body) != tags.KEYFRAME:
                    self.assertGreater(number, place)
                    between = [m for m in sent[place + 1 : number] if m.type_id == VIDEO]
                    self.assertEqual(between, [])
                place = number
