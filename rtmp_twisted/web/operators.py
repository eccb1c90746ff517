"""HTTP for operators: health, metrics, what is on air, and a way to end it.

`OperatorHTTP` is made by tap.py, only when HTTP_PORT is set. It is for the people who run the server, on loopback or
behind a token; still nothing that arrives may cost much or do harm.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, cast

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.rtmp.formatting import address
from rtmp_twisted.web.rates import Sampler
from rtmp_twisted.web.serializers import channel_view

#: Connections at a time; more are closed at once.
MAX_CONNECTIONS: Final = 64

#: Bytes of a request's body; a longer one ends the connection.
MAX_BODY: Final = 4096

#: Seconds without a word after which a connection is closed.
IDLE_SECONDS: Final = 60

#: Channels in one answer: unless it is asked for fewer or more, and at most.
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000

_JSON: Final = "application/json"
_log = Logger()


class OperatorHTTP(Service):
    """Listens on ``endpoint`` from the start on; ends the process with one line where that fails.

    ``metrics`` makes the text of /metrics. ``token`` empty: none is asked for, and only what comes by address or as
    localhost, and not from a page in a browser, is answered.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamServerEndpoint,
        broker: Broker,
        sampler: Sampler,
        metrics: Callable[[], bytes],
        token: str,
    ) -> None:
        self._endpoint = endpoint
        self._sampler = sampler
        pages = _Operator(clock, broker, sampler, metrics, token)
        site = _SilentSite(pages, requestFactory=_Request, timeout=IDLE_SECONDS, reactor=clock)
        site.displayTracebacks = False
        self._factory = _FewConnections(site)
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        problems: list[Failure] = []
        self._endpoint.listen(self._factory).addCallback(self._listens).addErrback(problems.append)
        if problems:
            raise SystemExit(f"HTTP: {problems[0].getErrorMessage()}")

    def startService(self) -> None:
        super().startService()
        self._sampler.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._sampler.stop()
        closed = succeed(None) if self._port is None else maybeDeferred(self._port.stopListening)
        for wrapped in list(self._factory.protocols):
            wrapped.transport.abortConnection()
        return closed.addCallback(lambda _: None)

    def _listens(self, port: IListeningPort) -> None:
        self._port = port
        _log.info("HTTP on {address}", address=address(port.getHost()))


class _SilentSite(Site):
    noisy = False

    def log(self, request: Any) -> None:
        """Requests are logged as the other events are."""


class _FewConnections(WrappingFactory):
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:  # type: ignore[override]
        return super().buildProtocol(addr) if len(self.protocols) < MAX_CONNECTIONS else None


