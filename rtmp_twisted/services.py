"""Services that stop one after the other. Used by tap.py."""

from __future__ import annotations

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

_log = Logger()


class SequentialService(MultiService):
    """Starts its services in order, and stops them in the opposite order, each when the one before has stopped.

    (`MultiService` stops all of them at once.) A service that fails to stop is logged, and the next one is stopped.
    """

    def stopService(self) -> Deferred[None]:
        self.running = 0
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                _log.failure("{service} did not stop as it should", service=type(service).__name__)
