"""rtmp_twisted.live.broker: who may publish, who replaces whom, and that every accepted start has one end."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import AcceptAll, Refused
from rtmp_twisted.live.broker import RETURN_SECONDS, STOP_PATIENCE, Broker, Publication
from rtmp_twisted.live.cursor import Cache, Player
from tests.support.live import FakeWriter, Viewer
from tests.support.memory import Authority
from tests.support.rtmp_client import AAC_HEADER, aac, codes


@define(eq=False, slots=False)
class Publisher:
    """Writes down what becomes of its publishes."""

    told: list[str] = field(factory=list)

    def publish_started(self, publication: Publication) -> None:
        self.told.append("started")

    def publish_refused(self, publication: Publication, reason: str) -> None:
        self.told.append(f"refused: {reason}")

    def publish_ended(self, publication: Publication, reason: str) -> None:
        self.told.append(f"ended: {reason}")


class BrokerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.make()

    def make(self, ask: bool = False, takeover: float = 3) -> None:
        self.clock = Clock()
        self.authority = Authority(ask)
        self.broker = Broker(
            self.clock, self.authority, FlushScheduler(0, self.clock.seconds), takeover_seconds=takeover
        )

    def publish(self, key: str = "key") -> tuple[Publisher, Publication]:
        publisher = Publisher()
        return publisher, self.broker.publish("channel", key, "192.0.2.1", publisher)

    def events(self) -> list[str]:
        return [event[0] for event in self.authority.events]

    def play(self, key: str = "key") -> Viewer:
        viewer = Viewer(None, FakeWriter())  # type: ignore[arg-type]
        viewer.player = Player(viewer, viewer.outlet, 1, key, Cache.GOP)
        self.broker.play("channel", viewer.player)
        return viewer

    def assert_nothing_kept(self) -> None:
        self.assertEqual(self.broker._places, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])


def names(viewer: Viewer) -> list[str]:
    return [code.rpartition(".")[2] for code in codes(viewer.messages())]


class LostTests(BrokerCase):
    """A publisher whose connection ends without a word."""

    def test_comes_back(self) -> None:
        """Its players stay, and their time goes on."""
        _, first = self.publish()
        viewer = self.play()
        first.publish(aac(100_000))
        first.end(lost=True)
        self.assertEqual(self.events(), ["start", "end"])
        self.clock.advance(RETURN_SECONDS - 1)
        _, second = self.publish()
        second.publish(AAC_HEADER)
        second.publish(aac(0))
        second.publish(aac(23))
        second.flush_when_due()
        self.assertEqual(names(viewer), ["PublishNotify"] * 2)
        expected = [100_000, 104_000, 104_000, 104_023]
        self.assertEqual([message.timestamp for message in viewer.media()], expected)
        self.clock.advance(60)
        self.assertEqual(names(viewer), ["PublishNotify"] * 2)
        second.end()
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_does_not_come_back(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        first.publish(aac(0))
        first.end(lost=True)
        newcomer = self.play()
        self.clock.advance(RETURN_SECONDS - 0.1)
        self.assertEqual(names(viewer), ["PublishNotify"])
        self.clock.advance(0.1)
        self.assertEqual(names(viewer), ["PublishNotify", "UnpublishNotify"])
        self.assertEqual(names(newcomer), [])  # it waits for a publisher, and did not see that one
        _, second = self.publish()
        second.publish(aac(0))
        second.flush_when_due()
        self.assertEqual(names(viewer), ["PublishNotify", "UnpublishNotify", "PublishNotify"])
        self.assertEqual(names(newcomer), ["PublishNotify"])
        self.assertEqual([message.timestamp for message in newcomer.media()], [0])

    def test_newcomers_get_what_comes(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        first.publish(aac(0))
        first.end(lost=True)
        newcomer = self.play()
        gone = self.play()
        self.broker.leave(gone.player)
        _, second = self.publish()
        second.publish(aac(5))
        second.flush_when_due()
        self.assertEqual((viewer.bodies(), newcomer.bodies()), ([aac(0).body, aac(5).body], [aac(5).body]))
        self.assertEqual(gone.bodies(), [])

    def test_somebody_else_comes(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        first.end(lost=True)
        self.publish("another key")
        self.assertEqual(viewer.refusals, ["the publisher that came has another key"])

    def test_nobody_watches(self) -> None:
        _, first = self.publish()
        first.end(lost=True)
        self.assert_nothing_kept()
        _, first = self.publish()
        viewer = self.play()
        first.end(lost=True)
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_the_server_stops(self) -> None:
        _, first = self.publish()
        viewer = self.play()
        first.end(lost=True)
        self.successResultOf(self.broker.stopService())
        self.assertEqual(names(viewer), ["PublishNotify", "UnpublishNotify"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PublishTests(BrokerCase):
    def test_accept_all(self) -> None:
        authority = AcceptAll()
        self.assertEqual(self.successResultOf(authority.start("channel", "key", "192.0.2.1")), "key")
        self.assertIsNone(self.successResultOf(authority.end("channel", "key", "key", "192.0.2.1")))

    def test_start_and_end(self) -> None:
        publisher, publication = self.publish()
        self.assertEqual((publisher.told, publication.stream_id), (["started"], "id of key"))
        publication.end()
        publication.end()
        self.assertEqual(self.events(), ["start", "end"])
        self.assertEqual(publisher.told, ["started"])
        self.assert_nothing_kept()

    def test_refused(self) -> None:
        self.make(ask=True)
        publisher, publication = self.publish()
        self.authority.refuse("bad key")
        self.assertEqual(publisher.told, ["refused: bad key"])
        publication.end()
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
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(publication.ended)
        self.assertEqual(publisher.told, ["ended: internal error"])
        self.assertEqual(self.events(), ["start", "end"])
        self.assert_nothing_kept()

    def test_ended_while_asking(self) -> None:
        self.make(ask=True)
        publisher, publication = self.publish()
        publication.end()
        self.assert_nothing_kept()
        self.authority.accept()
        self.assertEqual((publisher.told, self.events()), ([], ["start", "end"]))

    def test_another_while_asking(self) -> None:
        self.make(ask=True)
        self.publish()
        other, _ = self.publish("another")
        self.assertEqual(other.told, ["refused: the channel has a publisher"])

    def test_ended_while_asking_and_another_comes(self) -> None:
        self.make(ask=True)
        _, first = self.publish()
        first.end()
        second, _ = self.publish()
        self.authority.accept("first")
        self.authority.accept("second")
        self.assertEqual(second.told, ["started"])
        self.assertEqual(self.authority.events[2][:4], ("end", "channel", "key", "first"))
        self.assertEqual(self.events(), ["start", "start", "end"])

    def test_nothing_kept_when_the_last_has_gone(self) -> None:
        _, publication = self.publish()
        viewer = self.play()
        publication.end()
        self.assertEqual(list(self.broker._places), ["channel"])
        self.broker.leave(viewer.player)
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_players_keys(self) -> None:
        early = self.play("wrong")
        good = self.play()
        _, publication = self.publish()
        self.assertEqual((len(early.refusals), good.refusals), (1, []))
        self.assertRaises(Refused, self.play, "wrong")
        publication.end()
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
        publication.publish(aac(1))
        publication.flush_when_due()
        self.assertEqual(viewer.bodies(), [aac(1).body])
        self.assertTrue(self.broker.kill("channel", None, "killed"))
        self.assertEqual(second.told, ["started", "ended: killed"])
        self.broker.leave(viewer.player)
        self.assert_nothing_kept()

    def test_what_the_players_get(self) -> None:
        """The old publish's end is told where it said so itself, else not: most players leave when they hear of it."""
        for ends_itself in True, False:
            self.make()
            viewer = self.play()
            _, old = self.publish()
            _, new = self.publish()
            if ends_itself:
                old.end()
            else:
                self.clock.advance(3)
            new.publish(aac(1))
            new.flush_when_due()
            expected = ["PublishNotify", *(["UnpublishNotify"] if ends_itself else []), "PublishNotify"]
            self.assertEqual([code.rpartition(".")[2] for code in codes(viewer.messages())], expected)
            self.assertTrue(new.channel is not None and new.channel.on_air)
            self.assertEqual(viewer.bodies(), [aac(1).body])

    def test_the_new_one_is_refused(self) -> None:
        """The players of the old one hear of its end then, in time."""
        self.make(ask=True)
        self.publish()
        self.authority.accept()
        viewer = self.play()
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
        self.clock.advance(0.2)
        self.assertEqual(second.told, ["started"])

    def test_the_old_one_is_heard(self) -> None:
        first, publication = self.publish()
        self.clock.advance(1)
        second, _ = self.publish()
        publication.defend()
        self.assertEqual(second.told, ["refused: the channel has a live publisher"])
        self.assertEqual(first.told, ["started"])
        publication.end()
        self.assert_nothing_kept()

    def test_the_old_one_ends_by_itself(self) -> None:
        _, publication = self.publish()
        second, _ = self.publish()
        publication.end()
        self.assertEqual(second.told, ["started"])
        self.assertEqual(self.events(), ["start", "end", "start"])

    def test_the_new_one_gives_up(self) -> None:
        first, publication = self.publish()
        _, challenger = self.publish()
        challenger.end()
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
        self.assertEqual((first.told, second.told), (["ended: taken over by a new connection"], ["started"]))
        self.assertEqual(sorted(self.events()), ["end", "start", "start"])

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
            publication.end()
            second, _ = self.publish()
            self.assertEqual((second.told, self.events()), ([], ["start"]))
            if patient:
                telling.callback(None)
            else:
                self.clock.advance(STOP_PATIENCE)
            self.assertEqual((second.told, self.events()), (["started"], ["start", "start"]))
            self.assertEqual(self.clock.getDelayedCalls(), [])


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
        self.assertEqual(self.broker.kill_all("gone"), 3)
        self.assertEqual(first.told, ["started", "ended: gone"])
        self.assertEqual((challenger.told, other.told), (["ended: gone"], ["ended: gone"]))
        self.authority.accept()
        self.assertEqual(sorted(self.events()), ["end", "end", "start", "start"])
        self.assert_nothing_kept()

    def test_stopping_waits_until_the_ends_are_told(self) -> None:
        telling: Deferred[None] = Deferred()
        self.patch(self.authority, "end", lambda *_: telling)
        self.publish()
        stopped = self.broker.stopService()
        self.assertNoResult(stopped)
        telling.callback(None)
        self.successResultOf(stopped)
