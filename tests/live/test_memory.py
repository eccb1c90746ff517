"""rtmp_twisted.live.memory: what is counted, what happens at the limit, and that nothing outlives its end."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import cursor as cursor_module
from rtmp_twisted.live import log as log_module
from rtmp_twisted.live.cursor import Cursor
from rtmp_twisted.live.headers import MAX_KEPT_HEADERS
from rtmp_twisted.live.log import Block
from rtmp_twisted.live.memory import FREED, NO_LIMIT, Memory
from rtmp_twisted.live.player import Cache
from rtmp_twisted.live.rendition import Rendition
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.media.flv import FLVFormat
from rtmp_twisted.wire.messages import VIDEO, Message
from tests.live.test_channel import group, on_air
from tests.support.fakes import Log
from tests.support.live import join, make_channel
from tests.support.programs import ROOT
from tests.support.rtmp_client import aac, avc
from tests.support.turns import TurnClock

FILL = """
import gc, json, sys
from tests.support.live import make_channel
from tests.support.rtmp_client import avc, Message

def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))

size, wanted = int(sys.argv[1]), int(sys.argv[2])
stage = make_channel(whole_stream=True, cache_bytes=2**40)
stage.begin("key")
stage.publish(avc(0, True))
stage.flush()
gc.collect()
before = resident()
while stage.account.held < wanted:
    for _ in range(8):
        stage.publication.write(Message(8, 1, 0, b"\\xaf\\x01" + bytes(size - 2) if size > 1 else b"x"))
    stage.scheduler.flush_pending()
