"""Connection limits: how many connections there are, in total and from each address, and how many are allowed.

One `ConnectionLimits` serves all RTMP and RTMPS ports, and another one those of the web server. The listener asks it
before anything is spent on a connection. Each protocol enters when its connection is made and leaves when the
connection is lost, whatever happened in between.
"""

from __future__ import annotations

import resource
from collections import Counter

from attrs import define
from twisted.logger import Logger

from rtmp_twisted.settings_types import EVERYONE, Networks

SPARE_FILES = 320
"""File descriptors that connections leave to the rest: up to 256 for operators, and ports, callbacks, logs, files."""

_log = Logger()


@define(eq=False)
class _Total:
    """All connections of the process."""

    most: int
    inside: int = 0
    told_full: bool = False


class ConnectionLimits:
    """``total``: most connections at a time, together with those that ``beside`` counts, whose total it then is;
    ``per_address``: most from one address, unless it is ``exempt``; ``setting`` is the name of that limit.

    An address is textual (`textual_ip`). An empty one, as a UNIX socket's peer has, is limited by ``total`` only.
    """

    def __init__(
        self,
        total: int = 1_000_000,
        per_address: int = 4,
        exempt: Networks = EVERYONE,
        setting: str = "MAX_IP_CONCURRENT_CONNECTIONS",
        beside: ConnectionLimits | None = None,
    ) -> None:
        self.per_address = per_address
        self.inside = 0
        self.refused: Counter[str] = Counter()
        """Connections turned away so far, by reason: a few fixed words."""
        self._all: _Total = _Total(total) if beside is None else beside._all
        self._exempt = exempt
        self._setting = setting
        self._inside_from: Counter[str] = Counter()
        self._told: set[str] = set()  # of those in _inside_from only

    @property
    def total(self) -> int:
        """Most connections at a time, of all kinds."""
        return self._all.most

    @property
    def remembered(self) -> int:
        """How many addresses it knows something of."""
        return len(self._inside_from) + len(self._told - self._inside_from.keys())

    def refuses(self, address: str) -> bool:
        """Whether one more connection from ``address`` must be turned away, which is counted, and logged once."""
        everyone = self._all
        if everyone.inside >= everyone.most:
            self.refused["total_limit"] += 1
            if not everyone.told_full:
                everyone.told_full = True
                _log.warn("full: {total} connections (MAX_CONNECTIONS); others are turned away", total=everyone.most)
            return True
        if self._inside_from[address] < self.per_address or not address or address in self._exempt:
            return False
        self.refused["address_limit"] += 1
        if address not in self._told:
            self._told.add(address)
            _log.warn(
                "{address} has {number} connections ({setting}); others from there are turned away,"
                " unless CONCURRENT_LIMIT_WHITELIST has the address",
                address=address,
                number=self.per_address,
                setting=self._setting,
            )
        return True

    def enter(self, address: str) -> None:
        """A connection from ``address`` has been made."""
        self.inside += 1
        self._all.inside += 1
        self._inside_from[address] += 1

    def leave(self, address: str) -> None:
        """It has been lost."""
        self.inside -= 1
        everyone = self._all
        everyone.inside -= 1
        if everyone.inside < everyone.most * 0.9:
            everyone.told_full = False
        self._inside_from[address] -= 1
        if not self._inside_from[address]:
            del self._inside_from[address]
            self._told.discard(address)


def most_connections(wanted: int) -> int:
    """How many connections there may be: ``wanted``, or, for 0 and where that is less, what the process's limit of
    open files allows. Raises that limit as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1_000_000 + SPARE_FILES
    reach = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < reach:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reach, hard))
        soft = reach
    files = most if soft == resource.RLIM_INFINITY else soft
    allowed = max(files - SPARE_FILES, 1)
    return min(wanted or allowed, allowed)
