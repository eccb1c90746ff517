"""Connections to Redis: opened over TCP or TLS, logged in to, watched, and made again. Used by integrations/redis.py
and cluster/.

txredisapi parses the protocol. Connecting, TLS, AUTH and reconnecting are done here and in reconnecting.py, because the
library gives up after a refused password, and logs the server's answer to it. Importing this module imports the
library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Generic, TypeVar, cast

import txredisapi
from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from rtmp_twisted.peer_errors import PeerError, describe
from rtmp_twisted.reconnecting import OPENING_TIMEOUT, OneShotEvent, ReconnectingClient, abort_and_wait

MAX_UNFINISHED = 1024 * 1024
"""Bytes that may arrive without completing a reply before the connection is closed."""

PING_INTERVAL = 20.0
"""Seconds between two PINGs. Redis answers each, also to a subscriber, so a half-open connection is noticed."""

MAX_SILENCE = 50.0
"""Seconds without any reply after which the connection counts as dead. Checked at each PING."""

_ERROR_CODES = frozenset(
    {"WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "MASTERDOWN", "DENIED", "READONLY", "OOM", "DEAD"}
)
"""Codes of Redis errors that may be logged. The rest of an error can repeat what was sent, even a password."""


@frozen
class RedisAddress:
    """Where Redis is, and how to log in. With ``tls``, the server's certificate must be for ``host`` and be signed by
    one of the system's root certificates, or by one in the PEM file ``tls_ca`` if that is given."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    tls_ca: str = ""

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Raises ValueError, with one line for users, if ``tls_ca`` cannot be used."""
        endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, self.host, self.port, timeout=OPENING_TIMEOUT)
        if self.tls:
            trust_root = read_trust_root(self.tls_ca) if self.tls_ca else None
            endpoint = wrapClientTLS(optionsForClientTLS(self.host, trustRoot=trust_root), endpoint)
        return endpoint


class _Watched(txredisapi.RedisProtocol):  # type: ignore[misc]
    """One connection to Redis. Malformed input never raises; it closes the connection."""

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.lost = OneShotEvent()
        self.clock = clock
        self._heard_at = clock.seconds()
        self._unfinished = 0
        self._pings = LoopingCall(self._ping)
        self._pings.clock = clock
        self._problem: str | None = None

    async def log_in(self, address: RedisAddress) -> None:
        """Sends AUTH if there is a user name or a password, and begins to watch. Raises PeerError if refused."""
        if address.username or address.password:
            await self.ask("AUTH", self.auth(address.password, address.username))
        self._pings.start(PING_INTERVAL, now=False)

    async def ask(self, command: str, reply: Deferred[Any]) -> Any:
        """The reply to a command. Raises PeerError, with no word of what was sent."""
        try:
            return await reply
        except txredisapi.ResponseError as error:
            code = str(error).partition(" ")[0]
            raise PeerError(f"{command} was refused" + (f" ({code})" if code in _ERROR_CODES else "")) from None
        except txredisapi.RedisError:
            raise PeerError(self.lost.reason or self._problem or "connection closed") from None

    def close(self) -> None:
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def fail(self, problem: str) -> None:
        """Closes the connection at once, for a reason that is shown."""
        self._problem = self._problem or problem
        self.abort()

    def _ping(self) -> None:
        if self.clock.seconds() - self._heard_at >= MAX_SILENCE:
            self.fail("no answer to PING")
        else:
            self.ping().addErrback(lambda _: None)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        # With `unpause`, the library passes data that has been counted already.
        self._unfinished += 0 if unpause else len(data)
        if self._unfinished > MAX_UNFINISHED:
            self.fail("an endless reply")
            return
        try:
            super().dataReceived(data, unpause)
        except Exception as error:
            self.fail(f"not the Redis protocol ({describe(error)})")

    def lineLengthExceeded(self, line: bytes) -> None:
        self.fail("an endless line")

    def expected(self, reply: object) -> bool:
        """Whether a reply means anything. The library would store anything else."""
        return bool(self.replyQueue.waiting)

    def replyReceived(self, reply: object) -> None:
        self._heard_at = self.clock.seconds()
        self._unfinished = 0
        if self.expected(reply):
            super().replyReceived(reply)

    def connectionLost(self, reason: Failure) -> None:
        if self._pings.running:
            self._pings.stop()
        self.lost.happen(self._problem or describe(reason))
        super().connectionLost(reason)


class RedisCommander(_Watched):
    """A connection for commands."""


class RedisSubscriber(_Watched, txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """A connection on which messages come; ``received`` gets each, of whatever type the server has sent."""

    def __init__(self, clock: IReactorTime, received: Callable[[object], None]) -> None:
        super().__init__(clock)
        self._received = received

    def expected(self, reply: object) -> bool:
        return super().expected(reply) or (isinstance(reply, list) and len(reply) == 3)

    def messageReceived(self, pattern: object, channel: object, message: object) -> None:
        self._received(message)


P = TypeVar("P", bound=_Watched)


class RedisClient(ReconnectingClient[P], Generic[P]):
    """Keeps one connection, for as long as the service runs. Subclasses say of which kind.

    In tests, ``clock`` replaces the reactor's time. Raises ValueError if the address's ``tls_ca`` cannot be used.
    """

    def __init__(
        self, reactor: IReactorTime, random: Random, address: RedisAddress, clock: IReactorTime | None = None
    ) -> None:
        super().__init__(f"Redis at {address.host}:{address.port}", clock or reactor, random)
        self._address = address
        self._endpoint = address.endpoint(reactor)

    def make(self) -> P:
        """Returns the protocol of a new connection."""
        raise NotImplementedError

    async def prepare(self, connection: P) -> None:
        """Makes a connection that is logged in ready for use. Raises PeerError."""

    async def open(self) -> P:
        connection = cast(P, await self._endpoint.connect(_Makes(self.make)))
        try:
            await connection.log_in(self._address)
            await self.prepare(connection)
        except BaseException:
            await abort_and_wait(connection)
            raise
        return connection


class RedisSubscription(RedisClient[RedisSubscriber]):
    """Subscribes to ``channel``; ``received`` is called with each message, and must not raise."""

    def __init__(
        self,
        reactor: IReactorTime,
        random: Random,
        address: RedisAddress,
        channel: str,
        received: Callable[[object], None],
        clock: IReactorTime | None = None,
    ) -> None:
        super().__init__(reactor, random, address, clock)
        self._channel = channel
        self._received = received

    def make(self) -> RedisSubscriber:
        return RedisSubscriber(self.clock, self._received)

    async def prepare(self, connection: RedisSubscriber) -> None:
        await connection.ask("SUBSCRIBE", connection.subscribe(self._channel))


class _Makes(Factory):
    noisy = False

    def __init__(self, make: Callable[[], _Watched]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> _Watched:
        protocol = self._make()
        protocol.factory = self
        return protocol


def read_trust_root(path: str) -> Any:
    """Returns the certificates in the PEM file ``path`` as a trust root. Raises ValueError, with one line for users."""
    marker = "-----END CERTIFICATE-----"
    try:
        pems = [part + marker for part in Path(path).read_text().split(marker)[:-1]]
        certificates = [Certificate.loadPEM(pem.encode()) for pem in pems]
    except Exception as error:
        raise ValueError(f"{path} cannot be read as PEM certificates ({type(error).__name__})") from None
    if not certificates:
        raise ValueError(f"{path} holds no PEM certificate")
    return trustRootFromCertificates(certificates)
