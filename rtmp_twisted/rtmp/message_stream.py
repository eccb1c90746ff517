"""One message stream of a server's session: it publishes, or plays, or neither (RTMP 1.0, section 7.2.2). Made by
session."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import Factory, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtmp_twisted.live.authority import MAX_TOKEN, Refused, TokenExpired
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.path import CLAIM, PATH
from rtmp_twisted.live.player import Cache, Player
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.logs import SessionLog
from rtmp_twisted.rtmp import names
from rtmp_twisted.rtmp.connection import Connection
from rtmp_twisted.rtmp.formatting import amount, duration
from rtmp_twisted.rtmp.guessing import GuessingLimits
from rtmp_twisted.rtmp.names import App, BadName, NameRules, StreamAddress
from rtmp_twisted.settings_types import EVERYONE, Networks
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.chunks import LOG_STREAM_ID, MAX_MESSAGE_LENGTH, restream

MAX_MESSAGE_WHILE_ASKING: Final = 4 * 1024 * 1024
"""Bytes: the longest message of a client that waits for its publish to be accepted."""

MIN_PLAY_MILLISECONDS: Final = 1000
"""The shortest duration of a ``play`` that counts. Section 7.2.2.1 has it in seconds, but what sends one (rtmpdump's
``--stop``) does so in milliseconds."""

DRAINED: Final = "the server is being drained"
"""Why somebody has to go to another one."""

_ANY_NAMES: Final = NameRules()


@frozen
class SessionOptions:
    """What all sessions have in common. ``chunk_size`` in bytes; ``players``: who may play; ``max_publish_rate``: of a
    publisher, in bytes a second, 0 for no limit; ``tokens``: an `IPlayTokens`, or None where keys alone count.
    ``steer`` may give a connection that is about to publish or play on a channel to another process, and says whether
    it has done that. ``peers``: the clients are this server's other workers. ``nodes`` says whether a token has been
    made, for a channel, by another machine's node; None where there are none."""

    broker: Broker
    clock: IReactorTime
    names: NameRules = _ANY_NAMES
    chunk_size: int = 4096
    players: Networks = EVERYONE
    max_publish_rate: float = 0.0
    tokens: Any = None
    steer: Callable[[Connection, str], bool] | None = None
    peers: bool = False
    nodes: Callable[[str, str], bool] | None = None
    guessing: GuessingLimits = field(
        default=Factory(lambda options: GuessingLimits(options.clock), takes_self=True), kw_only=True
    )


class Session(Protocol):
    """What a message stream needs of its session."""

    options: SessionOptions
    connection: Connection
    log: SessionLog
    app: App
    agent: str
    publication: Publication | None
    played_key: str | None
    path: tuple[str, ...]

    def changed(self) -> None:
        """A stream has begun or ended to publish or to play."""


