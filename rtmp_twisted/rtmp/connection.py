"""An RTMP connection, for both roles: bytes to messages and back, time-outs, and how it ends.

It has the handshake, the chunk stream, acknowledgements, pings and the writer. Whether this side accepted or called
only decides which handshake it has, and which handler stands above it: a server's session (session.py), or a client's.
protocol makes it Twisted's; its factory calls ``check`` every second.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, cast

from attrs import frozen
from twisted.internet.interfaces import IReactorTime, ISSLTransport
from twisted.logger import Logger

from rtmp_twisted.live.turns import Turns
from rtmp_twisted.logs import SessionLog
from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.interfaces import CONNECTION_TRANSITIONS, ConnectionState, Handler, Handshake, MediaSink
from rtmp_twisted.rtmp.poller import PublisherPoller
from rtmp_twisted.rtmp.reserve import MemoryReserve
from rtmp_twisted.rtmp.writer import SocketWriter, Writer, writer_for
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.chunks import EXHAUSTED, Exhausted
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import Message

WINDOW: Final = 5_000_000
"""Bytes: the window acknowledgement size that holds until the other side says another one."""

MAX_MESSAGE: Final = 64 * 1024
"""Bytes: the longest message that is accepted until `Connection.accept_messages` is called."""

MESSAGES_PER_TURN: Final = 64
"""Messages of one connection that are handled in one turn of the reactor; the others wait for the next turns."""

COMMAND_COST: Final = 16
"""What a command counts of those, or chunks that complete no message: they take longer."""

HANDSHAKE_SECONDS: Final = 10
"""From the connection to the end of the handshake."""
CONNECT_SECONDS: Final = 10
"""From the handshake to ``connect``."""
IDLE_SECONDS: Final = 60
"""How long a connected client may neither publish nor play, nor ask to."""
LINGER_SECONDS: Final = 5
"""How long a closing connection may take to deliver what was sent."""
PING_SECONDS: Final = 30
"""From one Ping Request to the next."""
SILENT_SECONDS: Final = 60
"""When the other side has sent nothing for so long, it is gone, unless it takes the media that it is sent."""
STUCK_SECONDS: Final = 60
"""When the other side has taken nothing for so long, although something waits for it, it is gone."""
MAX_RECORD: Final = 16 * 1024
"""Bytes behind the handshake within which a connection may be given away."""
MAX_WAITING = 1024 * 1024
"""Bytes of answers that may wait to leave; media is not among them."""

HANDSHAKE_SIZE: Final = 3073
"""Bytes of C0, C1 and C2 (RTMP 1.0, section 5.2)."""

_log = Logger(__name__)


_LIMITS: Final = {
    ConnectionState.HANDSHAKE: (HANDSHAKE_SECONDS, "no handshake within {} s"),
    ConnectionState.CONNECT: (CONNECT_SECONDS, "no connect within {} s"),
    ConnectionState.IDLE: (IDLE_SECONDS, "neither published nor played for {} s"),
}
"""Seconds that a state may last, and the reason for the log."""


class Registry(Protocol):
    """Who keeps count of connections: a factory."""

    def connection_made(self, connection: Connection) -> None: ...

    def connection_lost(self, connection: Connection) -> None: ...

    def exempt(self, connection: Connection) -> None: ...


@frozen
class ConnectionOptions:
    """What all connections have in common. ``flush`` hands on what publishers have sent; without a ``poller`` each
    transport reads for itself. ``reserve`` is released where a connection is out of memory. ``debug`` and ``trace``:
    whether such log events are wanted. ``quiet``: somebody else logs their ends. ``movable``: they may be given
    away. ``internal``: they are with this server's other workers."""

    clock: IReactorTime
    registry: Registry
    turns: Turns
    flush: Callable[[], None]
    poller: PublisherPoller | None = None
    reserve: MemoryReserve | None = None
    debug: bool = False
    trace: bool = False
    quiet: bool = False
    movable: bool = False
    internal: bool = False


