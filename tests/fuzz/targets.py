"""The targets of fuzzing: a function for each, which takes any bytes and raises where a promise is broken.

Used by __main__ (with atheris, guided by coverage) and by test_corpus (which replays the corpus in each test run). A
target accepts only the exceptions that the code under test documents.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.web.http import parse_qs

from rtmp_twisted.integrations import coordinator_messages as control_messages
from rtmp_twisted.integrations.redis import MAX_COMMAND, Kill, apply_message
from rtmp_twisted.media import codecs, flv, fmp4, keyframes, mp4, tags
from rtmp_twisted.media.segments import MAX_SEGMENTS, PART_OVERHEAD, Segmenter
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.rtmp.proxy import MAX_HEADER, read_header
from rtmp_twisted.settings_types import EVERYONE
from rtmp_twisted.web.access import KEY, Access
from rtmp_twisted.web.answers import Answer
from rtmp_twisted.web.hls import HLS, IDLE_SECONDS
from rtmp_twisted.web.hls_files import Wanted
from rtmp_twisted.web.metrics import Metrics, TimedAuthority
from rtmp_twisted.web.operations import LocalOperations
from rtmp_twisted.web.operators import OperatorHTTP
from rtmp_twisted.web.playlists import media_playlist
from rtmp_twisted.web.site import LimitedSite
from rtmp_twisted.web.viewer import Viewers
from rtmp_twisted.web.watch import watch_site
from rtmp_twisted.wire import amf0, amf3, chunks, messages
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.handshake import ClientHandshake, ServerHandshake
from rtmp_twisted.wire.messages import AGGREGATE, AUDIO, VIDEO, Message
from tests.fuzz.schedules import Schedule
from tests.media.test_segments import media
from tests.relay.case import Network, Node, Stub
from tests.support.fakes import RecordingTarget
from tests.support.flv import parse_flv
from tests.support.memory import Client, MemoryTransport, World
from tests.support.mp4 import check_stream, parse_mp4, samples
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, aac, avc

TOKEN = "t"
"""The operators' token, which is short enough to be guessed here."""

LONGEST = 4096
"""Bytes of an input at most: longer ones only take longer."""


def fuzz_amf0(data: bytes) -> None:
    """What was decoded can be encoded, and has the same values when it is decoded again."""
    try:
        written = amf0.encode(*amf0.decode(data))
        again = amf0.decode(written)  # may have too many values now: references have become values
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
    """It makes no difference how the bytes are cut into reads, and where the reader pauses. Memory is bounded by what
    has arrived."""
    whole = decode(data, len(data) or 1)
    for size in (1, 7, 129):
        assert decode(data, size) == whole, size
    for size in (129, len(data) or 1):
        assert decode(data, size, pauses=True) == whole, f"{size}, with pauses"


