"""What operators may ask and do, of a server with several workers: all are asked, and what they say is put together.

A channel is one, whichever workers have players of it. Its publisher is that of the worker that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from rtmp_twisted.cluster.fleet import Fleet
from rtmp_twisted.cluster.process import Worker
from rtmp_twisted.cluster.supervisor import Supervisor

STATES: Final = ("on air", "asking", "waiting")
"""Of several workers' states of a channel, the first of these counts."""

ASK_SECONDS: Final = 3.0
"""A worker that has not answered an operator's question by then is left out of the answer."""

_log = Logger()


class FleetOperations:
    """`live.operations.Operations`. ``text`` makes the text of /metrics of what each worker, by number, has said;
    ``other_nodes`` is what is known of a cluster's nodes."""

    def __init__(
        self,
        supervisor: Supervisor,
        fleet: Fleet,
        clock: Any,
        text: Callable[[dict[int, Any], dict[str, str]], bytes],
        other_nodes: Callable[[], Deferred[list[dict[str, Any]]]] | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._fleet = fleet
        self._clock = clock
        self._text = text
        self._other_nodes = other_nodes
        self._numbers = count(1)
        self._pushes: dict[str, tuple[str, str]] = {}  # by id: those that operators have added
        self._draining = False

    def start(self) -> None:
        self._supervisor.begun += [self._tell_pushes, self._tell_draining]

    def stop(self) -> None: ...

    def healthy(self) -> bool:
        return any(worker.ready for worker in self._supervisor.workers.values())

    def draining(self) -> bool:
        return self._draining

    def drain(self, on: bool) -> None:
        self._draining = on
        self._supervisor.tell_all("send_away", on=on)

    def _tell_draining(self, worker: Worker) -> None:
        if self._draining:
            worker.control.tell("send_away", on=True)

    def left(self) -> Deferred[dict[str, int]]:
        return Deferred.fromCoroutine(self._left())

    async def _left(self) -> dict[str, int]:
        parts = (await self._ask("left")).values()
        return {what: sum(part[what] for part in parts) for what in ("publishers", "players")}

    async def _ask(self, name: str, **values: Any) -> dict[int, Any]:
        """What each worker answers, by its number."""
        workers = [worker for worker in self._supervisor.workers.values() if worker.ready]
        asked = [worker.control.call(name, **values).addTimeout(ASK_SECONDS, self._clock) for worker in workers]
        answers: list[Any] = list(await DeferredList(asked, consumeErrors=True))
        return {
            worker.number: answer[1]["answer"]
            for worker, answer in zip(workers, answers, strict=True)
            if answer[0] is True
        }

    async def _states(self) -> dict[str, str]:
        """The states of all channels, by name."""
        found: dict[str, str] = {}
        for states in (await self._ask("states")).values():
            for name, state in states.items():
                known = found.get(name)
                if known is None or STATES.index(state) < STATES.index(known):
                    found[name] = state
        return found

    def channels(self, offset: int, limit: int) -> Deferred[tuple[int, list[dict[str, Any]]]]:
        return Deferred.fromCoroutine(self._channels(offset, limit))

    async def _channels(self, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        names = list(await self._states())
        shown = names[offset : offset + limit]
        answers = await self._ask("channels", names=shown)
        return len(names), [one for name in shown if (one := _merged(name, answers)) is not None]

    def channel(self, name: str) -> Deferred[dict[str, Any] | None]:
        return Deferred.fromCoroutine(self._channel(name))

    async def _channel(self, name: str) -> dict[str, Any] | None:
        return _merged(name, await self._ask("channels", names=[name]))

    def kill(self, name: str, reason: str) -> bool:
        return self._fleet.kill(name, None, reason)

    def relays(self, channel: str | None) -> Deferred[list[dict[str, Any]] | None]:
        return Deferred.fromCoroutine(self._relays(channel))

    async def _relays(self, channel: str | None) -> list[dict[str, Any]] | None:
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for number, relays in (await self._ask("relays", channel=channel)).items():
            for relay in relays:
                # One that operators have added is everywhere, and runs where its channel is.
                worker = 0 if relay["kind"] == "push" else number
                key = relay["channel"], relay["kind"], f"{worker}-{relay['id']}"
                if key not in found or found[key]["state"] == "off":
                    found[key] = relay
        return list(found.values())

    def add_push(self, channel: str, url: str) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._add_push(channel, url))

    async def _add_push(self, channel: str, url: str) -> dict[str, Any]:
        id = str(next(self._numbers))
        answers = await self._ask("add_push", channel=channel, url=url, id=id)
        mistakes = [answer["mistake"] for answer in answers.values() if "mistake" in answer]
        if mistakes or not answers:
            raise ValueError(mistakes[0] if mistakes else "no worker is ready")
        self._pushes[id] = channel, url
        made: list[dict[str, Any]] = list(answers.values())
        return next((one for one in made if one["state"] != "off"), made[0])

    def remove_push(self, channel: str, id: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._remove_push(channel, id))

    async def _remove_push(self, channel: str, id: str) -> bool:
        if self._pushes.get(id, ("", ""))[0] == channel:
            del self._pushes[id]
        return any((await self._ask("remove_push", channel=channel, id=id)).values())

    def _tell_pushes(self, worker: Worker) -> None:
        """A worker has come in place of one that died."""
        for id, (channel, url) in self._pushes.items():
            worker.control.call("add_push", channel=channel, url=url, id=id).addErrback(lambda _: None)

    def nodes(self) -> Deferred[list[dict[str, Any]]] | None:
        return None if self._other_nodes is None else self._other_nodes()

    def metrics(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._metrics())

    async def _metrics(self) -> bytes:
        return self._text(await self._ask("metrics"), await self._states())


def _merged(name: str, answers: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any] | None:
    """One channel, of what each worker says of it."""
    parts = {number: found[name] for number, found in answers.items() if name in found}
    if not parts:
        return None

    def rank(number: int) -> tuple[bool, int]:
        return bool(parts[number].get("edge")), STATES.index(parts[number]["state"])

    first = min(parts, key=rank)
    merged = dict(parts[first])
    merged.pop("edge", None)
    for key in "players", "web_viewers":
        merged[key] = sum(part[key] for part in parts.values())
    for key in "delivered", "skipped":
        merged[key] = {what: sum(part[key][what] for part in parts.values()) for what in merged[key]}
    merged["worker"] = first
    merged["workers"] = {str(number): part["players"] for number, part in parts.items()}
    return merged
