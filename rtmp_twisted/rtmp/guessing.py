"""Guessing of keys: whose attempts fail, how long its next ones wait, and when they are refused.

One `GuessingLimits` serves all connections; message_stream asks it. An attempt is a publish or a play. It fails if its
key is not the publisher's, or if the authority refuses it. Then the next attempts from its address wait, longer with
each failure. Too many different keys on one channel end in a time in which that address is refused on that channel.

An attempt waits before its key is compared, not after. So a client that hangs up and tries again learns nothing sooner,
and the right key is not told by its speed. A wrong key that comes again is no further guess: it slows down only itself,
and never leads to a refusal. An encoder that tries a wrong key for ever locks out nobody behind its address.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, Final

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

FIRST_WAIT: Final = 0.125
"""Seconds from a failure to the next attempt. Each further failure doubles it."""

MOST_WAIT: Final = 2.0
"""Seconds: the longest of these waits."""

CALM_SECONDS: Final = 10.0
"""After each such time without a failure the wait is halved."""

MAX_KEYS: Final = 10
"""Different keys that may fail within `WINDOW_SECONDS`, from one address on one channel, before it is refused there."""

WINDOW_SECONDS: Final = 60.0
"""How long failed keys are counted together, and how long after its last failure an address is forgotten."""

REFUSE_SECONDS: Final = 30.0
"""How long it is refused. Attempts do not prolong it, so the right key can be tried again after it."""

MAX_ENTRIES: Final = 10_000
"""Addresses that are remembered, and pairs of address and channel. Beyond that, those that have not failed for the
longest time are forgotten."""

_MOST_LEVEL: Final = 5.0
"""Failures in a row that lead from `FIRST_WAIT` to `MOST_WAIT`."""

_log = Logger()


@define(eq=False)
class _Pace:
    """How fast attempts may follow each other."""

    level: float = 0.0
    """Failures, less one for each `CALM_SECONDS` without any."""
    failed_at: float = 0.0

    def fail(self, now: float) -> None:
        calm = (now - self.failed_at) / CALM_SECONDS
        self.level = min(_MOST_LEVEL, max(0.0, self.level - calm) + 1)
        self.failed_at = now

    def wait(self, now: float) -> float:
        if not self.level:
            return 0.0
        return min(MOST_WAIT, max(0.0, self.failed_at + FIRST_WAIT * 2 ** (self.level - 1) - now))


@define(eq=False)
class _Source:
    """An address that has failed."""

    pace: _Pace = field(factory=_Pace)
    """Of all its attempts."""
    seen_at: float = 0.0


@define(eq=False)
class _Target:
    """A channel on which an address has failed."""

    pace: _Pace = field(factory=_Pace)
    """Of its attempts with keys that have failed already."""
    seen_at: float = 0.0
    keys: set[int] = field(factory=set)
    """Hashes of the keys that have failed in this window."""
    until: float = 0.0
    """The end of the window, or of the refusal."""
    refused: bool = False
    logged: bool = False


class GuessingLimits:
    """An address is textual (`textual_ip`). IPv6 addresses count by their network of 64 bits. An empty address, as a
    UNIX socket's peer has, is not limited."""

    def __init__(self, clock: IReactorTime) -> None:
        self.failures: Counter[str] = Counter(play=0, publish=0)
        """Attempts that have failed so far, by command."""
        self.refused = 0
        """Attempts that were refused so far without a look at their key."""
        self._clock = clock
        self._sources: OrderedDict[str, _Source] = OrderedDict()  # least recently failed first, as the other
        self._targets: OrderedDict[tuple[str, str], _Target] = OrderedDict()

    @property
    def sources(self) -> Collection[str]:
        """Those that have failed lately, as `source_of` calls them."""
        return self._sources.keys()

    @property
    def remembered(self) -> int:
        """How many addresses, and pairs of address and channel, it knows something of."""
        return len(self._sources) + len(self._targets)

    def attempt(
        self, address: str, channel: str, key: str, then: Callable[[bool], None], bug: Callable[[], None]
    ) -> IDelayedCall | None:
        """Calls ``then`` with whether an attempt is refused: at once, or after the wait of an address that has failed
        before. That wait is returned, and may be cancelled. ``bug`` is called where ``then`` raises after a wait."""
        if not self.suspects(address):
            then(False)
            return None
        wait = self.wait(address, channel, key)
        if wait:
            return self._clock.callLater(wait, self._attempt_later, address, channel, key, then, bug)
        then(self.refuses(address, channel, key))
        return None

    def _attempt_later(
        self, address: str, channel: str, key: str, then: Callable[[bool], None], bug: Callable[[], None]
    ) -> None:
        try:
            then(self.refuses(address, channel, key))
        except Exception:
            bug()

    def suspects(self, address: str) -> bool:
        """Returns whether an address has failed lately. If not, the other questions need not be asked."""
        return bool(self._sources) and source_of(address) in self._sources

    def wait(self, address: str, channel: str, key: str) -> float:
        """Returns the seconds that an attempt has to wait, at most `MOST_WAIT`."""
        name, now = source_of(address), self._clock.seconds()
        source, target = self._sources.get(name), self._targets.get((name, channel))
        wait = 0.0 if source is None else source.pace.wait(now)
        if target is not None and hash(key) in target.keys:
            wait = max(wait, target.pace.wait(now))
        return wait

    def refuses(self, address: str, channel: str, key: str) -> bool:
        """Returns whether an attempt that has waited must be refused now, which is counted. A key that is known to
        have failed is not: it may have become right, and tells a guesser nothing new."""
        name, now = source_of(address), self._clock.seconds()
        target = self._targets.get((name, channel))
        if target is None or not target.refused or now >= target.until or hash(key) in target.keys:
            return False
        self.refused += 1
        self._failed_source(name, now).pace.fail(now)
        return True

    def fail(self, command: str, address: str, channel: str, key: str) -> None:
        """Counts an attempt that has failed. Logs a refusal that begins, unless the last one is hardly over."""
        self.failures[command] += 1
        name, now = source_of(address), self._clock.seconds()
        if not name:
            return
        source = self._failed_source(name, now)
        target = self._failed_target(name, channel, now)
        if hash(key) in target.keys:
            target.pace.fail(now)
            return
        source.pace.fail(now)
        if target.refused:
            return  # it was asked about before the refusal began
        target.keys.add(hash(key))
        if len(target.keys) >= MAX_KEYS:
            target.refused, target.until = True, now + REFUSE_SECONDS
            if not target.logged:
                target.logged = True
                _log.warn(
                    "guessing: {number} wrong keys from {address} on channel {channel!r}; it is refused there for "
                    "{seconds:.0f} s, and again if it goes on",
                    number=MAX_KEYS,
                    address=name,
                    channel=channel,
                    seconds=REFUSE_SECONDS,
                )

    def forget(self) -> None:
        """Drops those that have not failed for `WINDOW_SECONDS`. Called every second."""
        oldest = self._clock.seconds() - WINDOW_SECONDS
        tables: tuple[OrderedDict[Any, Any], ...] = self._sources, self._targets
        for table in tables:
            while table and next(iter(table.values())).seen_at <= oldest:
                table.popitem(last=False)

    def _failed_source(self, name: str, now: float) -> _Source:
        source = self._sources.setdefault(name, _Source())
        self._sources.move_to_end(name)
        if len(self._sources) > MAX_ENTRIES:
            self._sources.popitem(last=False)
        source.seen_at = now
        return source

    def _failed_target(self, name: str, channel: str, now: float) -> _Target:
        target = self._targets.setdefault((name, channel), _Target())
        self._targets.move_to_end((name, channel))
        if len(self._targets) > MAX_ENTRIES:
            self._targets.popitem(last=False)
        target.seen_at = now
        if now >= target.until:
            target.keys.clear()
            target.refused, target.until = False, now + WINDOW_SECONDS
        return target


@lru_cache(1024)
def source_of(address: str) -> str:
    """Returns what an address counts as: itself, or its network for IPv6."""
    return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address
