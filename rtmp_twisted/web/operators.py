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
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from rtmp_twisted.live.operations import Operations, Soon
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.ports import Ports
from rtmp_twisted.web.site import LimitedSite

DEFAULT_LIMIT: Final = 100
"""Channels in one answer, unless the request says how many."""

MAX_LIMIT: Final = 500
"""Most channels in one answer."""

T = TypeVar("T")

_JSON: Final = "application/json"
_log = Logger()


class OperatorHTTP(Service):
    """Listens on ``endpoint``, before twistd gives up its privileges. ``fail`` ends the process with one line.

    If ``token`` is empty, requests need none, but are answered only if they name this machine by an address or as
    localhost, and do not come from a page in a browser.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamServerEndpoint,
        operations: Operations,
        token: str,
        fail: Callable[[str], None],
        turns: Turns,
    ) -> None:
        self._operations = operations
        self._site = LimitedSite(_OperatorResource(operations, token), clock, turns)
        self._ports = Ports([("HTTP", endpoint, self._site)], fail)

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._ports.listen()

    def startService(self) -> None:
        super().startService()
        self._operations.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._operations.stop()
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

    def __init__(self, operations: Operations, token: str) -> None:
        super().__init__()
        self._operations = operations
        self._token = token.encode()

    def render(self, request: Request) -> Any:
        try:
            answer = self._answer(request)
        except _BadRequest as error:
            answer = _error(http.BAD_REQUEST, str(error))
        if not isinstance(answer, Deferred):
            return self._body(request, answer)
        lost: list[Failure] = []
        request.notifyFinish().addErrback(lost.append)

        def write(answer: _Answer) -> None:
            if not lost:
                request.write(self._body(request, answer))
                request.finish()

        answer.addErrback(_explain).addCallback(write)
        answer.addErrback(lambda failure: _log.failure("a bug in an answer", failure))
        return NOT_DONE_YET

    def _body(self, request: Request, answer: _Answer) -> bytes:
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

    def _answer(self, request: Request) -> Soon[_Answer]:
        path = [segment.decode("utf-8", "replace") for segment in request.postpath or []]
        if path in (["healthz"], ["readyz"]):
            return self._allow(request, "GET", lambda: self._health(path[0]))
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        match path:
            case ["metrics"]:
                return self._allow(request, "GET", lambda: _then(self._operations.metrics(), _metrics))
            case ["api", "v1", "channels"]:
                return self._allow(request, "GET", lambda: self._list(request))
            case ["api", "v1", "channels", name]:
                return self._allow(request, "GET", lambda: self._show(name))
            case ["api", "v1", "channels", name, "kill"]:
                return self._allow(request, "POST", lambda: self._kill(name, request))
            case ["api", "v1", "drain"] if request.method in (b"POST", b"DELETE"):
                return self._drain(request.method == b"POST", request)
            case ["api", "v1", "drain"]:
                return self._allow(request, "GET", self._left, "POST, DELETE")
            case ["api", "v1", "nodes"]:
                return self._allow(request, "GET", self._nodes)
            case ["api", "v1", "relays"]:
                return self._allow(request, "GET", lambda: self._list_relays(None, ""))
            case ["api", "v1", "channels", name, "pull"]:
                return self._allow(request, "GET", lambda: self._list_relays(name, "pull"))
            case ["api", "v1", "channels", name, "push"] if request.method == b"POST":
                return self._add_push(name, request)
            case ["api", "v1", "channels", name, "push"]:
                return self._allow(request, "GET", lambda: self._list_relays(name, "push"), "POST")
            case ["api", "v1", "channels", name, "push", id]:
                return self._allow(request, "DELETE", lambda: self._remove_push(name, id))
        return _error(http.NOT_FOUND, "there is no such page")

    def _health(self, asked: str) -> _Answer:
        """healthz: whether the server is alive. readyz: whether clients may come. While it is drained that is 404, at
        which HAProxy (``http-check disable-on-404``) sends nobody, and leaves those alone that are there."""
        plain = "text/plain; charset=utf-8"
        if not self._operations.healthy():
            return _Answer(b"no worker is ready\n", http.SERVICE_UNAVAILABLE, plain)
        if asked == "readyz" and self._operations.draining():
            return _Answer(b"it is being drained\n", http.NOT_FOUND, plain)
        return _Answer(b"ok\n", content_type=plain)

    def _allow(
        self, request: Request, method: str, answer: Callable[[], Soon[_Answer]], other: str = ""
    ) -> Soon[_Answer]:
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

    def _list(self, request: Request) -> Soon[_Answer]:
        limit = _number(request, b"limit", DEFAULT_LIMIT, MAX_LIMIT)
        offset = _number(request, b"offset", 0, 10**9)
        found = self._operations.channels(offset, limit)
        return _then(found, lambda found: _json({"total": found[0], "channels": found[1]}))

    def _show(self, name: str) -> Soon[_Answer]:
        nobody = "nobody publishes or plays there"
        found = self._operations.channel(name)
        return _then(found, lambda found: _json(found) if found else _error(http.NOT_FOUND, nobody))

    def _list_relays(self, channel: str | None, kind: str) -> Soon[_Answer]:
        def listed(found: list[dict[str, Any]] | None) -> _Answer:
            if found is None:
                return _error(http.NOT_FOUND, "there is no such page")
            shown = [one for one in found if kind in ("", one["kind"])]
            return _json({"total": len(shown), "relays": shown})

        return _then(self._operations.relays(channel), listed)

    def _left(self) -> Soon[_Answer]:
        draining = self._operations.draining()
        return _then(self._operations.left(), lambda left: _json({"draining": draining, **left}))

    def _drain(self, on: bool, request: Request) -> Soon[_Answer]:
        peer = getattr(request.getClientAddress(), "host", "")
        what = "clients are sent away from now on" if on else "clients may come again"
        _log.info("HTTP: {what}", what=what, peer=peer)
        self._operations.drain(on)
        return self._left()

    def _nodes(self) -> Soon[_Answer]:
        found = self._operations.nodes()
        if found is None:
            return _error(http.NOT_FOUND, "this server is in no cluster (CLUSTER_USE)")
        return _then(found, lambda nodes: _json({"total": len(nodes), "nodes": nodes}))

    def _add_push(self, name: str, request: Request) -> Soon[_Answer]:
        """The body is ``{"url": "rtmp://…"}``. No answer repeats the URL: it has a stream key."""
        try:
            asked = json.loads(request.content.read() if request.content else b"")
        except (ValueError, RecursionError):
            asked = None
        url = asked.get("url") if isinstance(asked, dict) else None
        if not isinstance(url, str):
            raise _BadRequest('the body must be {"url": "rtmp://HOST/APP/KEY"}')
        try:
            return _then(self._operations.add_push(name, url), lambda made: _json(made, http.CREATED))
        except ValueError as error:
            raise _BadRequest(str(error)) from None

    def _remove_push(self, name: str, id: str) -> Soon[_Answer]:
        none = _error(http.NOT_FOUND, "there is no such push")
        return _then(
            self._operations.remove_push(name, id), lambda removed: _json({"removed": id}) if removed else none
        )

    def _kill(self, name: str, request: Request) -> _Answer:
        ended = self._operations.kill(name, "ended by an operator")
        if not ended:
            return _error(http.NOT_FOUND, "nobody publishes there")
        peer = getattr(request.getClientAddress(), "host", "")
        _log.info("HTTP: the publish on channel {name!r} was ended", name=name, peer=peer)
        return _json({"killed": name})


def _then(value: Soon[T], make: Callable[[T], _Answer]) -> Soon[_Answer]:
    """Makes an answer of a value, when it is there."""
    return value.addCallback(make) if isinstance(value, Deferred) else make(value)


def _explain(failure: Failure) -> _Answer:
    """What a value that did not come is answered with."""
    if failure.check(ValueError):
        return _error(http.BAD_REQUEST, failure.getErrorMessage())
    _log.failure("a bug in an answer", failure)
    return _error(http.INTERNAL_SERVER_ERROR, "internal error")


def _metrics(text: bytes) -> _Answer:
    return _Answer(text, content_type="text/plain; version=0.0.4; charset=utf-8")


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
