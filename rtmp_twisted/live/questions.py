"""The order in which the authority is asked, if many want to publish on one channel. Used by the broker.

Strangers may ask for a channel as often as they like. They keep nobody out: only so many questions of one channel are
with the authority at a time, and of the others the next is one of the address that has the fewest there.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from twisted.internet.defer import Deferred, succeed

MAX_QUESTIONS: Final = 16
"""Questions of one channel that the authority is asked at a time."""

MAX_FROM_ADDRESS: Final = 8
"""Of those, most from one address."""


class Questions:
    """The questions of one channel."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._waiting: list[tuple[str, Deferred[None]]] = []

    def __len__(self) -> int:
        """How many are being asked, or wait."""
        return self._asked.total() + len(self._waiting)

    def begin(self, address: str) -> Deferred[None]:
        """Fires when a question of ``address`` may be asked; `finish` has to follow. May be cancelled before."""
        if self._may_ask(address):
            self._asked[address] += 1
            return succeed(None)
        turn: Deferred[None] = Deferred(self._forget)
        self._waiting.append((address, turn))
        return turn

    def finish(self, address: str) -> None:
        """A question of ``address`` has had its answer."""
        self._asked[address] -= 1
        if not self._asked[address]:
            del self._asked[address]
        allowed = [entry for entry in self._waiting if self._may_ask(entry[0])]
        if allowed:
            entry = min(allowed, key=lambda entry: self._asked[entry[0]])
            self._waiting.remove(entry)
            self._asked[entry[0]] += 1
            entry[1].callback(None)

    def _may_ask(self, address: str) -> bool:
        return self._asked.total() < MAX_QUESTIONS and self._asked[address] < MAX_FROM_ADDRESS

    def _forget(self, cancelled: Deferred[None]) -> None:
        self._waiting = [entry for entry in self._waiting if entry[1] is not cancelled]
