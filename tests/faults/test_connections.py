"""One connection's fault is the end of that connection; and a pause of the whole process is nobody's fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.broker import LATE_SECONDS
from rtmp_twisted.rtmp.connection import CONNECT_SECONDS, HANDSHAKE_SECONDS, SILENT_SECONDS
from tests.support.fakes import Log
from tests.support.memory import Client, World, codes, media
from tests.support.rtmp_client import HANDSHAKE, aac


def broken(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


class ExceptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log(self)
        self.world = World()
        self.publisher = self.world.connect().open()
        self.publisher.publish()
        self.victim = self.world.connect().open("other")
        self.victim.publish()

    def assert_only_the_victim_ends(self) -> None:
        self.assertTrue(self.victim.transport.aborted)
        self.victim.leave()
        self.assertEqual([channel.name for channel, _ in self.world.broker.channels()], ["channel"])
        player = self.world.connect().open()
        player.play()
        self.publisher.send(aac(7))
        self.assertEqual([message.timestamp for message in media(player.new())], [7])
        self.assertFalse(self.publisher.transport.aborted)

    def test_out_of_memory(self) -> None:
        self.patch(self.victim.protocol.connection, "sink", Sink(MemoryError()))
        self.victim.send(aac(0))
        self.assert_only_the_victim_ends()
        self.assertEqual(self.log.lines(LogLevel.error), ["out of memory, which ends this connection"])
        self.assertTrue(any(line.endswith("out of memory") for line in self.log.lines(LogLevel.info)))

    def test_a_bug(self) -> None:
        self.patch(self.victim.protocol.connection, "sink", Sink(ValueError("a bug")))
        self.victim.send(aac(0))
        self.assert_only_the_victim_ends()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_in_a_check(self) -> None:
        """The others are checked all the same, and go on being checked."""
        self.patch(self.victim.protocol.connection, "handler", Handler(self.victim.protocol.connection.handler.end))
        silent = self.world.connect(handshake=False)
        self.world.pass_time(1)
        self.assert_only_the_victim_ends()
        self.world.pass_time(HANDSHAKE_SECONDS)
        self.assertTrue(silent.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_the_end_fails_once(self) -> None:
        """Ending a publish fails at first, as it may without memory: it is ended when the connection is lost."""
        end = self.world.broker.end
        calls = []

        def fail_once(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 1:
                raise MemoryError
            end(*arguments)

        self.patch(self.world.broker, "end", fail_once)
        self.patch(self.victim.protocol.connection, "sink", Sink(MemoryError()))
        self.victim.send(aac(0))
        self.assert_only_the_victim_ends()

    def test_the_end_fails(self) -> None:
        """Whatever happens, the connection does not count any more."""
        self.patch(self.victim.protocol.connection, "handler", Handler(broken(MemoryError())))
        self.patch(self.victim.protocol.connection, "sink", Sink(MemoryError()))
        self.victim.send(aac(0))
        self.assertTrue(self.victim.transport.aborted)
        self.assertRaises(MemoryError, self.victim.leave)
        self.assertEqual(len(self.world.factory.connections), 1)
        self.assertEqual(self.world.factory.limits.inside, 1)

    def test_at_the_stop_of_the_server(self) -> None:
        self.patch(self.victim.protocol.connection, "handler", Handler(broken(MemoryError())))
        done = self.world.factory.finish_all("the server is stopping")
        self.assertTrue(self.publisher.closing)
        self.publisher.leave()
        self.assertRaises(MemoryError, self.victim.leave)
        self.successResultOf(done)


class Sink:
    full = False

    def __init__(self, error: Exception) -> None:
        self.write = broken(error)


class Handler:
    """One whose check has a bug."""

    check = broken(ValueError("a bug"))

    def __init__(self, end: Callable[[str], None]) -> None:
        self.end = end


class PauseTests(SynchronousTestCase):
    """The process does not run for a while: SIGSTOP, a suspended machine, a machine without CPU to spare.

    What clients have sent in the meantime is in their sockets, and timers come before it."""

    def setUp(self) -> None:
        self.world = World()

    def pause(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.world.factory.check()

    def test_what_came_meanwhile_counts(self) -> None:
        shaking, connecting = self.world.connect(handshake=False), self.world.connect()
        talking = self.world.connect().open()
        talking.publish()
        self.world.pass_time(5)
        self.pause(SILENT_SECONDS)
        self.assertFalse(any(one.transport.aborted for one in (shaking, connecting, talking)))
        shaking.feed(HANDSHAKE + bytes(1536))
        connecting.open()
        talking.send(aac(0))
        self.world.pass_time(5)
        self.assertFalse(any(one.transport.aborted for one in (shaking, connecting, talking)))

    def test_who_is_silent_after_it_is_late(self) -> None:
        shaking, connecting = self.world.connect(handshake=False), self.world.connect()
        self.pause(max(HANDSHAKE_SECONDS, CONNECT_SECONDS))
        self.world.pass_time(2)
        self.assertTrue(shaking.transport.aborted and connecting.transport.aborted)

    def take_over(self) -> tuple[Client, Client]:
        first, second = self.world.connect().open(), self.world.connect().open()
        first.publish()
        self.assertEqual(second.publish(), [])
        self.world.clock.advance(LATE_SECONDS + self.world.takeover_seconds)
        self.assertEqual(second.new(), [])
        return first, second

    def test_a_publisher_that_has_sent_meanwhile_is_not_taken_over(self) -> None:
        first, second = self.take_over()
        first.send(aac(0))
        self.world.pass_time(1)
        self.assertEqual(codes(second.new()), ["NetStream.Publish.BadName"])
        self.assertFalse(first.closing)

    def test_a_silent_one_is(self) -> None:
        first, second = self.take_over()
        self.world.pass_time(1)
        self.assertEqual(codes(second.new()), ["NetStream.Publish.Start"])
        self.assertTrue(first.closing)
