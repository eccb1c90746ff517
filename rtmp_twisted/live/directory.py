"""Who has a channel: the one question that a broker asks before it lets a publish on air.

In one process the answer is a dictionary. With several workers (cluster/) it is another implementation of
`IDirectory`, which knows the channels of all of them; the broker stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import Interface, implementer


@frozen(eq=False)
class Claim:
    """A channel's place, as one publish holds it. ``epoch`` grows with each claim of the channel; ``holder`` is
    whatever the claimer gave. For a claim of another process it is what that process is called."""

    channel: str
    epoch: int
    holder: object
    pulled: bool = False
    """Whether it makes room for a publish."""


class Key(Protocol):
    """A publisher's key that is not known, but can be compared."""

    def matches(self, key: str) -> bool:
        """Whether this is the key. Takes a time that does not tell where two keys differ."""


class Taken(Exception):
    """The place is held already; ``claim`` is that one."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(f"channel {claim.channel!r} is taken")
        self.claim = claim


class IDirectory(Interface):
    """Asked by the broker only. None of these calls raises; each Deferred fires within a bound of its own. ``holder``
    is a `Publication`."""

    def claim(channel: str, holder: object) -> Deferred[Claim]:
        """Take the channel's place for a publish. Fails with `Taken` where somebody has it."""

    def locate(channel: str) -> Deferred[Claim | None]:
        """The claim that is in force, or None."""

    def elsewhere(channel: str) -> tuple[bool, Key | str | None]:
        """Whether another process has the channel, and which key its players have to give: None for any."""

    def make_room(claim: Claim, key: str) -> Deferred[None]:
        """Ask the holder in another process to give its place up for a publish with ``key``. Fires when it has done so.
        Fails with `Refused`, or `RightKey`, where it does not."""

    def release(claim: Claim) -> None:
        """Give a place back. Does nothing where it is not, or no longer, this claim's."""

    def watch(channel: str, changed: Callable[[Claim | None], None]) -> Callable[[], None]:
        """Call ``changed`` whenever the place is claimed or given back, until the returned function is called."""


class Watched:
    """The part of a directory that tells of changes."""

    def __init__(self) -> None:
        self._watchers: dict[str, list[Callable[[Claim | None], None]]] = {}

    def watch(self, channel: str, changed: Callable[[Claim | None], None]) -> Callable[[], None]:
        watchers = self._watchers.setdefault(channel, [])
        watchers.append(changed)

        def stop() -> None:
            watchers.remove(changed)
            if not watchers and self._watchers.get(channel) is watchers:
                del self._watchers[channel]

        return stop

    def _changed(self, channel: str, claim: Claim | None) -> None:
        for changed in list(self._watchers.get(channel, ())):
            changed(claim)


@implementer(IDirectory)
class LocalDirectory(Watched):
    """The directory of a server that is one process: all Deferreds have fired when they are returned."""

    def __init__(self) -> None:
        super().__init__()
        self._claims: dict[str, Claim] = {}
        self._epoch = 0

    def claim(self, channel: str, holder: object) -> Deferred[Claim]:
        taken = self._claims.get(channel)
        if taken is not None:
            return fail(Taken(taken))
        self._epoch += 1
        claim = self._claims[channel] = Claim(channel, self._epoch, holder, getattr(holder, "pulled", False))
        self._changed(channel, claim)
        return succeed(claim)

    def locate(self, channel: str) -> Deferred[Claim | None]:
        return succeed(self._claims.get(channel))

    def elsewhere(self, channel: str) -> tuple[bool, Key | str | None]:
        return False, None

    def make_room(self, claim: Claim, key: str) -> Deferred[None]:
        return succeed(None)

    def release(self, claim: Claim) -> None:
        if self._claims.get(claim.channel) is claim:
            del self._claims[claim.channel]
            self._changed(claim.channel, None)
