"""A server's session: what a client asks for on its connection, and what it is answered (RTMP 1.0, section 7).

It knows messages, not the bytes or the socket: the connection gives it what comes, and takes what is answered. What
happens on one message stream is in message_stream. Media does not pass through here: a connection hands it to its sink.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rtmp_twisted.live.path import PATH, read_path, refusal
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.rtmp.connection import WINDOW, Connection
from rtmp_twisted.rtmp.interfaces import ConnectionState
from rtmp_twisted.rtmp.message_stream import DRAINED, MessageStream, SessionOptions
from rtmp_twisted.rtmp.names import App, BadName
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import Command, Message

MAX_STREAMS: Final = 32
"""Message streams of one connection."""

MAX_COMMANDS: Final = 100
"""Commands that a client may send in one second."""

BURST_SECONDS: Final = 10
"""Seconds' worth of its bit rate limit that a publisher may send beyond the limit: keyframes come in bursts, and so
does what an encoder sends after a pause."""

SHOWN: Final = 64
"""Characters of a client's text that a log line shows."""

FOURCCS: list[amf0.Value] = [
    *("av01", "vp09", "vp08", "hvc1", "avc1", "vvc1"),
    *("mp4a", "Opus", "fLaC", "ac-3", "ec-3", ".mp3"),
]
_CAN_FORWARD: Final = 4
RECONNECT: Final = 1
"""The bit of ``capsEx`` that says that one understands a request to reconnect."""
_MULTITRACK, _MODEX, _TIMESTAMP_NANO_OFFSET = 2, 4, 8
ENHANCED: dict[str, amf0.Value] = {
    "fourCcList": FOURCCS,
    "videoFourCcInfoMap": {"*": _CAN_FORWARD},
    "audioFourCcInfoMap": {"*": _CAN_FORWARD},
    "capsEx": RECONNECT | _MULTITRACK | _MODEX | _TIMESTAMP_NANO_OFFSET,
}
"""What a client that asks for it is told, and a server that is called (Enhanced RTMP v2, "Enhancing NetConnection
connect Command")."""

RECONNECT_REQUEST: Final = "NetConnection.Connect.ReconnectRequest"
"""Asks a client to connect once more, here or elsewhere (Enhanced RTMP v2, "Reconnect Request")."""


