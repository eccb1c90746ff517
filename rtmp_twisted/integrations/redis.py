"""Commands from Redis Pub/Sub: a service that subscribes to one channel and ends publishes when told to.

`parse_command` is pure. `RedisCommands` is made by tap.py, only when REDIS_USE is on: importing this file imports
txredisapi. That library speaks the protocol; connecting, TLS, AUTH and coming back are done here (link.py), because
its own give up after a refused password and put the server's answer to it into the log.
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

from rtmp_twisted.integrations.errors import PeerError, describe
from rtmp_twisted.integrations.reconnecting import OPENING_TIMEOUT, OneShotEvent, ReconnectingClient, aborted
from rtmp_twisted.live.commands import ICommandTarget

#: Longest message, in bytes, that is looked at; a longer one is ignored.
MAX_COMMAND = 8192

#: Bytes that may arrive without completing a reply before the connection is dropped.
MAX_UNFINISHED = 1024 * 1024

#: Seconds between two PINGs, and the silence after which the connection counts as dead: Redis answers each PING,
#: also to a subscriber, so that a half-open connection is noticed.
PING_INTERVAL = 20.0
MAX_SILENCE = 50.0

#: The server's error codes that may be shown. The rest of an error can repeat what was sent, a password included.
_ERROR_CODES = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "MASTERDOWN", "DENIED"})

_log = Logger()


@frozen
class Kill:
    """End what is publishing on ``channel``; where ``stream_id`` is given, only if that is its stream id."""

    channel: str
    stream_id: str | None = None


def parse_command(text: str) -> Kill | None:
    """Read one message, ``COMMAND>ARG_1|ARG_2|...``; None if it is not a command that this server knows.

    The command's case does not matter, nor do blanks around it, further arguments, or a line feed at the end.
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
    """Do what a message from the Pub/Sub channel says; anything that is not a command is ignored."""
    if not isinstance(message, bytes) or len(message) > MAX_COMMAND:
        _log.debug("a message on the Redis channel was ignored: too long")
        return
    try:
        command = parse_command(message.decode())
    except UnicodeDecodeError:
        command = None
    if command is None:
        # Not shown: a mistyped command holds a stream id, which may be a key.
        _log.debug("a message on the Redis channel was ignored: {size} bytes, not a command", size=len(message))
        return
    ended = target.kill(command.channel, command.stream_id, "command from Redis")
    _log.info(
        "Redis: {what} on channel {channel}: {result}",
        what="kill-session" if command.stream_id is None else "close-stream",
        channel=command.channel,
        result="ended" if ended else "nothing to end",
    )


class _Subscriber(txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """One connection to Redis. Whatever arrives, it raises nothing; what cannot be understood ends it."""

    def __init__(self, target: ICommandTarget, clock: IReactorTime) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.lost = OneShotEvent()
        self._target = target
        self._clock = clock
        self._heard = clock.seconds()
        self._unfinished = 0
        self._watch = LoopingCall(self._check)
        self._watch.clock = clock
        self._problem: str | None = None

    async def prepare(self, username: str, password: str, channel: str) -> None:
        """Log in, where there is something to log in with, and subscribe. Raises `PeerError` when refused."""
        if username or password:
            await self._ask("AUTH", self.auth(password, username))
        await self._ask("SUBSCRIBE", self.subscribe(channel))
        self._watch.start(PING_INTERVAL, now=False)

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

    def _check(self) -> None:
        if self._clock.seconds() - self._heard >= MAX_SILENCE:
            self._give_up("the server has fallen silent")
        else:
            self.ping().addErrback(lambda _: None)

    def _give_up(self, problem: str) -> None:
        self._problem = self._problem or problem
        self.abort()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        # The library calls this again with what it had put aside.
        self._unfinished += 0 if unpause else len(data)
        if self._unfinished > MAX_UNFINISHED:
            self._give_up("an endless reply")
            return
        try:
            super().dataReceived(data, unpause)
        except Exception as error:
            self._give_up(f"not the Redis protocol ({describe(error)})")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._give_up("an endless line")

    def replyReceived(self, reply: object) -> None:
        self._heard = self._clock.seconds()
        self._unfinished = 0
        # Without a command that waits for it, only a message means anything; the library would store the rest.
        if self.replyQueue.waiting or (isinstance(reply, list) and len(reply) == 3):
            super().replyReceived(reply)

    def messageReceived(self, pattern: object, channel: object, message: object) -> None:
        apply_message(message, self._target)

    def connectionLost(self, reason: Failure) -> None:
        if self._watch.running:
            self._watch.stop()
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
    """Subscribes to ``channel`` and applies what arrives to ``target``, for as long as the service runs.

    With ``tls`` the server's certificate must be for ``host`` and be signed by one of the system's roots, or by one
    in the PEM file ``tls_ca`` where that is given. ``connected`` tells whether commands are heard right now.

    ``clock`` is the reactor unless a test says otherwise. Raises ValueError when ``tls_ca`` cannot be used.
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
            await aborted(subscriber)
            raise
        return subscriber


def read_trust_root(path: str) -> Any:
    """The certificates in the PEM file ``path``, as roots to trust; raises ValueError with one clear line."""
    marker = "-----END CERTIFICATE-----"
    try:
        pems = [part + marker for part in Path(path).read_text().split(marker)[:-1]]
        certificates = [Certificate.loadPEM(pem.encode()) for pem in pems]
    except Exception as error:
        raise ValueError(f"{path} cannot be read as PEM certificates ({type(error).__name__})") from None
    if not certificates:
        raise ValueError(f"{path} holds no PEM certificate")
    return trustRootFromCertificates(certificates)
