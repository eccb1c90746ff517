"""A push: a channel that is published to another server, while it is on air. Made by pushes.

To the channel it is a reader like a player: slow, it loses groups of pictures, and nobody else notices. What it reads
is the log's own bytes, but for each message's header: the message stream is the other server's, and time begins at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred

from rtmp_twisted.live.player import Player
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.media import tags
from rtmp_twisted.relay.client import ClientSession
from rtmp_twisted.relay.link import Link
from rtmp_twisted.rtmp.formatting import amount
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.chunks import append_chunks, body_of, retime, time_of
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO

DRAIN_SECONDS: Final = 5
"""How long a push may take, when its channel has gone off air, to hand over what it has not yet."""

BEGUN_MILLISECONDS: Final = 60_000
"""From here on a time is never one before the beginning: times wrap, after 49.7 days."""

_METADATA: Final = amf0.encode("onMetaData")
_SET_DATA_FRAME: Final = amf0.encode("@setDataFrame")
_MEDIA: Final = frozenset((AUDIO, VIDEO, DATA_AMF0))
_HALF: Final = 0x80000000


class PublishedForm:
    """What a server that is published to gets in place of the log's messages: a `Change` (live/cursor.py).

    What the channel tells its players is left out. ``leave`` is called at the first keyframe once `leave_at_keyframe`
    is set; from there on nothing is given.
    """

    __slots__ = ("_begun", "_chunk_size", "_leave", "_left", "_stream_id", "_zero", "leave_at_keyframe")

    def __init__(self, stream_id: int, chunk_size: int, leave: Callable[[], object]) -> None:
        self._stream_id = stream_id
        self._chunk_size = chunk_size
        self._leave = leave
        self._left = False
        self._zero: int | None = None  # the log's time that is 0 there
        self._begun = False  # no time can be one before the beginning any more
        self.leave_at_keyframe = False

    def __call__(self, data: bytes, start: int, end: int) -> list[bytes | memoryview]:
        kind = data[start + 7]
        if kind not in _MEDIA or self._left:
            return []
        if kind == DATA_AMF0 and data.startswith(_METADATA, start + 12):
            return self._metadata(data, start, end)
        if self.leave_at_keyframe and kind == VIDEO and self._is_keyframe(data, start, end):
            self._left = True
            self._leave()
            return []
        time = time_of(data, start)
        if self._zero is None:
            self._zero = time
        time = time - self._zero & 0xFFFFFFFF
        if not self._begun:
            if time >= _HALF:
                time = 0  # sound that belongs to the first picture, and is a little earlier
            self._begun = time >= BEGUN_MILLISECONDS
        return retime(data, start, end, self._stream_id, time, self._chunk_size)

    def _metadata(self, data: bytes, start: int, end: int) -> list[bytes | memoryview]:
        """Metadata as a publisher sends it (its time is 0, also in the log)."""
        parts: list[bytes | memoryview] = []
        body = _SET_DATA_FRAME + body_of(data, start, end, self._chunk_size)
        append_chunks(parts, data[start], self._chunk_size, DATA_AMF0, self._stream_id, 0, body)
        return parts

    def _is_keyframe(self, data: bytes, start: int, end: int) -> bool:
        return tags.classify_video(body_of(data, start, end, self._chunk_size)) == tags.KEYFRAME


class Push(Link):
    """`start` when the channel goes on air, `finish` when it has gone off air."""

    kind = "push"
    _form: PublishedForm | None = None
    _draining_since: float | None = None
    _logged_skips = 0  # of this connection

    def start(self) -> None:
        if self._draining_since is not None:
            self.stop()  # the channel's next stream, whose time begins anew, is another one there
        super().start()

    def finish(self) -> None:
        """The channel is off air: ends when all of it has been handed over."""
        if self._hand_over():
            self.stop()
        elif self._draining_since is None:
            self._draining_since = self.clock.seconds()

    def stop(self) -> Deferred[None]:
        self._hand_over()
        self._draining_since = None
        return super().stop()

    # Link

    def traffic(self, session: ClientSession) -> Traffic:
        return Traffic() if session.player is None else session.player.traffic()

    async def prepare(self, session: ClientSession) -> None:
        options, broker = self.options, self.options.broker
        path = tuple(filter(None, broker.path(self.channel).split(",")))
        stream_id = await session.open(path, ("releaseStream", "FCPublish"))
        await session.start("publish", "live")
        session.connection.send(messages.set_chunk_size(options.chunk_size))  # the log's
        self._logged_skips = 0
        # Not at once: this may be in the middle of what the reader is handed.
        leave = partial(self.clock.callLater, 0, self.leave, session)
        self._form = PublishedForm(stream_id, options.chunk_size, leave)
        player = session.player = Player(self, session.connection.writer, "", change=self._form, push=True)
        broker.play(self.channel, player)
        self.live_since = self.clock.seconds()
        broker.start(player)

    def leave_at_boundary(self, session: ClientSession) -> None:
        if self._form is not None:
            self._form.leave_at_keyframe = True

    # ClientOwner

    def checked(self, session: ClientSession) -> None:
        player = session.player
        if player is not None and player.skips != self._logged_skips:
            log = session.connection.log.debug if self._logged_skips else session.connection.log.info
            self._logged_skips = player.skips
            log(
                "{title} is too slow: {amount} left out so far",
                title=self.title,
                amount=amount(player.skipped_bytes),
            )
        since = self._draining_since
        if since is not None and (self._hand_over() or self.clock.seconds() - since >= DRAIN_SECONDS):
            self.stop()

    def ended(self, session: ClientSession) -> None:
        if session.player is not None:
            self.options.broker.leave(session.player)

    # PlayerOwner

    def play_refused(self, player: Player, reason: str) -> None:
        """Never called: a push needs no key."""

    def play_ended(self, player: Player, reason: str) -> None:
        if self.connection is not None and self.connection.player is player:
            self.stop()

    # Inside

    def _hand_over(self) -> bool:
        """Hands over, without waiting for the next round, what the other server takes; returns whether that is all."""
        player = None if self.connection is None else self.connection.player
        if player is not None:
            player.resume()
        return player is None or not player.waiting()
