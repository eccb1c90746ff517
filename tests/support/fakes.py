"""What the tests of outside/ share: a command target that records, a token reader, a log, and waiting."""

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

#: Seconds after which a wait has failed. Generous: it says nothing of how long things should take.
PATIENCE = 60.0


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until ``condition()`` is true; fails after `PATIENCE`."""
    deadline = reactor.seconds() + PATIENCE
    while not condition():
        if reactor.seconds() > deadline:
            raise AssertionError(f"{what} did not come true")
        await deferLater(reactor, 0.005, lambda: None)


def within(deferred: Deferred[Any]) -> Deferred[Any]:
    """``deferred``, which fails after `PATIENCE`."""
    return deferred.addTimeout(PATIENCE, reactor)


@implementer(ICommandTarget)
class RecordingTarget:
    """A broker that only writes down what it is told. ``on_kill_all`` is called too, as the real one ends publishes."""

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
    """The claims of a JWT, checked by hand: HS256 and nothing else (RFC 7515)."""
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
        """The messages, of one level or all; those of this project only."""
        return [
            formatEvent(event)
            for event in self.events
            if str(event.get("log_namespace", "")).startswith("rtmp_twisted") and level in (None, event["log_level"])
        ]

    def everything(self) -> str:
        """All that any observer could write, other packages' events and tracebacks included."""
        parts = []
        for event in self.events:
            parts.append(formatEvent(event))
            if "log_failure" in event:
                parts.append(event["log_failure"].getTraceback(detail="verbose"))
            parts.append(repr({key: value for key, value in event.items() if key != "log_failure"}))
        return "\n".join(parts)
