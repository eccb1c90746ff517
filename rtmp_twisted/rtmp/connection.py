"""One client: bytes in, bytes out, time-outs, and how its connection ends. Made by protocol, which its transport calls;
the commands are session's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import ISSLTransport
from twisted.logger import Logger

from rtmp_twisted.logs import SessionLog
from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.session import MAX_MESSAGE_BEFORE_PUBLISH, Session
from rtmp_twisted.rtmp.writer import SocketWriter, writer_for
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.handshake import ServerHandshake
from rtmp_twisted.wire.messages import Message

if TYPE_CHECKING:
    from rtmp_twisted.rtmp.factory import RTMPFactory

HANDSHAKE_SECONDS: Final = 10
"""From the connection to the end of the handshake."""
CONNECT_SECONDS: Final = 10
"""From the handshake to ``connect``."""
IDLE_SECONDS: Final = 60
"""How long a client may neither publish nor play, nor ask to, once it is connected."""
PING_SECONDS: Final = 30
"""From one Ping Request to the next."""
SILENT_SECONDS: Final = 60
"""A client that has sent nothing for so long is gone, unless it takes the media that it is sent."""
STUCK_SECONDS: Final = 60
"""A client that has taken nothing for so long, while something waited for it, is gone."""
LINGER_SECONDS: Final = 5
"""How long a closing connection may take to deliver what was sent."""
MAX_WAITING: Final = 1024 * 1024
"""Bytes of answers that may wait to leave; media is not among them."""

_log = Logger(__name__)


class Client:
    """Begins with `connected`, ends with `lost`. Its factory calls `check` every second."""

    def __init__(self, factory: RTMPFactory, number: int, client_ip: str) -> None:
        self.factory = factory
        self.client_ip = client_ip
        self.log = SessionLog(_log, number, client_ip, factory.debug, factory.trace)
        self._clock = factory.options.clock
        self._handshake: ServerHandshake | None = ServerHandshake(os.urandom, self._milliseconds)
        self._decoder = chunks.ChunkDecoder(MAX_MESSAGE_BEFORE_PUBLISH)
        self._chunk_size = chunks.DEFAULT_CHUNK_SIZE
        self._session = Session(factory.options, self, client_ip, self.log)
        self._since = self._phase_began = self._heard_at = self._pinged_at = self._clock.seconds()
        self._received = 0
        self._checked, self._checked_at = 0, self._since
        self._acknowledged = 0
        self._answered = 0
        self._delivered = 0
        self._closing = ""  # why it is being closed
        self._lost = False

    # What the protocol calls

    def connected(self, transport: Any) -> None:
        self.transport = transport
        self.factory.connections.add(self)
        self.factory.gate.enter(self.client_ip)
        try:
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
            # A client that is gone without a word: the kernel finds out as soon as data is not acknowledged.
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_SECONDS * 1000)
        except (AttributeError, OSError):
            pass  # not TCP
        self.outlet = writer_for(transport, self._clock, self._drained)
        self.log.debug("connection{tls}", tls=" over TLS" if ISSLTransport.providedBy(transport) else "")

    def lost(self, why: str) -> None:
        """The connection is lost, for a reason that counts where it is not this side that has closed it."""
        self._lost = True
        self._leave_intake()
        if self not in self.factory.connections:
            return  # TLS could not even begin
        self.factory.connections.discard(self)
        self.factory.gate.leave(self.client_ip)
        if self._closing:
            why = self._closing
        self._session.end(why)
        level = self.log.info if self._session.connected or self._closing else self.log.debug
        level(
            "disconnected after {duration}, {received} received: {reason}",
            duration=duration(self._clock.seconds() - self._since),
            received=amount(self._received),
            reason=why,
        )
        self.factory.connection_ended()

    def acknowledge_at_once(self) -> None:
        """Spares a client that writes its commands one by one, with TCP_NODELAY off, a wait for each: up to 40 ms."""
        with contextlib.suppress(AttributeError, OSError):  # not TCP, or not Linux
            self.transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def received(self, data: bytes) -> None:
        """Some bytes have come, and that was all for the moment. Never raises."""
        self.receive(data)
        self.received_all()
        if self.factory.intake is not None:
            self.factory.intake.glance()

    def _drained(self) -> None:
        """What waited to leave has left."""
        self._session.resume()
        if self.factory.intake is not None:
            self.factory.intake.glance()

    # What the intake calls

    def receive(self, data: bytes) -> None:
        """Some bytes have come; `received_all` follows. Never raises."""
        self._heard_at = self._clock.seconds()
        self._received += len(data)
        if self._closing:
            return
        session = self._session
        if session.publication is None and not session.busy:
            self.acknowledge_at_once()
        try:
            if self._handshake is not None:
                data = self._shake_hands(self._handshake, data)
            for message in self._decoder.feed(data):
                if message is None:
                    continue
                session.receive(message)
                if self._closing:
                    return
        except ProtocolError as problem:
            self.abort(str(problem))
        except Exception:
            self._fail()

    def received_all(self) -> None:
        """What has come is handed on. Never raises."""
        if self._closing:
            return
        session = self._session
        try:
            session.received_all(self._heard_at)
            if self._received - self._acknowledged >= session.window:
                self._acknowledged = self._received
                self.send(messages.acknowledgement(self._received))
        except Exception:
            self._fail()

    def _fail(self) -> None:
        self.log.failure("a bug, which ends this connection")
        self.abort("internal error")

    # What the session calls

    def send(self, *to_send: Message) -> None:
        """Sends the messages in one write. A Set Chunk Size among them holds for those after it."""
        if self._closing or self._lost:
            return
        data = b""
        for message in to_send:
            control = message.type_id <= messages.SET_PEER_BANDWIDTH
            data += chunks.encode(message, 2 if control else 3, self._chunk_size)
            if message.type_id == messages.SET_CHUNK_SIZE:
                self._chunk_size = messages.four_bytes(message)
        if not self.outlet.blocked:
            self._answered = 0
        self._answered += len(data)
        if self._answered > MAX_WAITING:
            self.abort("it does not read its answers")
            return
        self.outlet.write(data)

    def accept_messages(self, longest: int) -> None:
        self._decoder.max_message_length = longest

    def pause_reading(self) -> None:
        if not self._closing:
            self._leave_intake()
            self.transport.pauseProducing()

    def read_media(self) -> None:
        if self._closing:
            return
        intake = self.factory.intake
        if intake is not None and isinstance(self.outlet, SocketWriter):
            intake.take(self)
        else:
            self.transport.resumeProducing()

    def _leave_intake(self) -> None:
        if self.factory.intake is not None:
            self.factory.intake.drop(self)

    def finish(self, reason: str) -> None:
        """Closes the connection when all that was sent has been delivered; ``reason`` goes to the log.

        What the client still sends is read and dropped, since a close with unread data in it makes the kernel
        discard what the client has not read yet.
        """
        if self._closing or self._lost:
            return
        self._closing = reason
        self._phase_began = self._clock.seconds()
        self._session.end(reason)
        self.outlet.close()
        self._leave_intake()
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
            self._closing = reason
            self._session.end(reason)
            self.outlet.close()
        self._leave_intake()
        self.transport.abortConnection()

    # What the factory calls

    def check(self, now: float) -> None:
        """Whether the client keeps to its times; called every second."""
        self._session.check(self._received - self._checked, now - self._checked_at)
        self._checked, self._checked_at = self._received, now
        if self._closing:
            if now - self._phase_began >= LINGER_SECONDS:
                self.abort(self._closing)
            return
        late = self._lateness(now)
        if late:
            self.abort(late)
        elif now - self._pinged_at >= PING_SECONDS and self._session.connected:
            self._pinged_at = now
            self.send(messages.user_control(messages.PING_REQUEST, self._milliseconds()))

    def _lateness(self, now: float) -> str:
        session = self._session
        in_phase = now - self._phase_began
        if self._handshake is not None:
            return f"no handshake within {HANDSHAKE_SECONDS} s" if in_phase >= HANDSHAKE_SECONDS else ""
        if not session.connected:
            return f"no connect within {CONNECT_SECONDS} s" if in_phase >= CONNECT_SECONDS else ""
        if session.busy:
            self._phase_began = now
        elif in_phase >= IDLE_SECONDS:
            return f"neither published nor played for {IDLE_SECONDS} s"
        blocked_since = self.outlet.blocked_since
        if blocked_since is not None and now - blocked_since >= STUCK_SECONDS:
            return f"took nothing for {STUCK_SECONDS} s"
        if now - self._heard_at >= SILENT_SECONDS and not self._takes_media(now):
            return f"silent for {SILENT_SECONDS} s"
        return ""

    def _takes_media(self, now: float) -> bool:
        """Whether media has left since this was asked last: a viewer that never says a word is welcome."""
        delivered = self._session.delivered()
        if delivered == self._delivered or self.outlet.blocked:
            return False
        self._delivered = delivered
        self._heard_at = now
        return True

    def _shake_hands(self, handshake: ServerHandshake, data: bytes) -> bytes:
        answer = handshake.receive(data)
        if answer:
            self.outlet.write(answer)
        if not handshake.done:
            return b""
        self._handshake = None
        self._phase_began = self._clock.seconds()
        return handshake.rest

    def _milliseconds(self) -> int:
        return int(self._clock.seconds() * 1000) & 0xFFFFFFFF
