"""Makes a node do what it must not: Python runs this first, where it is on its path (chaos.py). SABOTAGE says what."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from rtmp_twisted.cluster import scripts
from rtmp_twisted.cluster.recorded import RecordedAuthority
from rtmp_twisted.cluster.redis_directory import RedisDirectory
from rtmp_twisted.cluster.secret import ClusterSecret
from rtmp_twisted.cluster.stall import Withholding
from rtmp_twisted.cluster.store import Store


def blind_refresh() -> None:
    changed: Any = scripts
    changed.REFRESH = """
    for i = 1, #KEYS, 2 do
      redis.call('HSET', KEYS[i], 'node', ARGV[1], 'epoch', ARGV[3 + (i + 1) / 2])
      redis.call('PEXPIRE', KEYS[i], ARGV[2])
    end
    return {}
    """


def end_twice() -> None:
    tell = RecordedAuthority._tell_once

    async def tell_twice(self: Any, start: Any, key: str, stream_id: str) -> None:
        await self._authority.end(start.channel, key, stream_id, start.address)
        await tell(self, start, key, stream_id)

    RecordedAuthority._tell_once = tell_twice  # type: ignore[method-assign]


def end_never() -> None:
    async def nothing(self: Any) -> list[Any]:
        return []

    Store.take_orphans = nothing  # type: ignore[method-assign]


def old_frames() -> None:
    refresh, check = RedisDirectory._refresh, RedisDirectory._check
    refreshed: list[float] = []
    until: list[float] = [0.0]

    async def wait(self: Any) -> None:
        now = self._reactor.seconds()
        if refreshed and now - refreshed[-1] > 3.5:  # it stood still
            until.append(now + 3)
        if now < until[-1]:
            await deferLater(self._reactor, until[-1] - now, lambda: None)

    async def late_refresh(self: Any) -> None:
        await wait(self)
        refreshed.append(self._reactor.seconds())
        await refresh(self)

    async def late_check(self: Any, held: Any) -> None:
        await wait(self)
        await check(self, held)

    RedisDirectory._refresh = late_refresh  # type: ignore[method-assign]
    RedisDirectory._check = late_check  # type: ignore[method-assign]
    Withholding.begin = lambda self: None  # type: ignore[method-assign]


def clear_key() -> None:
    ClusterSecret.seal = lambda self, text, context: text  # type: ignore[method-assign]
    ClusterSecret.open = lambda self, sealed, context: sealed  # type: ignore[method-assign]


def never_yields() -> None:
    def done(self: Any, *_: Any) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        answer.callback(None)
        return answer

    RedisDirectory._superseded = lambda self, held: None  # type: ignore[method-assign]
    RedisDirectory._buried = lambda self: None  # type: ignore[method-assign]
    RedisDirectory._give_room = done  # type: ignore[assignment,method-assign]
    RedisDirectory._check = done  # type: ignore[assignment,method-assign]


if os.environ.get("SABOTAGE"):
    globals()[os.environ["SABOTAGE"].replace("-", "_")]()
