"""The faults of a cluster over real networks: a short form of ./tools/cluster --namespaces."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from rtmp_twisted.cluster.store import PLACE_SECONDS
from tests.cluster.network import measure


class NetworkTests(TestCase):
    timeout = 180

    async def test_cut_cables(self) -> None:
        """Between two nodes, viewers wait without being closed, and nothing is lost. A node that Redis does not hear of
        stays on air, is taken for dead, and gives its publish up when it hears of that; each end is told once."""
        between, redis = await measure(self, ["nodes-cut", "redis-cut"], lambda line: None)
        self.assertEqual(between.problems + redis.problems, [])
        self.assertIsNone(between.encoder)
        self.assertEqual((between.closed, between.lost), ((False, False), (0, 0)))
        self.assertGreater(between.waited[1], 4)
        self.assertLess(between.waited[0], 4)
        assert redis.encoder is not None
        self.assertLess(redis.encoder, PLACE_SECONDS)
        self.assertEqual(redis.closed, (False, False))
