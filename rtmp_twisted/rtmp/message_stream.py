"""One message stream of a session: it publishes, or plays, or neither (RTMP 1.0, section 7.2.2). Made by session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.broker import Publication
from rtmp_twisted.live.cursor import Cache, Player
from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.names import BadName
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.chunks import MAX_MESSAGE_LENGTH
from rtmp_twisted.wire.messages import Message

if TYPE_CHECKING:
    from rtmp_twisted.rtmp.session import Session

MAX_MESSAGE_WHILE_ASKING = 4 * 1024 * 1024
"""Bytes: the longest message of a client that waits for its publish to be accepted."""

MAX_HELD = 1024 * 1024
"""Bytes of media held for a publish that has not been accepted yet; from there on the client has to wait."""


@define(eq=False)
class MessageStream:
    """Owns at most one publication or player."""

    session: Session = field(repr=False)
    stream_id: int
    publication: Publication | None = None
    player: Player | None = None
    _held: list[Message] = field(factory=list, repr=False)
    _held_bytes: int = 0
    _began: float = 0.0
    _received: int = 0
    _losses: int = 0
    _lost: int = 0

    @property
    def busy(self) -> bool:
        return self.publication is not None or self.player is not None

    # Publishing

    def publish(self, name: amf0.Value) -> None:
        session = self.session
        if session.publication is not None or self.player is not None:
            self._status("error", "NetStream.Publish.BadConnection", "This connection publishes or plays already.")
            return
        try:
            key, _ = session.options.names.split(name if isinstance(name, str) else "")
        except BadName as error:
            self.refuse("publish", "BadName", f"bad key: {error}")
            return
        session.connection.accept_messages(MAX_MESSAGE_WHILE_ASKING)
        publication = session.options.broker.publish(session.channel, key, session.client_ip, self)
        if not publication.ended:
            self.publication = session.publication = publication

    def hold(self, message: Message) -> None:
        """Media that comes while the publish is not accepted yet."""
        self._held.append(message)
        self._held_bytes += len(message.body) + 200
        if self._held_bytes > MAX_HELD:
            self.session.connection.pause_reading()

    def publish_started(self, publication: Publication) -> None:
        self.publication = self.session.publication = publication
        self.session.connection.accept_messages(MAX_MESSAGE_LENGTH)
        self._status("status", "NetStream.Publish.Start", f"{publication.name} is now published.")
        self.session.log.info('publishing channel "{channel}"', channel=publication.name)
        held, self._held, self._held_bytes = self._held, [], 0
        self.session.replay(publication, held)
        self.session.connection.read_media()

    def publish_refused(self, publication: Publication, reason: str) -> None:
        self.publication = self.session.publication = None
        self.refuse("publish", "BadName", reason)

    def publish_ended(self, publication: Publication, reason: str) -> None:
        was_on_air = publication.on_air_since is not None
        self._forget_publication(publication, reason)
        code = "NetStream.Unpublish.Success" if was_on_air else "NetStream.Publish.BadName"
        self._status("status" if was_on_air else "error", code, f"Ended: {reason}.")
        self.session.connection.finish(reason)

    def _forget_publication(self, publication: Publication, reason: str) -> None:
        self.publication = self.session.publication = None
        self._held, self._held_bytes = [], 0
        if publication.on_air_since is not None:
            seconds = self.session.options.clock.seconds() - publication.on_air_since
            self.session.log.info(
                'stopped publishing channel "{channel}" after {duration}, {amount} in {messages} messages: {reason}',
                channel=publication.name,
                duration=duration(seconds),
                amount=amount(publication.received_bytes),
                messages=publication.received_messages,
                reason=reason,
            )

    # Playing

    def play(self, name: amf0.Value) -> None:
        session = self.session
        if self.busy:
            self._status("error", "NetStream.Play.BadConnection", "This stream publishes or plays already.")
            return
        if session.client_ip not in session.options.players:
            self.refuse("play", "BadName", "this address may not play")
            return
        try:
            key, query = session.options.names.split(name if isinstance(name, str) else "")
        except BadName as error:
            self.refuse("play", "BadName", f"bad key: {error}")
            return
        cache = query.get("cache", "gop")
        kind = Cache(cache) if cache in _CACHES else Cache.GOP
        player = Player(self, session.connection.outlet, self.stream_id, key, kind)
        try:
            session.options.broker.play(session.channel, player)
        except Refused as refusal:
            self.refuse("play", "BadName", str(refusal))
        if self.player is not player:  # the connection came to its end over the answer
            session.options.broker.leave(player)

    def play_accepted(self, player: Player, on_air: bool) -> None:
        session = self.session
        self.player = player
        self._began = session.options.clock.seconds()
        stream_id, channel = self.stream_id, session.channel
        session.connection.send(
            messages.user_control(messages.STREAM_BEGIN, stream_id),
            messages.status(stream_id, "status", "NetStream.Play.Reset", f"Playing and resetting {channel}."),
            messages.status(stream_id, "status", "NetStream.Play.Start", f"Started playing {channel}."),
            messages.data(0, "|RtmpSampleAccess", True, True, stream_id=stream_id),
        )
        session.log.info(
            '{what} channel "{channel}"', what="playing" if on_air else "waiting for a publisher on", channel=channel
        )

    def play_refused(self, player: Player, reason: str) -> None:
        self.player = None
        self.refuse("play", "BadName", reason)

    def play_skipped(self, player: Player, skipped: int) -> None:
        self._losses += 1
        self._lost += skipped
        log = self.session.log.info if self._losses == 1 else self.session.log.debug
        log("too slow: {amount} of channel {channel!r} left out", amount=amount(skipped), channel=self.session.channel)

    def pause(self, pause: bool) -> None:
        """Stops or continues what plays here (section 7.2.2.8)."""
        player = self.player
        if player is None or player.channel is None or pause == player.paused:
            return
        connection = self.session.connection
        if pause:
            player.channel.pause(player)
            connection.send(
                messages.user_control(messages.STREAM_EOF, self.stream_id),
                messages.status(self.stream_id, "status", "NetStream.Pause.Notify", "Paused."),
            )
        else:
            connection.send(messages.user_control(messages.STREAM_BEGIN, self.stream_id))
            player.channel.send_headers(player)
            connection.send(messages.status(self.stream_id, "status", "NetStream.Unpause.Notify", "Unpaused."))
            player.channel.start(player)

    def receive(self, audio: bool | None = None, video: bool | None = None) -> None:
        if self.player is not None:
            self.player.receive(audio, video)

    def _forget_player(self, player: Player, reason: str) -> None:
        self.player = None
        delivered = player.delivered()
        self.session.options.broker.leave(player)
        seconds = self.session.options.clock.seconds() - self._began
        lost = f", {amount(self._lost)} left out in {self._losses} places" if self._losses else ""
        self.session.log.info(
            'stopped playing channel "{channel}" after {duration}, {amount}{lost}: {reason}',
            channel=self.session.channel,
            duration=duration(seconds),
            amount=amount(delivered),
            lost=lost,
            reason=reason,
        )
        self._losses = self._lost = 0

    # The end of either

    def close(self) -> None:
        """The client closes the stream, and keeps the connection (sections 7.2.2.3 and 7.2.2.4)."""
        was_publishing, was_playing = self.publication is not None, self.player is not None
        self.end("the client closed the stream", lost=False)
        if was_publishing:
            self._status("status", "NetStream.Unpublish.Success", "Unpublished.")
        if was_playing:
            self._status("status", "NetStream.Play.Stop", "Stopped.")

    def end(self, reason: str, lost: bool = True) -> None:
        """Leaves the air, without a word to the client. A publisher that did not ask for it is ``lost``."""
        if self.publication is not None:
            publication = self.publication
            publication.end(lost)
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

    def _status(self, level: str, code: str, description: str) -> None:
        self.session.connection.send(messages.status(self.stream_id, level, code, description))


_CACHES = frozenset(kind.value for kind in Cache)
