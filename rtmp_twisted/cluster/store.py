"""What a cluster's nodes keep in Redis: who has each channel, which nodes there are, and which accepted starts have not
ended. Used by the directory of machines and by starts.

    PREFIX:ch:CHANNEL      the place: node, epoch, address, key digest, since ...   6 s, refreshed every 2 s
    PREFIX:epoch:CHANNEL   the number of the last claim                             a day
    PREFIX:node:NODE       what a node says of itself, as JSON; or "gone"           6 s; a day
    PREFIX:nodes           a set: nodes that may be there                           for ever
    PREFIX:publish:ID      an accepted start                                        until its end has been told
    PREFIX:publishes:NODE  a set: the ids of a node's                               the same
    PREFIX:events          Pub/Sub: a place has changed. It only wakes; a look at the place decides

Every call is one script (scripts.py), and answers within `COMMAND_SECONDS` or raises `PeerError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from rtmp_twisted.cluster import scripts
from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.redis_connection import RedisAddress, RedisClient, RedisCommander

PLACE_SECONDS: Final = 6.0
"""How long a place, and a node, is there without being refreshed."""

REFRESH_SECONDS: Final = 2.0
"""Seconds between two refreshes."""

EPOCH_SECONDS: Final = 86400
"""How long an epoch's counter is kept, and how long a dead node stays dead."""

COMMAND_SECONDS: Final = 2.0
"""How long Redis may take for an answer, before the connection counts as lost."""

BATCH: Final = 250
"""Channels in one script: Redis does nothing else for about a millisecond."""

MAX_ORPHANS: Final = 100
"""Accepted starts of a dead node that one node takes at a time: their ends are told side by side."""


@frozen
class Place:
    """Who has a channel: a node at an address, by the claim ``epoch``. ``digest`` is empty where any key will do;
    ``pulled``: it makes room for a publish."""

    channel: str
    node: str
    epoch: int
    address: str
    digest: str
    pulled: bool = False
    stream: str = ""
    """The stream's id, sealed: without an authority it is the key."""

    @classmethod
    def read(cls, channel: str, fields: dict[str, str]) -> Place:
        """Raises PeerError where that is no place."""
        try:
            return cls(
                channel,
                fields["node"],
                int(fields["epoch"]),
                fields["address"],
                fields["digest"],
                fields.get("pulled") == "1",
                fields.get("stream", ""),
            )
        except (KeyError, ValueError, TypeError):
            raise PeerError("a place in Redis cannot be read") from None


@frozen
class Start:
    """An accepted start, as Redis has it. ``node`` is the name under which this node has it, ``sealed`` key and stream
    id, as JSON, sealed for its id."""

    id: str
    node: str
    channel: str
    epoch: int
    address: str
    sealed: str

    def fields(self) -> list[str]:
        return ["channel", self.channel, "epoch", str(self.epoch), "address", self.address, "sealed", self.sealed]


