"""One of several machines, and what it pulls from the others: relay/'s pull, over TCP or TLS, with a token that says
that it is a node. Made by tap.py.

The other side (rtmp/message_stream.py) takes the token in place of the key, and lets its bearer have the channel
without any limit. Which key players have to give is in the directory, as a digest.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import islice
from random import Random
from typing import Any, Final

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList

from rtmp_twisted._version import __version__
from rtmp_twisted.cluster.edges import EdgePull, Edges
from rtmp_twisted.cluster.recorded import RecordedAuthority
from rtmp_twisted.cluster.redis_directory import Node, RedisDirectory
from rtmp_twisted.cluster.secret import ClusterSecret
from rtmp_twisted.cluster.stall import StallClock
from rtmp_twisted.cluster.store import PLACE_SECONDS, REFRESH_SECONDS
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.redis_connection import RedisAddress
from rtmp_twisted.relay.client import ClientSession
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay_rules import Address

STALL_SECONDS: Final = PLACE_SECONDS - REFRESH_SECONDS - 1
"""A process that stood still for so long may have lost its places: the last refresh was up to `REFRESH_SECONDS` before,
and a little more."""

MAX_SHOWN: Final = 100
"""Pulls that a node tells the others of, for their operators."""


class NodePull(EdgePull):
    def __init__(self, secret: ClusterSecret, options: RelayOptions, node: Node, channel: str, key: str | None) -> None:
        self._secret = secret
        self._node_address = node_address(node.address, channel)
        super().__init__(options, node, channel, self._node_address, None)

    async def open(self) -> ClientSession:
        # What comes over a new connection may be of the same claim as what has come before.
        self.epoch = 0
        self._where = evolve(self._node_address, name=f"?token={self._secret.token(self.channel)}")
        return await super().open()


class ClusterNode:
    """This server as a node. ``authority`` is asked about publishes; the other arguments are those of `RedisDirectory`,
    and ``grace`` that of `RecordedAuthority`."""

    def __init__(
        self,
        reactor: Any,
        random: Random,
        redis: RedisAddress,
        authority: Any,
        *,
        address: str,
        secret: str,
        prefix: str,
        recorded: bool,
        takeover_seconds: float,
        grace: float,
    ) -> None:
        name = os.urandom(8).hex()
        self.clock = StallClock(reactor, STALL_SECONDS)
        self.directory = RedisDirectory(
            reactor,
            random,
            redis,
            address,
            ClusterSecret(secret),
            prefix,
            name,
            recorded,
            takeover_seconds,
            self._load,
        )
        self.clock.stalled = self.directory.stalled
        self._recorded = RecordedAuthority(reactor, authority, self.directory, grace) if recorded else None
        self.authority = authority if self._recorded is None else self._recorded
        self._edges: Edges | None = None

    def join(self, options: RelayOptions, services: list[Service]) -> list[Service]:
        """Returns the services of the server with those of the node, in their order."""
        self.directory.broker = options.broker
        self._edges = Edges(options, self.directory, make=partial(NodePull, self.directory.secret))
        self.directory.moved = self._edges.moved
        before = [self.directory, *([] if self._recorded is None else [self._recorded])]
        return [*before, *services, EdgeService(options.broker, self._edges)]

    def mine(self, channel: str) -> bool:
        """Whether this node pulls a channel by a rule of PULL: unless another one has it."""
        return self.directory.found(channel) is None

    async def _nodes(self) -> list[dict[str, Any]]:
        try:
            found = await self.directory.store.nodes()
        except PeerError as error:
            raise ValueError(f"Redis: {error}") from None
        own = self.directory.node
        return [{"node": node, "own": node == own, **said} for node, said in sorted(found.items())]

    def nodes(self) -> Deferred[list[dict[str, Any]]]:
        """What the nodes say of themselves. Fails with ValueError where Redis does not answer."""
        return Deferred.fromCoroutine(self._nodes())

    def _load(self) -> dict[str, Any]:
        """What this node says of itself."""
        pulled = {} if self._edges is None else self._edges.pulled
        shown = islice(pulled.items(), MAX_SHOWN)
        return {
            "version": __version__,
            "players": sum(len(channel.players) for channel, _ in self.directory.broker.channels()),
            "pulling": len(pulled),
            "pulls": [{"channel": channel, "from": node.name, "address": node.address} for channel, node in shown],
        }


class EdgeService(Service):
    """Ends all pulls when it stops."""

    def __init__(self, broker: Broker, edges: Edges) -> None:
        self._notices = broker.notices
        self._edges = edges

    def startService(self) -> None:
        super().startService()
        self._notices.observers.append(self._edges)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._notices.observers.remove(self._edges)
        return DeferredList(self._edges.stop(), consumeErrors=True).addCallback(lambda _: None)


def node_address(address: str, channel: str) -> Address:
    """Where a channel is at a node. Raises Mistake where the node's address is none."""
    return evolve(Address.parse(f"{address}/channel/name"), app=channel, name="")
