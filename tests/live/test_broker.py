"""rtmp_twisted.live.broker: who may publish, who replaces whom, and that every accepted start has one end."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import AcceptAll, Refused
from rtmp_twisted.live.broker import LISTEN_SECONDS, STOP_SECONDS, Broker
from rtmp_twisted.live.player import Cache, Player
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.live.questions import MAX_FROM_ADDRESS, MAX_QUESTIONS
from rtmp_twisted.live.turns import ITEMS_PER_TURN, Turns
from tests.support.live import FakeWriter, Viewer
from tests.support.memory import Authority
from tests.support.rtmp_client import AAC_HEADER, aac, codes
from tests.support.turns import TurnClock

RETURN_SECONDS = 5.0  # PUBLISH_RETURN_SECONDS' default


@define(eq=False, slots=False)
class Publisher:
    """Writes down what becomes of its publishes."""

    told: list[str] = field(factory=list)
    heard_at: float = 0.0
    bytes_received: int = 0
    agent: str = "test"
    connection_number: int = 1

    def publish_goes_on(self, publication: Publication) -> None: ...

    def publish_started(self, publication: Publication) -> None:
        self.told.append("started")

    def publish_refused(self, publication: Publication, reason: str) -> None:
        self.told.append(f"refused: {reason}")

    def publish_ended(self, publication: Publication, reason: str) -> None:
        self.told.append(f"ended: {reason}")


class BrokerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.make()

    def make(self, ask: bool = False, takeover: float = 3, end_players: bool = False) -> None:
        self.clock = TurnClock()
        self.authority = Authority(ask)
        scheduler = FlushScheduler(self.clock, 0, self.clock.seconds, Turns(self.clock))
        self.broker = Broker(self.clock, self.authority, scheduler, takeover_seconds=takeover, end_players=end_players)

    def publish(self, key: str = "key", address: str = "192.0.2.1") -> tuple[Publisher, Publication]:
        publisher = Publisher(heard_at=self.clock.seconds())
        publication = self.broker.publish("channel", key, address, publisher)
        self.assertEqual(publisher.told, [])  # never before the call has returned
        self.clock.advance(0)
        return publisher, publication

    def flush(self) -> None:
        self.broker.scheduler.flush_pending()

    def events(self) -> list[str]:
        return [event[0] for event in self.authority.events]

    def play(self, key: str = "key") -> Viewer:
        viewer = Viewer(self.clock, FakeWriter())
        viewer.player = Player(viewer, viewer.writer, key, Cache.GOP)
        self.broker.play("channel", viewer.player)
        self.broker.start(viewer.player)
        return viewer

    def assert_nothing_kept(self) -> None:
        self.assertEqual(self.broker.channels(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


def names(viewer: Viewer) -> list[str]:
    return [code.rpartition(".")[2] for code in codes(viewer.messages())]


class JudgeTests(BrokerCase):
    def test_strangers_of_a_channel_elsewhere(self) -> None:
        right, wrong = self.play(), self.play("another")
        self.broker.judge("channel", "key")
        self.clock.advance(0)
        self.assertEqual((right.refusals, wrong.refusals), ([], ["the key is not the publisher's"]))
        self.broker.judge("channel", "another")
        self.clock.advance(0)
        self.assertEqual(right.refusals, ["the key is not the publisher's"])
        self.assert_nothing_kept()

    def test_what_is_on_air_here_has_its_own_key(self) -> None:
        self.publish()
        viewer = self.play()
        self.broker.judge("channel", "another")
        self.clock.advance(0)
        self.assertEqual(viewer.refusals, [])


class WithheldTests(BrokerCase):
    """What is published waits until it is known whether it is still this server's to publish."""

    def test_goes_on(self) -> None:
        publisher, publication = self.publish()
        viewer = self.play()
        publication.write(AAC_HEADER)
        publication.write(aac(0))
        self.flush()
        self.broker.withhold(publication)
        publication.write(aac(23))
        joiner = self.play()
        self.flush()
        self.assertEqual(len(viewer.media()), 2)
        self.assertEqual([message for message in joiner.media() if message.timestamp], [])
        self.broker.go_on(publication)
        self.assertEqual([message.timestamp for message in viewer.media()], [0, 0, 23])
        self.assertEqual(publisher.told, ["started"])
        self.broker.go_on(publication)
        publication.write(aac(46))
        self.flush()
        self.assertEqual(len(viewer.media()), 4)

    def test_is_lost(self) -> None:
        """It goes to nobody, and the viewers wait for another one."""
        publisher, publication = self.publish()
        viewer = self.play()
        self.broker.withhold(publication)
        publication.write(aac(23))
        self.broker.lose(publication, "it is published elsewhere")
        self.broker.go_on(publication)
        self.flush()
        self.assertEqual(viewer.media(), [])
        self.assertEqual(publisher.told, ["started", "ended: it is published elsewhere"])
        self.assertEqual(names(viewer), [])


