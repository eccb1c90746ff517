"""A player: what it wants of a channel, and the cursor that reads for it. Made by the rooms that serve it."""

from __future__ import annotations

import enum
import hmac
from typing import Protocol, TypeAlias

from rtmp_twisted.live.audience import Audience
from rtmp_twisted.live.cursor import Change, Cursor, Writer
from rtmp_twisted.live.directory import Key
from rtmp_twisted.live.fragments import FragmentForm
from rtmp_twisted.live.log import Format
from rtmp_twisted.live.traffic import Traffic

Form: TypeAlias = type[Format] | FragmentForm
"""A rendition that a player reads: of which format, or of which tracks as fragmented MP4."""


class Cache(enum.Enum):
    """What a joining player wants of the past: the ``cache=`` of a play request."""

    GOP = "gop"
    NO = "no"
    CLEAR = "clear"
    ALL = "all"


class PlayerOwner(Protocol):
    """Who is told what happens to a player, in a later turn of the reactor: the owner may have left it by then."""

    def play_refused(self, player: Player, reason: str) -> None:
        """A publisher came whose key is another. The player has left its channel."""

    def play_ended(self, player: Player, reason: str) -> None:
        """The publish has ended, and its players end with it. The player has left its channel."""


class PublishWatcher(Protocol):
    """Whoever has to know of a player where its channel's publishes begin and end: one who serves a single publish.
    Nobody tells the player itself, as an RTMP player is told by messages in its stream. Called in a later turn of the
    reactor, while the player is in its channel."""

    def publish_began(self, player: Player) -> None:
        """A publisher has come, whose key is right. The player, which has waited for it, may be started."""

    def publish_ended(self, player: Player) -> None:
        """The publish has ended, and does not go on. The player, which was started, is still in its channel."""


class Player:
    """``key`` is what the publisher's has to be, None where the player was let in by other means. ``change``: what this
    player gets in place of the log's messages; ``form``: the rendition that it reads, None for the channel's own log.
    A ``push`` needs no key, and is no viewer. Nor is a ``peer``: another worker, which reads for viewers of its own.
    """

    __slots__ = (
        "_audience",
        "_change",
        "_cursor",
        "cache",
        "channel_name",
        "form",
        "key",
        "owner",
        "path",
        "paused",
        "peer",
        "push",
        "started",
        "watcher",
        "writer",
    )

    def __init__(
        self,
        owner: PlayerOwner,
        writer: Writer,
        key: str | None,
        cache: Cache = Cache.GOP,
        change: Change | None = None,
        form: Form | None = None,
        watcher: PublishWatcher | None = None,
        push: bool = False,
        peer: bool = False,
    ) -> None:
        self.owner = owner
        self.writer = writer
        self.key = key
        self.cache = cache
        self.form = form
        self.watcher = watcher
        self.push = push or peer
        self.peer = peer
        self.paused = False
        self.started = False
        """Whether it has been started, since it entered its channel."""
        self.path: tuple[str, ...] = ()
        """The servers of this kind that wait for what it gets (path.py)."""
        self.channel_name = ""
        """The channel that it is in, or empty."""
        self._change = change
        self._audience: Audience | None = None
        self._cursor: Cursor | None = None

    def admitted_by(self, key: Key | str) -> bool:
        """Whether it may play a publish with this key. Takes a time that does not tell where two keys differ."""
        return self.key is None or same_key(self.key, key)

    # Called by channel

    def enter(self, channel_name: str, audience: Audience) -> None:
        """The player is in a channel from now on, and gets nothing yet."""
        self.channel_name = channel_name
        self.started = False
        self._audience = audience
        self._cursor = Cursor(audience.log, self.writer, self._change, self.push and not self.peer)

    def leave(self) -> None:
        """The player is in no channel any more."""
        if self._audience is not None and self._cursor is not None:
            self._audience.leave(self._cursor)
        self.channel_name = ""
        self._audience = None

    @property
    def audience(self) -> Audience | None:
        return self._audience

    @property
    def cursor(self) -> Cursor | None:
        """Stays when the player has left, with what it counted."""
        return self._cursor

    # Called by its owner

    def pause(self) -> None:
        """The player gets nothing until it is started again."""
        self.paused = True
        if self._audience is not None and self._cursor is not None:
            self._audience.stop(self._cursor)

    def send_headers(self) -> None:
        """Sends the headers as they are now, whatever the player got before."""
        if self._audience is not None and self._cursor is not None:
            log = self._audience.log
            self._cursor.send_headers(log.program.headers, log.timestamp)

    def enable(self, audio: bool | None = None, video: bool | None = None) -> None:
        """Turns audio and video on or off (None: as before). Video that is turned on waits for a keyframe."""
        if self._audience is not None and self._cursor is not None:
            self._audience.enable(self._cursor, audio, video)

    def resume(self) -> None:
        """The writer is not blocked any more."""
        if self._audience is not None and self._cursor is not None:
            self._audience.resume(self._cursor)

    def blocked(self) -> None:
        """The writer is blocked by what the owner has written."""
        if self._audience is not None and self._cursor is not None:
            self._audience.blocked(self._cursor)

    @property
    def caught_up(self) -> bool:
        """Whether it has been handed all that its log has, down to the last byte."""
        cursor = self._cursor
        audience = self._audience
        if cursor is None or audience is None:
            return True
        return not cursor.rest_size() and cursor.position() >= audience.log.position

    # What it counts

    def traffic(self) -> Traffic:
        """All of it."""
        return Traffic(
            delivered_bytes=self.delivered(),
            delivered_messages=self.delivered_messages(),
            skips=self.skips,
            skipped_bytes=self.skipped_bytes,
        )

    def delivered(self) -> int:
        """Bytes of the stream that were handed over, without what was lost."""
        return 0 if self._cursor is None else self._cursor.delivered()

    def delivered_messages(self) -> int:
        """The same in messages."""
        return 0 if self._cursor is None else self._cursor.delivered_messages()

    def waiting(self) -> int:
        """Bytes of the log that it has not been handed yet."""
        if self._audience is None or self._cursor is None:
            return 0
        return self._audience.log.position - self._cursor.position() + self._cursor.rest_size()

    @property
    def skips(self) -> int:
        """How often it was too slow and lost a part of the stream."""
        return 0 if self._cursor is None else self._cursor.skips

    @property
    def skipped_bytes(self) -> int:
        return 0 if self._cursor is None else self._cursor.skipped_bytes


def same_key(one: str, other: Key | str) -> bool:
    """Compares two keys in a time that does not tell where they differ."""
    if not isinstance(other, str):
        return other.matches(one)
    return hmac.compare_digest(one.encode(), other.encode())