class Store(RedisClient[RedisCommander]):
    """The connection for commands. ``node`` is this node's name, which a new process, and one that was taken for dead,
    has anew. ``prefix``: what all keys begin with."""

    max_delay = 1.0
    opening_timeout = 3.0
    closing_timeout = 1.0

    def __init__(
        self,
        reactor: IReactorTime,
        random: Random,
        address: RedisAddress,
        prefix: str,
        node: str,
        clock: IReactorTime | None = None,
    ) -> None:
        super().__init__(reactor, random, address, clock)
        self.prefix = prefix
        self.node = node
        self.opened: Callable[[], None] = lambda: None
        """Called when there is a connection."""
        self.commands = 0
        """Scripts that were run."""

    def make(self) -> RedisCommander:
        return RedisCommander(self.clock)

    async def prepare(self, connection: RedisCommander) -> None:
        self.clock.callLater(0, lambda: self.opened())

    @property
    def events(self) -> str:
        """The Pub/Sub channel."""
        return f"{self.prefix}:events"

    # Places

    async def next_epoch(self, channel: str) -> int:
        return _number(await self._run(scripts.EPOCH, [self._epoch(channel)], [EPOCH_SECONDS]))

    async def claim(self, place: Place, since: int, later_wins: bool, start: Start | None = None) -> Place | None:
        """Takes a place, and records the start that it is for; returns None, or who has it. With ``later_wins`` it is
        taken from an earlier epoch, also of another node."""
        fields = ["address", place.address, "digest", place.digest, "since", str(since)]
        fields += ["stream", place.stream, "pulled", "1" if place.pulled else "0"]
        told = self.event("moved" if later_wins else "up", place.channel)
        arguments: list[Any] = [place.node, place.epoch, "1" if later_wins else "", *self._lives(), self.events, told]
        arguments += [self.prefix, len(fields), *fields]
        arguments += [] if start is None else [start.id, *start.fields()]
        reply = await self._run(scripts.CLAIM, [self._place(place.channel), self._epoch(place.channel)], arguments)
        return None if reply == 1 else Place.read(place.channel, _json(reply, dict))

    async def refresh(self, claims: Sequence[tuple[str, int]]) -> dict[str, bool]:
        """Renews places, by channel and epoch. Returns those that are this claim's no more, and whether a later one has
        it. There is one script for each `BATCH` channels, and none waits for another."""
        batches = list(_batches(claims))
        replies = await self._side_by_side([self._refresh(batch) for batch in batches])
        changed = {}
        for batch, reply in zip(batches, replies, strict=True):
            if not isinstance(reply, list) or len(reply) % 2:
                raise PeerError("a refresh was answered with something else")
            for number, later in zip(reply[::2], reply[1::2], strict=True):
                changed[batch[_number(number)][0]] = bool(later)
        return changed

    async def _refresh(self, claims: Sequence[tuple[str, int]]) -> Any:
        keys = [key for channel, _ in claims for key in (self._place(channel), self._epoch(channel))]
        return await self._run(scripts.REFRESH, keys, [self.node, *self._lives(), *(epoch for _, epoch in claims)])

    async def release(self, channel: str, epoch: int) -> bool:
        """Gives a place back; returns whether it was this claim's."""
        arguments = [self.node, epoch, self.events, self.event("down", channel)]
        return bool(await self._run(scripts.RELEASE, [self._place(channel)], arguments))

    async def locate(self, channels: Sequence[str]) -> dict[str, Place | None]:
        """Who has each channel."""
        batches = list(_batches(channels))
        replies = await self._side_by_side([self._locate(batch) for batch in batches])
        return {channel: place for reply in replies for channel, place in reply.items()}

    async def _locate(self, channels: Sequence[str]) -> dict[str, Place | None]:
        found = _json(await self._run(scripts.LOCATE, [self._place(channel) for channel in channels], []), list)
        return {
            channel: Place.read(channel, fields) if fields else None
            for channel, fields in zip(channels, found, strict=True)
        }

    # Nodes

    async def beat(self, said: dict[str, Any]) -> bool:
        """Says that this node lives; returns whether the others think so too."""
        keys = [self._node(self.node), f"{self.prefix}:nodes"]
        arguments = [self.node, json.dumps(said), int(PLACE_SECONDS * 1000)]
        return bool(await self._run(scripts.HEARTBEAT, keys, arguments))

    async def leave(self) -> None:
        """This node stops."""
        await self._run(
            scripts.LEAVE, [self._node(self.node), f"{self.prefix}:nodes", self._starts(self.node)], [self.node]
        )

    async def nodes(self) -> dict[str, dict[str, Any]]:
        """What each node says of itself."""
        found = _json(await self._run(scripts.NODES, [f"{self.prefix}:nodes"], [self.prefix]), dict)
        return {node: _json(said, dict) for node, said in found.items()}

    # Accepted starts

    async def take_orphans(self) -> list[Start]:
        """Starts whose nodes have died, at most `MAX_ORPHANS` of each: their ends are this node's to tell."""
        node = self.node
        arguments = [node, self.prefix, MAX_ORPHANS, EPOCH_SECONDS]
        reply = await self._run(scripts.ORPHANS, [f"{self.prefix}:nodes"], arguments)
        found = json.loads(reply) if isinstance(reply, bytes) else None
        if not found:
            return []  # Lua's empty list is an empty object
        try:
            return [
                Start(one["id"], node, one["channel"], int(one["epoch"]), one["address"], one["sealed"])
                for one in found
            ]
        except (KeyError, ValueError, TypeError):
            raise PeerError("an accepted start in Redis cannot be read") from None

    async def owns(self, start: Start) -> bool:
        """Whether the end of an accepted start is this node's to tell."""
        keys = [self._start(start.id), self._node(start.node)]
        return bool(await self._run(scripts.OWNS, keys, [start.node]))

    async def forget(self, start: Start) -> bool:
        """The end of an accepted start has been told."""
        keys = [self._start(start.id), self._starts(start.node)]
        return bool(await self._run(scripts.FORGET, keys, [start.node, start.id]))

    # Events

    def event(self, kind: str, channel: str, **more: Any) -> str:
        """A message for `events`."""
        return json.dumps({"event": kind, "channel": channel, "node": self.node, **more})

    async def tell(self, message: str) -> None:
        """Sends a message to all nodes."""
        connection = self._connection()
        await self._answer("PUBLISH", connection, connection.publish(self.events, message))

    # Inside

    def _place(self, channel: str) -> bytes:
        return f"{self.prefix}:ch:{channel}".encode("utf-8", "surrogatepass")

    def _epoch(self, channel: str) -> bytes:
        return f"{self.prefix}:epoch:{channel}".encode("utf-8", "surrogatepass")

    def _node(self, node: str) -> str:
        return f"{self.prefix}:node:{node}"

    def _start(self, id: str) -> str:
        return f"{self.prefix}:publish:{id}"

    def _starts(self, node: str) -> str:
        return f"{self.prefix}:publishes:{node}"

    def _lives(self) -> tuple[int, int]:
        return int(PLACE_SECONDS * 1000), EPOCH_SECONDS

    def _connection(self) -> RedisCommander:
        if self.connection is None:
            raise PeerError("there is no connection to Redis")
        return self.connection

    async def _run(self, script: str, keys: Sequence[str | bytes], arguments: Sequence[Any]) -> Any:
        """The script's reply. Raises PeerError."""
        connection = self._connection()
        self.commands += 1
        return await self._answer("a script", connection, connection.eval(script, list(keys), list(arguments)))

    async def _answer(self, what: str, connection: RedisCommander, reply: Deferred[Any]) -> Any:
        limit = self.clock.callLater(COMMAND_SECONDS, connection.fail, f"no answer within {COMMAND_SECONDS:g} s")
        try:
            return await connection.ask(what, reply)
        except PeerError as error:
            if "READONLY" in str(error):  # a replica: perhaps its name leads to another server by now
                connection.fail("it is a replica, which takes no commands")
            raise
        finally:
            if limit.active():
                limit.cancel()

    async def _side_by_side(self, asked: list[Any]) -> list[Any]:
        """The results of coroutines, none of which waits for another's. Each begins in a turn of the reactor of its
        own, for there may be many. Raises the first PeerError of any."""
        running: list[Deferred[Any]] = []
        for one in asked:
            if running:
                await deferLater(self.clock, 0, lambda: None)
            running.append(_settled(one))
        results = await gatherResults(running)
        for error in results:
            if isinstance(error, PeerError):
                raise error
        return list(results)


def _settled(asked: Any) -> Deferred[Any]:
    """Fires with a coroutine's result, or the PeerError that it has raised."""

    def settle(failure: Any) -> Any:
        failure.trap(PeerError)
        return failure.value

    return Deferred.fromCoroutine(asked).addErrback(settle)


def _batches(items: Sequence[Any]) -> Iterator[Any]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _number(reply: object) -> int:
    if not isinstance(reply, int):
        raise PeerError("a script was answered without a number")
    return reply


def _json(reply: object, kind: type) -> Any:
    try:
        found = json.loads(reply) if isinstance(reply, (str, bytes)) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, kind):
        if found == {} and kind is list:
            return []
        raise PeerError("what Redis holds cannot be read")
    return found
