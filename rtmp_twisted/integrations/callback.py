"""The callback: an HTTP application that decides on each publish and is told of its end.

`CallbackAuthority` is made by tap.py, only when CALLBACK_URL is set: importing this file imports treq and PyJWT.
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
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from rtmp_twisted.integrations.errors import PeerError, describe
from rtmp_twisted.integrations.tokens import signed_token
from rtmp_twisted.integrations.validation import plain_address, stream_id_problem
from rtmp_twisted.live.authority import IPublishAuthority, Refused

#: Seconds for one request in all: connection, TLS, answer.
TIMEOUT = 15.0

#: Seconds before each further attempt to deliver a *stop*.
STOP_RETRY_DELAYS = (1.0, 3.0, 9.0)

#: Seconds that a shutdown waits for the requests that are under way.
SHUTDOWN_TIMEOUT = 20.0

#: Seconds for which a token is good.
TOKEN_LIFETIME = 120

#: Bytes of an answer, of which the body is thrown away; one that goes on beyond them loses its connection.
MAX_ANSWER = 128 * 1024

#: Idle connections kept to the application, and for how many seconds.
MAX_IDLE_CONNECTIONS = 8
IDLE_SECONDS = 60

_log = Logger()
_T = TypeVar("_T")


@implementer(IPublishAuthority)
class CallbackAuthority(Service):
    """Asks ``url`` whether a publish may start, and tells it of its end.

    ``end`` may be called until `stopService` has fired, and that waits for what is under way; so whatever ends the
    publishes at a shutdown must be stopped before this service is.

    ``client`` and ``clock`` replace the HTTP client and the reactor's time in tests; ``trust_root`` the system's
    roots for https; ``now`` gives the time of day in seconds, for the tokens.
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
        self._url = parsed.replace(userinfo=())  # type: ignore[arg-type]
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
        self._under_way: set[Deferred[Any]] = set()
        self._bodies: set[_IgnoredBody] = set()
        self._idle: Deferred[None] | None = None
        self._given_up = False

    def _make_client(self, trust_root: Any) -> HTTPClient:
        endpoints = _Endpoints(self._reactor, BrowserLikePolicyForHTTPS(trustRoot=trust_root), self._timeout)
        agent = Agent.usingEndpointFactory(self._reactor, endpoints, self._pool)
        no_cookies = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        return HTTPClient(agent, cookiejar=no_cookies)

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        return self._track(Deferred.fromCoroutine(self._ask(channel, key, client_ip)))

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        return self._track(Deferred.fromCoroutine(self._tell(channel, key, stream_id, client_ip)))

    def stopService(self) -> Deferred[None]:
        """Fires when all requests under way are done, or given up after ``shutdown_timeout`` seconds."""
        super().stopService()
        idle: Deferred[None] = Deferred()
        if self._under_way:
            self._idle = idle
            limit = self._clock.callLater(self._shutdown_timeout, self._give_up)
            idle.addCallback(lambda _: limit.cancel() if limit.active() else None)
        else:
            idle.callback(None)
        return idle.addCallback(self._close)

    def _give_up(self) -> None:
        self._given_up = True
        _log.error("shutting down without the end of {count} callback requests", count=len(self._under_way))
        for work in list(self._under_way):
            work.cancel()

    def _close(self, _: None) -> Deferred[None]:
        for body in list(self._bodies):
            body.drop()
        # The connection of the last answer goes back to the pool a moment after that answer.
        closed: Deferred[None] = deferLater(self._clock, 0, self._pool.closeCachedConnections)
        return closed

    def _track(self, work: Deferred[_T]) -> Deferred[_T]:
        outcome: Deferred[_T] = Deferred()
        self._under_way.add(work)
        # First the caller acts on the outcome, perhaps with a stop for a publisher that has left meanwhile; only
        # then is this request done. A shutdown that waits must not miss that stop.
        work.addBoth(_pass_on, outcome)
        work.addBoth(lambda _: self._done(work))
        return outcome

    def _done(self, work: Deferred[Any]) -> None:
        self._under_way.discard(work)
        if self._idle is not None and not self._under_way:
            idle, self._idle = self._idle, None
            idle.callback(None)

    async def _ask(self, channel: str, key: str, client_ip: str) -> str:
        try:
            response = await self._post("start", {"channel": channel, "key": key}, client_ip)
        except Exception as error:
            raise Refused(f"the callback could not be asked: {describe(error)}") from None
        if response.code != 200:
            raise Refused(f"the callback answered with status {response.code}")
        stream_id = _stream_id(response)
        problem = stream_id_problem(stream_id)
        if problem is not None:
            # The application has accepted and believes in a stream that will not be: so it gets its stop.
            self.end(channel, key, stream_id, client_ip)
            raise Refused(f"the callback answered with {problem}")
        return stream_id

    async def _tell(self, channel: str, key: str, stream_id: str, client_ip: str) -> None:
        claims = {"channel": channel, "key": key, "stream_id": stream_id}
        for delay in (*STOP_RETRY_DELAYS, None):
            problem = await self._try_stop(claims, client_ip)
            if not problem:
                return
            if delay is None or self._given_up:
                break
            _log.warn("a stop of channel {channel} failed: {problem}", channel=channel, problem=problem)
            try:
                await deferLater(self._clock, delay, lambda: None)
            except CancelledError:
                break
        _log.error("the stop of channel {channel} was given up: {problem}", channel=channel, problem=problem)

    async def _try_stop(self, claims: dict[str, str], client_ip: str) -> str:
        """Returns what went wrong, or an empty text."""
        try:
            response = await self._post("stop", claims, client_ip)
        except Exception as error:
            return describe(error)
        return "" if 200 <= response.code < 300 else f"status {response.code}"

    def _post(self, event: str, claims: dict[str, str], client_ip: str) -> Deferred[IResponse]:
        """One request; fires at the answer's head. The body follows under its own bounds and means nothing."""
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
        answer = self._client.post(
            self._url,
            headers=Headers({"rtmp-event": [token]}),
            auth=self._auth,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        answer.addTimeout(self._timeout, self._clock)
        return answer.addCallback(self._ignore_body)

    def _ignore_body(self, response: IResponse) -> IResponse:
        response.deliverBody(_IgnoredBody(self._bodies, self._clock, self._timeout))
        return response


def _pass_on(result: _T | Failure, outcome: Deferred[_T]) -> None:
    outcome.callback(result)


def _stream_id(response: IResponse) -> str:
    value: bytes = response.headers.getRawHeaders(b"stream-id", [b""])[0]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


@implementer(IAgentEndpointFactory)
@frozen
class _Endpoints:
    """How the application is reached: over TCP or TLS, by connections that take no endless answer."""

    reactor: Any
    policy: BrowserLikePolicyForHTTPS
    timeout: float

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self.reactor, uri.host, uri.port, timeout=self.timeout)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self.policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return _Endpoint(endpoint)


@implementer(IStreamClientEndpoint)
@frozen
class _Endpoint:
    endpoint: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        factory = WrappingFactory(protocolFactory)
        factory.protocol = _BoundedAnswer
        factory.noisy = False
        connected: Deferred[Any] = self.endpoint.connect(factory)
        return connected.addCallback(lambda connection: connection.wrappedProtocol)


class _BoundedAnswer(ProtocolWrapper):
    """Counts what is received from one request to the next."""

    _received = 0

    def write(self, data: bytes) -> None:
        self._received = 0
        super().write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._received = 0
        super().writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        super().dataReceived(data)
        if self._received > MAX_ANSWER:
            cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        endless = self._received > MAX_ANSWER
        super().connectionLost(Failure(PeerError("an endless answer")) if endless else reason)


class _IgnoredBody(Protocol):
    """Reads an answer's body so that its connection can be used again, up to a time."""

    def __init__(self, bodies: set[_IgnoredBody], clock: IReactorTime, timeout: float) -> None:
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
