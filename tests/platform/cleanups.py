"""What programs need of a test case, for runs that are none: used by the commands of tests/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred


class Cleanups:
    """The part of a test case that programs need."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._cleanups: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._made = 0

    def addCleanup(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._cleanups.append((function, arguments))

    def mktemp(self) -> str:
        self._made += 1
        return str(self._directory / str(self._made))

    async def run(self) -> None:
        while self._cleanups:
            function, arguments = self._cleanups.pop()
            await maybeDeferred(function, *arguments)
