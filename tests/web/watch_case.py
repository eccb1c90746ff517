"""What the tests of the viewers' site share: the site on a real port, and viewers that see each byte."""

from __future__ import annotations

from typing import Any

import jwt
from attrs import define, field
from twisted.internet.endpoints import TCP4ServerEndpoint

from rtmp_twisted.integrations.play_tokens import PlayTokens
from rtmp_twisted.ports import Ports
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.rtmp.listener import Listener
from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.settings_types import EVERYONE, Networks
from rtmp_twisted.web.access import ANYONE, KEY, TOKEN, Access
from rtmp_twisted.web.viewer import Viewers
from rtmp_twisted.web.watch import WatchHTTP, watch_site
from rtmp_twisted.wire.messages import Message, data_name
from tests.support.fakes import reactor, until
from tests.support.flv import parse_flv
from tests.support.memory import World
from tests.support.programs import free_port
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, METADATA, aac, avc
from tests.web import case
from tests.web.case import Connection, SiteCase

SECRET = "a secret of at least thirty-two bytes"
STREAM_KEY = case.KEY
HEADERS = [data_name(METADATA)[1].body, AVC_HEADER.body, AAC_HEADER.body]

__all__ = ["ANYONE", "KEY", "TOKEN", "Viewer", "WatchCase"]


def unchunk(body: bytes) -> tuple[bytes, bool]:
    """What a chunked body holds, as far as it has come, and whether it has ended."""
    data = b""
    while True:
        size, line, rest = body.partition(b"\r\n")
        length = int(size, 16) if line else 0
        if not line or len(rest) < length + 2:
            return data, False
        assert rest[length : length + 2] == b"\r\n"
        if not length:
            assert rest == b"\r\n", rest
            return data, True
        data += rest[:length]
        body = rest[length + 2 :]


@define(eq=False)
class Viewer:
    """A client that has asked for a stream."""

    connection: Connection
    ended: bool = field(init=False, default=False)

    @property
    def head(self) -> bytes:
        return self.connection.answer.partition(b"\r\n\r\n")[0]

    @property
    def code(self) -> int:
        return int(self.connection.answer[9:12] or b"0")

    @property
    def body(self) -> bytes:
        return self.connection.answer.partition(b"\r\n\r\n")[2]

    @property
    def stream(self) -> bytes:
        """What has come of the stream."""
        if b"chunked" not in self.head:
            return self.body
        data, self.ended = unchunk(self.body)
        return data

    def messages(self) -> list[Message]:
        data = self.stream
        assert data[:3] == b"FLV", data[:20]
        return parse_flv(data)

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages()]

    async def has(self, *bodies: bytes) -> None:
        """Waits until these are all that it has got."""
        await until(lambda: self.body and len(self.bodies()) >= len(bodies), "the media")
        assert self.bodies() == list(bodies), self.bodies()

    async def gone(self) -> None:
        await until(lambda: self.connection.ended.called, "the end of the connection")


class WatchCase(SiteCase):
    """``serve`` starts the site."""

    def serve(
        self,
        mode: str = KEY,
        per_address: int = 1000,
        players: Networks = EVERYONE,
        names: NameRules | None = None,
        proxies: Networks = Networks(),  # noqa: B008 - never changed
        **world: Any,
    ) -> None:
        self.world = World(names=names or NameRules(), players=players, **world)
        clock = self.world.clock
        self.tokens = PlayTokens(SECRET, lambda: self.now + clock.seconds())
        self.now = 1_800_000_000.0
        options = self.world.factory.options
        self.access = Access(clock, options.names, options.guessing, mode, self.tokens, players)
        self.viewers = Viewers(clock, self.world.broker, self.access)
        self.limits = ConnectionLimits(0, per_address, Networks(), "WEB_MAX_PER_IP", beside=self.world.factory.limits)
        self.site = watch_site(self.viewers, self.limits)
        self.port = free_port()
        endpoint = TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1", backlog=1024)
        listener = Listener(self.limits, self.site, proxies, clock)
        ports = Ports([("web server", endpoint, listener)], self.fail)
        self.service = WatchHTTP(self.viewers, self.site, self.limits, ports, 3)
        self.listen(self.service)

    async def watch(self, path: str = f"/tv/{STREAM_KEY}.flv", version: str = "1.1", method: str = "GET") -> Viewer:
        request = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n\r\n"
        return Viewer(await self.open(request.encode()))

    async def answered(self, path: str, **more: str) -> Viewer:
        """A viewer whose answer has begun."""
        viewer = await self.watch(path, **more)
        await until(lambda: b"\r\n\r\n" in viewer.connection.answer, "an answer")
        return viewer

    async def waiting(self, count: int = 1) -> None:
        """Waits until so many viewers wait for a publisher."""
        await until(lambda: len(self.viewers.all) == count, "the viewers")

    def token(self, channel: str | None = "tv", seconds: float = 60, secret: str = SECRET, **more: Any) -> str:
        claims = {"channel": channel, "exp": self.now + self.world.clock.seconds() + seconds, **more}
        return jwt.encode(claims, secret, "HS256")

    def on_air(self, channel: str = "tv", key: str = STREAM_KEY) -> Any:
        """A publisher that has sent its headers."""
        publisher = self.publisher(channel, key)
        publisher.send(METADATA, AVC_HEADER, AAC_HEADER)
        return publisher

    def group(self, publisher: Any, second: int) -> list[bytes]:
        """Publishes a group of pictures; returns what is in it."""
        sent = [avc(second * 1000, True, b"key"), aac(second * 1000 + 5), avc(second * 1000 + 40, False)]
        publisher.send(*sent)
        return [message.body for message in sent]
