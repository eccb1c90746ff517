"""Commands from Redis Pub/Sub: a service that subscribes to one channel, and ends publishes when it is told to.

`parse_command` is pure. tap.py makes a `RedisCommands` only when REDIS_USE is on: importing this module imports
txredisapi. That library parses the protocol. Connecting, TLS, AUTH and reconnecting are done here and in
reconnecting.py, because the library gives up after a refused password, and logs the server's answer to it.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import txredisapi
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtmp_twisted.live.commands import ICommandTarget
from rtmp_twisted.peer_errors import PeerError, describe
from rtmp_twisted.reconnecting import OPENING_TIMEOUT, OneShotEvent, ReconnectingClient, abort_and_wait

MAX_COMMAND = 8192
"""Longest message, in bytes, that is parsed. A longer one is ignored."""

MAX_UNFINISHED = 1024 * 1024
"""Bytes that may arrive without completing a reply before the connection is closed."""

PING_INTERVAL = 20.0
"""Seconds between two PINGs. Redis answers each, also to a subscriber, so a half-open connection is noticed."""

MAX_SILENCE = 50.0
"""Seconds without any reply after which the connection counts as dead. Checked at each PING."""

_ERROR_CODES = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "MASTERDOWN", "DENIED"})
"""Codes of Redis errors that may be logged. The rest of an error can repeat what was sent, even a password."""

_log = Logger()


@frozen
class Kill:
    """Ends whatever is publishing on ``channel``; if ``stream_id`` is given, only a publish with that stream id."""

    channel: str
    stream_id: str | None = None


def parse_command(text: str) -> Kill | None:
    """Parses one message, ``COMMAND>ARG_1|ARG_2|...``. Returns None if it is no command that this server knows.

    The command may be in any case, and have blanks around it. Further arguments and a line feed at the end are ignored.
    """
    command, separator, rest = text.rstrip("\r\n").partition(">")
    arguments = rest.split("|")
    if not separator:
        return None
    match command.strip().lower():
        case "kill-session":
            return Kill(arguments[0])
        case "close-stream" if len(arguments) >= 2:
            return Kill(arguments[0], arguments[1])
    return None


def apply_message(message: object, target: ICommandTarget) -> None:
    """Executes one message from the Pub/Sub channel. Ignores anything that is not a command. Never raises."""
    if not isinstance(message, bytes) or len(message) > MAX_COMMAND:
        _log.debug("a message on the Redis channel was ignored: too long")
        return
    try:
        command = parse_command(message.decode())
    except UnicodeDecodeError:
        command = None
    if command is None:
        # The text is not logged: a mistyped command holds a stream id, which may be a key.
        _log.debug("a message on the Redis channel was ignored: {size} bytes, not a command", size=len(message))
        return
    ended = target.kill(command.channel, command.stream_id, "command from Redis")
    _log.info(
        "Redis: {command} for channel {channel!r}: {result}",
        command="kill-session" if command.stream_id is None else "close-stream",
        channel=command.channel[:200],
        result="ended" if ended else "nothing to end",
    )


class _Subscriber(txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """One connection to Redis. Malformed input never raises; it closes the connection."""

    def __init__(self, target: ICommandTarget, clock: IReactorTime) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.lost = OneShotEvent()
        self._target = target
        self._clock = clock
        self._heard_at = clock.seconds()
        self._unfinished = 0
        self._pings = LoopingCall(self._ping)
        self._pings.clock = clock
        self._problem: str | None = None

    async def prepare(self, username: str, password: str, channel: str) -> None:
        """Logs in, if there is a user name or a password, and subscribes. Raises `PeerError` if refused."""
        if username or password:
            await self._ask("AUTH", self.auth(password, username))
        await self._ask("SUBSCRIBE", self.subscribe(channel))
        self._pings.start(PING_INTERVAL, now=False)

    async def _ask(self, command: str, reply: Deferred[object]) -> None:
        try:
            await reply
        except txredisapi.ResponseError as error:
            code = str(error).partition(" ")[0]
            raise PeerError(f"{command} was refused" + (f" ({code})" if code in _ERROR_CODES else "")) from None
        except txredisapi.ConnectionError:
            raise PeerError(self.lost.reason or "connection closed") from None

    def close(self) -> None:
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def _ping(self) -> None:
        if self._clock.seconds() - self._heard_at >= MAX_SILENCE:
            self._fail("no answer to PING")
        else:
            self.ping().addErrback(lambda _: None)

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem
        self.abort()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        # With `unpause`, the library passes data that has been counted already.
        self._unfinished += 0 if unpause else len(data)
        if self._unfinished > MAX_UNFINISHED:
            self._fail("an endless reply")
            return
        try:
            super().dataReceived(data, unpause)
        except Exception as error:
            self._fail(f"not the Redis protocol ({describe(error)})")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._fail("an endless line")

    def replyReceived(self, reply: object) -> None:
        self._heard_at = self._clock.seconds()
        self._unfinished = 0
        # If no command waits for a reply, only a message means anything. The library would store anything else.
        if self.replyQueue.waiting or (isinstance(reply, list) and len(reply) == 3):
            super().replyReceived(reply)

    def messageReceived(self, pattern: object, channel: object, message: object) -> None:
        apply_message(message, self._target)

    def connectionLost(self, reason: Failure) -> None:
        if self._pings.running:
            self._pings.stop()
        self.lost.happen(self._problem or describe(reason))
        super().connectionLost(reason)


class _SubscriberFactory(Factory):
    noisy = False

    def __init__(self, target: ICommandTarget, clock: IReactorTime) -> None:
        self._target = target
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> _Subscriber:
        protocol = _Subscriber(self._target, self._clock)
        protocol.factory = self
        return protocol


class RedisCommands(ReconnectingClient[_Subscriber]):
    """Subscribes to ``channel`` and executes its commands on ``target``, for as long as the service runs.

    With ``tls``, the server's certificate must be for ``host`` and be signed by one of the system's root certificates,
    or by one in the PEM file ``tls_ca`` if that is given. ``connected`` is whether commands are received now.

    In tests, ``clock`` replaces the reactor's time. Raises ValueError if ``tls_ca`` cannot be used.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        target: ICommandTarget,
        random: Random,
        *,
        host: str,
        port: int,
        channel: str,
        username: str = "",
        password: str = "",
        tls: bool = False,
        tls_ca: str = "",
        clock: IReactorTime | None = None,
    ) -> None:
        super().__init__(f"Redis at {host}:{port}", clock or reactor, random)
        endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, host, port, timeout=OPENING_TIMEOUT)
        if tls:
            trust_root = read_trust_root(tls_ca) if tls_ca else None
            endpoint = wrapClientTLS(optionsForClientTLS(host, trustRoot=trust_root), endpoint)
        self._endpoint = endpoint
        self._factory = _SubscriberFactory(target, self.clock)
        self._username = username
        self._password = password
        self._channel = channel

    async def open(self) -> _Subscriber:
        subscriber = cast(_Subscriber, await self._endpoint.connect(self._factory))
        try:
            await subscriber.prepare(self._username, self._password, self._channel)
        except BaseException:
            await abort_and_wait(subscriber)
            raise
        return subscriber


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
