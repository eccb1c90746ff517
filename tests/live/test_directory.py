"""rtmp_twisted.live.directory: who has a channel, in one process."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.directory import Claim, LocalDirectory, Taken


class LocalDirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = LocalDirectory()

    def test_claim_and_release(self) -> None:
        self.assertIsNone(self.successResultOf(self.directory.locate("channel")))
        claim = self.successResultOf(self.directory.claim("channel", "holder"))
        self.assertEqual((claim.channel, claim.holder), ("channel", "holder"))
        self.assertIs(self.successResultOf(self.directory.locate("channel")), claim)
        self.assertIsNone(self.successResultOf(self.directory.locate("another")))
        taken = self.failureResultOf(self.directory.claim("channel", "somebody else"), Taken)
        self.assertIs(taken.value.claim, claim)
        self.directory.release(claim)
        self.assertIsNone(self.successResultOf(self.directory.locate("channel")))

    def test_epochs_grow(self) -> None:
        first = self.successResultOf(self.directory.claim("channel", "holder"))
        self.directory.release(first)
        second = self.successResultOf(self.directory.claim("channel", "holder"))
        self.assertGreater(second.epoch, first.epoch)
        self.directory.release(first)  # of an epoch that is over: it takes nothing from the next holder
        self.assertIs(self.successResultOf(self.directory.locate("channel")), second)

    def test_watch(self) -> None:
        seen: list[Claim | None] = []
        stop = self.directory.watch("channel", seen.append)
        claim = self.successResultOf(self.directory.claim("channel", "holder"))
        self.successResultOf(self.directory.claim("another", "holder"))
        self.directory.release(claim)
        self.assertEqual(seen, [claim, None])
        stop()
        self.successResultOf(self.directory.claim("channel", "holder"))
        self.assertEqual(seen, [claim, None])