stage.account.settle()
print(json.dumps([stage.account.held, resident() - before]))
"""


class CountTests(SynchronousTestCase):
    def test_what_is_counted_is_what_is_resident(self) -> None:
        """Within 1.5 times, when a channel is filled to 200 MB, for messages of all sizes."""
        for size in 1, 100, 10_000, 16_000_000:
            run = [sys.executable, "-c", FILL, str(size), str(200_000_000)]
            done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=300)
            self.assertEqual(done.returncode, 0, done.stderr)
            counted, resident = json.loads(done.stdout)
            self.assertGreaterEqual(counted, 200_000_000)
            self.assertTrue(1 / 1.5 < counted / resident < 1.5, (size, counted, resident))

    def test_only_what_is_needed_counts(self) -> None:
        stage = on_air(make_channel())
        group(stage, 1)
        stage.account.settle()
        one = stage.account.held
        self.assertGreater(one, 1000)
        group(stage, 2)
        stage.account.settle()
        self.assertLess(abs(stage.account.held - one), one / 3)
        stage.end()
        stage.account.settle()
        self.assertEqual(stage.account.held, 0)

    def test_what_a_slow_player_needs_is_the_channel_s(self) -> None:
        stage = on_air(make_channel())
        slow = join(stage, room=100)
        for number in range(20):
            group(stage, number)
        stage.account.settle()
        many = stage.account.held
        slow.take()
        group(stage, 21)
        stage.account.settle()
        self.assertGreater(many, 10 * stage.account.held)

    def test_a_rendition_counts(self) -> None:
        stage = on_air(make_channel(form=FLVFormat))
        group(stage, 1)
        stage.account.settle()
        without = stage.account.held
        viewer = join(stage)
        stage.account.settle()
        self.assertGreater(stage.account.held, 1.5 * without)
        stage.leave(viewer.player)
        stage.account.settle()
        self.assertEqual(stage.account.held, without)

    def test_headers_of_each_group_count(self) -> None:
        """A publisher that sends other headers with each group of pictures."""
        stage = on_air(make_channel(whole_stream=True))
        for number in range(50):
            stage.publish(Message(VIDEO, 1, number, b"\x17\x00\0\0\0%02d" % number + bytes(10_000)))
            group(stage, number)
        stage.account.settle()
        self.assertGreater(stage.account.held, 50 * 20_000)  # in the log, and kept

    def test_small_messages_are_a_lag_as_well(self) -> None:
        self.patch(cursor_module, "MAX_LAG_MESSAGES", 50)
        stage = on_air(make_channel())
        slow = join(stage, room=100)
        for number in range(20):
            group(stage, number, frames=10)
        self.assertGreater(slow.player.skips, 0)
        stage.account.settle()
        self.assertLess(stage.account.held, 10 * 10 * 2 * 600)


class LimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.memory = Memory(1_000_000, Turns(self.clock))
        self.log = Log(self)
        self.holds: dict[str, int] = {}

    def open(self, name: str, held: int, least: int = 0) -> None:
        """An account whose party can give back all but ``least``."""
        self.holds[name] = held

        def shrink() -> None:
            self.holds[name] = min(self.holds[name], least)

        self.memory.open(name, lambda: self.holds[name], shrink).add(held)

    def test_the_largest_shrinks_first(self) -> None:
        self.open("small", 200_000)
        self.open("largest", 500_000)
        self.open("large", 300_000)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.open("one more", 100_000)
        self.clock.turn()
        self.assertEqual(self.holds, {"small": 200_000, "largest": 0, "large": 300_000, "one more": 100_000})
        self.assertEqual((self.memory.held, self.memory.shrinks), (600_000, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        [line] = self.log.lines()
        self.assertIn("MAX_MEMORY_MB", line)

    def test_as_many_as_it_takes_one_a_turn(self) -> None:
        for number in range(10):
            self.open(str(number), 200_000)
        for turn in range(1, 7):
            self.clock.turn()
            self.assertEqual(self.memory.shrinks, min(turn, 6))
        self.clock.advance(0)
        self.assertLessEqual(self.memory.held, 900_000)

    def test_an_estimate_that_was_too_high(self) -> None:
        """What is counted is counted anew before anybody has to give back."""
        self.open("channel", 800_000)
        account = self.memory.open("sound", lambda: 1000, lambda: None)
        account.add(300_000)
        self.clock.advance(0)
        self.assertEqual((self.memory.held, self.memory.shrinks), (801_000, 0))

    def test_in_vain(self) -> None:
        """Where nothing can be given back, it is not tried again and again."""
        self.open("stubborn", 1_100_000, least=1_100_000)
        self.clock.advance(0)
        self.memory.changed(1)
        self.assertEqual((self.memory.shrinks, self.clock.getDelayedCalls()), (1, []))

    def test_a_channel_gives_its_cache_back_and_goes_on(self) -> None:
        stage = on_air(make_channel(whole_stream=True))
        quick, slow = join(stage), join(stage, room=300)
        bodies = [body for number in range(10) for body in group(stage, number)]
        stage.account.settle()
        before = stage.account.held
        stage.account.shrink()
        stage.account.settle()
        self.assertLess(stage.account.held, before / 10)
        more = group(stage, 11)
        slow.take()
        more += group(stage, 12)
        self.assertEqual(quick.bodies()[2:], bodies + more)
        self.assertEqual(slow.player.skips, 1)
        self.assertEqual(slow.bodies()[-10:], more[-10:])
        self.assertEqual(join(stage, Cache.ALL).bodies()[2:], more)


def existing(kind: type) -> int:
    """How many objects of a class there are."""
    return sum(isinstance(found, kind) for found in gc.get_objects())


class EndTests(SynchronousTestCase):
    """Nothing waits for the garbage collector."""

    def setUp(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        self.before: dict[type, int] = {kind: existing(kind) for kind in (Block, Cursor, Rendition)}

    def made(self, kind: type) -> int:
        """How many objects of a class there are that this test has made."""
        return existing(kind) - self.before[kind]

    def test_blocks(self) -> None:
        stage = on_air(make_channel(whole_stream=True))
        players = [join(stage), join(stage, room=10), join(stage, stream_id=2)]
        for number in range(20):
            group(stage, number)
        for viewer in players:
            stage.leave(viewer.player)
        stage.end()
        stage.channel.close()
        stage.flush()
        self.assertEqual(self.made(Block), 1)

    def test_a_player_and_its_rendition(self) -> None:
        stage = on_air(make_channel(form=FLVFormat))
        viewer = join(stage)
        group(stage, 1)
        self.assertEqual((self.made(Cursor), self.made(Rendition)), (1, 1))
        stage.leave(viewer.player)
        viewer.writer.viewers.clear()
        del viewer.player  # as its owner does
        self.assertEqual((self.made(Cursor), self.made(Rendition)), (0, 0))

    def test_large_logs_are_freed_in_several_turns(self) -> None:
        self.patch(log_module, "AT_ONCE", 10)
        clock = TurnClock()
        stage = on_air(make_channel(clock=clock, whole_stream=True))
        for number in range(50):
            stage.publish(avc(number, True))
            stage.channel.audience.flush()
        before = existing(Block)
        stage.log.restart(whole=False)
        self.assertEqual(existing(Block), before)
        clock.turn()
        self.assertEqual(existing(Block), before - 10)
        clock.advance(0)
        self.assertLess(self.made(Block), 5)


class HeaderTests(SynchronousTestCase):
    def test_the_number_of_kept_headers_is_bounded(self) -> None:
        stage = make_channel()
        stage.begin("key")
        for track in range(256):
            stage.publish(Message(VIDEO, 1, 0, b"\x96\x00avc1" + bytes((track,))))
        stage.publish(aac(0))
        self.assertEqual(len(stage.program.headers.messages), MAX_KEPT_HEADERS)


class GiveBackTests(SynchronousTestCase):
    """When the process is to give free memory back to the system."""

    def setUp(self) -> None:
        self.given = 0
        self.memory = Memory(NO_LIMIT, Turns(Clock()), self.give_back)
        self.account = self.memory.open("all", lambda: 0, lambda: None)

    def give_back(self) -> None:
        self.given += 1

    def after(self, *held: int) -> int:
        """How often it was, when so many bytes were held at each second."""
        for size in held:
            self.account.add(size - self.account.held)
            self.memory.check()
        return self.given

    def test_once_a_second_after_much_was_let_go_of(self) -> None:
        self.assertEqual(self.after(4 * FREED, 100), 0)
        self.assertEqual(self.after(100, 100, 100), 1)
        self.assertEqual(self.after(2 * FREED, 0, 0, 0), 2)

    def test_in_small_steps_too(self) -> None:
        self.assertEqual(self.after(*range(2 * FREED, 0, -FREED // 8), 0, 0), 1)

    def test_not_for_little(self) -> None:
        self.assertEqual(self.after(FREED - 1, 0, 0, 0), 0)

    def test_not_while_much_is_held_still(self) -> None:
        """A group of pictures goes, and the next one comes."""
        self.assertEqual(self.after(*[8 * FREED, 3 * FREED] * 5), 0)
