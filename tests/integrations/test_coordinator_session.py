"""The messages of a session with the coordinator, on a clock and without a connection."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.integrations import coordinator_session
from rtmp_twisted.integrations.coordinator_session import CoordinatorSession
from rtmp_twisted.live.authority import Refused
from tests.support.coordinator import read_message
from tests.support.fakes import Log, RecordingTarget


class SessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.target = RecordingTarget()
        self.said: list[tuple[str, dict[str, str]]] = []
        self.aborted: list[str] = []
        self.log = Log(self)
        self.session = CoordinatorSession(self.clock, self.target, self.say, self.aborted.append)

    def say(self, text: str) -> None:
        self.said.append(read_message(text))

    def wait(self, seconds: float) -> None:
        """Lets time pass while the other side is alive."""
        while seconds > 0:
            step = min(10.0, seconds)
            self.clock.advance(step)
            self.session.received("HEARTBEAT")
            seconds -= step

    def ask(self, channel: str = "tv", key: str = "secret") -> Any:
        return self.session.request(channel, key, "::ffff:192.0.2.1")

    def accept(self, request_id: str, stream_id: str = "id") -> None:
        self.session.received(f"PUBLISH-ACCEPT\nRequest-ID:{request_id}\nStream-Channel:tv\nStream-ID:{stream_id}\n")

    def ends(self) -> list[dict[str, str]]:
        return [parameters for kind, parameters in self.said if kind == "PUBLISH-END"]

    def test_request(self) -> None:
        self.ask()
        expected = {"request-id": "1", "stream-channel": "tv", "stream-key": "secret", "user-ip": "192.0.2.1"}
        self.assertEqual(self.said, [("PUBLISH-REQUEST", expected)])

    def test_request_ids_are_unique(self) -> None:
        for _ in range(50):
            self.ask()
        self.assertEqual(len({parameters["request-id"] for _, parameters in self.said}), 50)

    def test_accept(self) -> None:
        first, second = self.ask(), self.ask()
        self.accept("2", "two")
        self.assertEqual(self.successResultOf(second), "two")
        self.assertNoResult(first)
        self.accept("1", "")
        self.assertEqual(self.successResultOf(first), "")

    def test_accept_without_stream_id(self) -> None:
        answer = self.ask()
        self.session.received("PUBLISH-ACCEPT\nRequest-ID: 1")
        self.assertEqual(self.successResultOf(answer), "")

    def test_deny(self) -> None:
        answer = self.ask()
        self.session.received("PUBLISH-DENY\nRequest-ID: 1\nStream-Channel: tv")
        self.failureResultOf(answer, Refused)
        self.session.end("tv", "")
        self.assertEqual(self.ends(), [])

    def test_end_is_said_once(self) -> None:
        self.ask()
        self.accept("1")
        self.session.end("tv", "id")
        self.session.end("tv", "id")
        self.assertEqual(self.ends(), [{"stream-channel": "tv", "stream-id": "id"}])

    def test_end_of_equal_ids(self) -> None:
        """A channel is taken over, and the coordinator gives both publishes the same id: each gets one end."""
        self.ask()
        self.ask()
        self.accept("1")
        self.accept("2")
        self.session.end("tv", "id")
        self.assertEqual(len(self.ends()), 1)
        self.session.end("tv", "id")
        self.session.end("tv", "id")
        self.assertEqual(len(self.ends()), 2)

    def test_end_of_what_was_never_accepted(self) -> None:
        self.session.end("tv", "id")
        self.assertEqual(self.said, [])

    def test_no_answer(self) -> None:
        answer = self.ask()
        self.wait(19.9)
        self.assertNoResult(answer)
        self.wait(0.1)
        self.failureResultOf(answer, Refused)

    def test_accepted_too_late(self) -> None:
        """The coordinator believes in a stream that does not exist, and is told so, once."""
        answer = self.ask()
        self.wait(20)
        self.failureResultOf(answer, Refused)
        self.accept("1", "late")
        self.assertIn("accepted a publish on channel tv too late", self.log.lines(LogLevel.info)[-1])
        self.accept("1", "late")
        self.assertEqual(self.ends(), [{"stream-channel": "tv", "stream-id": "late"}])

    def test_denied_too_late(self) -> None:
        answer = self.ask()
        self.wait(20)
        self.failureResultOf(answer, Refused)
        self.session.received("PUBLISH-DENY\nRequest-ID: 1")
        self.accept("1")
        self.assertEqual(self.ends(), [])

    def test_refuse_pending(self) -> None:
        """The caller ends what is accepted in time; the session itself ends what is accepted later."""
        first, second = self.ask(), self.ask()
        first.addCallback(lambda stream_id: self.session.end("tv", stream_id))
        answered = self.session.all_answered()
        self.accept("1", "one")
        self.assertNoResult(answered)
        self.session.refuse_pending()
        self.failureResultOf(second, Refused)
        self.successResultOf(answered)
        self.accept("2", "two")
        self.assertEqual([end["stream-id"] for end in self.ends()], ["one", "two"])
        self.session.closed()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_overdue_answers_are_bounded(self) -> None:
        self.patch(coordinator_session, "MAX_OVERDUE", 3)
        answers = [self.ask(f"channel{number}") for number in range(5)]
        self.wait(20)
        for answer in answers:
            self.failureResultOf(answer, Refused)
        for number in range(5):
            self.accept(str(number + 1))
        self.assertEqual([end["stream-channel"] for end in self.ends()], ["channel2", "channel3", "channel4"])

    def test_accepted_twice(self) -> None:
        """The repetition is no second publish, and must not end the first."""
        answer = self.ask()
        self.accept("1")
        self.accept("1")
        self.session.received("PUBLISH-DENY\nRequest-ID: 1")
        self.assertEqual(self.successResultOf(answer), "id")
        self.assertEqual(self.ends(), [])
        self.assertEqual(self.target.kills, [])

    def test_unusable_stream_id(self) -> None:
        """The publish is refused. The coordinator, which has accepted, gets the end with the id that it gave."""
        long, bad = self.ask(), self.ask()
        self.accept("1", "x" * 1025)
        self.failureResultOf(long, Refused)
        self.accept("2", "a\x07\tb")
        self.failureResultOf(bad, Refused)
        self.assertEqual([end["stream-id"] for end in self.ends()], ["x" * 1025, "a\x07\tb"])
        self.session.end("tv", "a\x07\tb")
        self.assertEqual(len(self.ends()), 2)

    def test_key_that_cannot_be_said(self) -> None:
        error = self.failureResultOf(self.ask(key="a\nStream-Channel: other"), Refused).value
        self.assertNotIn("other", str(error))
        self.assertEqual(self.said, [])

    def test_kill(self) -> None:
        for text, expected in [
            ("STREAM-KILL\nStream-Channel: tv\nStream-ID: id", ("tv", "id")),
            ("STREAM-KILL\nStream-Channel:tv\nStream-ID:*", ("tv", None)),
            ("STREAM-KILL\nStream-Channel:tv\nStream-ID:\n", ("tv", None)),
            ("STREAM-KILL\nStream-Channel:tv\n", ("tv", None)),
            ("stream-kill\r\nSTREAM-CHANNEL:  tv \r\nstream-id: a:b\r\n\r\nbody", ("tv", "a:b")),
        ]:
            self.session.received(text)
            self.assertEqual(self.target.kills.pop(), expected)
        self.assertIn("channel 'tv': nothing to end", self.log.lines(LogLevel.info)[-1])
        self.target.on_air.add("tv")
        self.kill("*")
        self.assertIn("channel 'tv': ended", self.log.lines(LogLevel.info)[-1])

    def kill(self, stream_id: str, channel: str = "tv") -> list[tuple[str, str | None]]:
        """Kills, and returns what was ended."""
        self.target.kills.clear()
        self.session.received(f"STREAM-KILL\nStream-Channel: {channel}\nStream-ID: {stream_id}")
        return list(self.target.kills)

    def publish_and_end(self, channel: str = "tv") -> None:
        self.ask(channel)
        self.accept(self.said[-1][1]["request-id"])
        self.session.end(channel, "id")

    def test_echo_of_an_end(self) -> None:
        """The coordinator answers each PUBLISH-END with a kill that has no id. It must not hit the next publish."""
        self.publish_and_end()
        self.ask()
        self.accept("2")
        for _ in range(2):
            self.assertEqual(self.kill(""), [])
            self.assertIn("names no stream within 30 s after an end", self.log.lines(LogLevel.info)[-1])
        self.assertEqual(self.kill("*"), [("tv", None)])
        self.assertEqual(self.kill("id"), [("tv", "id")])
        self.assertEqual(self.kill("", "radio"), [("radio", None)])
        self.wait(29.9)
        self.assertEqual(self.kill(""), [])
        self.wait(0.1)
        self.assertEqual(self.kill(""), [("tv", None)])

    def test_echo_of_the_last_of_several_ends(self) -> None:
        self.publish_and_end()
        self.wait(20)
        self.publish_and_end()
        self.wait(20)
        self.assertEqual(self.kill(""), [])
        self.wait(10)
        self.assertEqual(self.kill(""), [("tv", None)])

    def test_echo_of_other_ends(self) -> None:
        """Ends that answer a late or an unusable acceptance count, too."""
        late = self.ask("late")
        self.wait(20)
        self.failureResultOf(late, Refused)
        self.accept("1")
        self.ask("unusable").addErrback(lambda _: None)
        self.accept("2", "\x07")
        self.assertEqual(len(self.ends()), 2)
        self.assertEqual(self.kill("", "late") + self.kill("", "unusable"), [])

    def test_remembered_ends_are_bounded(self) -> None:
        """The oldest is forgotten; a channel that has ended again is not the oldest any more."""
        self.patch(coordinator_session, "MAX_ENDED_CHANNELS", 2)
        for channel in "one", "two", "one", "three":
            self.publish_and_end(channel)
        self.assertEqual(self.kill("", "two"), [("two", None)])
        self.assertEqual(self.kill("", "one") + self.kill("", "three"), [])

    def test_error_is_logged(self) -> None:
        self.session.received("ERROR\nError-Code: 17\nError-Message: bad\x1b[2J thing: " + "x" * 9999)
        (line,) = self.log.lines(LogLevel.error)
        self.assertIn("17", line)
        self.assertIn("thing: xxx", line)
        self.assertNotIn("\x1b", line)
        self.assertLess(len(line), 1000)

    def test_heartbeats(self) -> None:
        self.wait(100)
        self.assertEqual([kind for kind, _ in self.said], ["HEARTBEAT"] * 5)
        self.assertEqual(self.aborted, [])

    def test_silence(self) -> None:
        self.clock.pump([10.0] * 5 + [9.9])
        self.assertEqual(self.aborted, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.aborted), 1)

    def test_junk_is_ignored(self) -> None:
        self.ask()
        for text in ["", "\n", "WHAT", "PUBLISH-ACCEPT", "PUBLISH-ACCEPT\nRequest-ID: 99", "ERROR", "A" + "\nb" * 9999]:
            self.session.received(text)
        self.assertEqual(len(self.said), 1)
        self.assertEqual(self.aborted, [])

    def test_closed(self) -> None:
        """Pending requests are refused and publishes are ended. No timer is left, and nothing more is sent."""
        waiting = [self.ask() for _ in range(3)]
        self.accept("2")
        self.target.on_kill_all = lambda: self.session.end("tv", "id")
        self.said.clear()
        self.session.closed()
        self.assertEqual(self.successResultOf(waiting[1]), "id")
        self.failureResultOf(waiting[0], Refused)
        self.failureResultOf(waiting[2], Refused)
        self.assertEqual(len(self.target.kill_alls), 1)
        self.session.closed()
        self.session.received("STREAM-KILL\nStream-Channel: tv")
        self.assertEqual(len(self.target.kill_alls), 1)
        self.assertEqual(self.target.kills, [])
        self.assertEqual(self.said, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_secrets_are_not_logged(self) -> None:
        late = self.ask(key="hunter2")
        self.wait(20)
        self.failureResultOf(late, Refused)
        self.accept("1", "hunter2")
        self.ask(key="hunter2")
        self.accept("2", "hunter2")
        self.session.received("STREAM-KILL\nStream-Channel: tv\nStream-ID: hunter2")
        self.session.end("tv", "hunter2")
        self.session.closed()
        self.assertNotIn("hunter2", self.log.everything())
