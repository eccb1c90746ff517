"""The deciding parties of a platform: an HTTP application, or a coordinator instead.

Both delay each answer, deny some publishes, give some an unusable stream id, and note everything in a `Record`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall, deferLater
from twisted.web.server import NOT_DONE_YET, Request

from tests.platform.record import Record, Sender, Stream
from tests.support.coordinator import Coordinator, Visit
from tests.support.fakes import reactor, until
from tests.support.http_app import Event, HTTPApp

LONGEST_DELAY = 0.4
"""Most seconds until a question is answered."""
LONGEST_DELAY_OF_END = 0.1
"""Most seconds until an end is answered. It is short, so that a server that stops does not have to wait for it."""

DENIED, SPOILED = "denied-", "spoiled-"
"""Prefixes of the keys of publishes that are denied, and of those that get an unusable stream id."""


class Party(Protocol):
    """The party that decides on publishes."""

    record: Record
    decider: Decider
    sender: Sender
    """The server that runs now, or its connection."""

    def new_server(self, name: str) -> None:
        """A server with this name is about to be started."""

    async def restart(self, seconds: float) -> None:
        """Goes down, and comes back after ``seconds``."""

    async def stop(self) -> None:
        """Goes down for good."""


class Decider:
    """Decides how a publish is answered, and when."""

    def __init__(self, record: Record, random: Random) -> None:
        self.record = record
        self._random = random
        self._last_id = 0
        self._held: list[Callable[[], None]] | None = None

    def later(self, answer: Callable[[], None]) -> IDelayedCall:
        """Answers a question after a random delay."""
        call: IDelayedCall = reactor.callLater(self.delay(), self._answer, answer)
        return call

    def delay(self, longest: float = LONGEST_DELAY) -> float:
        return self._random.uniform(0, longest)

    def hold(self) -> None:
        """Holds all answers to questions back until `release`."""
        self._held = []

    def release(self) -> None:
        held, self._held = self._held or [], None
        for answer in held:
            answer()

    def _answer(self, answer: Callable[[], None]) -> None:
        if self._held is None:
            answer()
        else:
            self._held.append(answer)

    def decide(self, stream: Stream) -> str | None:
        """Returns the stream's id, or None if the publish is denied."""
        if stream.key.startswith(DENIED):
            self.record.deny(stream)
            return None
        self._last_id += 1
        spoiled = stream.key.startswith(SPOILED)
        stream_id = f"id:{self._last_id} of {stream.channel}" + ("\x07" if spoiled else "")
        self.record.accept(stream, stream_id, usable=not spoiled)
        return stream_id


class Application:
    """The HTTP application that takes callbacks."""

    def __init__(self, record: Record, random: Random, secret: str) -> None:
        self.record = record
        self.decider = Decider(record, random)
        self._senders: dict[str, Sender] = {}
        self._pending: dict[Request, tuple[Stream | None, IDelayedCall]] = {}
        self._deserted: set[Request] = set()
        self._going_down = False
        self._http = HTTPApp(secret)
        self._http.answer = self._heard
        self._http.listen()
        self._port = self._http.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    @property
    def heard(self) -> int:
        """How many events have been received."""
        return len(self._http.events)

    def new_server(self, name: str) -> None:
        self.sender = self._senders[name] = Sender(name)

    async def restart(self, seconds: float) -> None:
        """Goes down at once. Pending requests get no answer; answers that were given have been sent."""
        self.record.down()
        self._going_down = True
        for request in list(self._pending):
            self._drop(request)
        await deferLater(reactor, 0.05)
        await self._http.stop()
        await deferLater(reactor, seconds)
        self.record.down()
        self._going_down = False
        self._http.listen(port=self._port)

    async def stop(self) -> None:
        self.record.problems += [f"the application got a bad token: {problem}" for problem in self._http.problems]
        await self._http.stop()

    def _heard(self, request: Request, event: Event) -> int:
        claims = event.claims
        if claims["client_ip"] != "127.0.0.1" or claims["sub"] != "rtmp_event":
            self.record.problems.append(f"an event with wrong claims: {claims}")
        sender = self._senders[claims["rtmp_host"]]
        if event.name == "start":
            asked = self.record.ask(sender, claims["channel"], claims["key"])
            self._pending[request] = asked, self.decider.later(lambda: self._answer_start(request, asked))
        else:
            ended = self.record.end(sender, claims["channel"], claims["stream_id"], claims["key"])
            delay = self.decider.delay(LONGEST_DELAY_OF_END)
            self._pending[request] = ended, reactor.callLater(delay, self._answer_stop, request, ended)
        request.notifyFinish().addErrback(lambda _: self._deserted.add(request))
        if self._going_down:
            self._drop(request)
        return NOT_DONE_YET

    def _answer_start(self, request: Request, stream: Stream) -> None:
        del self._pending[request]
        stream_id = self.decider.decide(stream)
        if stream_id is None:
            request.setResponseCode(403)
        else:
            request.setHeader("stream-id", stream_id)
        self._finish(request)

    def _answer_stop(self, request: Request, stream: Stream | None) -> None:
        del self._pending[request]
        if stream is not None:
            self.record.tell(stream)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        """Sends the answer. Like most applications, this one has decided without checking who still waits for it."""
        if request in self._deserted:
            self._deserted.discard(request)
        else:
            request.finish()

    def _drop(self, request: Request) -> None:
        """The application goes down without an answer to this request."""
        stream, answer = self._pending.pop(request)
        answer.cancel()
        if stream is None:
            return
        if stream.accepted:
            self.record.repeat(stream)
        else:
            self.record.lose(stream)


