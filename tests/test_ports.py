"""rtmp_twisted.ports: how many connections a port takes at once. Failures to listen are tests/test_operation.py's."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rtmp_twisted.ports import ACCEPTS_PER_TURN, Ports
from tests.support.fakes import reactor

MANY = 5 * ACCEPTS_PER_TURN + 3


class Accepting(Factory):
    """Counts the connections of each turn."""

    noisy = False

    def __init__(self) -> None:
        self.turn = 0
        self.taken: Counter[int] = Counter()

    def buildProtocol(self, addr: Any) -> Protocol:
        self.taken[self.turn] += 1
        return Protocol()


class AcceptsTests(TestCase):
    timeout = 60

    async def connect_many(self, endpoint: IStreamServerEndpoint, family: int) -> Accepting:
        """Many clients are there before the first turn, in the kernel's queue."""
        factory = Accepting()
        ports = Ports([("test", endpoint, factory)], self.fail)
        ports.listen()
        self.addCleanup(ports.close)
        [port] = ports._ports
        where: Any = port.getHost()
        for _ in range(MANY):
            client = socket.socket(family)
            self.addCleanup(client.close)
            client.connect(where.name if family == socket.AF_UNIX else (where.host, where.port))
        while factory.taken.total() < MANY:
            factory.turn += 1
            await deferLater(reactor, 0)
        return factory

    async def test_few_in_each_turn(self) -> None:
        endpoint = TCP4ServerEndpoint(reactor, 0, backlog=MANY, interface="127.0.0.1")
        factory = await self.connect_many(endpoint, socket.AF_INET)
        self.assertEqual(max(factory.taken.values()), ACCEPTS_PER_TURN)

    async def test_unix_sockets(self) -> None:
        endpoint = UNIXServerEndpoint(reactor, str(Path(self.mktemp()).absolute()), backlog=MANY)
        factory = await self.connect_many(endpoint, socket.AF_UNIX)
        self.assertEqual(max(factory.taken.values()), ACCEPTS_PER_TURN)
