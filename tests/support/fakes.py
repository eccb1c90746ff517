"""What many tests share: a command target that records, a reader of tokens, a log, and ways to wait."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from rtmp_twisted.live.commands import ICommandTarget

reactor: Any = _reactor

PATIENCE = 60.0
"""Seconds after which a wait has failed. Generous: it says nothing about how long things should take."""


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Waits until ``condition()`` is true. Fails after `PATIENCE`."""
    deadline = reactor.seconds() + PATIENCE
    while not condition():
        if reactor.seconds() > deadline:
            raise AssertionError(f"{what} did not come true")
        await deferLater(reactor, 0.005, lambda: None)


def within(deferred: Deferred[Any]) -> Deferred[Any]:
    """Returns ``deferred``, which fails after `PATIENCE`."""
    return deferred.addTimeout(PATIENCE, reactor)


@implementer(ICommandTarget)
class RecordingTarget:
    """A broker that only records what it is told. ``on_kill_all`` takes the place of the publishes that would end."""

    def __init__(self) -> None:
        self.kills: list[tuple[str, str | None]] = []
        self.kill_alls: list[str] = []
        self.on_air: set[str] = set()
        self.on_kill_all: Callable[[], None] = lambda: None

    def kill(self, channel: str, stream_id: str | None, reason: str) -> bool:
        self.kills.append((channel, stream_id))
        return channel in self.on_air

    def kill_all(self, reason: str) -> int:
        self.kill_alls.append(reason)
        self.on_kill_all()
        return len(self.on_air)


def read_token(token: str, secret: str) -> dict[str, Any]:
    """Returns the claims of a JWT, checked without a library: HS256 and nothing else (RFC 7515)."""
    head, payload, signature = token.split(".")
    expected = hmac.new(secret.encode(), f"{head}.{payload}".encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(_unbase64(signature), expected):
        raise AssertionError("the token's signature is wrong")
    header = json.loads(_unbase64(head))
    if header != {"alg": "HS256", "typ": "JWT"}:
        raise AssertionError(f"the token's header is {header}")
    claims: dict[str, Any] = json.loads(_unbase64(payload))
    return claims


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Log:
    """Everything that is logged while a test runs, as text."""

    def __init__(self, case: TestCase | Any) -> None:
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        case.addCleanup(globalLogPublisher.removeObserver, observer)

    def lines(self, level: LogLevel | Any = None) -> list[str]:
        """Returns the messages of this project, of one level or of all."""
        return [
            formatEvent(event)
            for event in self.events
            if str(event.get("log_namespace", "")).startswith("rtmp_twisted") and level in (None, event["log_level"])
        ]

    def everything(self) -> str:
        """Returns all that any observer could write, including other packages' events and tracebacks."""
        parts = []
        for event in self.events:
            parts.append(formatEvent(event))
            if "log_failure" in event:
                parts.append(event["log_failure"].getTraceback(detail="verbose"))
            parts.append(repr({key: value for key, value in event.items() if key != "log_failure"}))
        return "\n".join(parts)