def decode(data: bytes, size: int, pauses: bool = False) -> tuple[list[Message], bool]:
    """The messages in ``data`` when it comes ``size`` bytes at a time, and whether it can go on after them.

    With ``pauses`` each iterator is left after one item, and another goes on; the next read may come in between.
    """
    decoder = chunks.ChunkDecoder(2048)
    found: list[Message] = []
    idle = 0
    try:
        for start in range(0, len(data), size):
            items = decoder.feed(data[start : start + size])
            for item in itertools.islice(items, 1) if pauses else items:
                if item is None:
                    idle += 1
                else:
                    found.append(item)
        while pauses and decoder.partial:
            item = next(decoder.feed(b""), CUT)
            if item is CUT:
                break
            if item is not None:
                found.append(item)
        # What is held has arrived; an eighth more, and 256 bytes for each chunk stream, whose first header has 8 bytes.
        assert decoder.held_bytes <= len(data) * 9 / 8 + 256 * (len(data) // 8), decoder.held_bytes
        assert idle <= len(data) // chunks.CHUNKS_AT_ONCE, idle
    except ProtocolError:
        return found, False
    finally:
        decoder.clear()
        assert decoder.held_bytes == 0 and not decoder.partial
        assert list(decoder.feed(b"")) == []
    return found, True


CUT = Message(0, 0, 0, b"")
"""What `decode` has for the end of an iterator; the decoder never yields a message of type 0."""


def fuzz_handshake(data: bytes) -> None:
    """The answer depends on the bytes alone, not on how they are cut."""
    check_handshake(ServerHandshake, data, 1 + 1536 + 1536)


def fuzz_client_handshake(data: bytes) -> None:
    """The same, for the side of the client."""
    check_handshake(ClientHandshake, data, 1536)


def check_handshake(side: type[ServerHandshake | ClientHandshake], data: bytes, answer_length: int) -> None:
    whole = shake_hands(side, data, len(data) or 1)
    assert shake_hands(side, data, 100) == whole
    answer, rest = whole
    assert len(answer) in (0, answer_length)
    assert len(rest) <= max(0, len(data) - 1 - 2 * 1536)


def shake_hands(side: type[ServerHandshake | ClientHandshake], data: bytes, size: int) -> tuple[bytes, bytes]:
    handshake = side(bytes, lambda: 7)
    handshake.start()
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
        assert handshake.held_bytes <= (len(piece) if handshake.done else 1536)
        if handshake.done:
            rest = handshake.rest
    return answer, rest


FOURCCS = (b"avc1", b"hvc1", b"vvc1", b"av01", b"vp08", b"vp09", b"zzzz")


def fuzz_keyframes(data: bytes) -> None:
    """Whether a frame is a keyframe depends on its bytes alone, and decides how its message is classified. The first
    byte chooses the codec."""
    fourcc, frame = FOURCCS[data[0] % len(FOURCCS) if data else 0], data[1:]
    found = keyframes.is_keyframe(fourcc, frame, 0, len(frame))
    for before, behind in (b"\xff" * 7, b"\xff" * 20), (bytes(1), bytes(20)):
        body = before + frame + behind
        assert keyframes.is_keyframe(fourcc, body, len(before), len(before) + len(frame)) is found
    if frame:
        assert tags.classify_video(b"\x83" + fourcc + frame) == (tags.KEYFRAME if found else tags.FRAME)


def fuzz_media(data: bytes) -> None:
    """No media message raises anything. An aggregate message is whole parts, or raises ProtocolError."""
    for type_id, classify in (VIDEO, tags.classify_video), (AUDIO, tags.classify_audio):
        kind = classify(data)
        ended = tags.TrackCodecs().ended_slots(type_id, data)
        assert len(ended) <= 2 * tags.MAX_TRACKS and (kind in (tags.HEADER, tags.OTHER) or not ended)
        parts: list[bytes | memoryview] = []
        assert flv.append_tag(parts, type_id, len(data), data) == sum(map(len, parts))
        assert parse_flv(flv.header() + b"".join(parts)) == [Message(type_id, 1, len(data), data)]
        slots = tags.header_slots(type_id, data)
        assert len(slots) == len(set(slots)) <= tags.MAX_TRACKS
        assert len(tags.tracks(type_id, data)) <= tags.MAX_TRACKS
        tags.codec_name(type_id, data)
        packet = tags.parse(type_id, data)
        assert packet is None or len(packet.tracks) <= tags.MAX_TRACKS
        details = codecs.describe_header(type_id, data)
        assert len(str(details)) < 1000, details
    with contextlib.suppress(ProtocolError):
        split = list(messages.split_aggregate(Message(AGGREGATE, 1, 0, data)))
        assert sum(len(part.body) for part in split) <= len(data)
        assert len(split) <= messages.MAX_PARTS


def fuzz_fmp4(data: bytes) -> None:
    """Any messages are muxed to a well-formed stream, which has no more media than they have, and is bounded by them.

    Each message begins with a byte for its type, one for its time, and two for its length.
    """
    for muxer in fmp4.Muxer(), fmp4.Muxer(1):
        entries: list[mp4.Entry] = []
        offset = time = sent = count = steps_back = 0
        while offset + 4 <= len(data):
            kind, step, length = data[offset], data[offset + 1], data[offset + 2] << 8 | data[offset + 3]
            body = data[offset + 4 : offset + 4 + length]
            offset += 4 + len(body)
            back = 900 if kind & 2 else 0
            time = time + step * 4 - back & 0xFFFFFFFF
            sent += len(body)
            count += 1
            entries += muxer.write(VIDEO if kind & 1 else AUDIO, time, body)
            if kind & 0xFC == 0xFC:
                entries += muxer.flush()
                muxer.reset()
                back = 1
            steps_back += bool(back)
        entries += muxer.flush()
        stream = b"".join(part for entry in entries for part in (entry.head, entry.frame))
        found = samples(stream)
        assert sum(len(sample.data) for sample in found) <= sent
        assert len(found) <= count * fmp4.MAX_TRACKS
        assert len(stream) <= 2 * sent + fmp4.CREDIT + fmp4.FRAGMENT_HEADER * len(found)
        if not steps_back:
            check_stream(parse_mp4(stream))
        check_segments(entries, data)


def check_segments(entries: list[mp4.Entry], cuts: bytes) -> None:
    """A stream is cut into parts, which are runs of its fragments, each of them in one part at most. Initialisation
    sections are not in parts, and end one unless they are the same as before."""
    segmenter = Segmenter(1, 0.3, 1)
    fragments = b"".join(part for entry in entries if entry.type_id for part in (entry.head, entry.frame))
    fed = 0
    for number, entry in enumerate(entries):
        segmenter.feed(entry.head + entry.frame, cuts[number % len(cuts)] / 100)
        fed += len(entry.head) + len(entry.frame)
        assert len(segmenter.segments) < MAX_SEGMENTS
        assert segmenter.held <= fed + 2 * PART_OVERHEAD * len(entries)
    segmenter.end()
    parts = [part for segment in segmenter.segments for part in segment.parts]
    assert (
        [part.number for part in parts] == list(range(parts[0].number, parts[0].number + len(parts))) if parts else True
    )
    assert all(part.data in fragments and part.duration >= 0 for part in parts)
    if parts:
        text = media_playlist(segmenter, "v0", False, {})
        assert len(text) < 2000 + 200 * (len(parts) + len(segmenter.segments)), text


def fuzz_hls(data: bytes) -> None:
    """A file's name and a query, behind a line feed, ask for something, or for nothing that there is."""
    name, _, query = data.partition(b"\n")
    arguments = parse_qs(query[:500])
    wanted = Wanted.parse(name.decode("utf-8", "replace"), arguments)
    if isinstance(wanted, Answer):
        assert wanted.code in (400, 404)
    else:
        assert wanted.track is None or 0 <= wanted.track <= 255
        assert 0 <= wanted.number < 10**12
        assert wanted.reload is None or (0 <= wanted.reload[0] < 10**12 and -1 <= wanted.reload[1] < 10**12)


def fuzz_coordinator(data: bytes) -> None:
    """What was parsed and is written again is parsed in the same way."""
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
    """A message ends no other publish than the one that it names."""
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
    """A header is found as soon as its last byte is there, and not earlier."""
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
    """A publisher sends any bytes, in reads whose size the first byte gives. No bug is logged, its player receives
    well-formed messages, and the player of another channel notices nothing."""
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
        player.new()  # raises unless what the player received can be decoded
        other.send(aac(40))
        assert witness.new()[-1].timestamp == 40
        for client in publisher, player, other, witness:
            client.leave()
        assert world.factory.limits.inside == 0
        world.clock.advance(60)
        assert world.broker.channels() == []


def fuzz_relay(data: bytes) -> None:
    """A server that is pushed to, or pulled from, answers as it should up to some stage, and with any bytes from there
    on. No bug is logged, a push beside it receives everything, and nothing is left in the end."""
    mode, stage, size = (data + bytes(3))[:3]
    push, pull = ("", "other/*=rtmp://bad/app/{key}") if mode % 2 else ("tv=rtmp://bad/app/key", "")
    with no_bugs():
        network = Network()
        bad, good = Stub(network, "bad"), Stub(network, "good")
        node = Node(network, "here", push, pull)
        node.relays.add_push("tv", "rtmp://good/app/key")
        publisher = node.publisher("tv")
        if mode % 2:
            node.player("other")
        witness, there = good.connection, bad.connection
        witness.accept()
        stages: list[Callable[[], None]] = [
            lambda: there.answer("connect", None, {}),
            lambda: there.answer("createStream", None, 1.0),
            lambda: there.status("NetStream.Play.Start" if mode % 2 else "NetStream.Publish.Start"),
        ]
        for step in stages[: stage % 4]:
            step()
        size = size * 8 + 1
        for start in range(3, len(data), size):
            if not there.transport.ended:
                there.transport.write(data[start : start + size])
                network.settle()
        publisher.send(AVC_HEADER, avc(0, True), aac(10))
        for _ in range(12):
            network.clock.advance(1)
            publisher.send(messages.acknowledgement(0))
            node.world.factory.check()
            network.settle()
        assert [message.body for message in witness.media()] == [
            message.body for message in (AVC_HEADER, avc(0, True), aac(10))
        ]
        gone = node.relays.stopService()
        network.settle()
        for client in node.clients:
            client.leave()
        for _ in range(10):
            network.clock.advance(1)
            node.world.factory.check()
            network.settle()
        assert gone.called and not node.world.factory.connections
        assert node.world.factory.limits.inside == 0
        assert node.world.broker.channels() == []


def fuzz_web(data: bytes) -> None:
    """A client sends any bytes to the viewers' site, or to the operators', in reads: which site and of which size, the
    first byte says. No bug is logged, and what it gets is HTTP. A viewer beside it gets the media. Nothing is left."""
    first = (data or bytes(1))[0]
    size = first // 4 * 32 + 1
    with no_bugs():
        world = World()
        clock, broker, options = world.clock, world.broker, world.factory.options
        publisher = world.connect().open()
        publisher.publish()
        publisher.send(AVC_HEADER, AAC_HEADER, *media(3))
        access = Access(clock, options.names, options.guessing, KEY, None, EVERYONE)
        viewers = Viewers(clock, broker, access, hls=HLS(clock, broker, now=lambda: 1000 + clock.seconds()))
        limits = ConnectionLimits(0, 10, EVERYONE, "WEB_MAX_PER_IP", beside=world.factory.limits)
        site = watch_site(viewers, limits)
        witness = web_client(world, site, "192.0.2.8")
        witness.feed(b"GET /channel/key.flv HTTP/1.1\r\nHost: here\r\n\r\n")
        asked = site
        if first % 4 == 0:
            asked = OperatorHTTP(clock, cast(Any, None), operations(world), TOKEN, print, broker.scheduler.turns)._site
        client = web_client(world, asked, "192.0.2.9")
        for start in range(1, len(data), size):
            if not client.transport.disconnecting:
                client.feed(data[start : start + size])
        publisher.send(aac(4000))
        if asked is site:  # an operator may have ended the publish
            assert aac(4000).body in witness.transport.value()
        answer = client.transport.value()
        assert answer[:9] in (b"", b"HTTP/1.1 ", b"HTTP/1.0 "), answer[:80]
        publisher.leave()
        pass_time(world, viewers, 12)
        for one in client, witness:
            one.leave()
        pass_time(world, viewers, IDLE_SECONDS + 1)
        assert not site.connections and not asked.connections and not viewers.all
        assert limits.inside == site.unread == asked.unread == 0
        assert broker.channels() == []


def pass_time(world: World, viewers: Viewers, seconds: int) -> None:
    """Lets time pass, as the web server's service checks its viewers."""
    for _ in range(seconds):
        world.clock.advance(1)
        viewers.check()
        viewers.hls.check()


def web_client(world: World, site: LimitedSite, address: str) -> Client:
    """Somebody who has connected to a web site."""
    transport = MemoryTransport(address)
    protocol = site.buildProtocol(transport.getPeer())
    protocol.makeConnection(transport)
    return Client(world, protocol, transport)


def operations(world: World) -> LocalOperations:
    """What the operators' site asks and does."""
    timed = TimedAuthority(world.authority, world.clock)
    metrics = Metrics(world.clock, world.broker, world.factory, timed, {}, relays=None)
    return LocalOperations(world.clock, world.broker, metrics.sampler, metrics.text, None)


def fuzz_server(data: bytes) -> None:
    """Up to four clients, the authority, a command's sender and the clock do what a schedule says (schedules.py), and
    leave. No bug is logged, the authority heard of the end of each start that it accepted, what was received is
    chunks, and nothing is left: no channel, no account but that of connections, no work, no timer."""
    with no_bugs():
        Schedule(data).run()


@contextlib.contextmanager
def no_bugs() -> Iterator[None]:
    """Raises AssertionError where a bug was logged."""
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
    "client_handshake": fuzz_client_handshake,
    "coordinator": fuzz_coordinator,
    "fmp4": fuzz_fmp4,
    "handshake": fuzz_handshake,
    "hls": fuzz_hls,
    "keyframes": fuzz_keyframes,
    "media": fuzz_media,
    "proxy": fuzz_proxy,
    "redis": fuzz_redis,
    "relay": fuzz_relay,
    "server": fuzz_server,
    "session": fuzz_session,
    "web": fuzz_web,
}