class MessageStream:
    """Owns at most one publication or player."""

    __slots__ = (
        "_began",
        "_logged_skips",
        "_media_since",
        "_play_seconds",
        "_until",
        "_waiting",
        "channel",
        "player",
        "publication",
        "session",
        "stream_id",
    )

    def __init__(self, session: Session, stream_id: int) -> None:
        self.session = session
        self.stream_id = stream_id
        self.channel = session.app.shown
        """The channel that it publishes or plays, or did last; for the log."""
        self.publication: Publication | None = None
        self.player: Player | None = None
        self._waiting: IDelayedCall | None = None  # until its key is looked at
        self._began = 0.0
        self._play_seconds: float | None = None  # how long the player wants its media
        self._media_since: float | None = None  # when the player was first seen to get media
        self._logged_skips = 0
        self._until: float | None = None  # when the player's token expires

    @property
    def busy(self) -> bool:
        return self.publication is not None or self.player is not None or self._waiting is not None

    # Publishing

    def publish(self, name: amf0.Value) -> None:
        session = self.session
        if session.publication is not None or self.busy:
            self._status("error", "NetStream.Publish.BadConnection", "This connection publishes or plays already.")
            return
        address = self._address("publish", name)
        if address is None or self._drained("publish"):
            return
        connection = session.connection
        broker = session.options.broker
        connection.accept_messages(min(MAX_MESSAGE_WHILE_ASKING, broker.memory.channel_share))
        publication = broker.publish(address.channel, address.key, connection.peer, self, begin=False)
        publication.path = session.path
        self.publication = session.publication = connection.sink = publication
        session.changed()
        self._attempt("publish", address.key, lambda: broker.begin(publication))

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

    def publish_goes_on(self, publication: Publication) -> None:
        self.session.connection.read_media()

    def publish_refused(self, publication: Publication, reason: str) -> None:
        self._forget_publication(publication, reason)
        if not publication.key_accepted:
            self._fail("publish", publication.key)
        self.refuse("publish", "BadName", reason)

    def publish_ended(self, publication: Publication, reason: str) -> None:
        was_on_air = publication.on_air_since is not None
        self._forget_publication(publication, reason)
        code = "NetStream.Unpublish.Success" if was_on_air else "NetStream.Publish.BadName"
        self._status("status" if was_on_air else "error", code, f"Ended: {reason}.")
        self.session.connection.finish(reason)

    def _forget_publication(self, publication: Publication, reason: str) -> None:
        session = self.session
        if self.publication is not publication:
            return  # its end has ended a player on this connection, and with that the connection
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

    def play(self, name: amf0.Value, milliseconds: amf0.Value = None) -> None:
        """Plays for so long, counted from the first media by the server's clock, or (no number) to the end (section
        7.2.2.1)."""
        connection = self.session.connection
        if self.busy:
            self._status("error", "NetStream.Play.BadConnection", "This stream publishes or plays already.")
            return
        options = self.session.options
        seconds = _play_seconds(milliseconds)
        tokens, nodes = options.tokens, options.nodes
        query: dict[str, str] = {}
        if tokens is not None or nodes is not None:
            query = names.fields(self.session.app, name if isinstance(name, str) else "")
        channel, token = self.session.app.channel, query.get("token", "")
        if nodes is not None and token and nodes(token, channel):
            self.channel = channel
            connection.exempt()
            self._start_playing(StreamAddress(channel, "", {}), None, peer=True)
            return
        if connection.peer not in options.players:
            self.refuse("play", "BadName", "this address may not play")
            return
        if not options.peers and self._drained("play"):
            return
        if tokens is not None and "token" in query:
            by_token = StreamAddress(channel, token, query)
            self.channel = channel
            self._attempt("play", token, lambda: self._play_with_token(by_token, seconds))
            return
        address = self._address("play", name)
        if address is not None:
            self._attempt("play", address.key, lambda: self._start_playing(address, seconds))

    def _play_with_token(self, address: StreamAddress, seconds: float | None) -> None:
        """Plays with what stands in place of the key."""
        options, token = self.session.options, address.key
        try:
            if len(token) > MAX_TOKEN:
                raise Refused("the token is too long")
            left = options.tokens.seconds_left(token, address.channel)
        except Refused as refusal:
            if not isinstance(refusal, TokenExpired):
                self._fail("play", token)
            self.refuse("play", "BadName", str(refusal))
            return
        self._start_playing(address, seconds, options.clock.seconds() + left)

    def _start_playing(
        self, address: StreamAddress, seconds: float | None, until: float | None = None, peer: bool = False
    ) -> None:
        """``until``: when a token that has been read expires; None for a key. ``peer``: it is another node."""
        session, stream_id, key = self.session, self.stream_id, address.key
        broker = session.options.broker
        cache = address.query.get("cache", "gop")
        peer = peer or session.options.peers
        player = Player(
            self,
            session.connection.writer,
            key if until is None and (key or not peer) else None,
            Cache(cache) if cache in _CACHES else Cache.GOP,
            None if stream_id == LOG_STREAM_ID else lambda data, start, end: restream(data, start, end, stream_id),
            peer=peer,
        )
        try:
            if until is None and not peer:
                if session.played_key not in (None, key):
                    # Else one connection could wait with many keys for a publisher, and try them all when it comes.
                    raise Refused("this connection has played with another key")
                session.played_key = key
            player.path = session.path
            on_air = broker.play(address.channel, player)
        except Refused as refusal:
            self._fail("play", key)
            self.refuse("play", "BadName", str(refusal))
            return
        self.player = player
        self._began = session.options.clock.seconds()
        self._play_seconds = seconds
        self._until = until
        self._media_since = None
        session.changed()
        self._accept_play(on_air)
        if self.player is player:  # else the connection came to its end over the answer
            broker.start(player)
            self._note_media(player)

    def _note_media(self, player: Player) -> None:
        """The time of a player that wants its media for so long begins with the first of it."""
        if self._media_since is None and player.delivered():
            self._media_since = self.session.options.clock.seconds()

    def _accept_play(self, on_air: bool) -> None:
        stream_id, channel = self.stream_id, self.channel
        broker = self.session.options.broker
        path = broker.path(channel)
        more: dict[str, amf0.Value] = {PATH: path, CLAIM: float(broker.epoch(channel))} if path else {}
        self.session.connection.send(
            messages.user_control(messages.STREAM_BEGIN, stream_id),
            messages.status(stream_id, "status", "NetStream.Play.Reset", f"Playing and resetting {channel}."),
            messages.status(stream_id, "status", "NetStream.Play.Start", f"Started playing {channel}.", more),
            messages.data(0, "|RtmpSampleAccess", True, True, stream_id=stream_id),
        )
        what = "playing" if on_air else "waiting for a publisher on"
        self.session.log.info('{what} channel "{channel}"', what=what, channel=channel)

    def play_refused(self, player: Player, reason: str) -> None:
        if self.player is not player:
            return
        self.player = None
        self.session.changed()
        self._fail("play", player.key or "")
        self.refuse("play", "BadName", reason)

    def play_ended(self, player: Player, reason: str) -> None:
        if self.player is not player:
            return
        self._forget_player(player, reason)
        self.session.connection.send(
            messages.status(
                self.stream_id, "status", "NetStream.Play.UnpublishNotify", f"{self.channel} is now unpublished."
            ),
            messages.user_control(messages.STREAM_EOF, self.stream_id),
        )
        self.session.connection.finish(reason)

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
        """Called every second: ends a player that has had its time, and logs that one was too slow, at info level the
        first time."""
        player = self.player
        if player is None:
            return
        if self._until is not None and self.session.options.clock.seconds() >= self._until:
            self.play_ended(player, "the token has expired")
            return
        if self._play_seconds is not None:
            self._check_time(player, self._play_seconds)
        if player.skips != self._logged_skips:
            log = self.session.log.debug if self._logged_skips else self.session.log.info
            self._logged_skips = player.skips
            log(
                "too slow: {amount} of channel {channel!r} left out so far",
                amount=amount(player.skipped_bytes),
                channel=self.channel,
            )

    def _check_time(self, player: Player, seconds: float) -> None:
        self._note_media(player)
        now, since = self.session.options.clock.seconds(), self._media_since
        if since is not None and now - since >= seconds:
            self._forget_player(player, f"it has had the {seconds:.0f} s that it asked for")
            self.session.connection.send(messages.user_control(messages.STREAM_EOF, self.stream_id))
            self._status("status", "NetStream.Play.Stop", "Stopped.")

    def _forget_player(self, player: Player, reason: str) -> None:
        session = self.session
        self.player = None
        session.options.broker.leave(player)
        session.changed()
        lost = f", {amount(player.skipped_bytes)} left out in {player.skips} places" if player.skips else ""
        session.log.info(
            'stopped playing channel "{channel}" after {duration}, {amount}{lost}: {reason}',
            channel=self.channel,
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
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
            self.session.changed()
        if self.publication is not None:
            publication = self.publication
            self.session.options.broker.end(publication, lost)
            self._forget_publication(publication, reason)
        if self.player is not None:
            self._forget_player(self.player, reason)

    # Keys

    def _attempt(self, command: str, key: str, go_on: Callable[[], None]) -> None:
        """Calls ``go_on``, which looks at the key: later if the address has failed with others, or not at all."""
        session = self.session

        def judged(refused: bool) -> None:
            self._waiting = None
            if refused:
                self.end("too many wrong keys")
                self.refuse(command, "BadName", "too many wrong keys from this address, try again later", quiet=True)
            else:
                go_on()

        self._waiting = session.options.guessing.attempt(
            session.connection.peer, self.channel, key, judged, self._end_for_bug
        )
        if self._waiting is not None:
            session.changed()

    def _end_for_bug(self) -> None:
        self.session.log.failure("a bug, which ends this connection")
        self.session.connection.abort("internal error")

    def _fail(self, command: str, key: str) -> None:
        session = self.session
        session.options.guessing.fail(command, session.connection.peer, self.channel, key)

    def refuse(self, command: str, code: str, reason: str, quiet: bool = False) -> None:
        """Tells the client that it may not publish or play, and ends the connection. ``quiet``: with a line at debug
        level only."""
        self._status("error", f"NetStream.{command.capitalize()}.{code}", f"Refused: {reason}.")
        (self.session.log.debug if quiet else self.session.log.info)(
            '{command} on channel "{channel}" refused: {reason}',
            command=command,
            channel=self.channel,
            reason=reason,
        )
        self.session.connection.finish(f"{command} refused: {reason}")

    def _drained(self, command: str) -> bool:
        """Whether the client has to go to another server; it is told so here."""
        draining = self.session.options.broker.draining
        if draining:
            self.refuse(command, "BadName", f"{DRAINED}, connect again", quiet=True)
        return draining

    def _address(self, command: str, name: amf0.Value) -> StreamAddress | None:
        """What is to be published or played; None for a bad key, which is refused here."""
        session = self.session
        try:
            address = session.options.names.stream(session.app, name if isinstance(name, str) else "")
        except BadName as error:
            self.refuse(command, "BadName", f"bad key: {error}")
            return None
        self.channel = address.channel
        return address

    def _status(self, level: str, code: str, description: str) -> None:
        self.session.connection.send(messages.status(self.stream_id, level, code, description))


def _play_seconds(milliseconds: amf0.Value) -> float | None:
    """The duration of a ``play``, None for one without an end."""
    if isinstance(milliseconds, float) and MIN_PLAY_MILLISECONDS <= milliseconds < math.inf:
        return milliseconds / 1000
    return None


_CACHES: Final = frozenset(kind.value for kind in Cache)
