"""The interfaces to the parties that decide who may publish, and who may play.

integrations/ implements them (callback, coordinator; tokens), and `AcceptAll` here accepts every publish.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface, implementer


class Refused(Exception):
    """The publish, or the player, may not start; ``str(error)`` is the reason for the log."""


class RightKey(Refused):
    """It may not start, although its key is the publisher's. Whoever has it is no guesser."""


class TokenExpired(Refused):
    """The token was right, and is not any more. Whoever has it is no guesser."""


class IPublishAuthority(Interface):
    """Decides on each publish, and is told of its end. Called by the broker only."""

    def start(channel: str, key: str, client_ip: str) -> Deferred[str]:
        """Ask whether this publish may start.

        Fires with the stream id (any text, perhaps empty), or fails with `Refused`. It always fires, within a
        bound of its own; the broker never cancels it. Where it accepts, `end` is called exactly once.
        """

    def end(channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        """An accepted publish has ended, whatever ended it.

        Fires when the other side knows, or when telling it was given up (which is logged there). Never fails.
        """


MAX_TOKEN: Final = 2048
"""Bytes of the longest token."""


class IPlayTokens(Interface):
    """Reads the tokens that let somebody play without the key. Called by rtmp/ and web/."""

    def seconds_left(token: str, channel: str) -> float:
        """For how many seconds a token, of at most `MAX_TOKEN` bytes, lets its bearer play a channel. Raises
        `Refused`."""


@implementer(IPublishAuthority)
class AcceptAll:
    """Accepts every key, which becomes the stream's id."""

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        return succeed(key)

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        return succeed(None)
