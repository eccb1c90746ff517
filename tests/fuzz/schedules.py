"""A whole server in memory, driven by a schedule: what the target ``server`` makes of its input.

The transports are Twisted's own for TCP, on sockets without a file and a reactor without an operating system. The
first byte of a schedule says how the server is set up and how it ends. Then come steps: a byte with the step in its
low five bits (`STEPS`), the number of the client in the next two, and in its highest whether the next step comes
before the reactor has turned. Most steps take one byte more. A schedule that is cut off goes on with zeros.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import socket
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from attrs import define
from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from rtmp_twisted.live import cursor
from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.channel import ChannelOptions
from rtmp_twisted.live.memory import Memory
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.rtmp.connection import Connection
from rtmp_twisted.rtmp.factory import RTMPFactory
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.wire import amf0, chunks, messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, HANDSHAKE, METADATA, aac, avc
from tests.support.turns import TurnClock

MEMORY_LIMIT = 400_000
"""Bytes: a few large frames, or connections with a half message each."""

CACHE_BYTES = 60_000
MAX_LAG = 100_000
"""Bytes that a player may lag behind here."""

MAX_GENERATED = 3_000_000
"""Bytes that a schedule may send beyond its own: then everything is small. It bounds the time that an input takes."""

MAX_TURNS = 20_000
"""Turns of the reactor after which it should have come to rest."""

MAX_SECONDS = 30
"""Seconds after the end of the last connection, in which every timer must have come."""

UNLIMITED = 1 << 40
SIZES = (0, 5, 100, 1000, 5000, 20_000, 60_000, 110_000)
SECONDS = (0.0, 0.1, 1.0, 10.0)
KEYS = ("key", "other")
CHANNELS = ("channel", "second")
ADDRESSES = ("192.0.2.1", "192.0.2.2")
HEADERS = (
    AVC_HEADER,
    AAC_HEADER,
    Message(VIDEO, 1, 0, b"\x90hvc1configuration"),
    Message(VIDEO, 1, 0, b"\x96\x00avc1\x01configuration of track 1"),
    Message(VIDEO, 1, 0, b"\x17\x02\0\0\0"),
    Message(AUDIO, 1, 0, b"\x90Opusconfiguration"),
    Message(VIDEO, 1, 0, b"\x17\x00\0\0\0" + bytes(3000)),
    METADATA,
)
SENT = {messages.SET_CHUNK_SIZE, messages.COMMAND_AMF0, *range(3, 7), *messages.MEDIA}
"""Types of messages that the server sends."""
COMMANDS = ("connect", "createStream", "publish", "play", "FCPublish", "releaseStream", "_checkbw", "getStreamLength")
PLAYS = ("", "?cache=gop", "?cache=no", "?cache=clear", "?cache=all")


class Pipe(socket.socket):
    """A socket without a file. ``room``: bytes that it still takes."""

    def __init__(self) -> None:  # without the base class's, which would open a file
        self.inbox = bytearray()
        self.sent = bytearray()
        self.room = UNLIMITED
        self.ended: OSError | bool = False
        """Whether the client has left, behind what is in ``inbox``."""

    def send(self, data: Any, flags: int = 0) -> int:
        size = min(self.room, len(data))
        if len(data) and not size:
            raise BlockingIOError(errno.EWOULDBLOCK, "full")
        self.room -= size
        self.sent += data[:size]
        return size

    def sendmsg(self, buffers: Any, *_: Any) -> int:
        return self.send(b"".join(buffers))

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.inbox:
            if isinstance(self.ended, OSError):
                raise self.ended
            if not self.ended:
                raise BlockingIOError(errno.EWOULDBLOCK, "empty")
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        return data

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None: ...

    def setsockopt(self, *_: Any) -> None: ...

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...


class BufferingTransport(tcp.Server):
    """One that takes whatever is written, as TLS does."""

    def getHandle(self) -> Any:
        return None


class Reactor(TurnClock):
    """A clock that also has transports."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[Any, None] = {}
        self.writers: dict[Any, None] = {}

    def addReader(self, transport: Any) -> None:
        self.readers[transport] = None

    def addWriter(self, transport: Any) -> None:
        self.writers[transport] = None

    def removeReader(self, transport: Any) -> None:
        self.readers.pop(transport, None)

    def removeWriter(self, transport: Any) -> None:
        self.writers.pop(transport, None)

    def _ready(self) -> Iterator[tuple[dict[Any, None], Any]]:
        for transport in list(self.readers):
            if transport.socket.inbox or transport.socket.ended:
                yield self.readers, transport
        for transport in list(self.writers):
            if transport.socket.room:
                yield self.writers, transport

    @property
    def busy(self) -> bool:
        """Whether something is due."""
        return any(call.getTime() <= self.seconds() for call in self.calls) or next(self._ready(), None) is not None

    def turn(self) -> None:
        super().turn()
        for wanted, transport in list(self._ready()):
            if transport not in wanted:
                continue
            why = transport.doRead() if wanted is self.readers else transport.doWrite()
            if why:
                self.removeReader(transport)
                self.removeWriter(transport)
                transport.connectionLost(Failure(why))

    def settle(self) -> None:
        """Turns until nothing is due."""
        for _ in range(MAX_TURNS):
            if not self.busy:
                return
            self.turn()
        raise AssertionError("the reactor does not come to rest")


