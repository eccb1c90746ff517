"""What the tests of web/ share: the operators' site on a real port, in front of a server in memory."""

from __future__ import annotations

import json
from typing import Any

import treq
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.http_headers import Headers

from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.web.metrics import Metrics, TimedAuthority
from rtmp_twisted.web.operations import LocalOperations
from rtmp_twisted.web.operators import OperatorHTTP
from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import VIDEO, Message
from tests.support.fakes import reactor, until, within
from tests.support.memory import World
from tests.support.programs import free_port
from tests.support.rtmp_client import avc

KEY = "sEcReTkEy"
TOKEN = "a-token-of-some-length"
SPS = bytes.fromhex("67640028acd940780227e5c044000003000400000300c83c60c658")
AVC = b"\x17\x00\0\0\0\x01\x64\x00\x28\xff\xe1" + len(SPS).to_bytes(2, "big") + SPS + b"\x01\x00\x04\x68\xeb\xe3\xcb"
AVC_HEADER = Message(VIDEO, 1, 0, AVC)
"""H.264, 1920 x 1080 at 25 frames per second."""


@frozen
class Answer:
    code: int
    text: str
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@frozen
class FakePeer:
    connected: bool


class Connection(Protocol):
    """A connection to the site. ``answer`` is what has been received on it."""

    transport: Any

    def __init__(self) -> None:
        self.answer = b""
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.answer += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


class SiteCase(TestCase):
    """A site in front of a server in memory listens on ``port``. Its clock is ``world.clock``."""

    world: World
    port: int

    def listen(self, service: Any) -> None:
        """Starts the site's service, which stops with the test. The server's turns are the reactor's."""
        turns = LoopingCall(self.turn)
        turns.start(0.002)
        self.addCleanup(turns.stop)
        service.privilegedStartService()
        service.startService()
        self.addCleanup(self.stop, service)

    def turn(self) -> None:
        while len(self.world.broker.scheduler.turns):
            self.world.clock.advance(0)

    async def stop(self, service: Any) -> None:
        stopped: list[object] = []
        service.stopService().addBoth(stopped.append)

        def go_on() -> bool:
            self.world.clock.advance(0.05)
            return bool(stopped)

        await until(go_on, "the end of the service")

    async def ask(self, path: str, method: str = "GET", *, body: bytes = b"", **headers: str) -> Answer:
        url = f"http://127.0.0.1:{self.port}{path}"
        response = await within(
            treq.request(
                method, url, headers=Headers({k: [v] for k, v in headers.items()}), data=body, persistent=False
            )
        )
        return Answer(response.code, await within(treq.text_content(response)), response.headers)

    async def open(self, data: bytes = b"", source: str = "127.0.0.1") -> Connection:
        """Connects, and sends ``data``."""
        endpoint = HostnameEndpoint(reactor, "127.0.0.1", self.port, bindAddress=(source, 0))
        connection: Connection = await connectProtocol(endpoint, Connection())
        connection.transport.write(data)
        return connection

    async def exchange(self, request: bytes) -> bytes:
        """Sends these bytes. Returns all that is received until the server closes the connection."""
        connection = await self.open(request)
        await within(connection.ended)
        return connection.answer

    def publisher(self, channel: str = "tv", key: str = KEY) -> Any:
        publisher = self.world.connect()
        publisher.call("connect", {"app": channel, "flashVer": "An encoder/1.0"}, transaction=1)
        publisher.call("createStream", None, transaction=2)
        publisher.publish(key)
        return publisher

    def player(self, channel: str = "tv") -> Any:
        player = self.world.connect("192.0.2.9").open(channel)
        player.play(KEY)
        return player


class HTTPCase(SiteCase):
    """The operators' site. ``big`` is the text of /metrics, if set."""

    big = b""
    relays: Any = None

    def serve(self, token: str = "", **peers: FakePeer) -> None:
        self.world = World(names=NameRules(1000, allow_special=True))
        clock = self.world.clock
        self.timed = TimedAuthority(self.world.authority, clock)
        self.metrics = Metrics(clock, self.world.broker, self.world.factory, self.timed, peers, relays=self.relays)
        self.port = free_port()
        endpoint = TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1")
        broker = self.world.broker
        operations = LocalOperations(
            clock, broker, self.metrics.sampler, lambda: self.big or self.metrics.text(), self.relays
        )
        operations.away.clients.append(self.world.factory.clients)
        service = OperatorHTTP(clock, endpoint, operations, token, self.fail, broker.scheduler.turns)
        self.listen(service)

    def fall_behind(self, publisher: Any, player: Any, times: int) -> None:
        """The player reads nothing until it has missed a part of the stream; so many times."""
        publisher.send(messages.set_chunk_size(65536))
        publisher.chunk_size = 65536
        for _ in range(times):
            player.transport.producer.pauseProducing()
            for number in range(4):
                publisher.send(avc(number * 40, True, bytes(3_000_000)))
            player.transport.producer.resumeProducing()
            self.world.turn()
