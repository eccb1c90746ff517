"""The short form of ./tools/cluster, and that its checks find what is wrong."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.cluster.chaos import check_events, check_history, run_acts


class CheckTests(SynchronousTestCase):
    def test_right(self) -> None:
        self.assertEqual(
            check_history([[(1, 0, 0), (1, 1, 40), (1, 10, 400), (2, 0, 400)], [(2, 0, 0), (3, 7, 9)]]), []
        )
        self.assertEqual(check_events(["a", "b"], Counter(["a", "b"])), [])

    def test_frames(self) -> None:
        for connections in (
            [[(1, 5, 40), (1, 6, 39)]],
            [[(1, 5, 40), (1, 5, 40)]],
            [[(1, 5, 40), (1, 4, 40)]],
            [[(2, 0, 40), (1, 9, 41)]],
            [[(1, 5, 40), (2, 0, 41)], [(1, 9, 0)]],
        ):
            self.assertEqual(len(check_history(connections)), 1, connections)

    def test_events(self) -> None:
        self.assertEqual(len(check_events(["a"], Counter())), 1)
        self.assertEqual(len(check_events(["a"], Counter(["a", "a"]))), 1)
        self.assertEqual(len(check_events([], Counter(["a"]))), 1)


class ChaosTests(TestCase):
    timeout = 180

    async def test_kill_and_empty(self) -> None:
        outcome = await run_acts(self, ["encoder", "kill", "redis-emptied", "viewers"], 1, lambda line: None)
        self.assertEqual(outcome.problems, [])
        self.assertGreater(outcome.frames, 500)
        self.assertGreater(outcome.starts, 2)

    async def test_sabotage(self) -> None:
        """An end that is told twice, which one of the other tests would not see in whole servers."""
        outcome = await run_acts(self, ["encoder"], 1, lambda line: None, "end-twice")
        self.assertTrue(any("was told 2 times" in problem for problem in outcome.problems), outcome.problems)
