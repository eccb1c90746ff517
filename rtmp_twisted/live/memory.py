"""How much memory channels and connections hold, and what happens when that is too much. Made by tap.py.

Each channel has an `Account`. It counts the blocks of its logs from the oldest one that the cache or a slow player
still needs, with the overhead of their objects. Connections have one together, for what they have received in part.
When all accounts exceed the limit, the largest gives back what it can, in the next turn of the reactor: a channel lets
go of its cache, and publishing goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from rtmp_twisted.live.turns import Turns

CHANNEL_SHARE: Final = 4
"""A channel's cache may hold one part in so many of the limit; a message longer than that is refused."""

NO_LIMIT: Final = 2**62
"""A limit, in bytes, that nobody reaches."""

ENOUGH: Final = 0.9
"""Once the limit is exceeded, memory is given back until this part of it is held."""

FREED: Final = 16 * 1024 * 1024
"""Bytes: when so many fewer are held than before, and less than a quarter, the system gets back what the process has
free. Not for less: channels let go of a group of pictures, and take the same memory again, all the time."""

_log = Logger(__name__)


class Account:
    """What one party holds. ``measure`` counts it anew, ``shrink`` gives back what can be given back."""

    __slots__ = ("_memory", "held", "measure", "name", "shrink")

    def __init__(self, memory: Memory, name: str, measure: Callable[[], int], shrink: Callable[[], None]) -> None:
        self._memory = memory
        self.name = name
        self.held = 0
        """Bytes; may be more than is really held, until the next `settle`."""
        self.measure = measure
        self.shrink = shrink

    def add(self, size: int) -> None:
        """``size`` bytes more are held."""
        self.held += size
        self._memory.changed(size)

    def settle(self) -> None:
        """Counts anew."""
        held = self.measure()
        change = held - self.held
        self.held = held
        self._memory.changed(change)

    def close(self) -> None:
        """The party is gone, and nothing of it is kept."""
        self._memory.close(self)
        self.measure, self.shrink = _nothing, _nothing_more


class Memory:
    """``limit`` in bytes. ``give_back`` has the process give free memory back to the system."""

    def __init__(self, limit: int, turns: Turns, give_back: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.held = 0
        """Bytes that all accounts hold together."""
        self.shrinks = 0
        """How often a party had to give back what it held."""
        self._turns = turns
        self._give_back = give_back
        self._most = 0  # what was held at most since it did that
        self._freeing = False  # what is let go of is freed in some turns (see live/log.py)
        self._accounts: dict[Account, None] = {}
        self._shrinking = False
        self._in_vain = 0  # what was held when nothing could be given back

    @property
    def channel_share(self) -> int:
        """Bytes that one channel may keep for joiners at most."""
        return self.limit // CHANNEL_SHARE

    def __len__(self) -> int:
        return len(self._accounts)

    def open(self, name: str, measure: Callable[[], int], shrink: Callable[[], None]) -> Account:
        account = Account(self, name, measure, shrink)
        self._accounts[account] = None
        return account

    def close(self, account: Account) -> None:
        if account in self._accounts:
            del self._accounts[account]
            self.held -= account.held
            account.held = 0

    def check(self) -> None:
        """Gives free memory back to the system a second after much was let go of. Called every second."""
        if self._freeing and self._give_back is not None:
            self._give_back()
        self._most = max(self._most, self.held)
        self._freeing = self._most >= FREED + self.held and self._most >= 4 * self.held
        if self._freeing:
            self._most = self.held

    def changed(self, size: int) -> None:
        """The accounts hold ``size`` bytes more together."""
        self.held += size
        if self.held > self.limit and not self._shrinking and self.held > self._in_vain * 1.05:
            self._shrinking = True
            self._turns.add(self._shrink)

    def _shrink(self) -> bool:
        """Has the largest account give back what it can; goes on in the next turn if that is not enough."""
        for account in self._accounts:
            account.settle()
        self._in_vain = 0
        if self.held <= self.limit * ENOUGH or not self._accounts:
            self._shrinking = False
            return False
        largest = max(self._accounts, key=lambda account: account.held)
        before, held = largest.held, self.held
        largest.shrink()
        largest.settle()
        self.shrinks += 1
        _log.warn(
            "{held} MB are held, and {limit} MB allowed (MAX_MEMORY_MB): {name} gives {size} MB back",
            held=held // 1_000_000,
            limit=self.limit // 1_000_000,
            name=largest.name,
            size=(before - largest.held) // 1_000_000,
        )
        if largest.held >= before:
            self._in_vain = self.held
        self._shrinking = not self._in_vain and self.held > self.limit * ENOUGH
        return self._shrinking


def _nothing() -> int:
    return 0


def _nothing_more() -> None:
    pass