@implementer(IPublishAuthority)
class Authority:
    """Answers at once, or when the schedule says so."""

    def __init__(self) -> None:
        self.late = False
        self.late_ends = False
        self.accepted: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.questions: list[Deferred[str]] = []
        self.untold: list[Deferred[None]] = []
        self._numbers = itertools.count()

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        if self.late:
            question: Deferred[str] = Deferred()
            self.questions.append(question)
            return question
        return succeed(self._accept())

    def _accept(self) -> str:
        stream_id = f"id{next(self._numbers)}"
        self.accepted[stream_id] += 1
        return stream_id

    def answer(self, number: int, accepts: bool) -> None:
        question = self.questions.pop(number % len(self.questions))
        if accepts:
            question.callback(self._accept())
        else:
            question.errback(Refused("no"))

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        self.ended[stream_id] += 1
        if self.late_ends:
            telling: Deferred[None] = Deferred()
            self.untold.append(telling)
            return telling
        return succeed(None)

    def tell(self) -> None:
        untold, self.untold = self.untold, []
        for telling in untold:
            telling.callback(None)


@define(eq=False)
class Client:
    """One connection's other side."""

    pipe: Pipe
    transport: Any
    handshaken: bool = False
    chunk_size: int = chunks.DEFAULT_CHUNK_SIZE
    time: int = 0
    """Milliseconds, of the media that it sends."""
    heard_all: bool = False
    """Whether it has received all that it was sent."""

    def feed(self, data: bytes) -> None:
        """Bytes arrive; while the server does not read, they wait, except in a transport that buffers."""
        transport = self.transport
        if isinstance(transport, BufferingTransport) and not self.pipe.inbox:
            if data and transport.connected and not transport._aborting:
                transport.protocol.dataReceived(data)
        else:
            self.pipe.inbox += data

    def check(self) -> None:
        """What it received is whole messages, of types that the server sends."""
        decoder = chunks.ChunkDecoder()
        types = {found.type_id for found in decoder.feed(bytes(self.pipe.sent[1 + 1536 + 1536 :])) if found}
        assert types <= SENT, types
        assert not (self.heard_all and decoder.partial)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """What has ended holds nothing at once, and not when the garbage collector comes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Schedule:
    """Runs the schedule in ``data``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0
        self._generated = 0
        setup = self._byte()
        self.reactor = Reactor()
        self.authority = Authority()
        self.authority.late = bool(setup & 1)
        self._stops = bool(setup & 2)
        stopwatch = itertools.count().__next__ if setup & 4 else lambda: 0
        self.turns = Turns(self.reactor)
        self.scheduler = FlushScheduler(self.reactor, 0.05, lambda: stopwatch() / 500, self.turns)
        self.memory = Memory(MEMORY_LIMIT, self.turns)
        options = ChannelOptions(cache_bytes=CACHE_BYTES, whole_stream=bool(setup & 8))
        takeover_seconds = 0.0 if setup & 16 else 3.0
        clock: Any = self.reactor
        self.broker = Broker(clock, self.authority, self.scheduler, options, takeover_seconds, memory=self.memory)
        rate = 20_000.0 if setup & 32 else 0.0
        self.factory = RTMPFactory(SessionOptions(self.broker, clock, max_publish_rate=rate))
        self.clients: list[Client | None] = [None] * 4
        self.past: list[Client] = []
        self.connections: list[weakref.ref[Connection]] = []

    def run(self) -> None:
        """Raises AssertionError where a promise was broken."""
        with patch.object(cursor, "MAX_LAG", MAX_LAG), without_collector():
            while self._place < len(self._data):
                step = self._byte()
                STEPS[step & 31](self, step >> 5 & 3)
                if step < 128:
                    self.reactor.settle()
            self._end()
            self._check()

    # The input

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1] if self._place <= len(self._data) else 0

    def _take(self, size: int) -> bytes:
        self._place += size
        return self._data[self._place - size : self._place]

    def _size(self, choice: int) -> int:
        """One of `SIZES`, while there is time for it."""
        size = SIZES[choice & 7]
        self._generated += size
        return size if self._generated <= MAX_GENERATED else 5

    # The clients

    def _client(self, number: int, address: int = 0, buffers: bool = False) -> Client:
        """The client with a number, connected anew if it has left or was ended."""
        client = self.clients[number]
        if client is not None and client.transport.connected:
            return client
        if client is not None:
            self.past.append(client)
        pipe, peer = Pipe(), ADDRESSES[address & 1]
        protocol: Any = self.factory.buildProtocol(IPv4Address("TCP", peer, 50000))
        kind = BufferingTransport if buffers else tcp.Server
        server: Any = None
        reactor: Any = self.reactor
        transport = kind(pipe, protocol, (peer, 50000), server, number, reactor)
        if buffers:
            directlyProvides(transport, ISSLTransport, providedBy(transport))
        self.connections.append(weakref.ref(protocol.connection))
        protocol.makeConnection(transport)
        client = self.clients[number] = Client(pipe, transport)
        return client

    def _send(self, client: Client, *to_send: Message, chunk_stream_id: int = 4) -> None:
        client.feed(b"".join(chunks.encode(message, chunk_stream_id, client.chunk_size) for message in to_send))

    def _open(self, number: int, choice: int = 0) -> Client:
        """The client with a number, with connect and createStream done."""
        client = self._client(number, choice & 1, bool(choice & 2))
        if not client.handshaken:
            client.handshaken = True
            client.feed(HANDSHAKE + bytes(1536))
            wishes: dict[str, amf0.Value] = {"app": CHANNELS[choice >> 2 & 1]}
            self._send(
                client,
                messages.command("connect", 1, wishes),
                messages.command("createStream", 2, None),
                messages.command("createStream", 3, None),
                chunk_stream_id=3,
            )
        return client

    def _call(self, number: int, name: str, *arguments: amf0.Value, stream_id: int = 1) -> None:
        call = messages.command(name, 5, None, *arguments, stream_id=stream_id)
        self._send(self._open(number), call, chunk_stream_id=3)

    # Steps

    def connect(self, number: int) -> None:
        choice = self._byte()
        self._client(number, choice & 1, bool(choice & 2))

    def open(self, number: int) -> None:
        self._open(number, self._byte())

    def raw(self, number: int) -> None:
        self._client(number).feed(self._take(self._byte()))

    def message(self, number: int) -> None:
        type_id, stream_id = self._byte(), self._byte() & 3
        body = self._take(self._byte())
        client = self._open(number)
        self._send(client, Message(type_id, stream_id, client.time, body))

    def publish(self, number: int) -> None:
        choice = self._byte()
        self._call(number, "publish", KEYS[choice & 1], "live", stream_id=1 + (choice >> 1 & 1))

    def play(self, number: int) -> None:
        choice = self._byte()
        key = KEYS[choice & 1] + PLAYS[(choice >> 3) % len(PLAYS)]
        self._call(number, "play", key, stream_id=1 + (choice >> 1 & 3))

    def header(self, number: int) -> None:
        header = HEADERS[self._byte() % len(HEADERS)]
        self._send(self._open(number), header)

    def _frame(self, client: Client, choice: int) -> Message:
        client.time += SIZES[choice >> 4 & 3]
        return avc(client.time, bool(choice & 1), bytes(self._size(choice >> 1)))

    def frame(self, number: int) -> None:
        client = self._open(number)
        self._send(client, self._frame(client, self._byte()))

    def sound(self, number: int) -> None:
        client, choice = self._open(number), self._byte()
        client.time += SIZES[choice >> 4 & 3]
        self._send(client, aac(client.time, bytes(self._size(choice >> 1))))

    def tracks(self, number: int) -> None:
        """A frame of one of four tracks, or of two of them."""
        client, choice = self._open(number), self._byte()
        first = b"\x96" if choice & 1 else b"\xa6"
        track = choice >> 1 & 3
        part = bytes(self._size(choice >> 4 & 3))
        if choice & 8:
            size = len(part).to_bytes(3, "big")
            body = first + b"\x13avc1" + bytes((track,)) + size + part + bytes((track ^ 1,)) + size + part
        else:
            body = first + b"\x03avc1" + bytes((track,)) + part
        client.time += 20
        self._send(client, Message(VIDEO, 1, client.time, body))

    def aggregate(self, number: int) -> None:
        client, choice = self._open(number), self._byte()
        body = b""
        for place in range((choice & 7) * 12):
            part = aac(client.time) if place % 3 else avc(client.time, not place)
            client.time += 20
            head = bytes((part.type_id,)) + len(part.body).to_bytes(3, "big")
            time = (part.timestamp & 0xFFFFFF).to_bytes(3, "big") + bytes((part.timestamp >> 24 & 255,))
            body += head + time + bytes(3) + part.body + (11 + len(part.body)).to_bytes(4, "big")
        body = body[: len(body) - (choice >> 6)]  # perhaps cut off
        self._send(client, Message(messages.AGGREGATE, 1, client.time, body))

    def set_chunk_size(self, number: int) -> None:
        client, choice = self._open(number), self._byte()
        size = (1, 128, 4096, 65536)[choice & 3]
        self._send(client, messages.set_chunk_size(size), chunk_stream_id=2)
        if not choice & 4:
            client.chunk_size = size

    def abort(self, number: int) -> None:
        body = (self._byte() & 7).to_bytes(4, "big")
        self._send(self._open(number), Message(messages.ABORT, 0, 0, body), chunk_stream_id=2)

    def pause(self, number: int) -> None:
        choice = self._byte()
        self._call(number, "pause", bool(choice & 1), 0.0, stream_id=1 + (choice >> 1 & 3))

    def receive(self, number: int) -> None:
        choice = self._byte()
        name = "receiveAudio" if choice & 2 else "receiveVideo"
        self._call(number, name, bool(choice & 1), stream_id=1 + (choice >> 2 & 3))

    def close_stream(self, number: int) -> None:
        self._call(number, "closeStream", stream_id=1 + (self._byte() & 3))

    def delete_stream(self, number: int) -> None:
        self._call(number, "deleteStream", float(1 + (self._byte() & 3)), stream_id=0)

    def create_stream(self, number: int) -> None:
        self._call(number, "createStream", stream_id=0)

    def metadata(self, number: int) -> None:
        text = "x" * min(self._size(self._byte()), 20_000)
        self._send(self._open(number), messages.data(0, "@setDataFrame", "onMetaData", {"x": text}, stream_id=1))

    def half(self, number: int) -> None:
        """A part of a frame; what comes next on this chunk stream is the rest of it."""
        client, choice = self._open(number), self._byte()
        data = chunks.encode(self._frame(client, choice), 5 + (choice >> 6), client.chunk_size)
        client.feed(data[: len(data) // 2])

    def wait(self, number: int) -> None:
        self.wait_for(SECONDS[self._byte() & 3])

    def answer(self, number: int) -> None:
        choice = self._byte()
        if self.authority.questions:
            self.authority.answer(choice >> 1, bool(choice & 1))

    def authority_mode(self, number: int) -> None:
        choice = self._byte()
        self.authority.late = bool(choice & 1)
        self.authority.late_ends = bool(choice & 2)
        if choice & 4:
            self.authority.tell()

    def block(self, number: int) -> None:
        self._client(number).pipe.room = 0

    def unblock(self, number: int) -> None:
        self._client(number).pipe.room = (UNLIMITED, 1, 100, 700, 5000, 30_000, 80_000, UNLIMITED)[self._byte() & 7]

    def kill(self, number: int) -> None:
        choice = self._byte()
        channel = CHANNELS[choice & 1]
        if choice & 4:
            self.broker.kill_all("killed")
        elif choice & 2:
            found = self.broker.channel(channel)
            if found is not None and found[1] is not None:
                self.broker.kill(channel, found[1].stream_id, "killed")
        else:
            self.broker.kill(channel, None, "killed")

    def leave(self, number: int) -> None:
        choice, client = self._byte(), self.clients[number]
        if client is not None:
            self._leave(client, bool(choice & 1))

    def _leave(self, client: Client, reset: bool) -> None:
        if not client.pipe.ended:
            client.pipe.ended = ConnectionResetError(errno.ECONNRESET, "reset") if reset else True

    def burst(self, number: int) -> None:
        """Empty messages, one byte each."""
        client = self._open(number)
        count = self._byte() * 8
        client.feed(chunks.encode(Message(AUDIO, 1, client.time, b""), 4, 128) + b"\xc4" * count)

    def control(self, number: int) -> None:
        choice = self._byte()
        value = SIZES[choice >> 2 & 7]
        control = (
            messages.acknowledgement(value),
            messages.window_acknowledgement_size(value),
            messages.user_control(messages.PING_REQUEST, value),
            messages.set_peer_bandwidth(value),
        )[choice & 3]
        self._send(self._open(number), control, chunk_stream_id=2)

    def command(self, number: int) -> None:
        choice = self._byte()
        self._call(number, COMMANDS[choice & 7], ("", 1.0, None, {})[choice >> 3 & 3], stream_id=choice >> 5 & 3)

    def turn(self, number: int) -> None:
        self.reactor.turn()

    def frames(self, number: int) -> None:
        """Several frames in one read, the first of them a keyframe."""
        client, choice = self._open(number), self._byte()
        first = self._frame(client, choice | 1)
        rest = [self._frame(client, choice & 0x3E) for _ in range(1 + (choice >> 6) * 3)]
        self._send(client, first, *rest)

    # Time

    def wait_for(self, seconds: float) -> None:
        """Time passes; the factory checks its connections every second, as the service has it do."""
        while seconds > 0:
            step = min(seconds, 1.0)
            seconds -= step
            due = self.reactor.seconds() + step
            while self.reactor.calls and min(call.getTime() for call in self.reactor.calls) < due:
                self.reactor.rightNow = max(self.reactor.rightNow, min(call.getTime() for call in self.reactor.calls))
                self.reactor.settle()
            self.reactor.rightNow = due
            if step == 1.0:
                self.factory.check()
                assert self.memory.held >= 0, self.memory.held
            self.reactor.settle()

    # The end

    def _end(self) -> None:
        """All leave, the authority answers, and time passes until there is nothing to wait for."""
        if self._stops:
            self.factory.finish_all("the server is stopping")
            self.reactor.settle()
        clients = list(filter(None, self.clients))
        for client in clients:
            client.pipe.room = UNLIMITED
        self.reactor.settle()
        for client in clients:
            client.heard_all = client.transport.connected and not client.transport._aborting
            self._leave(client, False)
        self.reactor.settle()
        for _ in range(MAX_SECONDS):
            while self.authority.questions:
                self.authority.answer(0, True)
                self.reactor.settle()
            self.authority.late_ends = False
            self.authority.tell()
            self.reactor.settle()
            if not self.reactor.getDelayedCalls() and not self.factory.connections:
                break
            self.wait_for(1.0)
        self.wait_for(1.0)

    def _check(self) -> None:
        """Nothing is left. There are no periodic timers here: a service, and not the factory, has the checks made."""
        assert not self.factory.connections, self.factory.connections
        assert self.reactor.getDelayedCalls() == [], self.reactor.getDelayedCalls()
        assert len(self.turns) == 0
        assert self.broker.channels() == [], self.broker.channels()
        assert self.memory.held == 0, self.memory.held
        assert len(self.memory) == 1  # that of connections
        assert self.scheduler.interval == 0, self.scheduler.interval
        assert self.factory.limits.inside == 0
        assert not self.authority.untold
        assert self.authority.ended == self.authority.accepted, (self.authority.ended, self.authority.accepted)
        assert all(number == 1 for number in self.authority.ended.values()), self.authority.ended
        assert not any(connection() for connection in self.connections), "a connection that has ended lives on"
        for client in [*self.past, *filter(None, self.clients)]:
            client.check()


STEPS: tuple[Callable[[Schedule, int], None], ...] = (
    Schedule.connect,
    Schedule.open,
    Schedule.raw,
    Schedule.message,
    Schedule.publish,
    Schedule.play,
    Schedule.header,
    Schedule.frame,
    Schedule.sound,
    Schedule.tracks,
    Schedule.aggregate,
    Schedule.set_chunk_size,
    Schedule.abort,
    Schedule.pause,
    Schedule.receive,
    Schedule.close_stream,
    Schedule.delete_stream,
    Schedule.create_stream,
    Schedule.metadata,
    Schedule.half,
    Schedule.wait,
    Schedule.answer,
    Schedule.authority_mode,
    Schedule.block,
    Schedule.unblock,
    Schedule.kill,
    Schedule.leave,
    Schedule.burst,
    Schedule.control,
    Schedule.command,
    Schedule.turn,
    Schedule.frames,
)
"""The steps by their numbers. New ones take the place of none: the corpus would mean something else."""
