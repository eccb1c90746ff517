"""Pushes and pulls as other rooms see them: what the broker tells relay/, and what web/ asks it."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from rtmp_twisted.live.publication import Publication


class ChannelObserver(Protocol):
    """Who is told by the broker what happens on its channels. None of these calls may raise."""

    def went_on_air(self, publication: Publication) -> None:
        """A publish has started, perhaps in place of one that was lost."""

    def went_off_air(self, channel: str) -> None:
        """A publish has ended, and its players have been told."""

    def player_came(self, channel: str, key: str | None) -> None:
        """A player waits for a publish, or watches one. ``key`` is None where it was let in by other means."""

    def player_left(self, channel: str) -> None:
        """A player has left by itself."""


@frozen
class RelayStatus:
    """One push or pull, as it is now. ``state`` is one of a few fixed words. ``target`` and ``last_error`` hold no
    secret. ``made_by`` is the setting's name, or API. Times are in seconds, ``bit_rate`` in bit/s."""

    id: str
    kind: str
    channel: str
    target: str
    made_by: str
    state: str
    live_seconds: float | None
    bit_rate: float
    total_bytes: int
    """Bytes of media that were handed over to the other server, or came from it."""
    waiting_bytes: int
    skips: int
    skipped_bytes: int
    reconnects: int
    last_error: str


class Relays(Protocol):
    """What operators may ask and do."""

    def statuses(self, channel: str | None = None) -> list[RelayStatus]:
        """Returns all pushes and pulls, or those of one channel."""

    def add_push(self, channel: str, url: str) -> RelayStatus:
        """Pushes a channel to one more server, for as long as the process runs. Raises ValueError, with what is
        wrong."""

    def remove_push(self, channel: str, id: str) -> bool:
        """Ends a push. Returns whether there was one. One of a rule begins again with the channel's next publish."""
