"""The commands that end publishes: the broker, as integrations/ and web/ see it."""

from __future__ import annotations

from zope.interface import Interface


class ICommandTarget(Interface):
    """Implemented by the broker. None of these calls raises."""

    def kill(channel: str, stream_id: str | None, reason: str) -> bool:
        """End what is publishing on ``channel``, if its stream id is ``stream_id`` (None: whatever it is).

        A publish that is still waiting for its answer is ended by None only. Tells whether one was ended;
        ``reason`` goes to the log.
        """

    def kill_all(reason: str) -> int:
        """End every publish, also those that wait for their answer; returns how many there were."""
