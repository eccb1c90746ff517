"""An HTTP application for callbacks, on a real port. It records each event, and answers as a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.support.fakes import reactor, read_token


@frozen
class Event:
    """One request: the claims of its token, and what else can be seen."""

    claims: dict[str, Any]
    method: bytes
    path: bytes
    body: bytes
    headers: dict[bytes, Sequence[bytes]]

    @property
    def name(self) -> str:
        return str(self.claims["event"])


Answer = Callable[[Request, Event], bytes | int]


def accept(request: Request, event: Event) -> bytes:
    """Accepts all, with the stream id ``id-of-CHANNEL``."""
    request.setHeader(b"stream-id", f"id-of-{event.claims['channel']}".encode())
    return b""


class HTTPApp(Resource):
    """``answer`` may be replaced at any time. A token that is not signed with ``secret`` is answered with 401."""

    isLeaf = True

    def __init__(self, secret: str) -> None:
        super().__init__()
        self.secret = secret
        self.events: list[Event] = []
        self.problems: list[Exception] = []
        self.answer: Answer = accept
        self.connections = 0
        self._port: Any = None
        self._scheme = "http"

    def listen(self, tls: Any = None, port: int = 0, interface: str = "127.0.0.1") -> None:
        site = _CountingSite(self)
        if tls is None:
            self._port = reactor.listenTCP(port, site, interface=interface)
        else:
            self._scheme = "https"
            self._port = reactor.listenSSL(port, site, tls, interface="127.0.0.1")
        self._site = site

    @property
    def port(self) -> int:
        return int(self._port.getHost().port)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook?from=rtmp"

    async def stop(self) -> None:
        """Stops listening, and drops all connections."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            for transport in list(self._site.transports.values()):
                transport.abortConnection()
            await self._site.gone()

    def names(self, channel: str) -> list[str]:
        """Returns the events of one channel, in order."""
        return [event.name for event in self.events if event.claims["channel"] == channel]

    def render(self, request: Request) -> bytes | int:
        try:
            claims = read_token((request.getHeader("rtmp-event") or ""), self.secret)
        except Exception as error:
            self.problems.append(error)
            request.setResponseCode(401)
            return b""
        headers = dict(request.requestHeaders.getAllRawHeaders())
        body = request.content.read() if request.content is not None else b""
        event = Event(claims, request.method, request.uri, body, headers)
        self.events.append(event)
        return self.answer(request, event)


class _CountingSite(Site):
    def __init__(self, app: HTTPApp) -> None:
        super().__init__(app)
        self._app = app
        self.transports: dict[Any, Any] = {}
        self._gone: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        channel = super().buildProtocol(addr)
        self._app.connections += 1
        made, lost = channel.makeConnection, channel.connectionLost

        def connection_made(transport: Any) -> None:
            self.transports[channel] = transport
            made(transport)

        def connection_lost(reason: Any) -> None:
            lost(reason)
            del self.transports[channel]
            if self._gone is not None and not self.transports:
                self._gone.callback(None)

        channel.makeConnection, channel.connectionLost = connection_made, connection_lost
        return channel

    async def gone(self) -> None:
        if self.transports:
            self._gone = Deferred()
            await self._gone


def status(code: int, **headers: str | bytes) -> Answer:
    """Returns an answer with ``code``. Underscores in header names stand for hyphens."""

    def answer(request: Request, event: Event) -> bytes:
        request.setResponseCode(code)
        for name, value in headers.items():
            encoded = value.encode() if isinstance(value, str) else value
            request.setHeader(name.replace("_", "-").encode(), encoded)
        return b""

    return answer


def never(request: Request, event: Event) -> int:
    """Never answers."""
    return NOT_DONE_YET
