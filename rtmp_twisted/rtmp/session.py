"""One connection's session: what its messages ask for, and what they are answered (RTMP 1.0, section 7).

A session knows messages in and messages out, not the bytes or the socket: client gives it the one, and takes the
other. What happens on one message stream is in stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from rtmp_twisted.live.broker import Broker, Publication
from rtmp_twisted.live.cursor import Writer
from rtmp_twisted.logs import SessionLog
from rtmp_twisted.rtmp.message_stream import MessageStream
from rtmp_twisted.rtmp.names import BadName, NameRules
from rtmp_twisted.settings_types import EVERYONE, Networks
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import Command, Message

WINDOW: Final = 5_000_000
"""Bytes: the window acknowledgement size and peer bandwidth that every client is told."""

MAX_STREAMS: Final = 32
"""Message streams of one connection."""

MAX_MESSAGE_BEFORE_PUBLISH: Final = 64 * 1024
"""Bytes: the longest message of a client that has not asked to publish."""

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
_MULTITRACK, _MODEX, _TIMESTAMP_NANO_OFFSET = 2, 4, 8
ENHANCED: dict[str, amf0.Value] = {
    "fourCcList": FOURCCS,
    "videoFourCcInfoMap": {"*": _CAN_FORWARD},
    "audioFourCcInfoMap": {"*": _CAN_FORWARD},
    "capsEx": _MULTITRACK | _MODEX | _TIMESTAMP_NANO_OFFSET,
}
"""What a client that asks for it is told (Enhanced RTMP v2, "Enhancing NetConnection connect Command")."""


_ANY_NAMES = NameRules()


@frozen
class SessionOptions:
    """What all sessions have in common. ``chunk_size`` in bytes; ``players``: who may play; ``max_publish_rate``: of a
    publisher, in bytes a second, 0 for no limit."""

    broker: Broker
    clock: IReactorTime
    names: NameRules = _ANY_NAMES
    chunk_size: int = 4096
    players: Networks = EVERYONE
    max_publish_rate: float = 0.0


class Connection(Protocol):
    """What a session needs of its `Client`."""

    @property
    def outlet(self) -> Writer:
        """The way out for players' media."""

    def send(self, *messages: Message) -> None:
        """Sends the messages in one write. A Set Chunk Size among them holds for those after it."""

    def accept_messages(self, longest: int) -> None:
        """The client's messages may be up to ``longest`` bytes long."""

    def finish(self, reason: str) -> None:
        """Closes the connection when all that was sent has been delivered."""

    def abort(self, reason: str) -> None:
        """Closes the connection at once."""

    def pause_reading(self) -> None:
        """The client has to wait with what it sends, until `read_media`."""

    def read_media(self) -> None:
        """The client publishes from now on."""


