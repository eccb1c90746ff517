"""What is said with a coordinator on one connection: requests and their answers, kills, heartbeats, silences.

`CoordinatorSession` knows texts and a clock, nothing of WebSockets; control.py feeds it and sends what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtmp_twisted.integrations.coordinator_messages import MalformedMessage, Message, parse, serialise
from rtmp_twisted.integrations.validation import plain_address, stream_id_problem
from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.commands import ICommandTarget

#: Seconds between two heartbeats of this side, and of silence after which the other side counts as gone.
HEARTBEAT_INTERVAL = 20.0
MAX_SILENCE = 60.0

#: Seconds after which a request without an answer is refused.
REQUEST_TIMEOUT = 20.0

#: Requests refused for want of an answer that are remembered, should one come after all.
MAX_OVERDUE = 1024

#: Characters of an error message that are logged.
_MAX_ERROR_TEXT = 500

_log = Logger()


@frozen
class _Request:
    channel: str
    answer: Deferred[str]
    limit: IDelayedCall


class CoordinatorSession:
    """From the opening of one connection (the constructor) to its end (`closed`).

    ``send`` takes a message's text, ``drop`` ends the connection for the reason given. `received` never raises.
    """

    def __init__(
        self,
        clock: IReactorTime,
        target: ICommandTarget,
        send: Callable[[str], None],
        drop: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._target = target
        self._send = send
        self.is_open = True
        self._last_id = 0
        self._waiting: dict[str, _Request] = {}
        self._overdue: dict[str, str] = {}
        self._accepted: Counter[tuple[str, str]] = Counter()
        self._heartbeat = LoopingCall(send, serialise("HEARTBEAT"))
        self._heartbeat.clock = clock
        self._heartbeat.start(HEARTBEAT_INTERVAL, now=False)
        self._silence = clock.callLater(MAX_SILENCE, drop, f"nothing heard for {MAX_SILENCE:.0f} s")

    def request(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        """Ask for a publish; fires with the stream id or fails with `Refused`, within `REQUEST_TIMEOUT`."""
        answer: Deferred[str] = Deferred()
        self._last_id += 1
        request_id = str(self._last_id)
        parameters = {"Request-ID": request_id, "Stream-Channel": channel, "Stream-Key": key}
        try:
            text = serialise("PUBLISH-REQUEST", {**parameters, "User-IP": plain_address(client_ip)})
        except ValueError as error:
            answer.errback(Refused(f"the coordinator cannot be asked: {error}"))
            return answer
        reason = f"the coordinator gave no answer in {REQUEST_TIMEOUT:.0f} s"
        limit = self._clock.callLater(REQUEST_TIMEOUT, self._give_up, request_id, reason)
        self._waiting[request_id] = _Request(channel, answer, limit)
        self._send(text)
        return answer

    def end(self, channel: str, stream_id: str) -> None:
        """A publish has ended; says so if it was accepted on this connection, and not yet said."""
        count = self._accepted.pop((channel, stream_id), 0)
        if count > 1:
            self._accepted[channel, stream_id] = count - 1
        if count and self.is_open:
            self._say_end(channel, stream_id)

    def answered(self) -> Deferred[None]:
        """Fires when all that waits for an answer now has had one, and whoever asked has acted on it."""
        waiting = [request.answer for request in self._waiting.values()]
        return DeferredList(waiting).addCallback(lambda _: None)

    def stop_waiting(self) -> None:
        """Refuses all that waits for an answer."""
        for request_id in list(self._waiting):
            self._give_up(request_id, "the server is stopping")

    def received(self, text: str) -> None:
        """A text message has come."""
        if not self.is_open:
            return
        self._silence.reset(MAX_SILENCE)
        try:
            message = parse(text)
        except MalformedMessage as error:
            _log.debug("a message of the coordinator was ignored: {problem}", problem=str(error))
            return
        match message.type:
            case "HEARTBEAT":
                pass
            case "PUBLISH-ACCEPT":
                self._accept(message)
            case "PUBLISH-DENY":
                self._deny(message)
            case "STREAM-KILL":
                self._kill(message)
            case "ERROR":
                code, text = message.get("Error-Code"), message.get("Error-Message")
                _log.error(
                    "the coordinator reports error {code!r}: {text!r}", code=code[:100], text=text[:_MAX_ERROR_TEXT]
                )
            case kind:
                _log.debug("a message of the coordinator was ignored: type {kind!r}", kind=kind[:100])

    def closed(self) -> None:
        """The connection is gone: the coordinator takes all that was accepted on it for ended."""
        if not self.is_open:
            return
        self.is_open = False
        self._heartbeat.stop()
        if self._silence.active():
            self._silence.cancel()
        self._accepted.clear()
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            request.limit.cancel()
            request.answer.errback(Refused("the connection to the coordinator was lost"))
        self._target.kill_all("the connection to the coordinator was lost")

    def _say_end(self, channel: str, stream_id: str) -> None:
        # The id goes back as it came, with any control characters: it was on one line there, and is here.
        self._send(f"{serialise('PUBLISH-END', {'Stream-Channel': channel})}\nStream-ID: {stream_id}")

    def _take(self, message: Message) -> _Request | None:
        request = self._waiting.pop(message.get("Request-ID"), None)
        if request is not None:
            request.limit.cancel()
        return request

    def _accept(self, message: Message) -> None:
        stream_id = message.get("Stream-ID")
        request = self._take(message)
        if request is None:
            # Accepted after all, too late: the coordinator must not be left with a stream that does not exist.
            # An answer that comes twice is not a second publish, so only those given up count.
            channel = self._overdue.pop(message.get("Request-ID"), None)
            if channel is not None:
                _log.info("an acceptance for channel {channel} came too late", channel=channel)
                self._say_end(channel, stream_id)
            return
        problem = stream_id_problem(stream_id)
        if problem is not None:
            self._say_end(request.channel, stream_id)
            request.answer.errback(Refused(f"the coordinator answered with {problem}"))
            return
        self._accepted[request.channel, stream_id] += 1
        request.answer.callback(stream_id)

    def _deny(self, message: Message) -> None:
        request = self._take(message)
        if request is None:
            self._overdue.pop(message.get("Request-ID"), None)
        else:
            request.answer.errback(Refused("the coordinator denied it"))

    def _kill(self, message: Message) -> None:
        channel, stream_id = message.get("Stream-Channel"), message.get("Stream-ID")
        ended = self._target.kill(channel, None if stream_id in ("", "*") else stream_id, "killed by the coordinator")
        _log.info(
            "the coordinator kills what is on channel {channel!r}: {result}",
            channel=channel[:200],
            result="ended" if ended else "nothing to end",
        )

    def _give_up(self, request_id: str, reason: str) -> None:
        request = self._waiting.pop(request_id)
        if request.limit.active():
            request.limit.cancel()
        if len(self._overdue) >= MAX_OVERDUE:
            del self._overdue[next(iter(self._overdue))]
        self._overdue[request_id] = request.channel
        request.answer.errback(Refused(reason))