class ServerSession:
    """The handler of a connection that a client has made."""

    __slots__ = (
        "__weakref__",
        "_commands",
        "_excess",
        "_next_stream_id",
        "_streams",
        "agent",
        "app",
        "channel",
        "connection",
        "log",
        "options",
        "path",
        "played_key",
        "publication",
        "reconnects",
    )

    def __init__(self, options: SessionOptions, connection: Connection) -> None:
        self.options = options
        self.connection = connection
        self.log = connection.log
        self.app = App("", None, "")
        """The application that it has connected to."""
        self.agent = ""
        """What the client calls itself."""
        self.publication: Publication | None = None
        """The one publish of this connection, from its request to its end. Its media may come on any message stream."""
        self.played_key: str | None = None
        """The key of its plays."""
        self.path: tuple[str, ...] = ()
        """The servers that what it publishes has passed, or that wait for what it plays."""
        self.reconnects = False
        """Whether it understands a request to reconnect."""
        self._commands = 0  # in this second
        self._excess = 0.0  # bytes that the publisher has sent beyond its limit
        self._streams: dict[int, MessageStream] = {}
        self._next_stream_id = 1

    # What the connection calls

    def handshaken(self) -> None:
        """The client speaks first."""

    def receive(self, message: Message) -> None:
        if message.type_id in _COMMANDS:
            self._receive_command(message)
        elif message.type_id not in _IGNORED:
            self.log.debug("a message of type {type_id} is ignored", type_id=message.type_id)

    def drained(self) -> None:
        holder = self.connection.writer.holder
        players = [stream.player for stream in self._streams.values() if stream.player is not None]
        # The one that is in the middle of a message comes first: the others cannot write before.
        for player in sorted(players, key=lambda player: player.cursor is not holder):
            player.resume()

    def blocked(self) -> None:
        for stream in self._streams.values():
            if stream.player is not None:
                stream.player.blocked()

    def delivered(self) -> int:
        return sum(stream.player.delivered() for stream in self._streams.values() if stream.player is not None)

    def check(self, received: int, seconds: float) -> None:
        self._commands = 0
        for stream in list(self._streams.values()):  # a token that has expired ends the connection
            stream.check()
        limit = self.options.max_publish_rate
        if limit and self.publication is not None:
            self._excess = max(0.0, self._excess + received - limit * seconds)
            if self._excess > limit * BURST_SECONDS:
                self._stop_publishing(self.publication, f"more than {limit * 8 / 1000:.0f} kbit/s")

    def end(self, reason: str) -> None:
        for stream_id, stream in list(self._streams.items()):
            stream.end(reason)
            self._streams.pop(stream_id, None)

    # What the factory calls

    def request_reconnect(self, why: str = "The server is stopping.") -> None:
        """Asks the client to connect again. What it sends is handled until it leaves."""
        info = status_info("status", RECONNECT_REQUEST, why)
        self.connection.send(messages.command("onStatus", 0, None, info))

    def send_away(self) -> None:
        """The client is to go to another server: it is asked to, or ended where it only plays. Another node or worker
        stays, and who publishes and does not understand the request."""
        players = [stream.player for stream in self._streams.values() if stream.player is not None]
        if self.connection.state is ConnectionState.CLOSING or any(player.peer for player in players):
            return
        if self.reconnects:
            self.request_reconnect("The server is being drained.")
        elif players and self.publication is None:
            self.connection.finish(DRAINED)

    # What its streams call

    def changed(self) -> None:
        """A stream has begun or ended to publish or to play."""
        if self.connection.state is not ConnectionState.CLOSING:
            if self.publication is not None:
                state = ConnectionState.PUBLISHING
            elif any(stream.busy for stream in self._streams.values()):
                state = ConnectionState.PLAYING
            else:
                state = ConnectionState.IDLE
            self.connection.enter(state)

    def _stop_publishing(self, publication: Publication, reason: str) -> None:
        self.options.broker.end(publication)
        publication.owner.publish_ended(publication, reason)

    # Commands

    def _receive_command(self, message: Message) -> None:
        self._commands += 1
        if self._commands > MAX_COMMANDS:
            raise ProtocolError(f"more than {MAX_COMMANDS} commands in a second")
        command = messages.parse_command(message)
        self.log.debug("command {command!r}", command=command.name[:SHOWN])
        handler = _HANDLERS.get(command.name)
        if self.connection.state is ConnectionState.CONNECT and command.name != "connect":
            if command.name in ("publish", "play"):
                self._stream(message.stream_id).refuse(command.name, "BadConnection", "connect comes first")
                return
            raise ProtocolError(f"{command.name[:SHOWN]!r} before connect")
        if handler is not None:
            handler(self, command, message)
        elif command.name not in _ANSWERS:
            self.log.debug("command {command!r} is not known", command=command.name[:SHOWN])
            self._answer(command, "_error", status_info("error", "NetConnection.Call.Failed", "not known"))

    def _answer(self, command: Command, name: str, *arguments: amf0.Value) -> None:
        """Answers a command, if its sender waits for an answer (section 7.2.1)."""
        if command.transaction_id:
            self.connection.send(messages.command(name, command.transaction_id, None, *arguments))

    def _connect(self, command: Command, _: Message) -> None:
        if self.connection.state is not ConnectionState.CONNECT:
            raise ProtocolError("connect for a second time")
        wishes = command.argument(0)
        if not isinstance(wishes, dict):
            raise ProtocolError("connect without its command object")
        app = wishes.get("app")
        try:
            if not isinstance(app, str):
                raise BadName("there is none")
            self.app = self.options.names.app(app)
        except BadName as error:
            self._reject(command, f"bad channel: {error}")
            return
        self.path = read_path(wishes.get(PATH))
        refused = refusal(self.path, self.options.broker.server_id)
        if refused:
            self._reject(command, refused)
            return
        capabilities = wishes.get("capsEx")
        self.reconnects = isinstance(capabilities, float) and capabilities % 2 == RECONNECT  # the lowest bit
        self.connection.enter(ConnectionState.IDLE)
        info = status_info("status", "NetConnection.Connect.Success", "Connection succeeded.")
        info["objectEncoding"] = 3 if wishes.get("objectEncoding") == 3 else 0
        if not ENHANCED.keys().isdisjoint(wishes):
            info.update(ENHANCED)
        self.connection.send(
            messages.window_acknowledgement_size(WINDOW),
            messages.set_peer_bandwidth(WINDOW),
            messages.set_chunk_size(self.options.chunk_size),
            messages.command("_result", command.transaction_id, {"fmsVer": "FMS/3,0,1,123", "capabilities": 31}, info),
        )
        agent = wishes.get("flashVer")
        self.agent = agent[:SHOWN] if isinstance(agent, str) else ""
        self.log.info(
            'connected to channel "{channel}"{agent}',
            channel=self.app.shown,
            agent=f" ({self.agent})" if self.agent else "",
        )

    def _reject(self, command: Command, reason: str) -> None:
        info = status_info("error", "NetConnection.Connect.Rejected", reason)
        self.connection.send(messages.command("_error", command.transaction_id, None, info))
        self.connection.finish(reason)

    def _create_stream(self, command: Command, _: Message) -> None:
        stream_id = self._next_stream_id
        self._stream(stream_id)
        self._next_stream_id += 1
        self._answer(command, "_result", float(stream_id))

    def _stream(self, stream_id: int) -> MessageStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            if len(self._streams) >= MAX_STREAMS:
                raise ProtocolError(f"more than {MAX_STREAMS} message streams")
            stream = self._streams[stream_id] = MessageStream(self, stream_id)
        return stream

    def _moves(self, name: amf0.Value) -> bool:
        """Whether the connection goes on in another process, before it publishes or plays."""
        self.connection.replaying = False
        steer = self.options.steer
        if steer is None or not self.connection.movable or any(stream.busy for stream in self._streams.values()):
            return False
        try:
            channel = self.options.names.stream(self.app, name if isinstance(name, str) else "").channel
        except BadName:
            channel = self.app.channel  # perhaps it has a token in place of a key
        return steer(self.connection, channel)

    def _publish(self, command: Command, message: Message) -> None:
        if self._moves(command.argument(1)):
            return
        self._stream(message.stream_id).publish(command.argument(1))

    def _play(self, command: Command, message: Message) -> None:
        if self._moves(command.argument(1)):
            return
        self._stream(message.stream_id).play(command.argument(1), command.argument(3))

    def _pause(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).pause(command.argument(1) is not False)

    def _receive_audio(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).enable(audio=command.argument(1) is not False)

    def _receive_video(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).enable(video=command.argument(1) is not False)

    def _close_stream(self, _: Command, message: Message) -> None:
        self._stream(message.stream_id).close()

    def _delete_stream(self, command: Command, message: Message) -> None:
        given = command.argument(1)
        stream_id = int(given) if isinstance(given, (int, float)) and 0 <= given < 2**32 else message.stream_id
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.close()

    def _fc_publish(self, command: Command, _: Message) -> None:
        info = status_info("status", "NetStream.Publish.Start", "FCPublish")
        self.connection.send(messages.command("onFCPublish", 0, None, info))
        self._answer(command, "_result", None)

    def _fc_unpublish(self, command: Command, _: Message) -> None:
        info = status_info("status", "NetStream.Unpublish.Success", "FCUnpublish")
        self.connection.send(messages.command("onFCUnpublish", 0, None, info))
        self._answer(command, "_result", None)

    def _fc_subscribe(self, command: Command, _: Message) -> None:
        info = status_info("status", "NetStream.Play.Start", "FCSubscribe")
        self.connection.send(messages.command("onFCSubscribe", 0, None, info))
        self._answer(command, "_result", None)

    def _acknowledge(self, command: Command, _: Message) -> None:
        self._answer(command, "_result", None)

    def _stream_length(self, command: Command, _: Message) -> None:
        self._answer(command, "_result", 0.0)  # live: no length