class LostTests(BrokerCase):
    """A publisher whose connection ends without a word."""

    def test_comes_back(self) -> None:
        """Its players stay, and their time goes on."""
        viewer = self.play()
        _, first = self.publish()
        first.write(aac(100_000))
        self.broker.end(first, lost=True)
        self.assertEqual(self.events(), ["start", "end"])
        self.clock.advance(RETURN_SECONDS - 1)
        _, second = self.publish()
        second.write(AAC_HEADER)
        second.write(aac(0))
        second.write(aac(23))
        self.flush()
        self.assertEqual(names(viewer), ["PublishNotify"] * 2)
        expected = [100_000, 104_000, 104_000, 104_023]
        self.assertEqual([message.timestamp for message in viewer.media()], expected)
        self.clock.advance(60)
        self.assertEqual(names(viewer), ["PublishNotify"] * 2)
        self.broker.end(second)
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_does_not_come_back(self) -> None:
        viewer = self.play()
        _, first = self.publish()
        first.write(aac(0))
        self.broker.end(first, lost=True)
        newcomer = self.play()
        self.clock.advance(RETURN_SECONDS - 0.1)
        self.assertEqual(names(viewer), ["PublishNotify"])
        self.clock.advance(0.1)
        self.assertEqual(names(viewer), ["PublishNotify", "UnpublishNotify"])
        self.assertEqual(names(newcomer), [])  # it waits for a publisher, and did not see that one
        _, second = self.publish()
        second.write(aac(0))
        self.flush()
        self.assertEqual(names(viewer), ["PublishNotify", "UnpublishNotify", "PublishNotify"])
        self.assertEqual(names(newcomer), ["PublishNotify"])
        self.assertEqual([message.timestamp for message in newcomer.media()], [0])

    def test_newcomers_get_what_comes(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        first.write(aac(0))
        self.broker.end(first, lost=True)
        newcomer = self.play()
        gone = self.play()
        self.broker.leave(gone.player)
        _, second = self.publish()
        second.write(aac(5))
        self.flush()
        self.assertEqual((viewer.bodies(), newcomer.bodies()), ([aac(0).body, aac(5).body], [aac(5).body]))
        self.assertEqual(gone.bodies(), [])

    def test_somebody_else_comes(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        self.broker.end(first, lost=True)
        self.publish("another key")
        self.assertEqual(viewer.refusals, ["the publisher that came has another key"])

    def test_nobody_watches(self) -> None:
        _, first = self.publish()
        self.broker.end(first, lost=True)
        self.assert_nothing_kept()
        _, first = self.publish()
        viewer = self.play()
        self.broker.end(first, lost=True)
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_the_server_stops(self) -> None:
        viewer = self.play()
        _, first = self.publish()
        self.broker.end(first, lost=True)
        self.broker.stopService()
        self.assertEqual(names(viewer), ["PublishNotify", "UnpublishNotify"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndedPlayersTests(BrokerCase):
    """Each publish is a stream of its own: its players end with it."""

    def setUp(self) -> None:
        self.make(end_players=True)

    def test_every_end(self) -> None:
        ends: dict[str, Callable[[Publication], object]] = {
            "stopped": self.broker.end,
            "lost": lambda publication: self.broker.end(publication, lost=True),
            "killed": lambda _: self.broker.kill("channel", None, "killed"),
            "killed by its id": lambda _: self.broker.kill("channel", "id of key", "killed"),
            "all killed": lambda _: self.broker.kill_all("killed"),
            "the server stops": lambda _: self.broker.stopService(),
        }
        for name, end in ends.items():
            _, publication = self.publish()
            early, late, paused = self.play(), self.play(), self.play()
            publication.write(aac(0))
            self.flush()
            paused.player.pause()
            publication.write(aac(5))  # not handed over before the end
            end(publication)
            self.clock.advance(0)
            self.assertEqual([viewer.ends for viewer in (early, late, paused)], [["the publish has ended"]] * 3, name)
            self.assertEqual(early.bodies(), [aac(0).body, aac(5).body])
            self.assertEqual([names(viewer) for viewer in (early, late, paused)], [[]] * 3)
            self.assert_nothing_kept()

    def test_taken_over(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        self.clock.advance(1)
        publisher, second = self.publish()
        self.assertEqual((viewer.ends, publisher.told), ([], []))
        self.clock.pump([1, 1])
        self.assertTrue(first.ended)
        self.assertEqual((viewer.ends, publisher.told), (["the publish has ended"], ["started"]))
        newcomer = self.play()
        second.write(aac(7))
        self.flush()
        self.assertEqual((viewer.bodies(), newcomer.bodies()), ([], [aac(7).body]))
        self.assertEqual(newcomer.ends, [])

    def test_those_who_wait_are_left_alone(self) -> None:
        self.make(ask=True, end_players=True)
        waiting, other = self.play(), self.play("another")
        _, refused = self.publish()
        self.authority.refuse()
        _, gone = self.publish()
        self.broker.end(gone, lost=True)
        self.assertTrue(refused.ended and gone.ended)
        _, publication = self.publish()
        self.authority.accept()
        self.authority.accept()
        publication.write(aac(3))
        self.clock.advance(0)
        self.flush()
        self.assertEqual((waiting.ends, waiting.bodies()), ([], [aac(3).body]))
        self.assertEqual((other.ends, other.refusals), ([], ["the publisher that came has another key"]))
        self.broker.end(publication, lost=True)
        self.clock.advance(0)
        self.assertEqual(waiting.ends, ["the publish has ended"])

    def test_many_are_told_in_turns(self) -> None:
        """So that the frames of other channels never wait for all of them."""
        many = 3 * ITEMS_PER_TURN
        _, publication = self.publish()
        viewers = [self.play() for _ in range(many)]
        self.broker.end(publication)
        strangers = [self.play("another") for _ in range(many)]
        self.broker.publish("channel", "key", "192.0.2.1", publisher := Publisher())
        steps: list[tuple[int, int]] = []
        while not steps or steps[-1] != (many, many):
            self.clock.turn()
            steps.append((sum(len(one.ends) for one in viewers), sum(len(one.refusals) for one in strangers)))
        self.assertEqual(publisher.told, ["started"])
        for number in range(2):
            counts = list(dict.fromkeys(step[number] for step in steps))
            self.assertEqual([count for count in counts if count], [ITEMS_PER_TURN, 2 * ITEMS_PER_TURN, many])

    def test_who_comes_after_the_end_waits_for_the_next(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        first.write(aac(90_000))
        self.broker.end(first, lost=True)
        newcomer = self.play()
        self.clock.advance(RETURN_SECONDS + 1)
        self.assertEqual((viewer.ends, newcomer.ends), (["the publish has ended"], []))
        _, second = self.publish()
        second.write(aac(0))
        self.flush()
        self.assertEqual([(m.timestamp, m.body) for m in newcomer.media()], [(0, aac(0).body)])
        self.assertEqual(names(newcomer), ["PublishNotify"])


class PublishTests(BrokerCase):
    def test_accept_all(self) -> None:
        authority = AcceptAll()
        self.assertEqual(self.successResultOf(authority.start("channel", "key", "192.0.2.1")), "key")
        self.assertIsNone(self.successResultOf(authority.end("channel", "key", "key", "192.0.2.1")))

    def test_start_and_end(self) -> None:
        publisher, publication = self.publish()
        self.assertEqual((publisher.told, publication.stream_id), (["started"], "id of key"))
        self.broker.end(publication)
        self.broker.end(publication)
        self.assertEqual(self.events(), ["start", "end"])
        self.assertEqual(publisher.told, ["started"])
        self.assert_nothing_kept()

    def test_refused(self) -> None:
        self.make(ask=True)
        publisher, publication = self.publish()
        self.authority.refuse("bad key")
        self.assertEqual(publisher.told, ["refused: bad key"])
        self.broker.end(publication)
        self.assertEqual(self.events(), ["start"])
        self.assert_nothing_kept()

    def test_a_bug_of_the_authority(self) -> None:
        self.make(ask=True)
        publisher, _ = self.publish()
        self.authority.questions.pop().errback(ZeroDivisionError())
        self.assertEqual(publisher.told, ["refused: internal error"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_nothing_kept()

    def test_a_bug_of_the_owner(self) -> None:
        """What was accepted has its end, and nobody is on air, when telling the owner goes wrong."""
        publisher = Publisher()
        self.patch(publisher, "publish_started", lambda _: 1 / 0)
        publication = self.broker.publish("channel", "key", "192.0.2.1", publisher)
        self.clock.advance(0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(publication.ended)
        self.assertEqual(publisher.told, ["ended: internal error"])
        self.assertEqual(self.events(), ["start", "end"])
        self.assert_nothing_kept()

    def test_ended_while_asking(self) -> None:
        self.make(ask=True)
        publisher, publication = self.publish()
        self.broker.end(publication)
        self.assert_nothing_kept()
        self.authority.accept()
        self.assertEqual((publisher.told, self.events()), ([], ["start", "end"]))

    def test_another_while_asking(self) -> None:
        """Whoever is accepted first has the channel; what else is accepted is told its end at once."""
        self.make(ask=True)
        first, _ = self.publish()
        other, _ = self.publish("another")
        self.authority.questions.pop().callback("id of another")
        self.authority.accept()
        self.assertEqual(other.told, ["started"])
        self.assertEqual(first.told, ["refused: the channel has a publisher"])
        self.assertEqual(self.events(), ["start", "start", "end"])
        self.assertEqual(self.authority.events[-1], ("end", "channel", "key", "id", "192.0.2.1"))

    def test_ended_while_asking_and_another_comes(self) -> None:
        self.make(ask=True)
        _, first = self.publish()
        self.broker.end(first)
        second, _ = self.publish()
        self.authority.accept("first")
        self.authority.accept("second")
        self.assertEqual(second.told, ["started"])
        self.assertEqual(self.authority.events[2][:4], ("end", "channel", "key", "first"))
        self.assertEqual(self.events(), ["start", "start", "end"])

    def test_nothing_kept_when_the_last_has_gone(self) -> None:
        _, publication = self.publish()
        viewer = self.play()
        self.broker.end(publication)
        self.assertEqual([channel.name for channel, _ in self.broker.channels()], ["channel"])
        self.broker.leave(viewer.player)
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_players_keys(self) -> None:
        early = self.play("wrong")
        good = self.play()
        _, publication = self.publish()
        self.assertEqual((len(early.refusals), good.refusals), (1, []))
        self.assertRaises(Refused, self.play, "wrong")
        self.broker.end(publication)
        self.play("wrong")  # nobody is on air: it waits


class TakeOverTests(BrokerCase):
    def test_after_silence(self) -> None:
        first, _ = self.publish()
        self.clock.advance(5)
        second, _ = self.publish()
        self.clock.advance(0)
        self.assertEqual(first.told, ["started", "ended: taken over by a new connection"])
        self.assertEqual(second.told, ["started"])
        self.assertEqual(self.events(), ["start", "end", "start"])

    def test_the_new_one_is_found(self) -> None:
        """Nobody else uses the channel while it changes hands: it must be the one that players come to all the same."""
        self.publish()
        self.clock.advance(5)
        second, publication = self.publish()
        self.clock.advance(0)
        self.assertEqual(second.told, ["started"])
        viewer = self.play()
        publication.write(aac(1))
        self.flush()
        self.assertEqual(viewer.bodies(), [aac(1).body])
        self.assertTrue(self.broker.kill("channel", None, "killed"))
        self.assertEqual(second.told, ["started", "ended: killed"])
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_what_rounding_leaves_of_the_wait(self) -> None:
        """The clock would not tell the next look from this one, and the reactor would do nothing else."""
        self.clock.advance(1.1)
        first, _ = self.publish()
        self.clock.advance(3)
        self.assertTrue(0 < 3 - (self.clock.seconds() - first.heard_at) < 1e-15)
        self.broker.publish("channel", "key", "192.0.2.1", Publisher())
        for _ in range(3):
            self.clock.turn()
        self.assertGreater(self.clock.calls[0].getTime(), self.clock.seconds())
        self.clock.advance(0.01)
        self.assertEqual(first.told, ["started", "ended: taken over by a new connection"])

    def test_what_the_players_get(self) -> None:
        """The old publish's end is told where it said so itself, else not: most players leave when they hear of it."""
        for ends_itself in True, False:
            self.make()
            viewer = self.play()
            _, old = self.publish()
            _, new = self.publish()
            if ends_itself:
                self.broker.end(old)
            else:
                self.clock.pump([LISTEN_SECONDS] * 13)
            new.write(aac(1))
            self.flush()
            expected = ["PublishNotify", *(["UnpublishNotify"] if ends_itself else []), "PublishNotify"]
            self.assertEqual([code.rpartition(".")[2] for code in codes(viewer.messages())], expected)
            self.assertTrue(self.broker.channels()[0][0].on_air)
            self.assertEqual(viewer.bodies(), [aac(1).body])

    def test_the_new_one_is_refused(self) -> None:
        """The players of the old one hear of its end then, in time."""
        self.make(ask=True)
        viewer = self.play()
        self.publish()
        self.authority.accept()
        self.clock.advance(5)
        second, _ = self.publish()
        self.clock.advance(0)
        self.authority.refuse("no")
        self.assertEqual(second.told, ["refused: no"])
        self.clock.advance(RETURN_SECONDS)
        self.assertEqual(names(viewer), ["PublishNotify", "UnpublishNotify"])
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_the_old_one_is_refused(self) -> None:
        self.make(ask=True)
        first, _ = self.publish()
        second, _ = self.publish()
        self.authority.refuse()
        self.authority.accept()
        self.assertEqual((first.told, second.told), (["refused: no"], ["started"]))

    def test_waits_for_the_silence_to_be_long_enough(self) -> None:
        self.publish()
        self.clock.advance(1)
        second, _ = self.publish()
        self.clock.advance(1.9)
        self.assertEqual(second.told, [])
        self.clock.pump([0.1] * 3)
        self.assertEqual(second.told, ["started"])

    def test_the_old_one_is_heard(self) -> None:
        first, publication = self.publish()
        self.clock.advance(1)
        second, _ = self.publish()
        first.bytes_received += 1
        self.clock.advance(LISTEN_SECONDS)
        self.assertEqual(second.told, ["refused: the channel has a live publisher"])
        self.assertEqual(first.told, ["started"])
        self.broker.end(publication)
        self.assert_nothing_kept()

    def test_the_old_one_ends_by_itself(self) -> None:
        _, publication = self.publish()
        second, _ = self.publish()
        self.broker.end(publication)
        self.assertEqual(second.told, ["started"])
        self.assertEqual(self.events(), ["start", "end", "start"])

    def test_the_new_one_gives_up(self) -> None:
        first, publication = self.publish()
        _, challenger = self.publish()
        self.broker.end(challenger)
        self.clock.advance(10)
        self.assertEqual(first.told, ["started"])
        third, _ = self.publish()
        self.clock.advance(0)
        self.assertEqual(third.told, ["started"])
        self.assertTrue(publication.ended)

    def test_the_old_one_is_still_being_asked_for(self) -> None:
        self.make(ask=True)
        first, _ = self.publish()
        self.clock.advance(4)
        second, _ = self.publish()
        self.clock.advance(0)
        self.authority.accept("first")
        self.authority.accept("second")
        self.assertEqual((first.told, second.told), (["started"], ["refused: the channel has a publisher"]))
        self.assertEqual(self.events(), ["start", "start", "end"])

    def test_one_at_a_time(self) -> None:
        self.publish()
        self.publish()
        third, _ = self.publish()
        self.assertEqual(third.told, ["refused: the channel has a publisher"])

    def test_another_key(self) -> None:
        self.publish()
        self.clock.advance(100)
        other, _ = self.publish("another")
        self.assertEqual(other.told, ["refused: the channel has a publisher"])

    def test_never(self) -> None:
        self.make(takeover=0)
        self.publish()
        self.clock.advance(100)
        other, _ = self.publish()
        self.assertEqual(other.told, ["refused: the channel has a publisher"])

    def test_the_stop_is_told_before_the_start_is_asked(self) -> None:
        for patient in True, False:
            self.make()
            telling: Deferred[None] = Deferred()
            self.patch(self.authority, "end", lambda *_: telling)  # noqa: B023
            _, publication = self.publish()
            self.broker.end(publication)
            second, _ = self.publish()
            self.assertEqual((second.told, self.events()), ([], ["start"]))
            if patient:
                telling.callback(None)
            else:
                self.clock.advance(STOP_SECONDS)
            self.assertEqual((second.told, self.events()), (["started"], ["start", "start"]))
            self.assertEqual(self.clock.getDelayedCalls(), [])


class StrangerTests(BrokerCase):
    """Those who ask for a channel with a wrong key keep nobody out."""

    def test_the_right_encoder_gets_on_air_at_every_attempt(self) -> None:
        """The authority takes 200 ms; four strangers ask again and again."""

        def answer(channel: str, key: str, address: str) -> Deferred[str]:
            if key == "right":
                return deferLater(self.clock, 0.2, lambda: "id")
            return deferLater(self.clock, 0.2, self.refuse)

        self.patch(self.authority, "start", answer)
        strangers = [self.publish("wrong", "198.51.100.1") for _ in range(4)]
        for attempt in range(25):
            encoder, publication = self.publish("right", "192.0.2.1")
            for _ in range(5):
                self.clock.advance(0.05)
                for place, (stranger, _) in enumerate(strangers):
                    if stranger.told:
                        self.assertIn(stranger.told[0], ("refused: no", "refused: the channel has a publisher"))
                        strangers[place] = self.publish("wrong", "198.51.100.1")
            self.assertEqual(encoder.told, ["started"], attempt)
            self.broker.end(publication)
            self.clock.advance(0)

    def test_as_many_as_may_be_asked_at_a_time(self) -> None:
        """Of those that wait, the next is one of the address that has the fewest."""
        self.make(ask=True)
        for number in range(MAX_FROM_ADDRESS + 3):
            self.publish(f"a{number}", "198.51.100.1")
        self.assertEqual(len(self.authority.questions), MAX_FROM_ADDRESS)
        for number in range(MAX_FROM_ADDRESS + 3):
            self.publish(f"b{number}", "198.51.100.2")
        self.assertEqual(len(self.authority.questions), MAX_QUESTIONS)
        self.publish("right", "192.0.2.1")
        self.assertEqual(len(self.authority.questions), MAX_QUESTIONS)
        self.authority.refuse()
        self.assertEqual(self.authority.events[-1][:3], ("start", "channel", "right"))

    def test_one_that_waits_for_its_turn_leaves(self) -> None:
        self.make(ask=True)
        for number in range(MAX_FROM_ADDRESS):
            self.publish(f"a{number}")
        publisher, publication = self.publish("late")
        self.broker.end(publication)
        while self.authority.questions:
            self.authority.refuse()
        self.assertEqual(publisher.told, [])
        self.assertEqual(self.events(), ["start"] * MAX_FROM_ADDRESS)
        self.assert_nothing_kept()

    def test_on_air_while_others_wait_for_their_turn(self) -> None:
        """They are not asked for any more."""
        self.make(ask=True)
        publishers = [self.publish()[0] for _ in range(MAX_FROM_ADDRESS + 1)]
        late, _ = self.publish("another key", "198.51.100.2")
        self.authority.questions.pop().callback("id")
        self.assertEqual(late.told, ["started"])
        while self.authority.questions:
            self.authority.refuse()
        self.assertEqual(publishers[-1].told, ["refused: the channel has a publisher"])
        self.assertEqual(self.events(), ["start"] * (MAX_FROM_ADDRESS + 1))

    def refuse(self) -> str:
        raise Refused("no")


class CommandTests(BrokerCase):
    def test_kill(self) -> None:
        publisher, _ = self.publish()
        self.assertFalse(self.broker.kill("another", None, "killed"))
        self.assertFalse(self.broker.kill("channel", "another", "killed"))
        self.assertTrue(self.broker.kill("channel", "id of key", "killed"))
        self.assertFalse(self.broker.kill("channel", "id of key", "killed"))
        self.assertEqual((publisher.told, self.events()), (["started", "ended: killed"], ["start", "end"]))

    def test_kill_whatever_it_is(self) -> None:
        publisher, _ = self.publish()
        self.assertTrue(self.broker.kill("channel", None, "killed"))
        self.assertEqual(publisher.told, ["started", "ended: killed"])

    def test_kill_while_asking(self) -> None:
        self.make(ask=True)
        publisher, _ = self.publish()
        self.assertFalse(self.broker.kill("channel", "", "killed"))
        self.assertTrue(self.broker.kill("channel", None, "killed"))
        self.authority.accept()
        self.assertEqual((publisher.told, self.events()), (["ended: killed"], ["start", "end"]))

    def test_kill_all(self) -> None:
        self.make(ask=True)
        first, _ = self.publish()
        self.authority.accept()
        challenger, _ = self.publish()
        other = Publisher()
        self.broker.publish("other", "key", "192.0.2.1", other)
        self.clock.advance(0)
        self.assertEqual(self.broker.kill_all("gone"), 3)
        self.assertEqual(first.told, ["started", "ended: gone"])
        self.assertEqual((challenger.told, other.told), (["ended: gone"], ["ended: gone"]))
        self.authority.accept()
        self.assertEqual(sorted(self.events()), ["end", "end", "start", "start"])
        self.assert_nothing_kept()

    def test_stopping_ends_everything(self) -> None:
        publisher, _ = self.publish()
        self.broker.stopService()
        self.assertEqual(publisher.told, ["started", "ended: the server is stopping"])
        self.assertEqual(self.events(), ["start", "end"])
