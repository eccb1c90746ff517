"""What the supervisor keeps of its workers' publishes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.cluster.keys import KeyDigest
from rtmp_twisted.cluster.places import Claimed, Places, Starts
from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.broker import STOP_SECONDS

SECRET = b"secret"


class PlaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told: list[tuple[str, int | None]] = []
        self.places = Places(SECRET, self.changed)

    def changed(self, channel: str, claimed: Claimed | None) -> None:
        self.told.append((channel, None if claimed is None else claimed.worker))

    def test_one_holder(self) -> None:
        first = self.places.claim(1, "tv", False, "key", "id")
        second = self.places.claim(2, "tv", False, "key", "id")
        self.assertEqual(second["taken"]["worker"], 1)
        self.places.release(2, "tv", first["epoch"])  # not its own
        self.places.release(1, "tv", first["epoch"] + 1)  # of an epoch that is not
        self.assertEqual(self.told, [("tv", 1)])
        self.places.release(1, "tv", first["epoch"])
        again = self.places.claim(2, "tv", False, "key", "id")
        self.assertGreater(again["epoch"], first["epoch"])
        self.assertEqual(self.told, [("tv", 1), ("tv", None), ("tv", 2)])

    def test_a_worker_that_died(self) -> None:
        self.places.claim(1, "one", False, "key", "id")
        self.places.claim(2, "two", False, "key", "id")
        self.places.lost(1)
        self.assertEqual([claimed.channel for claimed in self.places], ["two"])

    def test_keys(self) -> None:
        """Workers can compare a key, which they are not told."""
        self.places.claim(1, "tv", False, "key", "id")
        claimed = self.places.find("tv")
        assert claimed is not None and claimed.digest is not None
        self.assertNotIn("key", claimed.digest)
        known = KeyDigest(SECRET, "tv", claimed.epoch, claimed.digest)
        self.assertEqual([known.matches(key) for key in ("key", "", "kex", "key ")], [True, False, False, False])
        self.assertFalse(KeyDigest(SECRET, "tv", claimed.epoch + 1, claimed.digest).matches("key"))
        self.assertFalse(KeyDigest(SECRET, "tvk", claimed.epoch, claimed.digest).matches("ey"))
        self.places.claim(1, "any", True, None, "")
        anyone = self.places.find("any")
        assert anyone is not None
        self.assertIsNone(anyone.told()["digest"])


class FakeAuthority:
    def __init__(self) -> None:
        self.asked: list[tuple[str, Deferred[str]]] = []
        self.ended: list[str] = []
        self.end_told: Deferred[None] | None = None

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        answer: Deferred[str] = Deferred()
        self.asked.append((channel, answer))
        return answer

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        self.ended.append(stream_id)
        self.end_told = Deferred()
        return self.end_told


class StartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.authority = FakeAuthority()
        self.starts = Starts(self.clock, self.authority)
        self.worker, self.other = object(), object()

    def start(self, worker: object, stream_id: str = "id") -> dict[str, Any]:
        answer = self.starts.start(worker, "tv", "key", "192.0.2.1")
        self.authority.asked[-1][1].callback(stream_id)
        return self.successResultOf(answer)

    def test_accepted_and_ended(self) -> None:
        answer = self.start(self.worker)
        self.assertEqual(answer["stream_id"], "id")
        self.assertTrue(self.starts.has("tv", "id") and self.starts.has("tv", None))
        self.assertFalse(self.starts.has("tv", "another") or self.starts.has("radio", None))
        self.starts.end(answer["number"])
        self.starts.end(answer["number"])
        self.assertEqual(self.authority.ended, ["id"])
        self.assertFalse(self.starts.has("tv", None))

    def test_refused(self) -> None:
        answer = self.starts.start(self.worker, "tv", "key", "192.0.2.1")
        self.assertTrue(self.starts.has("tv", None))
        self.authority.asked[0][1].errback(Refused("no"))
        self.assertEqual(self.successResultOf(answer), {"refused": "no"})
        self.assertEqual((len(self.starts), self.starts.asking), (0, 0))

    def test_a_worker_that_died(self) -> None:
        """Its accepted starts have one end each; another worker's have none."""
        first = self.start(self.worker, "first")
        self.start(self.other, "other")
        self.starts.lost(self.worker)
        self.starts.end(first["number"])
        self.assertEqual(self.authority.ended, ["first"])

    def test_accepted_when_its_worker_had_died(self) -> None:
        self.starts.start(self.worker, "tv", "key", "192.0.2.1")
        self.starts.lost(self.worker)
        self.assertEqual(self.authority.ended, [])
        self.authority.asked[0][1].callback("late")
        self.assertEqual(self.authority.ended, ["late"])

    def test_the_end_is_told_before_the_next_question(self) -> None:
        """Or has had its time."""
        self.starts.end(self.start(self.worker)["number"])
        self.starts.start(self.other, "tv", "key", "192.0.2.1")
        self.assertEqual(len(self.authority.asked), 1)
        assert self.authority.end_told is not None
        self.authority.end_told.callback(None)
        self.assertEqual(len(self.authority.asked), 2)
        self.authority.asked[1][1].callback("second")
        self.starts.end(2)
        self.starts.start(self.other, "tv", "key", "192.0.2.1")
        self.clock.advance(STOP_SECONDS - 0.1)
        self.assertEqual(len(self.authority.asked), 2)
        self.clock.advance(0.2)
        self.assertEqual(len(self.authority.asked), 3)
