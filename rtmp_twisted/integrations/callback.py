"""The HTTP callback: an application that decides on each publish and is told when it ends.

tap.py makes a `CallbackAuthority` only when CALLBACK_URL is set: importing this module imports treq and PyJWT.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar, cast

from attrs import frozen
from hyperlink import DecodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from rtmp_twisted.integrations.tokens import signed_token
from rtmp_twisted.integrations.validation import plain_address, stream_id_problem
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from rtmp_twisted.peer_errors import PeerError, describe

TIMEOUT = 15.0
"""Seconds for one event: connecting, TLS, the head of the answer, and the second request if there has to be one."""

STOP_RETRY_DELAYS = (1.0, 3.0, 9.0)
"""Seconds before each further attempt to deliver a *stop*."""

SHUTDOWN_TIMEOUT = 20.0
"""Seconds that a shutdown waits for pending requests."""

TOKEN_LIFETIME = 120
"""Seconds for which a token is valid."""

MAX_ANSWER = 128 * 1024
"""Bytes of one answer, head and body. A longer answer loses its connection."""

MAX_IDLE_CONNECTIONS = 8
"""Idle connections to the application that are kept for further requests."""

IDLE_SECONDS = 60
"""Seconds for which an idle connection is kept."""

_MAX_TARGET = 200
"""Characters of a redirect's target that are logged."""

_log = Logger()
_T = TypeVar("_T")


