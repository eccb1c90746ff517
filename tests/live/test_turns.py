"""rtmp_twisted.live.turns: what is over its budget goes on in the next turns, and never keeps others waiting."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.turns import ITEMS_PER_TURN, TURN_SECONDS, Turns
from tests.support.turns import TurnClock


class TurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.turns = Turns(self.clock)
        self.done: list[str] = []

    def work(self, name: str, turns: int, seconds: float = 0.0) -> None:
        """Work that takes some turns, and some time in each."""
        left = [turns]

        def work() -> bool:
            self.done.append(name)
            self.clock.rightNow += seconds
            left[0] -= 1
            return left[0] > 0

        self.turns.add(work)

    def test_one_piece_of_each_in_a_turn(self) -> None:
        self.work("a", 3)
        self.work("b", 1)
        self.assertEqual(self.done, [])
        expected = [["a", "b"], ["a"], ["a"]]
        for turn in expected:
            self.done.clear()
            self.clock.turn()
            self.assertEqual(self.done, turn)
        self.assertEqual((len(self.turns), self.clock.getDelayedCalls()), (0, []))

    def test_the_publishers_come_first(self) -> None:
        self.turns.before = lambda: self.done.append("publishers")
        self.work("a", 2)
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.done, ["publishers", "a"] * 2)

    def test_a_turn_that_has_taken_long_enough(self) -> None:
        """Those who did not get their turn are the first in the next one."""
        for name in "a", "b", "c":
            self.work(name, 2, TURN_SECONDS / 2)
        self.clock.turn()
        self.assertEqual(self.done, ["a", "b"])
        self.clock.turn()
        self.assertEqual(self.done, ["a", "b", "c", "a"])

    def test_a_bug_ends_one_piece_of_work(self) -> None:
        self.turns.add(lambda: bool(1 / 0))
        self.work("a", 1)
        self.clock.turn()
        self.assertEqual(self.done, ["a"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_what_is_done_to_many(self) -> None:
        """Some in each turn, in their order; an exception ends that call only."""
        done: list[int] = []

        def call(item: int) -> None:
            done.append(item)
            if item == 1:
                raise RuntimeError("a bug")

        self.turns.for_each(range(2 * ITEMS_PER_TURN + 1), call)
        self.turns.for_each([], call)
        for items in ITEMS_PER_TURN, 2 * ITEMS_PER_TURN, 2 * ITEMS_PER_TURN + 1:
            self.clock.turn()
            self.assertEqual(done, list(range(items)))
        self.assertEqual((len(self.turns), self.clock.getDelayedCalls()), (0, []))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
