"""Tables of transitions: a state changes only as its table says. Used by live/ and rtmp/; knows nothing of either.

docs/architecture.md draws the tables, and a test compares the drawings with them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Generic, TypeVar

S = TypeVar("S", bound=enum.Enum)


class IllegalTransition(Exception):
    """A state was to change in a way that its table does not list: a bug."""


class Transitions(Generic[S]):
    """``table`` names, for each state, the states that may follow it."""

    def __init__(self, table: Mapping[S, tuple[S, ...]]) -> None:
        self.table = table

    def move(self, old: S, new: S) -> S:
        """Returns ``new``. Raises IllegalTransition where it may not follow ``old``."""
        if new not in self.table[old]:
            raise IllegalTransition(f"{type(old).__name__}: {old.value} -> {new.value}")
        return new
