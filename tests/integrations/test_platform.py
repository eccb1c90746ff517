"""The whole platform: the short form of ``tools/platform``, and whether its record finds what is wrong."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.platform.record import STARTED, Publish, Record, Sender, Stream
from tests.platform.run import run


class PlatformTests(TestCase):
    timeout = 600

    async def test_short(self) -> None:
        """Each kill and each restart happens at least once in each stage."""
        for outcome in await run(self, seconds=16, seed=1, publishers=12, ffmpegs=1, say=lambda line: None):
            self.assertEqual(outcome.problems, [], str(outcome))
            for what in "on air", "accepted", "denied", "ends":
                self.assertGreater(outcome.record.counts[what], 0, str(outcome))

    async def test_workers(self) -> None:
        """The same with two workers, which are killed as well."""
        for outcome in await run(self, 16, 2, publishers=12, ffmpegs=0, say=lambda line: None, workers=2):
            self.assertEqual(outcome.problems, [], str(outcome))
            self.assertGreater(outcome.acts["SIGKILL of a worker"], 0)


class RecordTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.record = Record()
        self.sender = Sender("server-1")
        self.other = Sender("server-2")

    def publish(self, key: str = "key", channel: str = "tv", told: str = STARTED) -> Publish:
        """A publisher that has asked, got its answer, and left."""
        publish = self.record.publishing(channel, key)
        publish.told, publish.left, publish.over = told, told == STARTED, True
        return publish

    def accept(self, stream_id: str = "id", key: str = "key", channel: str = "tv") -> Stream:
        stream = self.record.ask(self.sender, channel, key)
        self.record.accept(stream, stream_id)
        return stream

    def assert_problems(self, *beginnings: str) -> None:
        problems = self.record.verify()
        self.assertEqual(len(problems), len(beginnings), problems)
        for problem, beginning in zip(problems, beginnings, strict=True):
            self.assertIn(beginning, problem)

    def test_all_is_well(self) -> None:
        self.publish()
        stream = self.accept()
        self.record.end(self.sender, "tv", "id", "key")
        self.record.tell(stream)
        self.publish("no", told="NetStream.Publish.BadName")
        self.record.deny(self.record.ask(self.sender, "tv", "no"))
        self.publish("never asked", told="NetStream.Publish.BadName")
        self.assert_problems()
        self.assertEqual(self.record.counts["on air"], 1)

    def test_no_end(self) -> None:
        self.publish()
        stream = self.accept()
        self.assertEqual(self.record.owed(), [stream])
        self.assert_problems("no end")

    def test_ended_twice(self) -> None:
        self.publish()
        self.accept()
        for _ in range(2):
            self.record.end(self.sender, "tv", "id", "key")
        self.assert_problems("it ended twice")

    def test_wrong_ends(self) -> None:
        self.publish()
        self.accept()
        self.record.end(self.sender, "tv", "another", "key")
        self.record.end(self.other, "radio", "id", "key")
        self.assert_problems("never accepted", "came from server-2", "one of channel 'radio'")

    def test_another_key(self) -> None:
        self.publish()
        self.accept()
        self.record.end(self.sender, "tv", "id", "another")
        self.assert_problems("key 'another'")

    def test_end_of_what_was_denied(self) -> None:
        self.publish(told="NetStream.Publish.BadName")
        self.record.deny(self.record.ask(self.sender, "tv", "key"))
        self.record.end(self.sender, "tv", "")
        self.assert_problems("never accepted")

    def test_on_air_without_a_question(self) -> None:
        self.publish()
        self.assert_problems("1 went on air, of 0")

    def test_on_air_although_denied(self) -> None:
        self.publish()
        self.record.deny(self.record.ask(self.sender, "tv", "key"))
        self.assert_problems("1 went on air, of 0")

    def test_asked_twice(self) -> None:
        self.publish()
        for stream_id in "one", "two":
            self.accept(stream_id)
            self.record.end(self.sender, "tv", stream_id)
        self.assert_problems("2 questions for 1 publishes", "2 were accepted, 1 went on air")

    def test_accepted_and_not_put_on_air(self) -> None:
        publish = self.publish(told="NetStream.Publish.BadName")
        self.accept()
        self.record.end(self.sender, "tv", "id")
        self.assert_problems("1 were accepted, 0 went on air")
        publish.left, publish.told = True, ""  # it did not wait for the answer
        self.assert_problems()

    def test_id_that_cannot_be_used(self) -> None:
        self.publish(told="NetStream.Publish.BadName")
        self.record.accept(self.record.ask(self.sender, "tv", "key"), "a\x07", usable=False)
        self.assert_problems("no end")
        self.record.end(self.sender, "tv", "a\x07")
        self.assert_problems()

    def test_two_at_a_time(self) -> None:
        self.publish("one")
        self.publish("two")
        self.accept("first", "one")
        self.accept("second", "two")
        self.record.end(self.sender, "tv", "first")
        self.record.end(self.sender, "tv", "second")
        self.assert_problems("asked about while")

    def test_asked_side_by_side(self) -> None:
        """The question about one that began before another was on air may be read after that; not one that began
        later."""
        for number, begins_later in enumerate([False, True]):
            channel = f"tv-{number}"
            first = self.record.publishing(channel, f"one {channel}")
            rival = None if begins_later else self.record.publishing(channel, f"two {channel}")
            one = self.accept(f"first of {channel}", first.key, channel)
            self.record.told(first, STARTED)
            rival = rival or self.record.publishing(channel, f"two {channel}")
            two = self.accept(f"second of {channel}", rival.key, channel)
            self.record.told(rival, "NetStream.Publish.BadName")
            first.over = rival.over = True
            for stream in one, two:
                self.record.end(self.sender, channel, stream.stream_id)
                self.record.tell(stream)
        self.assert_problems("1 were accepted, 0 went on air", "stream 'second of tv-1'")

    def test_asked_before_the_end_was_answered(self) -> None:
        for number, told in enumerate([True, False]):
            channel = f"tv-{number}"
            self.publish(f"one {channel}", channel)
            self.publish(f"two {channel}", channel)
            first = self.accept(f"first of {channel}", f"one {channel}", channel)
            self.record.end(self.sender, channel, first.stream_id)
            if told:
                self.record.tell(first)
            second = self.accept(f"second of {channel}", f"two {channel}", channel)
            self.record.end(self.sender, channel, second.stream_id)
        self.assert_problems("stream 'second of tv-1'")

    def test_end_that_is_late_as_the_application_was_down(self) -> None:
        self.publish("one")
        self.publish("two")
        self.accept("first", "one")
        self.record.down()
        self.accept("second", "two")
        self.record.end(self.sender, "tv", "first")
        self.record.end(self.sender, "tv", "second")
        self.assert_problems()

    def test_server_killed(self) -> None:
        """A stream without an end is excused, also one that is asked about only then. No stream may have two ends."""
        for key in "one", "two", "three":
            self.publish(key, channel=key)
            if key == "three":
                self.record.cut(self.sender)
            self.accept(key, key, channel=key)
        self.assertEqual(self.record.owed(), [])
        self.record.end(self.sender, "one", "one")
        self.assert_problems()
        self.assertEqual(self.record.counts["ends excused"], 2)
        self.record.end(self.sender, "one", "one")
        self.assert_problems("it ended twice")

    def test_ended_before_the_kill(self) -> None:
        self.publish()
        self.accept()
        self.record.end(self.sender, "tv", "id")
        self.record.cut(self.sender)
        self.record.end(self.sender, "tv", "id")
        self.assert_problems("it ended twice")

    def test_stopped_before_the_answer(self) -> None:
        self.publish(told="NetStream.Publish.BadName")
        stream = self.record.ask(self.sender, "tv", "key")
        self.record.stopping(self.sender)
        self.record.accept(stream, "id")
        self.assert_problems("no end")
        self.record.end(self.sender, "tv", "id")
        self.assert_problems()

    def test_answer_that_was_lost(self) -> None:
        """The application went down with it: a question counts as denied, an end may come once more."""
        self.publish("one", told="NetStream.Publish.BadName")
        self.record.lose(self.record.ask(self.sender, "tv", "one"))
        self.publish("two")
        stream = self.accept("id", "two")
        self.record.end(self.sender, "tv", "id")
        self.record.repeat(stream)
        self.record.end(self.sender, "tv", "id")
        self.assert_problems()
        self.record.end(self.sender, "tv", "id")
        self.assert_problems("it ended twice")
