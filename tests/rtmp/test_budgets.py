"""What one connection may cost in one turn of the reactor, and that it holds nothing when it has ended."""

from __future__ import annotations

import gc
import weakref
from itertools import cycle, islice

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.cursor import TURN_MESSAGES
from rtmp_twisted.rtmp.connection import COMMAND_COST, MESSAGES_PER_TURN, Connection
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.chunks import CHUNKS_AT_ONCE
from rtmp_twisted.wire.messages import AGGREGATE, AUDIO, Message
from tests.support.fakes import Log
from tests.support.memory import Client, World, media
from tests.support.rtmp_client import AVC_HEADER, aac, avc
from tests.support.turns import TurnClock


class BudgetCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.world = World(clock=self.clock)
        self.client = self.world.connect().open()
        self.client.publish()

    def feed(self, *data: bytes, client: Client | None = None) -> None:
        """Bytes arrive in one read; nothing else happens in this turn."""
        client = client or self.client
        client.protocol.dataReceived(b"".join(data))

    def received(self) -> int:
        found = self.world.broker.channel("channel")
        assert found is not None and found[1] is not None
        return found[1].received_messages


class IntakeTests(BudgetCase):
    """What arrives."""

    def turns(self, expected: int, per_turn: int) -> None:
        """So many messages are published in each turn, and nothing is read before all are."""
        done = self.received()
        while done < expected:
            self.assertEqual(self.client.transport.producerState, "paused")
            self.clock.turn()
            now = self.received()
            self.assertTrue(0 < now - done <= per_turn, (done, now))
            done = now
        self.clock.turn()
        self.assertEqual(self.received(), expected)
        self.assertEqual(self.client.transport.producerState, "producing")

    def test_empty_messages(self) -> None:
        """One byte each: a type 3 chunk of a message of length 0."""
        self.feed(chunks.encode(Message(AUDIO, 1, 0, b""), 4, 128), b"\xc4" * 5000)
        self.assertEqual(self.received(), MESSAGES_PER_TURN)
        self.turns(5001, MESSAGES_PER_TURN)

    def test_parts_of_an_aggregate_message(self) -> None:
        part = b"\x08\0\0\x02" + bytes(7) + b"\xaf\x01" + bytes(4)
        self.client.send(messages.set_chunk_size(65536))
        aggregate = Message(AGGREGATE, 1, 0, part * 1000)
        self.feed(chunks.encode(aggregate, 4, 65536), chunks.encode(aac(7), 4, 65536))
        self.assertLessEqual(self.received(), MESSAGES_PER_TURN)
        self.turns(1001, MESSAGES_PER_TURN)

    def test_other_channels_are_read_in_between(self) -> None:
        before: list[int] = []
        self.world.broker.scheduler.turns.before = lambda: before.append(self.received())
        self.feed(chunks.encode(Message(AUDIO, 1, 0, b""), 4, 128), b"\xc4" * 200)
        for _ in range(4):
            self.clock.turn()
        self.assertEqual(before, [64, 128, 192, 201][: len(before)])
        self.assertGreaterEqual(len(before), 3)

    def test_answers_that_were_asked_for_in_one_read(self) -> None:
        ping = chunks.encode(messages.user_control(messages.PING_REQUEST, 1), 2, 128)
        self.client.new()
        self.feed(ping * 1000)
        answered = len(self.client.transport.value()) // len(ping)
        for _ in range(1000 // MESSAGES_PER_TURN + 1):
            self.clock.turn()
        self.assertLess(answered, 1000)
        self.assertEqual(len(self.client.new()), 1000)

    def test_commands(self) -> None:
        """Each counts as many messages: they take longer."""
        other = self.world.connect().open()
        command = chunks.encode(messages.command("_checkbw", 5, None), 3, 128)
        other.new()
        writes = len(other.transport.writes)
        self.feed(command * 50, client=other)
        self.assertEqual(len(other.transport.writes) - writes, MESSAGES_PER_TURN // COMMAND_COST)
        self.clock.advance(0)
        self.assertEqual(len(other.transport.writes) - writes, 50)

    def test_chunks_that_complete_nothing(self) -> None:
        """Many chunk streams, one byte of each message at a time."""
        self.client.send(messages.set_chunk_size(1))
        ids = range(3, 63)
        begin = b"".join(bytes((cs, 0, 0, 0, 0, 1, 0, AUDIO)) + (1).to_bytes(4, "little") + b"x" for cs in ids)
        going_on = b"".join(bytes((0xC0 | cs,)) + b"x" for cs in islice(cycle(ids), 60 * 255))
        self.feed(begin, going_on)
        turns = 0
        while self.client.transport.producerState == "paused":
            self.clock.turn()
            turns += 1
        self.assertEqual(self.received(), len(ids))
        self.assertGreaterEqual(turns, 60 * 255 // CHUNKS_AT_ONCE // (MESSAGES_PER_TURN // COMMAND_COST))

    def test_the_end_in_the_middle(self) -> None:
        """What has not been handled when the connection ends is dropped."""
        for end in (lambda: self.client.leave(), lambda: self.world.broker.kill("channel", None, "killed")):
            self.setUp()
            self.feed(chunks.encode(Message(AUDIO, 1, 0, b""), 4, 128), b"\xc4" * 500)
            end()
            self.clock.advance(0)
            self.assertEqual(len(self.world.broker.scheduler.turns), 0)
            self.assertEqual(self.world.broker.channels(), [])


class CatchingUpTests(BudgetCase):
    """What a joining player is handed."""

    def test_small_messages_on_another_stream(self) -> None:
        self.client.send(AVC_HEADER, avc(0, True))
        for _ in range(50):
            self.client.send(*[aac(1, b"") for _ in range(100)])
        player = self.world.connect().open()
        player.call("createStream", None)
        player.new()
        before = player.transport.writes[-1:]
        self.feed(chunks.encode(messages.command("play", 5, None, "key", stream_id=2), 3, 128), client=player)
        first = self.delivered()
        self.assertTrue(0 < first <= TURN_MESSAGES + 100, first)
        turns = 0
        while self.delivered() < 5000:
            now = self.delivered()
            self.clock.turn()
            self.assertLessEqual(self.delivered() - now, TURN_MESSAGES + 100)
            turns += 1
        self.assertGreaterEqual(turns, 4)
        self.assertEqual(len(media(player.new())), 5000 + 2)
        del before

    def delivered(self) -> int:
        return self.world.broker.traffic().delivered_messages


class EndTests(BudgetCase):
    """A connection that has ended holds nothing, at once and without the garbage collector."""

    def setUp(self) -> None:
        super().setUp()
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

    def test_half_a_message(self) -> None:
        self.client.send(messages.set_chunk_size(65536))
        self.client.chunk_size = 65536
        self.feed(chunks.encode(avc(0, True, bytes(10_000_000)), 4, 65536)[:9_000_000])
        connection = self.client.protocol.connection
        self.assertGreater(connection.held(), 9_000_000)
        self.client.leave()
        self.assertLess(connection.held(), 1000)

    def test_every_state(self) -> None:
        def nothing(client: Client) -> None: ...

        def publish(client: Client) -> None:
            client.open("another").publish()
            client.send(aac(0))

        def play(client: Client) -> None:
            client.open().play()

        def refused(client: Client) -> None:
            client.open().play("wrong")

        def garbage(client: Client) -> None:
            client.feed(b"\xff" * 1000)

        def over_budget(client: Client) -> None:
            publish(client)
            self.feed(chunks.encode(Message(AUDIO, 1, 0, b""), 4, 128), b"\xc4" * 500, client=client)

        for before in nothing, publish, play, refused, garbage, over_budget:
            client = self.world.connect()
            before(client)
            gone = [weakref.ref(part) for part in (client.protocol, client.protocol.connection.handler)]
            client.leave()
            client.protocol = None
            del client
            self.clock.advance(0)
            self.assertEqual([part() for part in gone], [None, None], before.__name__)

    def test_publishes_that_came_to_nothing(self) -> None:
        """The error that an awaited Deferred fails with keeps no connection."""
        authority = self.world.authority
        authority.ask = True

        def refused(client: Client) -> None:
            client.open("another").publish()
            authority.refuse()

        def accepted_too_late(client: Client) -> None:
            first = self.world.connect().open("contested")
            first.publish()
            client.open("contested").publish()
            authority.accept()
            authority.accept()

        def waiting_to_take_over(client: Client) -> None:
            client.open().publish()
            self.assertFalse(client.closing)

        for number, before in enumerate((refused, accepted_too_late, waiting_to_take_over)):
            client = self.world.connect(f"192.0.2.{number + 10}")
            before(client)
            self.world.turn()
            there = connections()
            client.leave()
            client.protocol = None
            del client
            self.world.turn()
            self.assertEqual(connections(), there - 1, before.__name__)


def connections() -> int:
    """How many connections are in memory, ended or not. (A compiled one takes no weak reference.)"""
    return sum(isinstance(found, Connection) for found in gc.get_objects())


class MemoryTests(SynchronousTestCase):
    def test_a_message_longer_than_a_channel_s_share(self) -> None:
        log = Log(self)
        world = World(memory_limit=4_000_000)
        client, player = world.connect().open(), world.connect().open()
        player.play()
        client.publish()
        client.send(messages.set_chunk_size(65536))
        client.chunk_size = 65536
        client.send(avc(0, True, bytes(900_000)))
        self.assertFalse(client.transport.aborted)
        client.send(avc(40, True, bytes(1_100_000)))
        self.assertTrue(client.transport.aborted)
        client.leave()
        self.assertTrue(any("1100005 bytes" in line and "1000000" in line for line in log.lines()), log.lines())

    def test_half_messages_count_and_the_largest_goes(self) -> None:
        world = World(memory_limit=40_000_000)
        clients = [world.connect().open() for _ in range(6)]
        for number, client in enumerate(clients):
            client.publish(f"key{number}") if number == 0 else client.open(f"c{number}").publish()
        for number, client in enumerate(clients):
            client.send(messages.set_chunk_size(65536))
            data = chunks.encode(avc(0, True, bytes(9_900_000)), 4, 65536)
            client.feed(data[: 9_000_000 + number * 100_000])
        world.pass_time(1)
        ended = [client for client in clients if client.transport.aborted]
        for client in ended:
            client.leave()
        world.pass_time(2)
        self.assertIn(clients[-1], ended)
        self.assertNotIn(clients[0], ended)
        self.assertLess(world.broker.memory.held, 40_000_000)

    def test_every_account_is_zero_when_all_have_gone(self) -> None:
        world = World()
        clients = [world.connect().open() for _ in range(4)]
        clients[0].publish()
        clients[0].send(AVC_HEADER, avc(0, True, bytes(10_000)))
        for client in clients[1:]:
            client.play()
        clients[0].feed(chunks.encode(avc(40, False, bytes(10_000)), 4, 128)[:5000])
        world.pass_time(1)
        self.assertGreater(world.broker.memory.held, 20_000)
        for client in clients:
            client.leave()
        world.pass_time(1)
        self.assertEqual(world.broker.memory.held, 0)
        self.assertEqual(len(world.broker.memory), 1)  # that of connections