class Connection:
    """``number`` names the connection in the log; ``peer`` is the other side's address, textual, IPv4 where it is
    IPv4-mapped. Begins with `connected`, ends with `lost`. ``handler`` has to be set before it begins."""

    handler: Handler

    __slots__ = (
        "__weakref__",
        "_aborted",
        "_acknowledged",
        "_answered",
        "_checked",
        "_checked_at",
        "_chunk_size",
        "_clock",
        "_closing",
        "_decoder",
        "_delivered",
        "_ended",
        "_full",
        "_handshake",
        "_lost",
        "_made",
        "_parts",
        "_pinged_at",
        "_polled",
        "_read",
        "_record",
        "_since",
        "_state_since",
        "_streaming",
        "_unfinished",
        "_window",
        "bytes_received",
        "handler",
        "heard_at",
        "log",
        "number",
        "options",
        "peer",
        "replaying",
        "sink",
        "state",
        "transport",
        "writer",
    )

    def __init__(self, options: ConnectionOptions, handshake: Handshake, number: int, peer: str) -> None:
        self.options = options
        self.number = number
        self.peer = peer
        self.log = SessionLog(_log, number, peer, options.debug, options.trace)
        self.state = ConnectionState.HANDSHAKE
        self.sink: MediaSink | None = None
        """Set while the other side publishes, or asks to."""
        self.bytes_received = 0
        self._clock = options.clock
        self.heard_at = self._since = self._state_since = self._pinged_at = self._clock.seconds()
        self._handshake: Handshake | None = handshake
        self._decoder = chunks.ChunkDecoder(MAX_MESSAGE)
        self._read = self._traced_read if options.trace else self._decoder.read
        self._unfinished = False  # what has come is being handled, or goes on in the next turn
        self._parts: Iterator[Message] | None = None  # of an aggregate message, before the other messages
        self._chunk_size = chunks.DEFAULT_CHUNK_SIZE
        self._window = WINDOW
        self._acknowledged = 0
        self._answered = 0
        self._checked, self._checked_at = 0, self._since
        self._delivered = 0
        self._polled = False  # the poller is to read for it
        self._full = False  # the other side has to wait
        self._closing = ""  # why it is being closed
        self._streaming = False  # it publishes or plays
        self._ended = False
        self._made = False
        self._aborted = False
        self._lost = False
        self._record: bytearray | None = None  # what has come behind the handshake, while it may be given away
        self.replaying = False
        """What comes has been answered already, by the process that gave the connection away."""

    # What the protocol calls

    def connected(self, transport: Any) -> None:
        self.transport = transport
        self._made = True
        self.options.registry.connection_made(self)
        try:
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
            # When the other side is gone without a word, the kernel finds out as soon as data is not acknowledged.
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_SECONDS * 1000)
        except (AttributeError, OSError):
            pass  # not TCP
        self.writer: Writer = writer_for(transport, self._clock, self._drained, self._blocked, self.abort)
        self.log.debug("connection{tls}", tls=" over TLS" if ISSLTransport.providedBy(transport) else "")
        if self.replaying:
            self._begin_messages()
            self._record = None  # it moves once
        elif self._handshake is not None:
            hello = self._handshake.start()
            if hello:
                self.writer.write(hello)

    def lost(self, why: str) -> None:
        """The connection is lost, for a reason that counts where it is not this side that has closed it."""
        self._lost = True
        if not self._made:
            return  # TLS could not even begin
        self._stop_reading()
        connected = self.state is not ConnectionState.HANDSHAKE and self.state is not ConnectionState.CONNECT
        try:
            self._end(why)
            shown = (connected or self._closing) and not self.options.quiet
            level = self.log.info if shown else self.log.debug
            level(
                "disconnected after {duration}, {received} received: {reason}",
                duration=duration(self._clock.seconds() - self._since),
                received=amount(self.bytes_received),
                reason=self._closing or why,
            )
        finally:  # whatever went wrong, it is not counted any more
            self.options.registry.connection_lost(self)
            self._clear()
        self.let_publishers_be_read()  # for many may be lost at once

    def acknowledge_at_once(self) -> None:
        """Spares a client that writes its commands one by one, with TCP_NODELAY off, a wait for each: up to 40 ms."""
        with contextlib.suppress(AttributeError, OSError):  # not TCP, or not Linux
            self.transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def received(self, data: bytes) -> None:
        """Some bytes have come; they are handed on at once. Never raises."""
        self.receive(data)
        self.options.flush()
        self.let_publishers_be_read()

    def let_publishers_be_read(self) -> None:
        """Called behind pieces of work of which there may be many in one turn."""
        if self.options.poller is not None:
            self.options.poller.poll_if_due()

    # What the poller calls

    def receive(self, data: bytes) -> None:
        """Some bytes have come, which ``flush`` hands on later. Never raises."""
        self.heard_at = self._clock.seconds()
        self.bytes_received += len(data)
        if self._closing:
            return
        if not self._streaming:
            self.acknowledge_at_once()
            if self._record is not None:
                self._keep_record(data)
        try:
            if self._handshake is not None:
                data = self._shake_hands(self._handshake, data)
            self._decoder.feed(data)
            if self._unfinished:  # TLS hands over what it has, also when it is paused
                return
            self._unfinished = True
            if self._handle():
                self._pause()
                self.options.turns.add(self._next_turn)
        except ProtocolError as problem:
            self.abort(str(problem))
        except Exception as error:
            self.fail(error)

    def _handle(self) -> bool:
        """Handles the messages that have come, within the budget of one turn; returns whether there are more."""
        left = MESSAGES_PER_TURN
        if self._parts is not None:
            left = self._handle_parts(self._parts, left)
            if not left:
                return True
        read = self._read
        while (message := read()) is not EXHAUSTED:
            if message is not None:
                sink = self.sink
                type_id = message.type_id
                if sink is not None and type_id in _MEDIA:
                    sink.write(message)
                elif type_id in _CONTROL:
                    self._control(message)
                elif type_id == messages.AGGREGATE:
                    left = self._handle_parts(messages.split_aggregate(message), left)
                else:
                    self.handler.receive(message)
                    left -= COMMAND_COST - 1
                if self._closing:
                    return False
            else:  # many chunks that completed nothing
                left -= COMMAND_COST - 1
            left -= 1
            if left <= 0:
                return True
        self._unfinished = False
        if self.bytes_received - self._acknowledged >= self._window:
            self._acknowledged = self.bytes_received
            self.send(messages.acknowledgement(self.bytes_received))
        if self.sink is not None and self.sink.full:
            self.pause_reading()
        return False

    def _handle_parts(self, parts: Iterator[Message], left: int) -> int:
        """Handles the messages of an aggregate, of which ``left`` fit into this turn.

        Returns how many more messages fit. 0 means that there may be more in the aggregate.
        """
        self._parts = parts
        for part in parts:
            if self.sink is not None and part.type_id in _MEDIA:
                self.sink.write(part)
            left -= 1
            if left <= 0:
                return 0
        self._parts = None
        return left

    def _next_turn(self) -> bool:
        """Goes on with what one turn was too short for; returns whether there is still more."""
        if self._closing or self._lost or not self._unfinished:
            return False
        try:
            if self._handle():
                return True
            self._read_on()
        except ProtocolError as problem:
            self.abort(str(problem))
        except Exception as error:
            self.fail(error)
        self.options.flush()
        return False

    def _control(self, message: Message) -> None:
        """A message for the connection itself (section 5.4, and the pings of section 7.1.7)."""
        if message.type_id == messages.WINDOW_ACKNOWLEDGEMENT_SIZE:
            self._window = messages.four_bytes(message) or WINDOW
        elif message.type_id == messages.USER_CONTROL:
            event, data = messages.parse_user_control(message)
            if event != messages.PING_REQUEST:
                self.handler.receive(message)
            elif len(data) >= 4:
                self.send(messages.user_control(messages.PING_RESPONSE, int.from_bytes(data[:4], "big")))

    def _traced_read(self) -> Message | Exhausted | None:
        item = self._decoder.read()
        if isinstance(item, Message):
            self._trace("received", item)
        return item

    def _trace(self, what: str, message: Message) -> None:
        self.log.trace(
            "{what}: message type {type_id}, stream {stream_id}, time {timestamp}, {size} bytes",
            what=what,
            type_id=message.type_id,
            stream_id=message.stream_id,
            timestamp=message.timestamp,
            size=len(message.body),
        )

    # What the handler calls

    def enter(self, state: ConnectionState) -> None:
        """Changes its state, if that is another one. Raises IllegalTransition where the table does not list that."""
        if state is not self.state:
            self.state = CONNECTION_TRANSITIONS.move(self.state, state)
            self._streaming = state in _STREAMING
            if self._streaming:
                self._record = None
            self._state_since = self._clock.seconds()

    def send(self, *to_send: Message) -> None:
        """Sends the messages in one write. A Set Chunk Size among them holds for those after it."""
        if self._closing or self._lost:
            return
        if self.replaying:
            self._note_sizes(to_send)
            return
        data = b""
        for message in to_send:
            if self.log.trace_on:
                self._trace("sent", message)
            control = message.type_id <= messages.SET_PEER_BANDWIDTH
            data += chunks.encode(message, 2 if control else 3, self._chunk_size)
            if message.type_id == messages.SET_CHUNK_SIZE:
                self._chunk_size = messages.four_bytes(message)
        if not self.writer.blocked:
            self._answered = 0
        self._answered += len(data)
        if self._answered > MAX_WAITING:
            self.abort("it does not read its answers")
            return
        self.writer.write(data)

    @property
    def movable(self) -> bool:
        """Whether `give_away` would let go of it."""
        plain = isinstance(self.writer, SocketWriter) and not self.writer.blocked
        return self._record is not None and plain and not self._closing

    def give_away(self) -> tuple[int, bytes] | None:
        """Lets go of the socket. Returns its descriptor, and what has come behind the handshake, for `replay` in
        another process; None where that cannot be, for it is TLS, or something waits to leave."""
        record = self._record
        if record is None or not self.movable:
            return None
        self.log.info("goes on in another worker")
        self._stop_reading()
        descriptor = detach(self.transport)
        self._closing = "given away"
        self._lost = self._ended = True
        self.options.registry.connection_lost(self)
        self._clear()
        return descriptor, bytes(record)

    def replay(self, record: bytes) -> None:
        """Goes on with a connection that another process has given away, from the handshake's end on: nothing is sent
        until `replaying` is unset. That has been set before `connected`, which was called before this."""
        self.bytes_received = HANDSHAKE_SIZE
        self.receive(record)
        self.options.flush()

    def exempt(self) -> None:
        """No limit of connections counts it any more: another node of this server's cluster has made it."""
        self.options.registry.exempt(self)

    def accept_messages(self, longest: int) -> None:
        """The other side's messages may be up to ``longest`` bytes long."""
        self._decoder.max_message_length = longest

    def pause_reading(self) -> None:
        """The other side has to wait with what it sends, until `read_media`."""
        self._full = True
        self._pause()

    def read_media(self) -> None:
        """The sink takes what comes from now on. Publishers are read by the poller, where that is possible."""
        self._polled = self.options.poller is not None and isinstance(self.writer, SocketWriter)
        self._full = False
        if not self._unfinished:
            self._read_on()

    def finish(self, reason: str) -> None:
        """Closes the connection when everything that was sent has been delivered; ``reason`` goes to the log.

        What the other side still sends is read and dropped: a close while there is unread data makes the kernel
        discard what the other side has not read yet.
        """
        if self._closing or self._lost:
            return
        try:
            self._close(reason)
        except Exception as error:
            self.fail(error)
            return
        self._stop_reading()
        if self._aborted:
            return  # a player has left in the middle of a long message
        self.transport.resumeProducing()
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is None or ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()
        else:
            half_close()

    def abort(self, reason: str) -> None:
        """Closes the connection at once; ``reason`` goes to the log."""
        if self._lost:
            return
        if not self._closing:
            self._close(reason)
        self._aborted = True
        self._stop_reading()
        self.transport.abortConnection()

    def fail(self, error: Exception) -> None:
        """``error``, which is being handled, ends this connection, and no other. Never raises."""
        if self._lost:
            return
        self._drop_input()
        try:
            if isinstance(error, MemoryError):
                if self.options.reserve is not None:
                    self.options.reserve.release()  # the end needs some memory as well
                self.log.error("out of memory, which ends this connection")
                self.abort("out of memory")
            else:
                self.log.failure("a bug, which ends this connection")
                self.abort("internal error")
        except Exception:  # even that is too much: whoever hears that the connection is lost tidies up
            self._stop_reading()
            self.transport.abortConnection()

    def _close(self, reason: str) -> None:
        self._closing = reason
        self._end(reason)
        self.enter(ConnectionState.CLOSING)
        self.writer.close()
        self._drop_input()

    # What the factory calls

    def held(self) -> int:
        """Bytes of memory that it holds for what has come in part or cannot be handed on yet, and for answers."""
        sink = self.sink
        record = 0 if self._record is None else len(self._record)
        return self._decoder.held_bytes + record + self._answered + (0 if sink is None else sink.held_bytes)

    def check(self, now: float) -> None:
        """Whether the other side keeps to its times; called every second."""
        if self._closing:
            if now - self._state_since >= LINGER_SECONDS:
                self.abort(self._closing)
            return
        self.handler.check(self.bytes_received - self._checked, now - self._checked_at)
        self._checked, self._checked_at = self.bytes_received, now
        late = "" if self._closing else self._lateness(now)
        if late:
            self.abort(late)
        elif now - self._pinged_at >= PING_SECONDS and self.state in _CONNECTED:
            self._pinged_at = now
            self.send(messages.user_control(messages.PING_REQUEST, int(now * 1000)))

    def _lateness(self, now: float) -> str:
        """The reason why it is to be closed, or an empty text."""
        limit = _LIMITS.get(self.state)
        if limit is not None and now - self._state_since >= limit[0]:
            return limit[1].format(limit[0])
        if self.state not in _CONNECTED:
            return ""
        blocked_since = self.writer.blocked_since
        if blocked_since is not None and now - blocked_since >= STUCK_SECONDS:
            return f"took nothing for {STUCK_SECONDS} s"
        if now - self.heard_at >= SILENT_SECONDS and not self._takes_media(now):
            return f"silent for {SILENT_SECONDS} s"
        return ""

    def _takes_media(self, now: float) -> bool:
        """Whether media has left since this was asked last: a viewer that never says a word is welcome."""
        delivered = self.handler.delivered()
        if delivered == self._delivered or self.writer.blocked:
            return False
        self._delivered = delivered
        self.heard_at = now
        return True

    # Inside

    def _end(self, reason: str) -> None:
        """Tells the handler of the end, unless it has been told."""
        if not self._ended:
            self.handler.end(reason)
            self._ended = True

    def _shake_hands(self, handshake: Handshake, data: bytes) -> bytes:
        answer = handshake.receive(data)
        if answer:
            self.writer.write(answer)
        if not handshake.done:
            return b""
        self._begin_messages()
        if self._record is not None:
            self._keep_record(handshake.rest)
        return handshake.rest

    def _begin_messages(self) -> None:
        """The handshake is over."""
        self._handshake = None
        if self.options.movable:
            self._record = bytearray()
        self.enter(ConnectionState.CONNECT)
        self.handler.handshaken()

    def _keep_record(self, data: bytes) -> None:
        assert self._record is not None
        self._record += data
        if len(self._record) > MAX_RECORD:
            self._record = None

    def _note_sizes(self, sent: tuple[Message, ...]) -> None:
        """What has been sent already counts for what will be."""
        for message in sent:
            if message.type_id == messages.SET_CHUNK_SIZE:
                self._chunk_size = messages.four_bytes(message)

    def _drained(self) -> None:
        """What waited to leave has left."""
        self.handler.drained()
        self.let_publishers_be_read()

    def _blocked(self) -> None:
        self.handler.blocked()

    def _pause(self) -> None:
        """Reads nothing until `_read_on`."""
        if not self._closing:
            self._stop_reading()
            self.transport.pauseProducing()

    def _read_on(self) -> None:
        if self._closing or self._lost or self._full:
            return
        if self._polled and self.options.poller is not None:
            self.options.poller.add(self)
        else:
            self.transport.resumeProducing()

    def _stop_reading(self) -> None:
        if self.options.poller is not None:
            self.options.poller.remove(self)

    def _drop_input(self) -> None:
        """Nothing that has come is handled any more, and nothing of it is kept."""
        self.sink = None
        self._parts = None
        self._handshake = None
        self._record = None
        self._decoder.clear()

    def _clear(self) -> None:
        """The connection is gone: keeps nothing, and refers to nothing that refers to it."""
        self._drop_input()
        self.writer.clear()
        self.transport = self.handler = cast(Any, None)


def detach(transport: Any) -> int:
    """Takes the socket away from one of Twisted's transports, which is no more, and returns its descriptor."""
    transport.stopReading()
    transport.stopWriting()
    transport.connected, transport.disconnected = 0, 1
    descriptor: int = transport.socket.detach()
    del transport.socket  # so that a late connectionLost does nothing
    transport.protocol = None
    return descriptor


_CONNECTED: Final = frozenset((ConnectionState.IDLE, ConnectionState.PUBLISHING, ConnectionState.PLAYING))
_MEDIA: Final = messages.MEDIA
_STREAMING: Final = frozenset((ConnectionState.PUBLISHING, ConnectionState.PLAYING))
_CONTROL: Final = frozenset(
    (
        messages.ACKNOWLEDGEMENT,
        messages.USER_CONTROL,
        messages.WINDOW_ACKNOWLEDGEMENT_SIZE,
        messages.SET_PEER_BANDWIDTH,
    )
)
