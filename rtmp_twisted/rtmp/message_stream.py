"""One message stream of a server's session: it publishes, or plays, or neither (RTMP 1.0, section 7.2.2). Made by
session."""

from __future__ import annotations

from typing import Final, Protocol

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.player import Cache, Player
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.logs import SessionLog
from rtmp_twisted.rtmp.connection import Connection
from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.names import BadName, NameRules
from rtmp_twisted.settings_types import EVERYONE, Networks
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.chunks import LOG_STREAM_ID, MAX_MESSAGE_LENGTH, restream

MAX_MESSAGE_WHILE_ASKING: Final = 4 * 1024 * 1024
"""Bytes: the longest message of a client that waits for its publish to be accepted."""

_ANY_NAMES: Final = NameRules()


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


class Session(Protocol):
    """What a message stream needs of its session."""

    options: SessionOptions
    connection: Connection
    log: SessionLog
    channel: str
    agent: str
    publication: Publication | None

    def changed(self) -> None:
        """A stream has begun or ended to publish or to play."""


class MessageStream:
    """Owns at most one publication or player."""

    def __init__(self, session: Session, stream_id: int) -> None:
        self.session = session
        self.stream_id = stream_id
        self.publication: Publication | None = None
        self.player: Player | None = None
        self._began = 0.0
        self._logged_skips = 0

    @property
    def busy(self) -> bool:
        return self.publication is not None or self.player is not None

    # Publishing

    def publish(self, name: amf0.Value) -> None:
        session = self.session
        if session.publication is not None or self.player is not None:
            self._status("error", "NetStream.Publish.BadConnection", "This connection publishes or plays already.")
            return
        key = self._key("publish", name)
        if key is None:
            return
        connection = session.connection
        share = session.options.broker.memory.channel_share
        connection.accept_messages(min(MAX_MESSAGE_WHILE_ASKING, share))
        publication = session.options.broker.publish(session.channel, key[0], connection.peer, self)
        self.publication = session.publication = connection.sink = publication
        session.changed()

    @property
    def heard_at(self) -> float:
        return self.session.connection.heard_at

    @property
    def bytes_received(self) -> int:
        return self.session.connection.bytes_received

    @property
    def agent(self) -> str:
        return self.session.agent

    @property
    def connection_number(self) -> int:
        return self.session.connection.number

    def publish_started(self, publication: Publication) -> None:
        connection = self.session.connection
        share = self.session.options.broker.memory.channel_share
        connection.accept_messages(min(MAX_MESSAGE_LENGTH, share))
        self._status("status", "NetStream.Publish.Start", f"{publication.name} is now published.")
        self.session.log.info('publishing channel "{channel}"', channel=publication.name)
        publication.write_held()
        connection.read_media()

    def publish_refused(self, publication: Publication, reason: str) -> None:
        self._forget_publication(publication, reason)
        self.refuse("publish", "BadName", reason)

    def publish_ended(self, publication: Publication, reason: str) -> None:
        was_on_air = publication.on_air_since is not None
        self._forget_publication(publication, reason)
        code = "NetStream.Unpublish.Success" if was_on_air else "NetStream.Publish.BadName"
        self._status("status" if was_on_air else "error", code, f"Ended: {reason}.")
        self.session.connection.finish(reason)

    def _forget_publication(self, publication: Publication, reason: str) -> None:
        session = self.session
        self.publication = session.publication = session.connection.sink = None
        session.changed()
        if publication.on_air_since is not None:
            session.log.info(
                'stopped publishing channel "{channel}" after {duration}, {amount} in {messages} messages: {reason}',
                channel=publication.name,
                duration=duration(session.options.clock.seconds() - publication.on_air_since),
                amount=amount(publication.received_bytes),
                messages=publication.received_messages,
                reason=reason,
            )

    # Playing

    def play(self, name: amf0.Value) -> None:
        session = self.session
        connection, broker = session.connection, session.options.broker
        if self.busy:
            self._status("error", "NetStream.Play.BadConnection", "This stream publishes or plays already.")
            return
        if connection.peer not in session.options.players:
            self.refuse("play", "BadName", "this address may not play")
            return
        key = self._key("play", name)
        if key is None:
            return
        cache = key[1].get("cache", "gop")
        stream_id = self.stream_id
        player = Player(
            self,
            connection.writer,
            key[0],
            Cache(cache) if cache in _CACHES else Cache.GOP,
            None if stream_id == LOG_STREAM_ID else lambda data, start, end: restream(data, start, end, stream_id),
        )
        try:
            on_air = broker.play(session.channel, player)
        except Refused as refusal:
            self.refuse("play", "BadName", str(refusal))
            return
        self.player = player
        self._began = session.options.clock.seconds()
        session.changed()
        self._accept_play(on_air)
        if self.player is player:  # else the connection came to its end over the answer
            broker.start(player)

    def _accept_play(self, on_air: bool) -> None:
        stream_id, channel = self.stream_id, self.session.channel
        self.session.connection.send(
            messages.user_control(messages.STREAM_BEGIN, stream_id),
            messages.status(stream_id, "status", "NetStream.Play.Reset", f"Playing and resetting {channel}."),
            messages.status(stream_id, "status", "NetStream.Play.Start", f"Started playing {channel}."),
            messages.data(0, "|RtmpSampleAccess", True, True, stream_id=stream_id),
        )
        what = "playing" if on_air else "waiting for a publisher on"
        self.session.log.info('{what} channel "{channel}"', what=what, channel=channel)

    def play_refused(self, player: Player, reason: str) -> None:
        self.player = None
        self.session.changed()
        self.refuse("play", "BadName", reason)

    def pause(self, pause: bool) -> None:
        """Stops or continues what plays here (section 7.2.2.8)."""
        player = self.player
        if player is None or pause == player.paused:
            return
        connection = self.session.connection
        if pause:
            player.pause()
            connection.send(
                messages.user_control(messages.STREAM_EOF, self.stream_id),
                messages.status(self.stream_id, "status", "NetStream.Pause.Notify", "Paused."),
            )
        else:
            connection.send(messages.user_control(messages.STREAM_BEGIN, self.stream_id))
            player.send_headers()
            connection.send(messages.status(self.stream_id, "status", "NetStream.Unpause.Notify", "Unpaused."))
            self.session.options.broker.start(player)

    def enable(self, audio: bool | None = None, video: bool | None = None) -> None:
        """Turns the player's audio or video on or off (sections 7.2.2.4 and 7.2.2.5)."""
        if self.player is not None:
            self.player.enable(audio, video)

    def check(self) -> None:
        """Called every second: logs that the player was too slow, at info level the first time."""
        player = self.player
        if player is not None and player.skips != self._logged_skips:
            log = self.session.log.debug if self._logged_skips else self.session.log.info
            self._logged_skips = player.skips
            log(
                "too slow: {amount} of channel {channel!r} left out so far",
                amount=amount(player.skipped_bytes),
                channel=self.session.channel,
            )

    def _forget_player(self, player: Player, reason: str) -> None:
        session = self.session
        self.player = None
        session.options.broker.leave(player)
        session.changed()
        lost = f", {amount(player.skipped_bytes)} left out in {player.skips} places" if player.skips else ""
        session.log.info(
            'stopped playing channel "{channel}" after {duration}, {amount}{lost}: {reason}',
            channel=session.channel,
            duration=duration(session.options.clock.seconds() - self._began),
            amount=amount(player.delivered()),
            lost=lost,
            reason=reason,
        )
        self._logged_skips = 0

    # The end of either

    def close(self) -> None:
        """The client closes the stream, and keeps the connection (section 7.2.2.3)."""
        was_publishing, was_playing = self.publication is not None, self.player is not None
        self.end("the client closed the stream", lost=False)
        if was_publishing:
            self._status("status", "NetStream.Unpublish.Success", "Unpublished.")
        if was_playing:
            self._status("status", "NetStream.Play.Stop", "Stopped.")

    def end(self, reason: str, lost: bool = True) -> None:
        """Ends what it does, without a word to the client. A publisher that did not ask for it is ``lost``."""
        if self.publication is not None:
            publication = self.publication
            self.session.options.broker.end(publication, lost)
            self._forget_publication(publication, reason)
        if self.player is not None:
            self._forget_player(self.player, reason)

    def refuse(self, command: str, code: str, reason: str) -> None:
        """Tells the client that it may not publish or play, and ends the connection."""
        self._status("error", f"NetStream.{command.capitalize()}.{code}", f"Refused: {reason}.")
        self.session.log.info(
            '{command} on channel "{channel}" refused: {reason}',
            command=command,
            channel=self.session.channel,
            reason=reason,
        )
        self.session.connection.finish(f"{command} refused: {reason}")

    def _key(self, command: str, name: amf0.Value) -> tuple[str, dict[str, str]] | None:
        """The key and query of a stream's name; None for a bad one, which is refused here."""
        try:
            return self.session.options.names.split(name if isinstance(name, str) else "")
        except BadName as error:
            self.refuse(command, "BadName", f"bad key: {error}")
            return None

    def _status(self, level: str, code: str, description: str) -> None:
        self.session.connection.send(messages.status(self.stream_id, level, code, description))


_CACHES: Final = frozenset(kind.value for kind in Cache)
