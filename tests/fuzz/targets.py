"""What is fuzzed: a function for each target, which takes any bytes and raises where a promise is broken.

Used by __main__ (with atheris, coverage-guided) and by test_corpus (the corpus, once more, in each test run). A target
lets pass what the code under it documents, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from rtmp_twisted.integrations import coordinator_messages as control_messages
from rtmp_twisted.integrations.redis import MAX_COMMAND, Kill, apply_message
from rtmp_twisted.media import codecs, tags
from rtmp_twisted.rtmp.proxy import MAX_HEADER, read_header
from rtmp_twisted.wire import amf0, amf3, chunks, messages
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.handshake import ServerHandshake
from rtmp_twisted.wire.messages import AGGREGATE, AUDIO, VIDEO, Message
from tests.support.fakes import RecordingTarget
from tests.support.memory import World
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, aac, avc

LONGEST = 4096
"""Bytes of an input that is of use: longer ones only take longer."""


def fuzz_amf0(data: bytes) -> None:
    """What is understood can be written, and means the same when it is read again."""
    try:
        written = amf0.encode(*amf0.decode(data))
        again = amf0.decode(written)  # may have too many values now: each reference has become what it stands for
    except ProtocolError:
        return
    assert amf0.encode(*again) == written


def fuzz_amf3(data: bytes) -> None:
    try:
        _, end = amf3.decode_value(data)
    except ProtocolError:
        return
    assert 0 < end <= len(data)


def fuzz_chunks(data: bytes) -> None:
    """How the bytes are cut into reads makes no difference, and memory is bounded by what has arrived."""
    whole = decode(data, len(data) or 1)
    for size in (1, 7, 129):
        assert decode(data, size) == whole, size


def decode(data: bytes, size: int) -> tuple[list[Message], bool]:
    """The messages in ``data`` when it comes ``size`` bytes at a time, and whether it can go on after them."""
    decoder = chunks.ChunkDecoder(2048)
    found: list[Message] = []
    try:
        for start in range(0, len(data), size):
            found += filter(None, decoder.feed(data[start : start + size]))
    except ProtocolError:
        return found, False
    # What is held has arrived; an eighth more, and 256 bytes for each chunk stream, whose first header has 8 bytes.
    assert decoder.held_bytes <= len(data) * 9 / 8 + 256 * (len(data) // 8), decoder.held_bytes
    return found, True


def fuzz_handshake(data: bytes) -> None:
    """The answer depends on the bytes alone, not on how they are cut."""
    whole = shake_hands(data, len(data) or 1)
    assert shake_hands(data, 100) == whole
    answer, rest = whole
    assert len(answer) in (0, 1 + 1536 + 1536)
    assert len(rest) <= max(0, len(data) - 1 - 2 * 1536)


def shake_hands(data: bytes, size: int) -> tuple[bytes, bytes]:
    handshake = ServerHandshake(bytes, lambda: 7)
    answer = b""
    rest = b""
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        if handshake.done:
            rest += piece
            continue
        try:
            answer += handshake.receive(piece)
        except ProtocolError:
            return answer, b""
        if handshake.done:
            rest = handshake.rest
    return answer, rest


def fuzz_media(data: bytes) -> None:
    """Nothing that a publisher can send as media raises anything; an aggregate is whole parts or a ProtocolError."""
    for type_id, classify in (VIDEO, tags.classify_video), (AUDIO, tags.classify_audio):
        classify(data)
        slots = tags.header_slots(type_id, data)
        assert len(slots) == len(set(slots)) <= tags.MAX_TRACKS
        assert len(tags.tracks(type_id, data)) <= tags.MAX_TRACKS
        tags.codec_name(type_id, data)
        packet = tags.parse(type_id, data)
        assert packet is None or len(packet.tracks) <= tags.MAX_TRACKS
        details = codecs.describe_header(type_id, data)
        assert len(str(details)) < 1000, details
    with contextlib.suppress(ProtocolError):
        parts = list(messages.split_aggregate(Message(AGGREGATE, 1, 0, data)))
        assert sum(len(part.body) for part in parts) <= len(data)
        assert len(parts) <= messages.MAX_PARTS


def fuzz_coordinator(data: bytes) -> None:
    """What is understood, and written again, is understood the same way."""
    text = data.decode("utf-8", "replace")
    try:
        message = control_messages.parse(text)
    except control_messages.MalformedMessage:
        return
    assert message.type == message.type.strip(" \t\r").upper()
    assert len(message.parameters) <= control_messages.MAX_PARAMETERS
    try:
        written = control_messages.serialise(message.type, message.parameters)
    except ValueError:
        return
    again = control_messages.parse(written)
    assert again.type == message.type or "\n" in message.type, (message, again)


def fuzz_redis(data: bytes) -> None:
    """A message ends at most what it names."""
    target = RecordingTarget()
    apply_message(data, target)
    assert target.kill_alls == []
    assert len(target.kills) <= 1
    for channel, stream_id in target.kills:
        assert len(data) <= MAX_COMMAND
        named = Kill(channel, stream_id)
        assert named.channel.encode() in data and (stream_id or "").encode() in data
        assert b">" in data


def fuzz_proxy(data: bytes) -> None:
    """A header is found where it ends, neither earlier nor later."""
    try:
        header = read_header(data)
    except ProtocolError:
        return
    if header is None:
        assert len(data) < MAX_HEADER
        return
    assert 0 < header.size <= len(data)
    assert read_header(data[: header.size]) == header
    assert read_header(data[: header.size - 1]) is None


def fuzz_session(data: bytes) -> None:
    """Whatever a publisher sends, in reads of a size that the first byte says: there is no bug in the log, its player
    receives well-formed messages, and another channel's player notices nothing."""
    with no_bugs():
        world = World()
        publisher, player = world.connect().open(), world.connect("192.0.2.2").open()
        other, witness = world.connect("192.0.2.3").open("other"), world.connect("192.0.2.4").open("other")
        publisher.publish(), other.publish()
        player.play(), witness.play()
        publisher.send(AVC_HEADER, AAC_HEADER, avc(0, True))
        other.send(AVC_HEADER, avc(0, True))
        size = data[0] * 8 + 1 if data else 1
        for start in range(1, len(data), size):
            publisher.feed(data[start : start + size])
        world.pass_time(1)
        player.new()  # decodes
        other.send(aac(40))
        assert witness.new()[-1].timestamp == 40
        for client in publisher, player, other, witness:
            client.leave()
        assert world.factory.limits.inside == 0
        world.clock.advance(60)
        assert world.broker.channels() == []


@contextlib.contextmanager
def no_bugs() -> Iterator[None]:
    """Raises what was logged as a bug."""
    found: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.critical:
            found.append(event)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observer)
    for event in found:
        raise AssertionError(event["log_format"]) from event["log_failure"].value


TARGETS: dict[str, Callable[[bytes], None]] = {
    "amf0": fuzz_amf0,
    "amf3": fuzz_amf3,
    "chunks": fuzz_chunks,
    "coordinator": fuzz_coordinator,
    "handshake": fuzz_handshake,
    "media": fuzz_media,
    "proxy": fuzz_proxy,
    "redis": fuzz_redis,
    "session": fuzz_session,
}
