"""rtmp_twisted.live.timestamps: what players see of a publisher's clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.timestamps import BACK, FORWARD, STEP, Timestamps
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, VIDEO

A, V = AUDIO, VIDEO
HOUR = 3_600_000
WRAP = 2**32


def placed(*frames: tuple[int, int]) -> list[int]:
    timeline = Timestamps()
    return [timeline.rebase(kind, time % WRAP) for kind, time in frames]


def after(time: int, other: int) -> int:
    """How much later ``time`` is, on a clock that wraps."""
    return (time - other + WRAP // 2) % WRAP - WRAP // 2


class StretchTests(SynchronousTestCase):
    def test_no_jump(self) -> None:
        """As long as the clock runs, its times are the players', whatever they begin with."""
        for start in 0, 12 * HOUR, WRAP - 50:
            frames = [(V, start), (A, start - 20), (A, start + 3), (V, start + 33), (V, start + FORWARD)]
            self.assertEqual(placed(*frames), [time % WRAP for _, time in frames])

    def test_tracks_out_of_order(self) -> None:
        self.assertEqual(placed((V, 1000), (V, 1000 - BACK), (V, 1040)), [1000, 1000 - BACK, 1040])

    def test_back_and_forward(self) -> None:
        for jump in -10 * HOUR, -HOUR, -FORWARD, -BACK - 10, FORWARD + 1, HOUR, 100 * HOUR:
            for start in 20 * HOUR, WRAP - 10:
                new = start + jump
                frames = [(V, start), (A, start + 5), (V, new), (A, new + 10), (V, new + 33)]
                there = start + 5 + STEP
                expected = [start, start + 5, there, there + 10, there + 33]
                self.assertEqual(placed(*frames), [time % WRAP for time in expected], jump)

    def test_one_kind_jumps_first(self) -> None:
        frames = [(V, 9000), (A, 9010), (V, 0), (A, 9030), (A, 9050), (V, 33), (A, 40), (V, 66)]
        self.assertEqual(placed(*frames), [9000, 9010, 9050, 9030, 9050, 9083, 9090, 9116])

    def test_jumps_in_a_row(self) -> None:
        """A jump by little, from the stretch that the other kind is in as well."""
        frames = [(V, 9000), (A, 9000), (A, 7000), (A, 5000), (V, 5000), (A, 5020)]
        self.assertEqual(placed(*frames), [9000, 9000, 9040, 9080, 9080, 9100])

    def test_never_before_what_was_seen(self) -> None:
        """What jumps second is not placed before its own last frame."""
        frames = [(V, 9000), (A, 9000), (V, 0), (A, 9500), (A, 20), (A, 600)]
        self.assertEqual(placed(*frames), [9000, 9000, 9040, 9500, 9500, 9640])

    def test_clocks_that_have_nothing_in_common(self) -> None:
        frames = [(V, 0), (A, 50 * HOUR), (V, 33), (A, 50 * HOUR + 23), (V, 66)]
        self.assertEqual(placed(*frames), [0, STEP, 33, STEP + 23, 66])

    @given(
        st.lists(st.tuples(st.sampled_from([A, V]), st.integers(0, WRAP - 1), st.integers(1, 20)), max_size=20),
    )
    def test_any(self, runs: list[tuple[int, int, int]]) -> None:
        """Each kind's times never go back by more than what is no jump, and never leap ahead of all that was seen."""
        timeline = Timestamps()
        last: dict[int, int] = {}
        latest = 0
        for kind, start, count in runs:
            for number in range(count):
                time = timeline.rebase(kind, (start + 23 * number) % WRAP)
                if last:
                    self.assertLessEqual(after(time, latest), FORWARD)
                    self.assertGreaterEqual(after(time, last.get(kind, time)), -BACK)
                last[kind] = time
                latest = time if len(last) == 1 or after(time, latest) > 0 else latest


class BesideTests(SynchronousTestCase):
    def test_what_is_no_frame(self) -> None:
        timeline = Timestamps()
        self.assertEqual(timeline.rebase_other(V, 77), 77)
        timeline.rebase(V, 9000)
        self.assertEqual(timeline.rebase_other(V, 9033), 9033)
        self.assertEqual(timeline.rebase_other(DATA_AMF0, 9050), 9050)
        self.assertEqual(timeline.rebase_other(A, HOUR), 9000)  # a header with a time of its own
        timeline.rebase(V, HOUR)
        self.assertEqual(timeline.rebase_other(DATA_AMF0, HOUR + 10), 9050)
        self.assertEqual(timeline.rebase(V, HOUR + 40), 9080)


class NextPublishTests(SynchronousTestCase):
    def test_goes_on(self) -> None:
        timeline = Timestamps()
        timeline.rebase(V, 9000)
        timeline.go_on(9000, 4000)
        self.assertEqual(timeline.rebase_other(V, 0), 13_000)
        self.assertEqual([timeline.rebase(V, 0), timeline.rebase(A, 10)], [13_000, 13_010])
        timeline.go_on(13_010, 0)
        timeline.go_on(13_010, 0)  # nothing came in between
        self.assertEqual(timeline.rebase(A, 5 * HOUR), 13_010 + STEP)

    def test_nothing_was_seen(self) -> None:
        timeline = Timestamps()
        timeline.go_on(0, 4000)
        self.assertEqual([timeline.rebase_other(V, 7), timeline.rebase(V, 7)], [7, 7])

    def test_begins_anew(self) -> None:
        timeline = Timestamps()
        timeline.rebase(V, 9000)
        timeline.restart()
        self.assertEqual(timeline.rebase(V, 3), 3)
