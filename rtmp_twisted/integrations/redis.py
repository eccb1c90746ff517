"""Commands from Redis Pub/Sub: a service that subscribes to one channel, and ends publishes when it is told to.

`parse_command` is pure. tap.py makes a `RedisCommands` only when REDIS_USE is on. The connection is
redis_connection.py's.
"""

from __future__ import annotations

from functools import partial
from random import Random

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtmp_twisted.live.commands import ICommandTarget
from rtmp_twisted.redis_connection import RedisAddress, RedisSubscription

MAX_COMMAND = 8192
"""Longest message, in bytes, that is parsed. A longer one is ignored."""

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


class RedisCommands(RedisSubscription):
    """Subscribes to ``channel`` and executes its commands on ``target``, for as long as the service runs. ``connected``
    is whether commands are received now.

    In tests, ``clock`` replaces the reactor's time. Raises ValueError if the address's ``tls_ca`` cannot be used.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        target: ICommandTarget,
        random: Random,
        address: RedisAddress,
        channel: str,
        clock: IReactorTime | None = None,
    ) -> None:
        super().__init__(reactor, random, address, channel, partial(apply_message, target=target), clock)
