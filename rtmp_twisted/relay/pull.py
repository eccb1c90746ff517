"""A pull: a channel that is what another server plays. Made by pulls.

To the channel it is a publish like an encoder's. The publish begins with the first media and ends when the other server
says so. Where the connection is lost it is a publisher that may come back, so that viewers stay. One connection may see
several publishes, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from twisted.internet.defer import Deferred

from rtmp_twisted.live.path import MAX_PATH, PATH, read_path, refusal
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.media import tags
from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.relay.client import ClientSession, Refused
from rtmp_twisted.relay.link import Link, RelayOptions
from rtmp_twisted.relay_rules import Address
from rtmp_twisted.rtmp.interfaces import MediaSink
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.chunks import MAX_MESSAGE_LENGTH
from rtmp_twisted.wire.messages import VIDEO, Message

START: Final = -2000.0
"""The ``start`` of a play: live, as ffmpeg says it (section 7.2.2.1)."""

_ENDS: Final = frozenset(("NetStream.Play.UnpublishNotify", "NetStream.Play.Stop", "NetStream.Play.Complete"))


class Pull(Link):
    """``key``: what its players have to give, None for any. ``passes_key``: the other server is asked about it."""

    kind = "pull"
    max_delay = 10.0

    def __init__(
        self,
        options: RelayOptions,
        id: str,
        channel: str,
        address: Address,
        key: str | None,
        passes_key: bool,
        always: bool,
    ) -> None:
        super().__init__(options, id, channel, address, "PULL")
        self.key = key
        self.always = always
        self.publication: Publication | None = None
        self.on_lost: Callable[[], object] = lambda: None
        """Called when its connection is lost."""
        self._passes_key = passes_key
        self._session: ClientSession | None = None
        self._path: tuple[str, ...] = ()
        self._done = Traffic()  # of the publishes of this connection that have ended

    def stop(self, lost: bool = False) -> Deferred[None]:
        """As of `Link`. ``lost``: what it has published goes on, by other means."""
        self._end_publication(lost)
        return super().stop()

    # Link

    def traffic(self, session: ClientSession) -> Traffic:
        return self._done if self.publication is None else self._done + _received(self.publication)

    async def prepare(self, session: ClientSession) -> None:
        options = self.options
        share = options.broker.memory.channel_share
        self._session = session
        self._done = Traffic()
        await session.open(self._waiting_path())
        session.connection.accept_messages(min(MAX_MESSAGE_LENGTH, share))
        session.connection.sink = self
        try:
            info = await session.start("play", START)
        except Refused as refused:
            if refused.key and self._passes_key and self.key is not None:
                options.broker.refuse(self.channel, self.key, "the server that it is pulled from refuses the key")
            raise
        self._note_path(info)

    def leave_at_boundary(self, session: ClientSession) -> None:
        if self.publication is None:
            self.leave(session)
        else:
            session.connection.sink = _UntilKeyframe(
                self.publication, lambda: self.clock.callLater(0, self.leave, session)
            )

    # ClientOwner

    def told(self, code: str, info: dict[str, amf0.Value]) -> None:
        session = self._session
        if session is None:
            return
        if code in _ENDS:
            # A server that has asked to reconnect ends as well what goes on elsewhere.
            self._end_publication(lost=self.asked_to_reconnect)
            if session.connection.sink is not None:
                session.connection.sink = self
        elif code == "NetStream.Play.PublishNotify":
            try:
                self._note_path(info)
            except PeerError as error:
                session.fail(str(error))

    def ended(self, session: ClientSession) -> None:
        self._session = None
        self._end_publication(lost=True)
        self.on_lost()

    # MediaSink, until a publish begins

    full = False
    held_bytes = 0

    def write(self, message: Message) -> None:
        """The first media: a publish begins."""
        session = self._session
        if session is None or (message.type_id not in _FRAMES and _is_no_media(message)):
            return
        peer = session.connection.peer.rpartition(":")[0]
        self.publication = publication = self.publish(peer)
        session.connection.sink = publication
        publication.write(message)

    def publish(self, peer: str) -> Publication:
        """Asks the broker to publish what comes from ``peer``."""
        return self.options.broker.pull(self.channel, self.key, peer, self, self._path)

    # PublicationOwner

    @property
    def heard_at(self) -> float:
        return 0.0 if self._session is None else self._session.connection.heard_at

    @property
    def bytes_received(self) -> int:
        return 0 if self._session is None else self._session.connection.bytes_received

    @property
    def agent(self) -> str:
        return f"pull of {self.address}"

    @property
    def connection_number(self) -> int:
        return 0 if self._session is None else self._session.connection.number

    def publish_started(self, publication: Publication) -> None:
        self.live_since = self.clock.seconds()
        publication.write_held()
        if self._session is not None:
            self._session.connection.read_media()

    def publish_goes_on(self, publication: Publication) -> None:
        if self._session is not None:
            self._session.connection.read_media()

    def publish_refused(self, publication: Publication, reason: str) -> None:
        self._leave_publication(publication, reason)

    def publish_ended(self, publication: Publication, reason: str) -> None:
        self._leave_publication(publication, reason)

    # Inside

    def _waiting_path(self) -> tuple[str, ...]:
        """The servers that wait for what it pulls, and this one: it cannot come from any of them."""
        found = self.options.broker.channel(self.channel)
        players = () if found is None else found[0].players
        waiting = dict.fromkeys(server for player in players for server in player.path)
        own = (self.options.server_id,) if self.options.server_id else ()
        return (*islice(waiting, MAX_PATH), *own)

    def _leave_publication(self, publication: Publication, reason: str) -> None:
        """The publish was ended here: the connection goes with it."""
        if self.publication is publication:
            self._done += _received(publication)
            self.publication = self.live_since = None
            if self._session is not None:
                self._session.connection.sink = None
                self._session.close(reason)

    def _end_publication(self, lost: bool) -> None:
        publication, self.publication, self.live_since = self.publication, None, None
        if publication is not None:
            self._done += _received(publication)
            self.options.broker.end(publication, lost)

    def _note_path(self, info: dict[str, amf0.Value]) -> None:
        """Raises PeerError where the stream cannot come here."""
        self._path = read_path(info.get(PATH))
        refused = refusal(self._path, self.options.server_id)
        if refused:
            raise PeerError(refused)


class _UntilKeyframe:
    """A sink that hands on what comes until a keyframe, for which it calls ``leave``."""

    def __init__(self, sink: MediaSink, leave: Callable[[], object]) -> None:
        self._sink: MediaSink | None = sink
        self._leave = leave

    @property
    def full(self) -> bool:
        return self._sink is not None and self._sink.full

    @property
    def held_bytes(self) -> int:
        return 0 if self._sink is None else self._sink.held_bytes

    def write(self, message: Message) -> None:
        if self._sink is None:
            return
        if message.type_id == VIDEO and tags.classify_video(message.body) == tags.KEYFRAME:
            self._sink = None
            self._leave()
        else:
            self._sink.write(message)


def _received(publication: Publication) -> Traffic:
    return Traffic(received_bytes=publication.received_bytes, received_messages=publication.received_messages)


def _is_no_media(message: Message) -> bool:
    """What servers send before the media, and each of them by itself."""
    return messages.data_name(message)[0] == "|RtmpSampleAccess"


_FRAMES: Final = frozenset((messages.AUDIO, messages.VIDEO))