def status_info(level: str, code: str, description: str) -> dict[str, amf0.Value]:
    """The information object of a status or an answer (section 7.2.2)."""
    return {"level": level, "code": code, "description": description}


_IGNORED: Final = messages.MEDIA | {messages.USER_CONTROL}
"""Media that belongs to no publish, and what clients tell of their buffers."""
_COMMANDS: Final = frozenset((messages.COMMAND_AMF0, messages.COMMAND_AMF3))
_ANSWERS: Final = frozenset(("_result", "_error", "onStatus"))
_HANDLERS: dict[str, Callable[[ServerSession, Command, Message], None]] = {
    "connect": ServerSession._connect,
    "createStream": ServerSession._create_stream,
    "publish": ServerSession._publish,
    "play": ServerSession._play,
    "pause": ServerSession._pause,
    "pauseRaw": ServerSession._pause,
    "receiveAudio": ServerSession._receive_audio,
    "receiveVideo": ServerSession._receive_video,
    "closeStream": ServerSession._close_stream,
    "deleteStream": ServerSession._delete_stream,
    "releaseStream": ServerSession._acknowledge,
    "FCPublish": ServerSession._fc_publish,
    "FCUnpublish": ServerSession._fc_unpublish,
    "FCSubscribe": ServerSession._fc_subscribe,
    "getStreamLength": ServerSession._stream_length,
    "_checkbw": ServerSession._acknowledge,
}
