"""HTTP for operators: health, metrics, which channels, pushes and pulls there are, and ways to end or add some.

tap.py makes an `OperatorHTTP` only when HTTP_PORT is set. It is for the people who run the server, and listens on
loopback or wants a token. Still, no request may cost much or do harm, and
/healthz is answered however many slow clients there are.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request

from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.relays import Relays, RelayStatus
from rtmp_twisted.ports import Ports
from rtmp_twisted.web.rates import Sampler
from rtmp_twisted.web.serializers import serialize_channel, serialize_relay
from rtmp_twisted.web.site import LimitedSite
from rtmp_twisted.web.status import all_channels, one_channel

DEFAULT_LIMIT: Final = 100
"""Channels in one answer, unless the request says how many."""

MAX_LIMIT: Final = 500
"""Most channels in one answer."""

_JSON: Final = "application/json"
_log = Logger()


class OperatorHTTP(Service):
    """Listens on ``endpoint``, before twistd gives up its privileges. ``fail`` ends the process with one line.

    ``metrics`` returns the text of /metrics. If ``token`` is empty, requests need none, but are answered only if they
    name this machine by an address or as localhost, and do not come from a page in a browser.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamServerEndpoint,
        broker: Broker,
        sampler: Sampler,
        metrics: Callable[[], bytes],
        token: str,
        fail: Callable[[str], None],
        relays: Relays | None = None,
    ) -> None:
        self._sampler = sampler
        self._site = LimitedSite(
            _OperatorResource(clock, broker, sampler, metrics, token, relays), clock, broker.scheduler.turns
        )
        self._ports = Ports([("HTTP", endpoint, self._site)], fail)

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._ports.listen()

    def startService(self) -> None:
        super().startService()
        self._sampler.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._sampler.stop()
        self._site.abort_all()
        return self._ports.close()


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
    """The request cannot be answered; ``str(error)`` says why."""


