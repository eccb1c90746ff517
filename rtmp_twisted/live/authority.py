"""The interface to the party that decides whether a publish may start.

integrations/ implements it (callback, coordinator), and `AcceptAll` here accepts everyone.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface, implementer


class Refused(Exception):
    """The publish may not start; ``str(error)`` is the reason for the log."""


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


@implementer(IPublishAuthority)
class AcceptAll:
    """Accepts every key, which becomes the stream's id."""

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        return succeed(key)

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        return succeed(None)
