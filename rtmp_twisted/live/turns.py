"""Work that is too long for one turn of the reactor. Used by live/ and rtmp/; made by tap.py, one for the process.

A party that has used up its budget for this turn hands over the rest of its work as a function. `Turns` calls each of
these once a turn, in the order in which they came, until it returns False. Before that it lets the publishers be read,
so that the frames of other channels never wait for more than one turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

TURN_SECONDS: Final = 0.005
"""Once the pieces of one turn have taken so long together, the others wait for the next turn."""

ITEMS_PER_TURN: Final = 32
"""Items of one `Turns.for_each` that one turn handles."""

_Item = TypeVar("_Item")

_log = Logger(__name__)


class Turns:
    """``before`` is called at the beginning of each turn that has work; it may be set later."""

    def __init__(self, clock: IReactorTime) -> None:
        self.before: Callable[[], None] | None = None
        self._clock = clock
        self._work: deque[Callable[[], bool]] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        """How many pieces of work go on in the next turn."""
        return len(self._work)

    def add(self, work: Callable[[], bool]) -> None:
        """Calls ``work`` once in each of the following turns until it returns False. An exception ends it."""
        self._work.append(work)
        self._schedule()

    def for_each(self, items: Iterable[_Item], call: Callable[[_Item], object]) -> None:
        """Calls ``call`` with each item, in the following turns. An exception ends that call only."""
        left = deque(items)

        def some() -> bool:
            for _ in range(min(ITEMS_PER_TURN, len(left))):
                try:
                    call(left.popleft())
                except Exception:
                    _log.failure("a bug in what is done to many")
            return bool(left)

        if left:
            self.add(some)

    def let_publishers_be_read(self) -> None:
        """Called behind pieces of work of which there may be many in one turn."""
        if self.before is not None:
            self.before()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        self._scheduled = False
        self.let_publishers_be_read()
        began = self._clock.seconds()
        for _ in range(len(self._work)):
            work = self._work.popleft()
            try:
                unfinished = work()
            except Exception:
                _log.failure("a bug in what goes on in the next turn")
                continue
            if unfinished:
                self._work.append(work)
            if self._clock.seconds() - began >= TURN_SECONDS:
                break
        if self._work:
            self._schedule()
