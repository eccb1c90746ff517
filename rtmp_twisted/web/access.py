"""Who may watch: what WEB_PLAY asks for, RTMP_PLAY_WHITELIST, and the limits for those who guess. Made by viewers.py.

A request becomes a `Visit`, which `Access.attempt` lets in or not. Only the publisher's key is left to be compared
then: by the broker, with the publish that is on air, or that comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from attrs import define, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web import http

from rtmp_twisted.live.authority import MAX_TOKEN, Refused, TokenExpired
from rtmp_twisted.rtmp.guessing import REFUSE_SECONDS, GuessingLimits
from rtmp_twisted.rtmp.names import MAX_QUERY_FIELDS, NameRules
from rtmp_twisted.settings_types import EVERYONE, Networks
from rtmp_twisted.web.answers import TOO_MANY_REQUESTS
from rtmp_twisted.web.paths import NoSuchPath, Target, parse

KEY: Final = "key"
TOKEN: Final = "token"
ANYONE: Final = "anyone"
"""The values of WEB_PLAY."""

_BUG: Final = "a bug, which refuses a viewer"


class Denied(Exception):
    """A request that is refused with HTTP status ``code``; ``str(error)`` says why, without what is secret."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Logged(Protocol):
    """Where bugs are logged."""

    def failure(self, message: str) -> None: ...


@define(eq=False)
class Visit:
    """What somebody at ``peer`` wants to see. ``query`` has the fields of the query string."""

    target: Target
    peer: str
    token: str | None
    query: dict[str, str]
    until: float | None = None
    """When a token expires, by the clock; None without one. Set by `Access.attempt`."""

    @property
    def secret(self) -> str:
        """What it is let in with: the key or the token."""
        return (self.target.key if self.token is None else self.token) or ""

    @property
    def key(self) -> str | None:
        """What the publisher's key has to be, None where it does not matter."""
        return None if self.token is not None else self.target.key


@frozen
class Access:
    """``mode`` is `KEY`, `TOKEN` or `ANYONE`; with `TOKEN` there are ``tokens`` (an `IPlayTokens`). ``players``: who
    may play."""

    clock: IReactorTime
    names: NameRules
    guessing: GuessingLimits
    mode: str = KEY
    tokens: Any = None
    players: Networks = EVERYONE

    def visit(self, uri: bytes, peer: str) -> Visit:
        """Reads a request's target. Raises NoSuchPath, or Denied where no key could help."""
        path, _, text = uri.partition(b"?")
        query = fields(text)
        if self.mode != TOKEN:
            return Visit(parse(path, self.names, self.mode == ANYONE, False), peer, None, query)
        token = query.get("token")
        target = parse(path, self.names, token is not None, True)
        token = target.key if token is None else token
        if not token or len(token) > MAX_TOKEN:
            raise NoSuchPath("it has no token, or one that is too long")
        return Visit(target, peer, token, query)

    def attempt(self, visit: Visit, log: Logged, then: Callable[[Denied | None], None]) -> IDelayedCall | None:
        """Calls ``then`` with the reason why a visit is refused, or with None, at once or after the wait of those who
        have failed before; that wait is returned, and may be cancelled. ``then`` has to count a wrong key (`fail`)."""
        if visit.peer not in self.players:
            then(Denied(http.FORBIDDEN, "this address may not watch"))
            return None
        if not visit.secret:
            then(self._judge(visit))
            return None

        def judged(refused: bool) -> None:
            then(too_many_guesses() if refused else self._judge(visit))

        def bug() -> None:
            log.failure(_BUG)
            then(Denied(http.INTERNAL_SERVER_ERROR, "internal error"))

        return self.guessing.attempt(visit.peer, visit.target.channel, visit.secret, judged, bug)

    def fail(self, visit: Visit) -> None:
        """Its key is not the publisher's."""
        self.guessing.fail("play", visit.peer, visit.target.channel, visit.secret)

    def _judge(self, visit: Visit) -> Denied | None:
        if visit.token is None:
            return None
        try:
            left = self.tokens.seconds_left(visit.token, visit.target.channel)
        except TokenExpired as expired:
            return Denied(http.FORBIDDEN, str(expired))
        except Refused as refusal:
            self.fail(visit)
            return Denied(http.FORBIDDEN, str(refusal))
        visit.until = self.clock.seconds() + left
        return None


def too_many_guesses() -> Denied:
    """For an address that is refused for a while."""
    reason = f"too many wrong keys from this address, try again in {REFUSE_SECONDS:.0f} s"
    return Denied(TOO_MANY_REQUESTS, reason)


def fields(query: bytes) -> dict[str, str]:
    """The fields of a query string; none where it has too many, or is not text."""
    try:
        return dict(parse_qsl(query.decode(), max_num_fields=MAX_QUERY_FIELDS))
    except ValueError:
        return {}
