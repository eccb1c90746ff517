"""Tokens that let somebody play one channel for some time: JSON Web Tokens, HS256. Made by tap.py where PLAY_SECRET is
set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import jwt
from zope.interface import implementer

from rtmp_twisted.live.authority import IPlayTokens, Refused, TokenExpired


@implementer(IPlayTokens)
class PlayTokens:
    """Reads tokens that are signed with ``secret`` and have the claims ``channel`` and ``exp`` (RFC 7519, section 4.1).
    ``now`` gives the time of day, in seconds since 1970."""

    def __init__(self, secret: str, now: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._now = now

    def seconds_left(self, token: str, channel: str) -> float:
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], options={"require": ["exp"], "verify_exp": False}
            )
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise Refused("the token is not valid") from None
        if claims.get("channel") != channel:
            raise Refused("the token is for another channel")
        expires = claims["exp"]
        if isinstance(expires, bool) or not isinstance(expires, (int, float)) or not math.isfinite(expires):
            raise Refused("the token is not valid")
        left = expires - self._now()
        if left <= 0:
            raise TokenExpired("the token has expired")
        return float(left)
