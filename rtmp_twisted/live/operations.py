"""What the operators' site asks the server, and does with it: an interface that web/ implements for one process, and
cluster/ for several."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")
Soon: TypeAlias = T | Deferred[T]
"""A value, or a Deferred of it."""


class Operations(Protocol):
    """Channels, pushes and pulls are as web/serializers.py has them: plain values for JSON, without secrets."""

    def start(self) -> None:
        """The server runs."""

    def stop(self) -> None:
        """It is stopping."""

    def healthy(self) -> bool:
        """Whether connections are served."""

    def draining(self) -> bool:
        """Whether clients are sent away."""

    def drain(self, on: bool) -> None:
        """Sends clients away from now on, or (False) lets them come again."""

    def left(self) -> Soon[dict[str, int]]:
        """Returns how many ``publishers`` and ``players`` there are."""

    def channels(self, offset: int, limit: int) -> Soon[tuple[int, list[dict[str, Any]]]]:
        """Returns how many channels there are, and some of them."""

    def channel(self, name: str) -> Soon[dict[str, Any] | None]:
        """Returns one channel, if it is used."""

    def kill(self, name: str, reason: str) -> bool:
        """Ends what is published on a channel. Returns whether anything was."""

    def relays(self, channel: str | None) -> Soon[list[dict[str, Any]] | None]:
        """Returns all pushes and pulls, or those of one channel; None where this server does not do such things."""

    def add_push(self, channel: str, url: str) -> Soon[dict[str, Any]]:
        """Pushes a channel to one more server, for as long as the server runs. Raises, or fails with, ValueError."""

    def remove_push(self, channel: str, id: str) -> Soon[bool]:
        """Ends a push. Returns whether there was one."""

    def nodes(self) -> Soon[list[dict[str, Any]]] | None:
        """Returns what the nodes of this server's cluster say of themselves; None where it is in none. Fails with
        ValueError where that is not known now."""

    def metrics(self) -> Soon[bytes]:
        """Returns the metrics, in Prometheus' text format."""
