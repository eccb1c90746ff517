"""Memory that is kept for the moment when there is no other: the end of a connection needs some as well. Used by
connection; made by factory."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

RESERVE_BYTES: Final = 4 * 1024 * 1024
"""Of address space. Nothing is written to it, so it takes no memory of the machine's."""


class MemoryReserve:
    """`release` makes room for a few allocations, `refill` takes the room back when there is memory again."""

    def __init__(self) -> None:
        self._block: bytes | None = bytes(RESERVE_BYTES)  # zeros that nobody has touched are not resident

    def release(self) -> None:
        self._block = None

    def refill(self) -> None:
        """Never raises. Cheap while the reserve is full."""
        if self._block is None:
            with suppress(MemoryError):  # it is tried again later
                self._block = bytes(RESERVE_BYTES)
