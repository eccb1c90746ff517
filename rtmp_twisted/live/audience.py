"""When to write to the players: at once while that is cheap, seldom where many watch. Used by channel only.

System calls are what a live server's time goes to, one per player and write. The fewer writes, the less it costs and
the later a frame arrives. A round over all channels' players that is cheap is done for each frame; where one is dear,
the interval between two is chosen so that their calls take a fixed share of the core: the calls and not the bytes,
which have to be sent anyway. It is one share for the whole process; a share for each channel would be as many shares
as there are channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FEW: Final = 3
"""A channel with no more players than this holds nothing back: writing to them costs what taking a frame in cost."""

FREE: Final = 0.00003
"""Seconds: what writing to so few costs; only what a round costs beyond that counts."""

CHEAP: Final = 0.001
"""Seconds: as long as the rounds of all channels together cost less, nobody holds anything back."""

SHARE: Final = 0.075
"""The part of one core that the dear part of each round's calls may take."""

BYTES: Final = 100_000
"""Of a call that sends so many, half counts. A call costs about what sending 16,000 bytes does, on any machine, since
both are the kernel's. Some of the bytes count as well, or high bit rates would be written needlessly often."""

SMOOTHING: Final = 0.25
"""Weight of the newest cost, so that one round that was interrupted does not decide."""


class FlushScheduler:
    """``longest`` is the most that a write waits for more, in seconds (0: always at once); ``stopwatch`` tells
    seconds for measuring what a round cost."""

    def __init__(self, longest: float, stopwatch: Callable[[], float]) -> None:
        self._longest = longest
        self._round = 0.0
        self.stopwatch = stopwatch

    @property
    def interval(self) -> float:
        """Seconds from one write to the next, for a channel with more than `FEW` players."""
        return 0.0 if self._round < CHEAP else min(self._longest, (self._round - CHEAP) / SHARE)

    def account(self, before: float, seconds: float, size: int) -> float:
        """A channel's round, whose smoothed cost was ``before`` (seconds), took ``seconds`` for ``size`` bytes to each
        player; returns the new cost."""
        calls = seconds * BYTES / (BYTES + size)
        after = before + (max(0.0, calls - FREE) - before) * SMOOTHING
        self._round += after - before
        return after

    def forget(self, cost: float) -> None:
        """A channel whose smoothed cost was ``cost`` has gone."""
        self._round = max(0.0, self._round - cost)