class Coordination:
    """The coordinator, with its connection to the server."""

    def __init__(self, record: Record, random: Random, secret: str) -> None:
        self.record = record
        self.decider = Decider(record, random)
        self._server = ""
        self._senders: dict[Visit, Sender] = {}
        self._request_ids: set[tuple[Visit, str]] = set()
        self._coordinator = Coordinator(secret)
        self._coordinator.on_open = self._opened
        self._coordinator.on_message = self._heard
        self._coordinator.listen()
        self._heartbeat = LoopingCall(self._say_heartbeats)
        self._heartbeat.start(20, now=False)

    @property
    def url(self) -> str:
        return self._coordinator.base_url

    @property
    def connected(self) -> bool:
        return bool(self._coordinator.visits)

    def new_server(self, name: str) -> None:
        self._server = name
        self.sender = Sender(name)  # until it has connected

    def kill(self, channel: str, stream_id: str) -> None:
        self._coordinator.visit.say(f"STREAM-KILL\nStream-Channel:{channel}\nStream-ID:{stream_id}\n")

    async def restart(self, seconds: float) -> None:
        """Goes down at once, with its connection."""
        sender = self.sender
        self.record.cut(sender)
        await self._coordinator.stop()
        await deferLater(reactor, seconds)
        self._coordinator.listen()
        await self._asked_again(sender)

    async def drop(self) -> None:
        """Drops the connection, and waits for the next one."""
        sender = self.sender
        self.record.cut(sender)
        self._coordinator.visit.drop()
        await self._asked_again(sender)

    async def stop(self) -> None:
        self._heartbeat.stop()
        await self._coordinator.stop()

    async def _asked_again(self, sender: Sender) -> None:
        """Waits until the server has reconnected and asked."""
        await until(
            lambda: self.sender is not sender and self.sender.used, "a question by the server's next connection"
        )

    def _opened(self, visit: Visit) -> None:
        self.sender = self._senders[visit] = Sender(f"{self._server}, connection {len(self._senders) + 1}")

    def _say_heartbeats(self) -> None:
        for visit in self._coordinator.visits:
            visit.say("HEARTBEAT")

    def _heard(self, visit: Visit, kind: str, parameters: dict[str, str]) -> None:
        sender = self._senders[visit]
        if kind == "PUBLISH-END":
            ended = self.record.end(sender, parameters["stream-channel"], parameters["stream-id"])
            if ended is not None:
                self.record.tell(ended)  # there is no answer to it
        elif kind == "PUBLISH-REQUEST":
            request_id = parameters["request-id"]
            if (visit, request_id) in self._request_ids or parameters["user-ip"] != "127.0.0.1":
                self.record.problems.append(f"a wrong request: {parameters}")
            self._request_ids.add((visit, request_id))
            stream = self.record.ask(sender, parameters["stream-channel"], parameters["stream-key"])
            self.decider.later(lambda: self._answer(visit, request_id, stream))

    def _answer(self, visit: Visit, request_id: str, stream: Stream) -> None:
        if visit not in self._coordinator.visits:
            return
        about = f"Request-ID:{request_id}\nStream-Channel:{stream.channel}\n"
        stream_id = self.decider.decide(stream)
        visit.say(f"PUBLISH-DENY\n{about}" if stream_id is None else f"PUBLISH-ACCEPT\n{about}Stream-ID:{stream_id}\n")
