"""How a publish gets a place that another node holds: it asks over Pub/Sub, and the holder gives its place up or says
that its publisher is live. Used by redis_directory.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rtmp_twisted.cluster.secret import ClusterSecret
from rtmp_twisted.cluster.store import PLACE_SECONDS, REFRESH_SECONDS, Place, Store
from rtmp_twisted.live.authority import Refused, RightKey
from rtmp_twisted.live.directory import Claim
from rtmp_twisted.peer_errors import PeerError

LOOK_SECONDS: Final = 0.5
"""How often a publish that waits for another node to give its place up looks whether it has."""


class TakeOvers:
    """``look`` finds out who has a channel now. ``seconds``: how long a holder may listen to its publisher."""

    def __init__(
        self,
        reactor: IReactorTime,
        store: Store,
        secret: ClusterSecret,
        seconds: float,
        look: Callable[[str], Awaitable[Place | None]],
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._secret = secret
        self._seconds = seconds
        self._look = look
        self._waiting: dict[str, list[Deferred[str]]] = {}

    async def ask(self, claim: Claim, key: str) -> None:
        """Returns when the place is free. Raises Refused, or RightKey."""
        channel, epoch = claim.channel, claim.epoch
        place = await self._look(channel)
        if place is None or place.epoch != epoch:
            return
        if not place.pulled and not self._secret.key(channel, epoch, place.digest).matches(key):
            raise Refused("the channel has a publisher")
        try:
            await self._store.tell(self._store.event("room", channel, epoch=epoch, token=self._secret.token(channel)))
        except PeerError:
            raise RightKey("the channel has a publisher on another node, and Redis does not answer") from None
        # A holder that has died loses its place in this time.
        deadline = self._reactor.seconds() + PLACE_SECONDS + REFRESH_SECONDS + self._seconds
        while self._reactor.seconds() < deadline:
            said = await self._told(channel)
            place = await self._look(channel)
            if place is None or place.epoch != epoch:
                return
            if said == "live":
                raise RightKey("the channel has a live publisher")
        raise RightKey("the channel has a publisher")

    def asks(self, event: dict[str, Any], channel: str, epoch: int) -> bool:
        """Whether an event asks for the place that was claimed with this epoch."""
        if event["event"] != "room" or event.get("epoch") != epoch:
            return False
        return isinstance(event.get("token"), str) and self._secret.signed(event["token"], channel)

    def heard(self, channel: str, kind: str) -> None:
        """A message has come about the channel."""
        for waiting in self._waiting.pop(channel, ()):
            waiting.callback(kind)

    def _told(self, channel: str) -> Deferred[str]:
        """Fires when a message comes about the channel, or after `LOOK_SECONDS`."""
        told: Deferred[str] = Deferred()
        self._waiting.setdefault(channel, []).append(told)

        def give_up() -> None:
            waiting = self._waiting.get(channel, [])
            if told in waiting:
                waiting.remove(told)
                if not waiting:
                    del self._waiting[channel]
                told.callback("")

        call = self._reactor.callLater(LOOK_SECONDS, give_up)

        def done(said: str) -> str:
            if call.active():
                call.cancel()
            return said

        return told.addCallback(done)
