"""What the supervisor keeps of its workers' publishes: who has which channel, and which accepted starts have not ended.

So when a worker dies, its channels are free, and each of its accepted starts has one end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from rtmp_twisted.cluster.directory import Place
from rtmp_twisted.cluster.keys import digest
from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.broker import STOP_SECONDS


@frozen
class Claimed:
    """A channel's place. ``digest`` is its key's, None where players may have any."""

    channel: str
    epoch: int
    worker: int
    pulled: bool
    digest: str | None
    stream_id: str
    elsewhere: Place | None = None
    """The other machine's place that this worker is to pull the channel from, for all."""

    def told(self) -> dict[str, Any]:
        """What workers are told of it."""
        told: dict[str, Any] = {
            "epoch": self.epoch,
            "worker": self.worker,
            "pulled": self.pulled,
            "digest": self.digest,
        }
        if self.elsewhere is not None:
            node = self.elsewhere.worker
            told["node"] = node.name, node.address, self.elsewhere.epoch
        return told


class Places:
    """``changed`` is called with each channel that is claimed, or (None) given back."""

    def __init__(self, secret: bytes, changed: Callable[[str, Claimed | None], None]) -> None:
        self._secret = secret
        self._changed = changed
        self._claims: dict[str, Claimed] = {}
        self._epoch = 0

    def __iter__(self) -> Iterator[Claimed]:
        return iter(list(self._claims.values()))

    def find(self, channel: str) -> Claimed | None:
        return self._claims.get(channel)

    def claim(self, worker: int, channel: str, pulled: bool, key: str | None, stream_id: str) -> dict[str, Any]:
        """Returns the epoch, or who has the place."""
        taken = self._claims.get(channel)
        if taken is not None and taken.elsewhere is None:
            return {"taken": taken.told()}
        self._epoch += 1
        epoch = self._epoch
        text = None if key is None else digest(self._secret, channel, epoch, key)
        self._put(Claimed(channel, epoch, worker, pulled, text, stream_id))
        return {"epoch": epoch}

    def put_elsewhere(self, channel: str, worker: int | None, place: Place | None) -> None:
        """Where another machine has a channel, and which worker is to pull it from there; None for none. Does nothing
        where a worker has the channel."""
        known = self._claims.get(channel)
        if known is not None and known.elsewhere is None:
            return
        if place is None or worker is None:
            if known is not None:
                self.release(known.worker, channel, known.epoch)
        elif known is None or known.elsewhere != place or known.worker != worker:
            self._epoch += 1
            text = None if place.key is None else place.key.digest
            self._put(Claimed(channel, self._epoch, worker, place.pulled, text, "", place))

    def release(self, worker: int, channel: str, epoch: int) -> None:
        """Does nothing where the place is not, or no longer, held by this worker with this epoch."""
        claimed = self._claims.get(channel)
        if claimed is not None and claimed.worker == worker and claimed.epoch == epoch:
            del self._claims[channel]
            self._changed(channel, None)

    def _put(self, claimed: Claimed) -> None:
        self._claims[claimed.channel] = claimed
        self._changed(claimed.channel, claimed)

    def lost(self, worker: int) -> None:
        """The worker has died."""
        for claimed in self:
            if claimed.worker == worker:
                self.release(worker, claimed.channel, claimed.epoch)


@frozen
class _Start:
    worker: object
    channel: str
    key: str
    stream_id: str
    client_ip: str


class Starts:
    """Asks the authority for workers, which are any objects, and tells it each end once."""

    def __init__(self, clock: IReactorTime, authority: Any) -> None:
        self._clock = clock
        self._authority = authority
        self._numbers = count(1)
        self._accepted: dict[int, _Start] = {}
        self._ending: dict[str, Deferred[None]] = {}
        self._asking: Counter[str] = Counter()
        self._gone: set[object] = set()  # workers that died while something of theirs was asked

    def __len__(self) -> int:
        """Accepted starts that have not ended."""
        return len(self._accepted)

    @property
    def asking(self) -> int:
        """How many starts wait for their answer."""
        return self._asking.total()

    def has(self, channel: str, stream_id: str | None) -> bool:
        """Whether a start with this id has been accepted, or (None) any start has been accepted or waits."""
        if stream_id is None and self._asking[channel]:
            return True
        starts = self._accepted.values()
        return any(start.channel == channel and stream_id in (None, start.stream_id) for start in starts)

    def start(self, worker: object, channel: str, key: str, client_ip: str) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._start(worker, channel, key, client_ip))

    async def _start(self, worker: object, channel: str, key: str, client_ip: str) -> dict[str, Any]:
        self._asking[channel] += 1
        try:
            await self._previous_end(channel)
            stream_id: str = await self._authority.start(channel, key, client_ip)
        except Refused as refusal:
            return {"refused": str(refusal)}
        finally:
            self._asking[channel] -= 1
            if not self._asking[channel]:
                del self._asking[channel]
        number = next(self._numbers)
        self._accepted[number] = _Start(worker, channel, key, stream_id, client_ip)
        if worker in self._gone:
            self.end(number)
        return {"number": number, "stream_id": stream_id}

    def end(self, number: int) -> Deferred[None]:
        """An accepted start has ended. Fires when the authority knows."""
        start = self._accepted.pop(number, None)
        if start is None:
            return succeed(None)
        telling = self._authority.end(start.channel, start.key, start.stream_id, start.client_ip)
        told: Deferred[None] = Deferred()
        self._ending[start.channel] = told

        def done(result: Any) -> None:
            if self._ending.get(start.channel) is told:
                del self._ending[start.channel]
            told.callback(None)
            if isinstance(result, Failure):
                raise RuntimeError("the authority's end failed") from result.value

        telling.addBoth(done)
        waiting: Deferred[None] = Deferred()
        told.addCallback(lambda _: waiting.callback(None))
        return waiting

    def lost(self, worker: object) -> None:
        """The worker has died: what it had started has ended."""
        self._gone.add(worker)
        for number, start in list(self._accepted.items()):
            if start.worker is worker:
                self.end(number)

    async def _previous_end(self, channel: str) -> None:
        """Returns when the authority knows of the channel's last end, or has had time enough for it."""
        telling = self._ending.get(channel)
        if telling is not None:
            waiting: Deferred[None] = Deferred()
            telling.addCallback(lambda _: waiting.callback(None))
            limit: Deferred[None] = Deferred()
            call = self._clock.callLater(STOP_SECONDS, limit.callback, None)
            await DeferredList([waiting, limit], fireOnOneCallback=True)
            if call.active():
                call.cancel()
