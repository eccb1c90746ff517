"""This server as one of several machines: all that a node is made of. Made by tap.py.

A node is one process, or the supervisor of several (node_of_workers.py). It has one name, one lease in Redis and one
connection for it, whichever it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList

from rtmp_twisted._version import __version__
from rtmp_twisted.cluster.edges import Edges
from rtmp_twisted.cluster.node_pull import NodePull
from rtmp_twisted.cluster.recorded import RecordedAuthority
from rtmp_twisted.cluster.redis_directory import RedisDirectory
from rtmp_twisted.cluster.secret import ClusterSecret
from rtmp_twisted.cluster.stall import STALL_SECONDS, StallClock, Withholding
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.peer_errors import PeerError
from rtmp_twisted.redis_connection import RedisAddress
from rtmp_twisted.relay.link import RelayOptions


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
        """For those that read what publishers send, where the node is one process."""
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
            lambda: {"version": __version__, **self.load()},
        )
        self.load: Callable[[], dict[str, Any]] = dict
        """What this node says of its players and pulls."""
        self._recorded = RecordedAuthority(reactor, authority, self.directory, grace) if recorded else None
        self.authority = authority if self._recorded is None else self._recorded

    @property
    def services(self) -> list[Service]:
        """Those that start before the others, and stop after them."""
        return [self.directory] if self._recorded is None else [self.directory, self._recorded]

    def join(self, options: RelayOptions, services: list[Service]) -> list[Service]:
        """The node is this process. Returns the services of the server with those of the node, in their order."""
        directory, broker = self.directory, options.broker
        edges = Edges(options, directory, make=partial(NodePull, directory.secret))
        directory.broker = broker
        directory.moved = edges.moved
        self.load = edges.said
        self.clock.stalled = Withholding(broker, directory.check, edges.renew).begin
        return [*self.services, *services, EdgeService(broker, edges)]

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


class EdgeService(Service):
    """Ends all pulls when it stops."""

    def __init__(self, broker: Broker, edges: Edges) -> None:
        self._broker = broker
        self._notices = broker.notices
        self._edges = edges

    def startService(self) -> None:
        super().startService()
        self._notices.observers.append(self._edges)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._broker.draining = True  # which the other nodes are told
        self._notices.observers.remove(self._edges)
        return DeferredList(self._edges.stop(), consumeErrors=True).addCallback(lambda _: None)
