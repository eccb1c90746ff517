"""What a server and its coordinator say on one connection: requests and answers, ends, kills and heartbeats.

`CoordinatorSession` knows text messages and a clock, and no WebSocket: coordinator.py passes messages in and out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtmp_twisted.integrations.coordinator_messages import CoordinatorMessage, MalformedMessage, parse, serialise
from rtmp_twisted.integrations.validation import plain_address, stream_id_problem
from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.commands import ICommandTarget

HEARTBEAT_INTERVAL = 20.0
"""Seconds between two heartbeats of this side."""

MAX_SILENCE = 60.0
"""Seconds without any message after which the other side counts as gone."""

REQUEST_TIMEOUT = 20.0
"""Seconds after which a request without an answer is refused."""

MAX_OVERDUE = 1024
"""Requests without an answer in time that are remembered, in case it comes later."""

ECHO_SECONDS = 30.0
"""Seconds after a PUBLISH-END in which a STREAM-KILL without a stream id is taken for its echo."""

MAX_ENDED_CHANNELS = 8192
"""Channels whose last PUBLISH-END is remembered; the oldest is forgotten first."""

_MAX_ERROR_TEXT = 500
"""Characters of an error message that are logged."""

_log = Logger()


@frozen
class _Request:
    channel: str
    answer: Deferred[str]
    limit: IDelayedCall


class CoordinatorSession:
    """Begins when a connection is open (the constructor) and ends with it (`closed`).

    ``send`` takes the text of a message. ``abort`` ends the connection, for a reason that is logged. `received` never
    raises.
    """

    def __init__(
        self,
        clock: IReactorTime,
        target: ICommandTarget,
        send: Callable[[str], None],
        abort: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._target = target
        self._send = send
        self.is_open = True
        self._last_id = 0
        self._pending: dict[str, _Request] = {}
        self._overdue: dict[str, str] = {}
        self._accepted: Counter[tuple[str, str]] = Counter()
        self._ended_at: OrderedDict[str, float] = OrderedDict()
        self._heartbeat = LoopingCall(send, serialise("HEARTBEAT"))
        self._heartbeat.clock = clock
        self._heartbeat.start(HEARTBEAT_INTERVAL, now=False)
        self._silence = clock.callLater(MAX_SILENCE, abort, f"nothing received for {MAX_SILENCE:.0f} s")

    def request(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        """Requests a publish. Fires with the stream id or fails with `Refused`, within `REQUEST_TIMEOUT`."""
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
        self._pending[request_id] = _Request(channel, answer, limit)
        self._send(text)
        return answer

    def end(self, channel: str, stream_id: str) -> None:
        """A publish has ended. Sends PUBLISH-END, once for each publish that was accepted on this connection."""
        count = self._accepted.pop((channel, stream_id), 0)
        if count > 1:
            self._accepted[channel, stream_id] = count - 1
        if count and self.is_open:
            self._send_end(channel, stream_id)

    def all_answered(self) -> Deferred[None]:
        """Fires when every request that is pending now has its answer, and its caller has acted on it."""
        answers = [request.answer for request in self._pending.values()]
        return DeferredList(answers).addCallback(lambda _: None)

    def refuse_pending(self) -> None:
        """Refuses every pending request."""
        for request_id in list(self._pending):
            self._give_up(request_id, "the server is stopping")

    def received(self, text: str) -> None:
        """Takes one text message from the coordinator."""
        if not self.is_open:
            return
        self._silence.reset(MAX_SILENCE)
        try:
            message = parse(text)
        except MalformedMessage as error:
            _log.debug("a message from the coordinator was ignored: {problem}", problem=str(error))
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
                _log.debug("a message from the coordinator was ignored: type {kind!r}", kind=kind[:100])

    def closed(self) -> None:
        """The connection is gone. The coordinator takes every publish that it accepted on it for ended."""
        if not self.is_open:
            return
        self.is_open = False
        self._heartbeat.stop()
        if self._silence.active():
            self._silence.cancel()
        self._accepted.clear()
        pending, self._pending = self._pending, {}
        for request in pending.values():
            request.limit.cancel()
            request.answer.errback(Refused("the connection to the coordinator was lost"))
        self._target.kill_all("the connection to the coordinator was lost")

    def _send_end(self, channel: str, stream_id: str) -> None:
        # The id is sent back as it came, with any control characters: it was part of one line, and is again.
        self._send(f"{serialise('PUBLISH-END', {'Stream-Channel': channel})}\nStream-ID: {stream_id}")
        self._ended_at[channel] = self._clock.seconds()
        self._ended_at.move_to_end(channel)
        if len(self._ended_at) > MAX_ENDED_CHANNELS:
            self._ended_at.popitem(last=False)

    def _take_request(self, message: CoordinatorMessage) -> _Request | None:
        request = self._pending.pop(message.get("Request-ID"), None)
        if request is not None:
            request.limit.cancel()
        return request

    def _accept(self, message: CoordinatorMessage) -> None:
        stream_id = message.get("Stream-ID")
        request = self._take_request(message)
        if request is None:
            # It may be too late: then the coordinator believes in a stream that does not exist, and is told so. It
            # may also be a repetition, which is no second publish. So only overdue requests count.
            channel = self._overdue.pop(message.get("Request-ID"), None)
            if channel is not None:
                _log.info("the coordinator accepted a publish on channel {channel} too late", channel=channel)
                self._send_end(channel, stream_id)
            return
        problem = stream_id_problem(stream_id)
        if problem is not None:
            self._send_end(request.channel, stream_id)
            request.answer.errback(Refused(f"the coordinator answered with {problem}"))
            return
        self._accepted[request.channel, stream_id] += 1
        request.answer.callback(stream_id)

    def _deny(self, message: CoordinatorMessage) -> None:
        request = self._take_request(message)
        if request is None:
            self._overdue.pop(message.get("Request-ID"), None)
        else:
            request.answer.errback(Refused("the coordinator denied it"))

    def _kill(self, message: CoordinatorMessage) -> None:
        channel, stream_id = message.get("Stream-Channel"), message.get("Stream-ID")
        if not stream_id and self._recently_ended(channel):
            result = f"ignored, as it names no stream within {ECHO_SECONDS:.0f} s after an end"
        elif self._target.kill(channel, None if stream_id in ("", "*") else stream_id, "killed by the coordinator"):
            result = "ended"
        else:
            result = "nothing to end"
        _log.info("STREAM-KILL for channel {channel!r}: {result}", channel=channel[:200], result=result)

    def _recently_ended(self, channel: str) -> bool:
        """Whether a PUBLISH-END was sent within `ECHO_SECONDS`.

        The coordinator answers each PUBLISH-END with a STREAM-KILL without a stream id, which by then could end the
        next publish on that channel.
        """
        ended_at = self._ended_at.get(channel)
        return ended_at is not None and self._clock.seconds() - ended_at < ECHO_SECONDS

    def _give_up(self, request_id: str, reason: str) -> None:
        request = self._pending.pop(request_id)
        if request.limit.active():
            request.limit.cancel()
        if len(self._overdue) >= MAX_OVERDUE:
            del self._overdue[next(iter(self._overdue))]
        self._overdue[request_id] = request.channel
        request.answer.errback(Refused(reason))
