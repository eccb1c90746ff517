"""Has each accepted start's end told exactly once, by a node that lives. Made by tap.py, between broker and authority.

The directory records each accepted start in Redis when it claims the place. Before an end is told, Redis is asked whose
it is to tell: the others may have taken this node for dead. While Redis does not answer, the end waits.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.cluster.redis_directory import RedisDirectory, wait_for
from rtmp_twisted.cluster.store import Start
from rtmp_twisted.live.authority import IPublishAuthority
from rtmp_twisted.peer_errors import PeerError

RETRY_SECONDS = 1.0
"""From an unanswered question to the next one."""

_log = Logger()


@implementer(IPublishAuthority)
class RecordedAuthority(Service):
    """Asks ``authority``. ``grace``: seconds that a stop waits for ends to be told; the others tell those that are
    left."""

    def __init__(self, clock: IReactorTime, authority: Any, directory: RedisDirectory, grace: float) -> None:
        self._clock = clock
        self._authority = authority
        self._directory = directory
        self._grace = grace
        self._telling: set[Deferred[None]] = set()
        directory.orphaned = self._orphaned

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await wait_for(self._clock, list(self._telling), self._grace)

    # IPublishAuthority

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        asked: Deferred[str] = self._authority.start(channel, key, client_ip)
        return asked

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        start = self._directory.take_start(channel, key, stream_id)
        if start is None:  # it never had the place
            told: Deferred[None] = self._authority.end(channel, key, stream_id, client_ip)
            return told
        return self._tell(start, key, stream_id)

    # Inside

    def _orphaned(self, starts: list[Start]) -> None:
        """Nodes have died, and this one is to tell what has ended with them."""
        for start in starts:
            try:
                key, stream_id = json.loads(self._directory.secret.open(start.sealed, start.id))
            except (ValueError, TypeError):
                _log.error(
                    "the end of a publish on channel {channel!r} cannot be told: another CLUSTER_SECRET has sealed it",
                    channel=start.channel,
                )
                continue
            _log.info("a node has died: telling the end of its publish on {channel!r}", channel=start.channel)
            self._tell(start, key, stream_id)

    def _tell(self, start: Start, key: str, stream_id: str) -> Deferred[None]:
        telling = Deferred.fromCoroutine(self._tell_once(start, key, stream_id))
        self._telling.add(telling)

        def done(result: object) -> None:
            self._telling.discard(telling)
            if isinstance(result, Failure):
                _log.failure("an end could not be told", result)

        telling.addBoth(done)
        return telling

    async def _tell_once(self, start: Start, key: str, stream_id: str) -> None:
        store = self._directory.store
        while True:
            try:
                if not await store.owns(start):
                    return
                break
            except PeerError:
                if not self.running:
                    return
                await deferLater(self._clock, RETRY_SECONDS, lambda: None)
        await self._authority.end(start.channel, key, stream_id, start.address)
        while True:
            try:
                await store.forget(start)
                return
            except PeerError:
                if not self.running:
                    return
                await deferLater(self._clock, RETRY_SECONDS, lambda: None)
