"""The time that players see: the publisher's own, but for its jumps. Used by channel.

A publisher's clock may jump back or forward, and one that was lost and comes back may begin at 0 again. A strict player
ends at the first frame that is earlier than the one before. So each jump begins a new *stretch*, which is shifted to
where the last one ended; without a jump nothing is shifted. Times are milliseconds modulo 2**32, as on the wire: where
they wrap is no jump.
"""

from __future__ import annotations

from typing import Final

from rtmp_twisted.wire.messages import AUDIO, VIDEO

BACK: Final = 100
"""A frame may be so much earlier than the one of its kind before it: several tracks need not be in order."""
FORWARD: Final = 30_000
"""A frame may be so much later than the one of its kind before it."""
STEP: Final = 40
"""From the end of one stretch to the beginning of the next, where nobody knows how long that took."""

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


class Timestamps:
    """Audio and video jump one after the other: each may be in a stretch of its own for a while."""

    __slots__ = ("_due", "_kinds", "_shift")

    def __init__(self) -> None:
        self._kinds: dict[int, _Kind] = {}
        self._shift: int | None = None  # of the newest stretch; None until there is one
        self._due: int | None = None  # where the next stretch begins

    def restart(self) -> None:
        """The next publish begins at its own time."""
        self._kinds.clear()
        self._shift = self._due = None

    def go_on(self, now: int, gap: int) -> None:
        """The next publish goes on ``gap`` milliseconds behind ``now``, unless players have seen nothing yet."""
        if self._kinds or self._due is not None:
            self._due = now + max(gap, STEP) & _MASK
        self._kinds.clear()
        self._shift = None

    def rebase(self, kind: int, timestamp: int) -> int:
        """When a frame is for the players; ``kind`` is its message type id."""
        state = self._kinds.get(kind)
        if state is None:
            state = self._kinds[kind] = _Kind(self._join(timestamp, None), timestamp)
        else:
            step = (timestamp - state.last + _HALF & _MASK) - _HALF
            if step < -BACK or step > FORWARD:
                state.floor = state.placed()
                state.shift = self._join(timestamp, state)
            state.last = timestamp
        placed = timestamp + state.shift & _MASK
        if state.floor is not None:
            if placed - state.floor & _MASK >= _HALF:
                return state.floor
            state.floor = None
        return placed

    def rebase_other(self, kind: int, timestamp: int) -> int:
        """The same for what is no frame. Its time does not count, where it is another than that of the frames."""
        state = self._kinds.get(kind) or self._kinds.get(VIDEO) or self._kinds.get(AUDIO)
        if state is None:
            return timestamp if self._due is None else self._due
        return timestamp + state.shift & _MASK if _near(timestamp, state.last) else state.placed()

    def _join(self, timestamp: int, jumped: _Kind | None) -> int:
        """The shift of the stretch that a frame belongs to: the newest, or one that begins with it."""
        if self._shift is None:
            self._shift = 0 if self._due is None else self._due - timestamp
            self._due = None
        elif (jumped is not None and jumped.shift == self._shift) or not self._fits(timestamp):
            self._shift = self._latest() + STEP - timestamp
        return self._shift

    def _fits(self, timestamp: int) -> bool:
        """Whether a time may be one of the newest stretch."""
        return any(state.shift == self._shift and _near(timestamp, state.last) for state in self._kinds.values())

    def _latest(self) -> int:
        """The latest that anything has been placed."""
        times = [state.placed() for state in self._kinds.values()]
        return times[0] + max((time - times[0] + _HALF & _MASK) - _HALF for time in times)


class _Kind:
    """Audio, or video: its shift, its last frame's own time, and what no later one may be placed before."""

    __slots__ = ("floor", "last", "shift")

    def __init__(self, shift: int, last: int) -> None:
        self.shift = shift
        self.last = last
        self.floor: int | None = None

    def placed(self) -> int:
        """When its last frame was, for the players."""
        return self.last + self.shift & _MASK if self.floor is None else self.floor


def _near(one: int, other: int) -> bool:
    return (one - other + FORWARD & _MASK) <= 2 * FORWARD