class Session:
    """``client_ip`` is textual, IPv4 where it is IPv4-mapped."""

    def __init__(self, options: SessionOptions, connection: Connection, client_ip: str, log: SessionLog) -> None:
        self.options = options
        self.connection = connection
        self.client_ip = client_ip
        self.log = log
        self.channel = ""
        self.agent = ""
        """What the client calls itself."""
        self.connected = False
        self.publication: Publication | None = None
        """The one publish of this connection, from its request to its end. Its media may come on any message stream."""
        self.window = WINDOW
        """Bytes after which the client wants an acknowledgement."""
        self._commands = 0  # in this second
        self._excess = 0.0  # bytes that the publisher has sent beyond its limit
        self._streams: dict[int, MessageStream] = {}
        self._next_stream_id = 1

    @property
    def busy(self) -> bool:
        """Whether it publishes or plays, or asks to."""
        return any(stream.busy for stream in self._streams.values())

    @property
    def playing(self) -> bool:
        return any(stream.player is not None for stream in self._streams.values())

    def delivered(self) -> int:
        """Bytes of media handed over to its players so far."""
        return sum(stream.player.delivered() for stream in self._streams.values() if stream.player is not None)

    def resume(self) -> None:
        """What waited to leave has left."""
        for stream in self._streams.values():
            if stream.player is not None:
                stream.player.resume()

    def end(self, reason: str) -> None:
        """The connection is lost, or will be closed."""
        for stream in list(self._streams.values()):
            stream.end(reason)

    def check(self, received: int, seconds: float) -> None:
        """Whether the client keeps to its rates; called every second or so, in which ``received`` bytes came."""
        self._commands = 0
        limit = self.options.max_publish_rate
        publication = self.publication
        if limit and publication is not None:
            self._excess = max(0.0, self._excess + received - limit * seconds)
            if self._excess > limit * BURST_SECONDS:
                publication.end()
                publication.owner.publish_ended(publication, f"more than {limit * 8 / 1000:.0f} kbit/s")

    def receive(self, message: Message) -> None:
        """One message of the client. Raises ProtocolError where the connection cannot go on."""
        type_id = message.type_id
        if type_id in _MEDIA:
            publication = self.publication
            if publication is None:
                return
            channel = publication.channel
            if channel is not None and (type_id == messages.VIDEO or type_id == messages.AUDIO):
                channel.publish(message)
            else:
                self._receive_media(publication, message)
        elif type_id in _COMMANDS:
            self._receive_command(message)
        elif type_id == messages.WINDOW_ACKNOWLEDGEMENT_SIZE:
            self.window = messages.four_bytes(message) or WINDOW
        elif type_id == messages.USER_CONTROL:
            self._receive_user_control(message)
        elif type_id != messages.ACKNOWLEDGEMENT and type_id != messages.SET_PEER_BANDWIDTH:
            self.log.debug("a message of type {type_id} is ignored", type_id=type_id)

    def received_all(self, now: float) -> None:
        """There are no more messages at the moment, which is ``now`` (the clock's seconds)."""
        publication = self.publication
        if publication is not None:
            publication.heard_at = now
            if publication.challenge is not None:
                publication.defend()
            if publication.channel is not None:
                publication.channel.flush_when_due()

    def _receive_media(self, publication: Publication, message: Message) -> None:
        type_id = message.type_id
        if publication.channel is None:
            stream = publication.owner
            assert isinstance(stream, MessageStream)
            stream.hold(message)
        elif type_id == messages.VIDEO or type_id == messages.AUDIO:
            publication.publish(message)
        elif type_id == messages.AGGREGATE:
            for part in messages.split_aggregate(message):
                if part.type_id in _MEDIA and part.type_id != messages.AGGREGATE:
                    self._receive_media(publication, part)
        else:
            name, data = messages.data_name(message)
            if name == "onMetaData":
                publication.publish_metadata(data)
            else:
                publication.publish(data)

    def replay(self, publication: Publication, held: list[Message]) -> None:
        """Media that came before the publish was accepted."""
        try:
            for message in held:
                self._receive_media(publication, message)
        except ProtocolError as problem:
            self.connection.abort(str(problem))
        publication.flush_when_due()

    def _receive_user_control(self, message: Message) -> None:
        event, data = messages.parse_user_control(message)
        if event == messages.PING_REQUEST and len(data) >= 4:
            self.connection.send(messages.user_control(messages.PING_RESPONSE, int.from_bytes(data[:4], "big")))

    # Commands

    def _receive_command(self, message: Message) -> None:
        self._commands += 1
        if self._commands > MAX_COMMANDS:
            raise ProtocolError(f"more than {MAX_COMMANDS} commands in a second")
        command = messages.parse_command(message)
        self.log.debug("command {command!r}", command=command.name[:SHOWN])
        handler = _HANDLERS.get(command.name)
        if not self.connected and command.name != "connect":
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
        if self.connected:
            raise ProtocolError("connect for a second time")
        wishes = command.argument(0)
        if not isinstance(wishes, dict):
            raise ProtocolError("connect without its command object")
        app = wishes.get("app")
        try:
            if not isinstance(app, str):
                raise BadName("there is none")
            name, _query = self.options.names.split(app.partition("?")[0].rstrip("/"))
        except BadName as error:
            info = status_info("error", "NetConnection.Connect.Rejected", f"bad channel: {error}")
            self.connection.send(messages.command("_error", command.transaction_id, None, info))
            self.connection.finish(f"bad channel: {error}")
            return
        self.connected = True
        self.channel = name
        encoding = wishes.get("objectEncoding")
        info = status_info("status", "NetConnection.Connect.Success", "Connection succeeded.")
        info["objectEncoding"] = encoding if isinstance(encoding, (int, float)) else 0
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
            channel=name,
            agent=f" ({self.agent})" if self.agent else "",
        )

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

    def _publish(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).publish(command.argument(1))

    def _play(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).play(command.argument(1))

    def _pause(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).pause(command.argument(1) is not False)

    def _receive_audio(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).receive(audio=command.argument(1) is not False)

    def _receive_video(self, command: Command, message: Message) -> None:
        self._stream(message.stream_id).receive(video=command.argument(1) is not False)

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


_MEDIA: Final = frozenset((messages.AUDIO, messages.VIDEO, messages.AGGREGATE, messages.DATA_AMF0, messages.DATA_AMF3))
_COMMANDS: Final = frozenset((messages.COMMAND_AMF0, messages.COMMAND_AMF3))
_ANSWERS: Final = frozenset(("_result", "_error", "onStatus"))
_HANDLERS: dict[str, Callable[[Session, Command, Message], None]] = {
    "connect": Session._connect,
    "createStream": Session._create_stream,
    "publish": Session._publish,
    "play": Session._play,
    "pause": Session._pause,
    "pauseRaw": Session._pause,
    "receiveAudio": Session._receive_audio,
    "receiveVideo": Session._receive_video,
    "closeStream": Session._close_stream,
    "deleteStream": Session._delete_stream,
    "releaseStream": Session._acknowledge,
    "FCPublish": Session._fc_publish,
    "FCUnpublish": Session._fc_unpublish,
    "FCSubscribe": Session._fc_subscribe,
    "getStreamLength": Session._stream_length,
    "_checkbw": Session._acknowledge,
}