@implementer(IPublishAuthority)
class CallbackAuthority(Service):
    """Asks the application at ``url`` whether a publish may start, and tells it when the publish has ended.

    ``end`` may be called until `stopService` has fired, which waits for pending requests. So whatever ends the
    publishes at a shutdown must be stopped before this service.

    ``timeout`` is for one event, ``shutdown_timeout`` for `stopService`, both in seconds. ``now`` returns the time of
    day in seconds, for the tokens. In tests, ``client`` and ``clock`` replace the HTTP client and the reactor's time,
    and ``trust_root`` replaces the system's root certificates.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        url: str,
        secret: str,
        subject: str = "rtmp_event",
        rtmp_host: str = "",
        rtmp_port: int = 1935,
        timeout: float = TIMEOUT,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
        trust_root: Any = None,
        client: HTTPClient | None = None,
        clock: IReactorTime | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        parsed = DecodedURL.from_text(url)
        self._url = _without_user(parsed)
        self._auth = (parsed.user, ":".join(parsed.userinfo[1:])) if parsed.user else None
        self._secret = secret
        self._claims: dict[str, str | int] = {"sub": subject, "rtmp_host": rtmp_host, "rtmp_port": rtmp_port}
        self._timeout = timeout
        self._shutdown_timeout = shutdown_timeout
        self._reactor = reactor
        self._clock = clock or reactor
        self._now = now
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = MAX_IDLE_CONNECTIONS
        self._pool.cachedConnectionTimeout = IDLE_SECONDS
        self._client = client or self._make_client(trust_root)
        self._pending: set[Deferred[Any]] = set()
        self._bodies: set[_DiscardedBody] = set()
        self._all_done: Deferred[None] | None = None
        self._gave_up = False

    def _make_client(self, trust_root: Any) -> HTTPClient:
        endpoints = _EndpointFactory(self._reactor, BrowserLikePolicyForHTTPS(trustRoot=trust_root), self._timeout)
        agent = Agent.usingEndpointFactory(self._reactor, endpoints, self._pool)
        no_cookies = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        return HTTPClient(agent, cookiejar=no_cookies)

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        return self._track(Deferred.fromCoroutine(self._ask(channel, key, client_ip)))

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        return self._track(Deferred.fromCoroutine(self._tell(channel, key, stream_id, client_ip)))

    def stopService(self) -> Deferred[None]:
        """Fires when all pending requests are done. Gives them up after ``shutdown_timeout`` seconds."""
        super().stopService()
        all_done: Deferred[None] = Deferred()
        if self._pending:
            self._all_done = all_done
            limit = self._clock.callLater(self._shutdown_timeout, self._give_up)
            all_done.addCallback(lambda _: limit.cancel() if limit.active() else None)
        else:
            all_done.callback(None)
        return all_done.addCallback(self._close)

    def _give_up(self) -> None:
        self._gave_up = True
        _log.error("the shutdown gives up {count} pending callback requests", count=len(self._pending))
        for request in list(self._pending):
            request.cancel()

    def _close(self, _: None) -> Deferred[None]:
        for body in list(self._bodies):
            body.drop()
        # The connection of the last answer returns to the pool a moment after that answer.
        closed: Deferred[None] = deferLater(self._clock, 0, self._pool.closeCachedConnections)
        return closed

    def _track(self, request: Deferred[_T]) -> Deferred[_T]:
        outcome: Deferred[_T] = Deferred()
        self._pending.add(request)
        # The caller acts on the outcome first, perhaps with a stop for a publisher that has left meanwhile. Only then
        # is this request done, so that a waiting shutdown does not miss that stop.
        request.addBoth(_pass_on, outcome)
        request.addBoth(lambda _: self._done(request))
        return outcome

    def _done(self, request: Deferred[Any]) -> None:
        self._pending.discard(request)
        if self._all_done is not None and not self._pending:
            all_done, self._all_done = self._all_done, None
            all_done.callback(None)

    async def _ask(self, channel: str, key: str, client_ip: str) -> str:
        try:
            response = await self._post("start", {"channel": channel, "key": key}, client_ip)
        except Exception as error:
            raise Refused(f"the callback could not be asked: {describe(error)}") from None
        if response.code != 200:
            raise Refused(f"the callback answered with {self._describe_status(response)}")
        stream_id = _stream_id(response)
        problem = stream_id_problem(stream_id)
        if problem is not None:
            # The application has accepted, so it believes in a stream that will not exist. It gets its stop.
            self.end(channel, key, stream_id, client_ip)
            raise Refused(f"the callback answered with {problem}")
        return stream_id

    async def _tell(self, channel: str, key: str, stream_id: str, client_ip: str) -> None:
        claims = {"channel": channel, "key": key, "stream_id": stream_id}
        for delay in (*STOP_RETRY_DELAYS, None):
            problem = await self._try_stop(claims, client_ip)
            if not problem:
                return
            if delay is None or self._gave_up:
                break
            _log.warn("a stop for channel {channel} failed: {problem}", channel=channel, problem=problem)
            try:
                await deferLater(self._clock, delay, lambda: None)
            except CancelledError:
                break
        _log.error("the stop for channel {channel} was given up: {problem}", channel=channel, problem=problem)

    async def _try_stop(self, claims: dict[str, str], client_ip: str) -> str:
        """Sends one *stop*. Returns what went wrong, or an empty text."""
        try:
            response = await self._post("stop", claims, client_ip)
        except Exception as error:
            return describe(error)
        return "" if 200 <= response.code < 300 else self._describe_status(response)

    def _describe_status(self, response: IResponse) -> str:
        text = f"status {response.code}"
        location = response.headers.getRawHeaders(b"location")
        if 300 <= response.code < 400 and location:
            text += f", a redirect to {self._redirect_target(location[0])}, which is not followed"
        return text

    def _redirect_target(self, location: bytes) -> str:
        """Returns where a redirect points, for the log: without user, query and fragment, which may hold secrets."""
        try:
            target = _without_user(self._url.click(location.decode("ascii"))).replace(query=(), fragment="")
            return target.to_uri().to_text()[:_MAX_TARGET]
        except ValueError:
            return "an invalid URL"

    def _post(self, event: str, claims: dict[str, str], client_ip: str) -> Deferred[IResponse]:
        """Sends one event. Fires at the head of the answer; the body is read within its own bounds, and discarded."""
        issued = int(self._now())
        token = signed_token(
            {
                **self._claims,
                "iat": issued,
                "exp": issued + TOKEN_LIFETIME,
                "event": event,
                **claims,
                "client_ip": plain_address(client_ip),
            },
            self._secret,
        )
        answer: Deferred[IResponse] = Deferred.fromCoroutine(self._send(token))
        answer.addTimeout(self._timeout, self._clock)
        return answer.addCallback(self._discard_body)

    async def _send(self, token: str) -> IResponse:
        try:
            return await self._request(token)
        except ResponseNeverReceived as error:
            if not error.reasons[0].check(_KeptConnectionClosed):
                raise
        # The application has closed an idle connection while the request was on its way, as an HTTP server may at any
        # time (RFC 9112, section 9.5). Other idle connections may be closing too, so this attempt makes a new one.
        self._pool.closeCachedConnections()
        return await self._request(token)

    def _request(self, token: str) -> Deferred[IResponse]:
        answer: Any = self._client.post(
            self._url,
            headers=Headers({"rtmp-event": [token]}),
            auth=self._auth,
            allow_redirects=False,  # the token would go to whatever host the answer names
            unbuffered=True,
            reactor=self._reactor,
        )
        return cast("Deferred[IResponse]", answer)

    def _discard_body(self, response: IResponse) -> IResponse:
        response.deliverBody(_DiscardedBody(self._bodies, self._clock, self._timeout))
        return response


def _without_user(url: DecodedURL) -> DecodedURL:
    return url.replace(userinfo=())  # type: ignore[arg-type]


def _pass_on(result: _T | Failure, outcome: Deferred[_T]) -> None:
    outcome.callback(result)


def _stream_id(response: IResponse) -> str:
    value: bytes = response.headers.getRawHeaders(b"stream-id", [b""])[0]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class _KeptConnectionClosed(Exception):
    """The application has closed a connection that was kept from an earlier request, before any byte of the answer."""


@implementer(IAgentEndpointFactory)
@frozen
class _EndpointFactory:
    """Connects to the application over TCP or TLS, by watched connections (`_WatchedConnection`)."""

    reactor: Any
    policy: BrowserLikePolicyForHTTPS
    timeout: float

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self.reactor, uri.host, uri.port, timeout=self.timeout)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self.policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return _WatchedEndpoint(endpoint)


@implementer(IStreamClientEndpoint)
@frozen
class _WatchedEndpoint:
    """Another endpoint, whose connections are each wrapped in a `_WatchedConnection`."""

    endpoint: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        factory = WrappingFactory(protocolFactory)
        factory.protocol = _WatchedConnection
        factory.noisy = False
        connected: Deferred[Any] = self.endpoint.connect(factory)
        return connected.addCallback(lambda connection: connection.wrappedProtocol)


class _WatchedConnection(ProtocolWrapper):
    """Limits an answer to `MAX_ANSWER`, and tells why a connection was lost where Twisted's HTTP client does not.

    A request has no body, so the HTTP client writes it in one call: each write is a new request.
    """

    _requests = 0
    _received = 0

    def write(self, data: bytes) -> None:
        self._requests += 1
        self._received = 0
        super().write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        super().dataReceived(data)
        if self._received > MAX_ANSWER:
            cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._received > MAX_ANSWER:
            reason = Failure(PeerError("an endless answer"))
        elif self._requests > 1 and not self._received:
            reason = Failure(_KeptConnectionClosed())
        super().connectionLost(reason)


class _DiscardedBody(Protocol):
    """Reads the body of an answer, so that its connection can be used again. Drops it after ``timeout`` seconds."""

    def __init__(self, bodies: set[_DiscardedBody], clock: IReactorTime, timeout: float) -> None:
        self._bodies = bodies
        self._limit: IDelayedCall = clock.callLater(timeout, self.drop)
        bodies.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._bodies.discard(self)
        if self._limit.active():
            self._limit.cancel()

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
