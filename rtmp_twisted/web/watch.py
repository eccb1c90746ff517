"""The public web server: the watch page, and streams for those who have no RTMP player.

tap.py makes a `WatchHTTP` only when WEB_PORT or WEB_SSL_PORT is set. It listens to everybody: each request is bounded
(site.py), and who may watch is decided as for an RTMP player (access.py). An endless stream is a `Viewer`.
"""

from __future__ import annotations

from typing import Any, Final, cast
from urllib.parse import quote

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.fragments import FragmentForm
from rtmp_twisted.media.flv import FLVFormat
from rtmp_twisted.ports import Ports
from rtmp_twisted.rtmp.limits import ConnectionLimits
from rtmp_twisted.web import watch_page
from rtmp_twisted.web.access import Denied, Visit
from rtmp_twisted.web.answers import PREFLIGHT, SHARED, Answer
from rtmp_twisted.web.hls_files import Wanted
from rtmp_twisted.web.paths import NoSuchPath
from rtmp_twisted.web.quick import QuickConnection, QuickSite, Session
from rtmp_twisted.web.site import MAX_UNFINISHED, MAX_VIEWERS_UNREAD, LimitedSite
from rtmp_twisted.web.viewer import Stream, Viewer, Viewers
from rtmp_twisted.web.watch_page import WatchPage
from rtmp_twisted.web.websocket import WebSocketViewer

STREAMS: Final = {
    one.name: one for one in (Stream("flv", "video/x-flv", FLVFormat), Stream("mp4", "video/mp4", FragmentForm()))
}
"""The formats that are endless streams, by name."""

CONNECTION_OVERHEAD: Final = 8192
"""Bytes of memory that a connection takes; over TLS it is five times as much."""

METHODS: Final = (b"GET", b"HEAD", b"OPTIONS")

_log = Logger()


class WatchHTTP(Service):
    """``ports`` listen for ``site``, whose connections ``limits`` counts. ``stopService`` ends every viewer, and drops
    those that are left after ``grace`` seconds."""

    def __init__(
        self, viewers: Viewers, site: LimitedSite, limits: ConnectionLimits, ports: Ports, grace: float
    ) -> None:
        self.viewers = viewers
        self.site = site
        self.limits = limits
        self._ports = ports
        self._grace = grace
        self._account = viewers.broker.memory.open("web server", self._held, lambda: None)
        self._checks = LoopingCall(self.check)
        self._checks.clock = viewers.clock

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._ports.listen()

    def startService(self) -> None:
        super().startService()
        self._checks.start(1, now=False)

    def check(self) -> None:
        """Called every second. Never raises."""
        try:
            self._account.settle()
            self.viewers.check()
            self.viewers.hls.check()
        except Exception:
            _log.failure("a bug, while viewers were checked")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._checks.running:
            self._checks.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        closed = self._ports.close()
        self.viewers.hls.close()
        for viewer in list(self.viewers.all):
            viewer.finish("the server is stopping")
        deadline = self.viewers.clock.seconds() + self._grace
        while self.viewers.all and self.viewers.clock.seconds() < deadline:
            await deferLater(self.viewers.clock, 0.05)
        self.site.abort_all()
        await closed

    def _held(self) -> int:
        return CONNECTION_OVERHEAD * len(self.site.connections) + self.site.unread


