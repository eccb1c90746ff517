"""A node of a cluster that is several workers: the supervisor's part. Made by tap.py.

What a worker claims is claimed in Redis first, by the supervisor's one directory (redis_directory.py), and only then in
its places. What another node has is told to the workers as if one of them had it: the first one that wanted it, which
alone pulls it from there. The others pull it from that one, as they pull everything.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList

from rtmp_twisted.cluster.directory import allowed, refusal
from rtmp_twisted.cluster.nodes import ClusterNode
from rtmp_twisted.cluster.places import Claimed
from rtmp_twisted.cluster.process import Worker
from rtmp_twisted.cluster.supervisor import Supervisor
from rtmp_twisted.live.broker import when_fired
from rtmp_twisted.live.directory import Claim, Key, Taken


@frozen(eq=False)
class WorkerPublish:
    """A publish on a worker, as the directory needs it (`redis_directory.Published`)."""

    worker: Worker
    channel: str
    key: str
    stream_id: str
    client_ip: str
    pulled: bool
    play_key: Key | str | None


class NodeOfWorkers:
    """It is the directory's `redis_directory.Publishes`."""

    def __init__(self, node: ClusterNode, supervisor: Supervisor) -> None:
        self._directory = node.directory
        self._supervisor = supervisor
        self._places = supervisor.places
        self._claims: dict[str, Claim] = {}  # of what workers have
        self._claiming: dict[Worker, set[Deferred[Any]]] = {}
        self._wants: dict[str, dict[int, None]] = {}  # by channel: the workers that want to know where it is
        supervisor.more = self._handlers
        supervisor.lost = self._lost
        supervisor.paused = lambda: supervisor.tell_all("stalled")
        node.load = self._load
        self._directory.broker = self
        self._directory.moved = self._moved

    # What the directory asks

    def channel(self, name: str) -> object:
        return self._wants.get(name)

    async def make_room(self, name: str, epoch: int, key: str) -> None:
        claimed = self._places.find(name)
        if claimed is not None and claimed.elsewhere is None:
            allowed(await self._supervisor.make_room(name, claimed.epoch, key))

    def lose(self, publication: WorkerPublish, reason: str) -> None:
        worker, channel = publication.worker, publication.channel
        claim, claimed = self._claims.get(channel), self._places.find(channel)
        if claimed is not None and claim is not None and claim.holder is publication:
            worker.control.tell("lose", channel=channel, epoch=claimed.epoch, reason=reason)
            self._release(worker, channel, claimed.epoch)

    def _load(self) -> dict[str, Any]:
        said = [worker.said for worker in self._supervisor.workers.values() if worker.said]
        return {
            "draining": any(one["draining"] for one in said),
            "players": sum(one["players"] for one in said),
            "pulling": sum(one["pulling"] for one in said),
            "pulls": [pull for one in said for pull in one["pulls"]],
        }

    # What workers ask

    def _handlers(self, worker: Worker) -> dict[str, Any]:
        return {
            "claim": partial(self._claim, worker),
            "release": partial(self._release, worker),
            "make_room": lambda **values: Deferred.fromCoroutine(self._make_room(**values)).addErrback(refusal),
            "locate": lambda channel: Deferred.fromCoroutine(self._locate(worker, channel)).addCallback(lambda _: {}),
            "want": partial(self._want, worker),
            "unwant": partial(self._unwant, worker),
            "stalled": lambda: self._directory.check().addCallback(lambda _: {}),
        }

    def _claim(
        self, worker: Worker, channel: str, pulled: bool, key: str | None, stream_id: str, client_ip: str
    ) -> Deferred[dict[str, Any]]:
        publish = WorkerPublish(worker, channel, key or "", stream_id, client_ip, pulled, key)
        asked = Deferred.fromCoroutine(self._claim_place(publish))
        claiming = self._claiming.setdefault(worker, set())
        claiming.add(asked)

        def done(result: Any) -> Any:
            claiming.discard(asked)
            return result

        return asked.addBoth(done)

    async def _claim_place(self, publish: WorkerPublish) -> dict[str, Any]:
        """As of `Places.claim`."""
        worker, channel = publish.worker, publish.channel
        try:
            claim = await self._directory.claim(channel, publish)
        except Taken as taken:
            known = await self._locate(worker, channel)
            # Else it is on its way to another worker, or was given up just now.
            nobody = {"epoch": 0, "worker": 0, "pulled": taken.claim.pulled}
            return {"taken": nobody if known is None else known.told()}
        key = None if publish.play_key is None else publish.key
        answer = self._places.claim(worker.number, channel, publish.pulled, key, publish.stream_id)
        self._claims[channel] = claim
        if worker.ended:
            self._release(worker, channel, answer["epoch"])
        return answer

    def _release(self, worker: Worker, channel: str, epoch: int) -> None:
        claimed = self._places.find(channel)
        if claimed is None or claimed.elsewhere is not None:
            return
        if claimed.worker == worker.number and claimed.epoch == epoch:
            self._places.release(worker.number, channel, epoch)
            self._directory.release(self._claims.pop(channel))

    async def _make_room(self, channel: str, epoch: int, key: str) -> dict[str, Any]:
        """Raises Refused, or returns what a worker has said."""
        claimed = self._places.find(channel)
        if claimed is None or claimed.epoch != epoch:
            return {}
        if claimed.elsewhere is None:
            said: dict[str, Any] = await self._supervisor.make_room(channel, epoch, key)
            return said
        place = claimed.elsewhere
        await self._directory.make_room(Claim(channel, place.epoch, place.worker, place.pulled), key)
        return {}

    async def _locate(self, worker: Worker, channel: str) -> Claimed | None:
        """Who has a channel now, which the workers know by then."""
        self._wants.setdefault(channel, {})[worker.number] = None
        await self._directory.learn(channel)
        return self._places.find(channel)

    def _want(self, worker: Worker, channel: str) -> None:
        """A worker has viewers of a channel, and knows of no place."""
        self._wants.setdefault(channel, {})[worker.number] = None
        self._moved(channel)

    def _unwant(self, worker: Worker, channel: str) -> None:
        wants = self._wants.get(channel, {})
        wants.pop(worker.number, None)
        if not wants:
            self._wants.pop(channel, None)
        self._moved(channel)

    # Where channels are

    def _moved(self, channel: str) -> None:
        """The place of a channel elsewhere, or who wants it, has changed."""
        wants = [number for number in self._wants.get(channel, ()) if not self._supervisor.workers[number].ended]
        known = self._places.find(channel)
        place = self._directory.found(channel) if wants else None
        stays = known is not None and known.worker in wants
        home = known.worker if known is not None and stays else next(iter(wants), None)
        self._places.put_elsewhere(channel, home, place)

    def _lost(self, worker: Worker) -> Deferred[Any]:
        for channel in [channel for channel, wants in self._wants.items() if worker.number in wants]:
            self._unwant(worker, channel)
        for claimed in self._places:
            if claimed.worker == worker.number:
                self._release(worker, claimed.channel, claimed.epoch)
        return DeferredList([when_fired(one) for one in self._claiming.pop(worker, ())])