class _OperatorResource(Resource):
    """Answers every path of the operators' site."""

    isLeaf = True

    def __init__(
        self,
        clock: IReactorTime,
        broker: Broker,
        sampler: Sampler,
        metrics: Callable[[], bytes],
        token: str,
        relays: Relays | None,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._broker = broker
        self._sampler = sampler
        self._metrics = metrics
        self._token = token.encode()
        self._relays = relays

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
            return self._allow(request, "GET", lambda: _Answer(b"ok\n", content_type="text/plain; charset=utf-8"))
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        match path:
            case ["metrics"]:
                content_type = "text/plain; version=0.0.4; charset=utf-8"
                return self._allow(request, "GET", lambda: _Answer(self._metrics(), content_type=content_type))
            case ["api", "v1", "channels"]:
                return self._allow(request, "GET", lambda: self._list(request))
            case ["api", "v1", "channels", name]:
                return self._allow(request, "GET", lambda: self._show(name))
            case ["api", "v1", "channels", name, "kill"]:
                return self._allow(request, "POST", lambda: self._kill(name, request))
        if self._relays is not None:
            answer = self._answer_of_relays(path, request, self._relays)
            if answer is not None:
                return answer
        return _error(http.NOT_FOUND, "there is no such page")

    def _answer_of_relays(self, path: list[str], request: Request, relays: Relays) -> _Answer | None:
        match path:
            case ["api", "v1", "relays"]:
                return self._allow(request, "GET", lambda: _list_relays(relays.statuses()))
            case ["api", "v1", "channels", name, "pull"]:
                statuses = [status for status in relays.statuses(name) if status.kind == "pull"]
                return self._allow(request, "GET", lambda: _list_relays(statuses))
            case ["api", "v1", "channels", name, "push"] if request.method == b"POST":
                return _add_push(name, request, relays)
            case ["api", "v1", "channels", name, "push"]:
                statuses = [status for status in relays.statuses(name) if status.kind == "push"]
                return self._allow(request, "GET", lambda: _list_relays(statuses), "POST")
            case ["api", "v1", "channels", name, "push", id]:
                return self._allow(request, "DELETE", lambda: _remove_push(name, id, relays))
        return None

    def _allow(self, request: Request, method: str, answer: Callable[[], _Answer], other: str = "") -> _Answer:
        """Answers a request by ``method``. ``other`` is a method that has been answered elsewhere."""
        methods = (b"GET", b"HEAD") if method == "GET" else (method.encode(),)
        if request.method in methods:
            return answer()
        request.setHeader(b"allow", b", ".join((*methods, other.encode()) if other else methods))
        return _error(http.NOT_ALLOWED, f"only {f'{method} or {other}' if other else method} is allowed here")

    def _refusal(self, request: Request) -> _Answer | None:
        """Returns the answer to a request that is not allowed, else None.

        Without a token, no page in a browser is allowed: neither its requests to another site (which have an Origin),
        nor requests for a name that somebody has pointed at this machine (the Host).
        """
        if self._token:
            given = (request.getHeader(b"authorization") or b"").split()
            if len(given) == 2 and given[0].lower() == b"bearer" and hmac.compare_digest(given[1], self._token):
                return None
            request.setHeader(b"www-authenticate", b'Bearer realm="rtmp-twisted"')
            return _error(http.UNAUTHORIZED, "the token is missing or wrong")
        host = request.getRequestHostname().decode("ascii", "replace").strip("[]")
        if request.getHeader(b"origin") is not None or not _is_local(host):
            return _error(http.FORBIDDEN, "without HTTP_TOKEN, only programs on this machine are answered")
        return None

    def _list(self, request: Request) -> _Answer:
        limit = _number(request, b"limit", DEFAULT_LIMIT, MAX_LIMIT)
        offset = _number(request, b"offset", 0, 10**9)
        now = self._clock.seconds()
        channels = all_channels(self._broker)
        shown = [serialize_channel(channel, now, self._sampler) for channel in channels[offset : offset + limit]]
        return _json({"total": len(channels), "channels": shown})

    def _show(self, name: str) -> _Answer:
        channel = one_channel(self._broker, name)
        if channel is None:
            return _error(http.NOT_FOUND, "nobody publishes or plays there")
        return _json(serialize_channel(channel, self._clock.seconds(), self._sampler))

    def _kill(self, name: str, request: Request) -> _Answer:
        ended = self._broker.kill(name, None, "ended by an operator")
        if not ended:
            return _error(http.NOT_FOUND, "nobody publishes there")
        peer = getattr(request.getClientAddress(), "host", "")
        _log.info("HTTP: the publish on channel {name!r} was ended", name=name, peer=peer)
        return _json({"killed": name})


def _list_relays(statuses: list[RelayStatus]) -> _Answer:
    return _json({"total": len(statuses), "relays": [serialize_relay(status) for status in statuses]})


def _add_push(name: str, request: Request, relays: Relays) -> _Answer:
    """The body is ``{"url": "rtmp://…"}``. No answer repeats the URL: it has a stream key."""
    try:
        asked = json.loads(request.content.read() if request.content else b"")
    except (ValueError, RecursionError):
        asked = None
    url = asked.get("url") if isinstance(asked, dict) else None
    if not isinstance(url, str):
        raise _BadRequest('the body must be {"url": "rtmp://HOST/APP/KEY"}')
    try:
        return _json(serialize_relay(relays.add_push(name, url)), http.CREATED)
    except ValueError as error:
        raise _BadRequest(str(error)) from None


def _remove_push(name: str, id: str, relays: Relays) -> _Answer:
    if not relays.remove_push(name, id):
        return _error(http.NOT_FOUND, "there is no such push")
    return _json({"removed": id})


def _is_local(host: str) -> bool:
    """Whether ``host`` is an address or localhost: no other site can make a browser take it for that site's name."""
    try:
        ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return True


def _number(request: Request, name: bytes, default: int, highest: int) -> int:
    """Returns a number from the query string. Raises _BadRequest if it is not a number or higher than ``highest``."""
    text = (request.args or {}).get(name, [b"%d" % default])[-1]
    if not text.isdigit() or len(text) > 12 or int(text) > highest:
        raise _BadRequest(f"{name.decode()} must be a whole number from 0 to {highest}")
    return int(text)