class WatchResource(Resource):
    """Answers every path of the viewers' site."""

    isLeaf = True

    def __init__(self, viewers: Viewers) -> None:
        super().__init__()
        self._viewers = viewers
        self.page = watch_page.load()
        self._number = 0  # of the newest viewer

    def render(self, request: Request) -> Any:
        for name, value in SHARED.items():
            request.setHeader(name, value)
        if request.method not in METHODS:
            request.setHeader("Allow", b", ".join(METHODS))
            return _text(request, http.NOT_ALLOWED, "only GET, HEAD and OPTIONS are allowed here")
        if request.method == b"OPTIONS":
            request.setResponseCode(http.NO_CONTENT)
            for name, value in PREFLIGHT.items():
                request.setHeader(name, value)
            return b""
        uri = _origin_form(request.uri)
        connection = cast(QuickConnection, request.channel)
        try:
            visit = self._viewers.access.visit(uri, connection.peer)
            return self._show(request, connection, visit)
        except NoSuchPath as nothing:
            return _text(request, http.NOT_FOUND, f"there is no such page: {nothing}")
        except Denied as denied:
            return _text(request, denied.code, str(denied))

    def answer_again(self, connection: QuickConnection, session: Session, wanted: Wanted) -> bool:
        """Answers a request for a file, of somebody who was let in before. Returns False where all has to be judged
        again."""
        access = self._viewers.access
        if access.guessing.suspects(connection.peer):
            return False
        if session.until is not None and access.clock.seconds() >= session.until:
            return False
        try:
            return self._viewers.hls.ask_again(connection, session.channel, session.key, wanted, session.suffix)
        except Exception:
            _log.failure("a bug, which ends this connection")
            connection.abort()
            return True

    def _show(self, request: Request, connection: QuickConnection, visit: Visit) -> Any:
        target = visit.target
        if target.file:
            self._serve_file(request, connection, visit)
            return NOT_DONE_YET
        if not target.format:
            return _page(request, self.page)
        stream = STREAMS.get(target.format)
        if stream is None:
            raise NoSuchPath("this server has no such format")
        self._number += 1
        headers, in_chunks = request.requestHeaders, request.clientproto == b"HTTP/1.1"
        viewer: Viewer
        if _asks_for_websocket(request):
            viewer = WebSocketViewer(self._viewers, connection, self._number, visit, stream, headers=headers)
        else:
            with_body = request.method == b"GET"
            viewer = Viewer(self._viewers, connection, self._number, visit, stream, in_chunks, with_body)
        viewer.begin()
        return NOT_DONE_YET

    def _serve_file(self, request: Request, connection: QuickConnection, visit: Visit) -> None:
        """A playlist, segment or part of HLS."""
        asker = _Asker(request, connection)

        def judged(denied: Denied | None) -> None:
            if asker.gone:
                return
            try:
                if denied is None:
                    self._ask(request, connection, visit, asker)
                    return
            except Refused as refusal:
                self._viewers.access.fail(visit)
                denied = Denied(http.FORBIDDEN, str(refusal))
            asker.reply(Answer(denied.code, (f"{denied}\n".encode(),), seconds=0))

        attempt = self._viewers.access.attempt(visit, _HLSLog(), judged)
        if attempt is not None:  # it waits, for its address has failed before
            connection.hold()

    def _ask(self, request: Request, connection: QuickConnection, visit: Visit, asker: _Asker) -> None:
        wanted = Wanted.parse(visit.target.file, request.args or {})
        if isinstance(wanted, Answer):
            asker.reply(wanted)
            return
        suffix = _carried(visit)
        self._viewers.hls.ask(asker, visit.target.channel, visit.key, wanted, suffix)
        connection.remember(request.uri, wanted, visit, suffix)


class _Asker:
    """A request of twisted.web for a file of HLS."""

    def __init__(self, request: Request, connection: QuickConnection) -> None:
        self.gone = False
        self.hold = connection.hold
        self._request = request
        request.notifyFinish().addErrback(self._lose)

    def reply(self, answer: Answer) -> None:
        if not self.gone:
            answer.write(self._request)

    def _lose(self, _: Failure) -> None:
        self.gone = True


class _HLSLog:
    """Where `Access.attempt` reports bugs."""

    def failure(self, message: str) -> None:
        _log.failure(message)


def _carried(visit: Visit) -> bytes:
    """What the URIs in playlists get behind them, so that those who follow them are let in."""
    token = visit.query.get("token")
    return b"" if token is None or visit.token is None else b"?token=" + quote(token, safe="").encode()


def watch_site(viewers: Viewers, limits: ConnectionLimits) -> LimitedSite:
    """The viewers' site."""
    clock: IReactorTime = viewers.clock
    turns, resource = viewers.broker.scheduler.turns, WatchResource(viewers)
    site = QuickSite(resource, clock, turns, True, MAX_UNFINISHED, MAX_VIEWERS_UNREAD, limits)
    site.answer_again = resource.answer_again
    return site


def _asks_for_websocket(request: Request) -> bool:
    """Whether it is to be answered by WebSocket (RFC 6455, section 4.2.1)."""
    if request.method != b"GET" or request.clientproto != b"HTTP/1.1":
        return False
    return any(b"websocket" in value.lower() for value in request.requestHeaders.getRawHeaders(b"upgrade") or [])


def _origin_form(uri: bytes) -> bytes:
    """A request's target without scheme and host, which a client may send (RFC 9112, section 3.2.2)."""
    scheme, separator, rest = uri.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        _, slash, path = rest.partition(b"/")
        return slash + path
    return uri


def _text(request: Request, code: int, text: str) -> bytes:
    request.setResponseCode(code)
    request.setHeader("Content-Type", "text/plain; charset=utf-8")
    request.setHeader("Cache-Control", "no-store")
    return _body(request, text.encode() + b"\n")


def _page(request: Request, page: WatchPage) -> bytes:
    for name, value in page.headers.items():
        request.setHeader(name, value)
    if request.setETag(b'"' + page.etag + b'"') is http.CACHED:
        return b""
    return _body(request, page.content)


def _body(request: Request, body: bytes) -> bytes:
    request.setHeader("Content-Length", str(len(body)))
    return b"" if request.method == b"HEAD" else body
