"""All workers as one: what commands from elsewhere end on them. The supervisor's counterpart of the broker."""

from __future__ import annotations

from zope.interface import implementer

from rtmp_twisted.cluster.supervisor import Supervisor
from rtmp_twisted.live.commands import ICommandTarget


@implementer(ICommandTarget)
class Fleet:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def kill(self, channel: str, stream_id: str | None, reason: str) -> bool:
        """Every worker is told; whether there was such a publish, the supervisor knows."""
        self._supervisor.tell_all("kill", channel=channel, stream_id=stream_id, reason=reason)
        return self._supervisor.starts.has(channel, stream_id) or self._pulled(channel, stream_id)

    def kill_all(self, reason: str) -> int:
        self._supervisor.tell_all("kill_all", reason=reason)
        pulled = sum(claimed.pulled for claimed in self._supervisor.places if claimed.elsewhere is None)
        return len(self._supervisor.starts) + self._supervisor.starts.asking + pulled

    def _pulled(self, channel: str, stream_id: str | None) -> bool:
        claimed = self._supervisor.places.find(channel)
        if claimed is None or claimed.elsewhere is not None:
            return False
        return claimed.pulled and stream_id in (None, claimed.stream_id)
