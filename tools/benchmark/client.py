"""One connection of the load: the handshake and the commands, then a publisher's or a player's part.

The sockets are here, the loop is in ``load``. ``is_ready`` says that a connection publishes or plays. ``rtmp.Refused``
or ``walker.WalkError`` is raised when the server refuses something, or sends what is no RTMP.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from . import frames, rtmp
from .walker import Plans, Walker

CONNECT_TIMEOUT_S = 10


class Connection:
    """What publishers and players have in common. ``feed(buffer, start, end, now)`` takes received bytes."""

    def __init__(self, address: tuple[str, int], app: str, key: str, stream: frames.Stream, plans: Plans) -> None:
        self.app = app
        self.key = key
        self.stream = stream
        self.is_ready = False
        self.is_closed = False
        self.pending = bytearray()
        self.walker = Walker(stream.identify, plans, self.on_frame, self._on_control, self.on_message)
        self.feed: Callable[[bytearray, int, int, int], None] = self._shake_hands
        self._answer = bytearray()
        self.socket = socket.create_connection(address, CONNECT_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.receive_into = self.socket.recv_into
        self.send(rtmp.handshake(os.urandom(1528)))

    def send(self, data: bytes | bytearray) -> None:
        """Sends; what does not fit waits for the next call. A broken connection is noticed when it is read."""
        if self.pending:
            self.pending += data
            data = self.pending
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, ConnectionError):
            sent = 0
        self.pending = bytearray(data[sent:])

    def on_frame(self, frame: frames.Frame, now: int) -> None:
        """A frame is complete."""

    def on_created(self, stream_id: int) -> None:
        """The server has made a message stream."""

    def on_status(self, code: str) -> None:
        """The server sent a status that is no error."""

    def on_message(self, type_id: int, timestamp: int, body: bytes) -> None:
        if type_id != rtmp.COMMAND:
            return
        stream_id = rtmp.created_stream(body)
        if stream_id is not None:
            self.on_created(stream_id)
        elif code := rtmp.status_code(body):
            self.on_status(code)

    def _shake_hands(self, buffer: bytearray, start: int, end: int, now: int) -> None:
        self._answer += buffer[start:end]
        if len(self._answer) < rtmp.ANSWER_SIZE:
            return
        host, port = self.socket.getpeername()[:2]
        self.send(bytes(self._answer[1 : 1 + rtmp.HANDSHAKE_PART]) + rtmp.connect(host, port, self.app))
        self.feed = self.walker.feed
        self.feed(buffer, end - (len(self._answer) - rtmp.ANSWER_SIZE), end, now)

    def _on_control(self, type_id: int, head: bytes) -> None:
        if rtmp.is_ping(type_id, head):
            self.send(rtmp.pong(head))


class Publisher(Connection):
    """Publishes a channel. Its owner sends the frames, once it is ready."""

    def __init__(
        self, address: tuple[str, int], app: str, key: str, stream: frames.Stream, plans: Plans, chunk_size: int
    ) -> None:
        self.chunk_size = chunk_size
        self.stream_id = 0
        super().__init__(address, app, key, stream, plans)

    def on_created(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.send(rtmp.publish(stream_id, self.key, self.chunk_size))

    def on_status(self, code: str) -> None:
        if code == "NetStream.Publish.Start":
            self.is_ready = True
            self.send(frames.headers(self.stream_id, self.chunk_size))


class Checks:
    """Checks the frames that somebody gets. A *sampled* one also compares every byte, and the times to each other."""

    def __init__(self, stream: frames.Stream, is_sampled: bool, on_latency: Callable[[int], None]) -> None:
        self.stream = stream
        self.is_sampled = is_sampled
        self.lost = self.dup = self.disorder = self.bad = 0
        self.asked_at = 0
        self.first_video: int | None = None
        """Nanoseconds from the request to the first video frame."""
        self._on_latency = on_latency
        self._next = [-1, -1]
        self._offset: int | None = None

    def on_frame(self, frame: frames.Frame, now: int) -> None:
        """A frame is complete."""
        kind, sequence, stamp, counted, sound = frame
        if sequence == self._next[kind] and sound:
            self._next[kind] = sequence + 1
        else:
            self._judge(frame, now)
        if counted:
            self._on_latency(now - stamp)

    def compare(self, frame: frames.Frame, body: bytes, timestamp: int | None) -> None:
        """A sampled one has a whole frame, perhaps with its time in milliseconds."""
        right = body == self.stream.body(frame.kind, frame.sequence, frame.stamp)
        if timestamp is not None:
            offset = (timestamp - frames.timestamp(frame.kind, frame.sequence)) & 0xFFFFFFFF
            if self._offset is None:
                self._offset = offset
            right = right and offset == self._offset
        self.bad += not right

    def _judge(self, frame: frames.Frame, now: int) -> None:
        """Counts a frame that is not the expected one, or has the wrong size."""
        awaited = self._next[frame.kind]
        if awaited < 0:
            if frame.kind == 0:
                self.first_video = now - self.asked_at
        elif frame.sequence == awaited - 1:
            self.dup += 1
        elif frame.sequence < awaited:
            self.disorder += 1
        else:
            self.lost += frame.sequence - awaited
        self.bad += not frame.sound and not self.is_sampled
        self._next[frame.kind] = frame.sequence + 1


class Player(Checks, Connection):
    """Plays a channel and checks what it gets."""

    def __init__(
        self,
        address: tuple[str, int],
        app: str,
        key: str,
        stream: frames.Stream,
        plans: Plans,
        is_sampled: bool,
        on_latency: Callable[[int], None],
    ) -> None:
        Checks.__init__(self, stream, is_sampled, on_latency)
        Connection.__init__(self, address, app, key, stream, plans)

    def on_created(self, stream_id: int) -> None:
        self.asked_at = frames.clock()
        self.send(rtmp.play(stream_id, self.key))

    def on_status(self, code: str) -> None:
        if code == "NetStream.Play.Start":
            self._begin()

    def on_message(self, type_id: int, timestamp: int, body: bytes) -> None:
        super().on_message(type_id, timestamp, body)
        frame = self.stream.identify(type_id, len(body), body[: frames.HEAD])
        if frame is None:
            return
        self._begin()
        self.compare(frame, body, timestamp)

    def _begin(self) -> None:
        self.is_ready = True
        self.walker.collect = self.is_sampled