class _Request(Request):
    """Takes no long body, and says nothing of itself."""

    _size = 0

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)  # in memory; what comes is counted

    def handleContentChunk(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_BODY:
            cast(Any, self.channel.transport).abortConnection()
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._size <= MAX_BODY:
            super().requestReceived(command, path, version)


@frozen
class _Answer:
    body: bytes
    code: int = http.OK
    content_type: str = _JSON


def _json(value: object, code: int = http.OK) -> _Answer:
    return _Answer(json.dumps(value).encode() + b"\n", code)


def _error(code: int, text: str) -> _Answer:
    return _json({"error": text}, code)


class _BadRequest(Exception):
    """The request makes no sense; ``str(error)`` says why."""


class _Operator(Resource):
    """All paths there are."""

    isLeaf = True

    def __init__(
        self, clock: IReactorTime, broker: Broker, sampler: Sampler, metrics: Callable[[], bytes], token: str
    ) -> None:
        super().__init__()
        self._clock = clock
        self._broker = broker
        self._sampler = sampler
        self._metrics = metrics
        self._token = token.encode()

    def render(self, request: Request) -> bytes:
        try:
            answer = self._answer(request)
        except _BadRequest as error:
            answer = _error(http.BAD_REQUEST, str(error))
        request.setResponseCode(answer.code)
        headers = {
            "content-type": answer.content_type,
            "server": "rtmp-twisted",
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }
        for name, value in headers.items():
            request.setHeader(name, value)
        _log.debug("HTTP: {method!r} {path!r}: {code}", method=request.method, path=request.path, code=answer.code)
        if request.method == b"HEAD":
            request.setHeader("content-length", str(len(answer.body)))
            return b""
        return answer.body

    def _answer(self, request: Request) -> _Answer:
        path = [segment.decode("utf-8", "replace") for segment in request.postpath or []]
        if path == ["healthz"]:
            return self._for(request, "GET", lambda: _Answer(b"ok\n", content_type="text/plain; charset=utf-8"))
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        match path:
            case ["metrics"]:
                content_type = "text/plain; version=0.0.4; charset=utf-8"
                return self._for(request, "GET", lambda: _Answer(self._metrics(), content_type=content_type))
            case ["api", "v1", "channels"]:
                return self._for(request, "GET", lambda: self._list(request))
            case ["api", "v1", "channels", name]:
                return self._for(request, "GET", lambda: self._show(name))
            case ["api", "v1", "channels", name, "kill"]:
                return self._for(request, "POST", lambda: self._kill(name, request))
        return _error(http.NOT_FOUND, "there is no such page")

    def _for(self, request: Request, method: str, answer: Callable[[], _Answer]) -> _Answer:
        methods = (b"GET", b"HEAD") if method == "GET" else (method.encode(),)
        if request.method in methods:
            return answer()
        request.setHeader(b"allow", b", ".join(methods))
        return _error(http.NOT_ALLOWED, f"this takes {method} only")

    def _refusal(self, request: Request) -> _Answer | None:
        """Who may not come in. Without a token, no page in a browser: neither its own requests (Origin), nor those
        under a name that somebody has pointed at this machine (Host)."""
        if self._token:
            given = (request.getHeader(b"authorization") or b"").split()
            right = len(given) == 2 and given[0].lower() == b"bearer" and hmac.compare_digest(given[1], self._token)
            if right:
                return None
            request.setHeader(b"www-authenticate", b'Bearer realm="rtmp-twisted"')
            return _error(http.UNAUTHORIZED, "the token is missing or wrong")
        host = request.getRequestHostname().decode("ascii", "replace").strip("[]")
        if request.getHeader(b"origin") is not None or not _is_local(host):
            return _error(http.FORBIDDEN, "without HTTP_TOKEN, this is for programs on this machine only")
        return None

    def _list(self, request: Request) -> _Answer:
        limit = _number(request, b"limit", DEFAULT_LIMIT, MAX_LIMIT)
        offset = _number(request, b"offset", 0, 10**9)
        now = self._clock.seconds()
        channels = self._broker.channels()
        views = [channel_view(*one, now, self._sampler) for one in channels[offset : offset + limit]]
        return _json({"total": len(channels), "channels": views})

    def _show(self, name: str) -> _Answer:
        found = self._broker.channel(name)
        if found is None:
            return _error(http.NOT_FOUND, "nobody publishes or plays there")
        return _json(channel_view(*found, self._clock.seconds(), self._sampler))

    def _kill(self, name: str, request: Request) -> _Answer:
        ended = self._broker.kill(name, None, "ended by an operator")
        if not ended:
            return _error(http.NOT_FOUND, "nobody publishes there")
        peer = getattr(request.getClientAddress(), "host", "")
        _log.info("HTTP: ended what was publishing on channel {name!r}", name=name, peer=peer)
        return _json({"killed": name})


def _is_local(host: str) -> bool:
    """Whether a browser that asked for this host was told so by somebody on this machine."""
    try:
        ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return True


def _number(request: Request, name: bytes, default: int, highest: int) -> int:
    """A number in the query string. Raises _BadRequest where it is none, or too high."""
    text = (request.args or {}).get(name, [b"%d" % default])[-1]
    if not text.isdigit() or len(text) > 12 or int(text) > highest:
        raise _BadRequest(f"{name.decode()} is a whole number up to {highest}")
    return int(text)
