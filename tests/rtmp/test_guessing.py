"""rtmp_twisted.rtmp.guessing: what it costs to guess a key, alone, in a server in memory, and in a real one."""

from __future__ import annotations

import re

import treq
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted.rtmp import guessing
from rtmp_twisted.rtmp.guessing import (
    CALM_SECONDS,
    FIRST_WAIT,
    MAX_KEYS,
    MOST_WAIT,
    REFUSE_SECONDS,
    WINDOW_SECONDS,
    GuessingLimits,
)
from tests.support.fakes import Log, reactor, within
from tests.support.memory import Client, World, codes, media
from tests.support.programs import Server, free_port
from tests.support.rtmp_client import AVC_HEADER, RTMPClient, avc

HERE, THERE = "192.0.2.1", "192.0.2.2"


class GuessingLimitsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.limits = GuessingLimits(self.clock)

    def wrong(self, *keys: str, address: str = HERE, channel: str = "tv") -> None:
        for key in keys:
            self.limits.fail("play", address, channel, key)

    def wait(self, key: str = "right", address: str = HERE, channel: str = "tv") -> float:
        return self.limits.wait(address, channel, key)

    def refuses(self, key: str = "right", address: str = HERE, channel: str = "tv") -> bool:
        return self.limits.refuses(address, channel, key)

    def guess(self, number: int = MAX_KEYS, address: str = HERE, channel: str = "tv") -> None:
        self.wrong(*[f"guess {one}" for one in range(number)], address=address, channel=channel)

    def test_longer_and_longer(self) -> None:
        """Each failure doubles the wait, which is over when it has passed."""
        self.assertEqual((self.limits.suspects(HERE), self.wait()), (False, 0))
        waits = []
        for number in range(8):
            self.wrong(f"guess {number}")
            waits.append(self.wait())
        self.assertEqual(waits, [FIRST_WAIT * factor for factor in (1, 2, 4, 8)] + [MOST_WAIT] * 4)
        self.clock.advance(MOST_WAIT - 0.5)
        self.assertEqual(self.wait(), 0.5)
        self.clock.advance(0.5)
        self.assertEqual(self.wait(), 0)
        self.assertTrue(self.limits.suspects(HERE))

    def test_calm(self) -> None:
        self.guess(5)
        self.clock.advance(2 * CALM_SECONDS)
        self.wrong("another")
        self.assertEqual(self.wait(), MOST_WAIT / 2)

    def test_every_channel_of_the_address_waits_and_no_other_address(self) -> None:
        self.guess(3)
        self.assertEqual(self.wait(channel="radio"), 4 * FIRST_WAIT)
        self.assertEqual((self.limits.suspects(THERE), self.wait(address=THERE)), (False, 0))

    def test_many_channels(self) -> None:
        """One key tried on many channels is slowed down, too."""
        for number in range(5):
            self.wrong("1234", channel=f"tv{number}")
        self.assertEqual(self.wait(channel="radio"), MOST_WAIT)

    def test_refused_after_too_many_keys(self) -> None:
        self.guess(MAX_KEYS - 1)
        self.assertFalse(self.refuses())
        self.wrong("one more")
        self.assertTrue(self.refuses())
        self.assertFalse(self.refuses(channel="radio"))
        self.assertFalse(self.refuses(address=THERE))
        self.assertEqual((self.limits.failures, self.limits.refused), ({"play": MAX_KEYS, "publish": 0}, 1))

    def test_a_refusal_ends_in_time(self) -> None:
        """Attempts do not prolong it. After it as many keys as before may fail."""
        self.guess()
        for _ in range(int(REFUSE_SECONDS) - 1):
            self.clock.advance(1)
            self.assertTrue(self.refuses("again"))
        self.clock.advance(1)
        self.assertFalse(self.refuses("again"))
        self.guess(MAX_KEYS - 1)
        self.assertFalse(self.refuses())
        self.wrong("one more")
        self.assertTrue(self.refuses())

    def test_slow_failures_never_end_in_a_refusal(self) -> None:
        """Ten people behind one address who mistype a key within some minutes."""
        for number in range(50):
            self.wrong(f"guess {number}")
            self.clock.advance(WINDOW_SECONDS / (MAX_KEYS - 1))
            self.assertFalse(self.refuses())

    def test_a_wrong_key_that_comes_again(self) -> None:
        """An encoder tries a wrong key every second, for an hour: it waits longer itself, and nobody else does."""
        for _ in range(3600):
            self.wrong("wrong")
            self.clock.advance(1)
            self.assertFalse(self.refuses() or self.refuses("wrong"))
            self.assertEqual(self.wait(), 0)
            self.limits.forget()
        self.assertEqual(self.wait("wrong"), MOST_WAIT - 1)
        self.wrong("wrong")
        self.assertLessEqual(self.wait(), FIRST_WAIT)

    def test_a_failed_key_is_looked_at_during_a_refusal(self) -> None:
        """It may have become right since."""
        self.guess()
        self.assertFalse(self.refuses("guess 3"))

    def test_questions_that_were_asked_before_the_refusal(self) -> None:
        """They are counted, and change nothing about it."""
        self.guess(MAX_KEYS + 5)
        self.assertFalse(self.refuses("guess 0"))
        self.assertTrue(self.refuses(f"guess {MAX_KEYS}"))
        self.clock.advance(REFUSE_SECONDS)
        self.assertFalse(self.refuses())

    def test_ipv6_networks(self) -> None:
        self.guess(address="2001:db8::1")
        self.assertTrue(self.refuses(address="2001:db8::ffff:2"))
        self.assertFalse(self.refuses(address="2001:db8:0:1::1"))

    def test_a_unix_socket_has_no_address(self) -> None:
        self.guess(100, address="")
        self.assertEqual(self.limits.failures["play"], 100)
        self.assertFalse(self.limits.suspects("") or self.wait(address="") or self.refuses(address=""))

    def test_forgotten(self) -> None:
        self.guess(address=THERE)
        self.clock.advance(WINDOW_SECONDS / 2)
        self.guess()
        self.clock.advance(WINDOW_SECONDS / 2)
        self.limits.forget()
        self.assertEqual((self.limits.suspects(THERE), self.limits.suspects(HERE)), (False, True))
        self.clock.advance(WINDOW_SECONDS / 2)
        self.limits.forget()
        self.assertEqual(self.limits.remembered, 0)

    def test_the_least_recently_failed_go_first(self) -> None:
        self.patch(guessing, "MAX_ENTRIES", 3)
        for address in "a", "b", "c", "a", "d":
            self.wrong("wrong", address=address)
        self.assertEqual([self.limits.suspects(one) for one in "abcd"], [True, False, True, True])
        self.assertEqual(list(self.limits._targets), [("c", "tv"), ("a", "tv"), ("d", "tv")])

    def test_logged_once_a_burst(self) -> None:
        """And never a key."""
        log = Log(self)
        for _ in range(5):
            self.guess(2 * MAX_KEYS)
            self.refuses()
            self.clock.advance(REFUSE_SECONDS)
            self.limits.forget()
        [line] = log.lines()
        self.assertRegex(line, f"{MAX_KEYS} wrong keys from {HERE} on channel 'tv'")
        self.assertNotIn("guess ", line)
        self.clock.advance(WINDOW_SECONDS)
        self.limits.forget()
        self.guess()
        self.assertEqual(log.lines(), [line, line])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("a", "b", "2001:db8::1")),
                st.sampled_from(("tv", "radio")),
                st.integers(0, 20),
                st.floats(0, 40),
            ),
            max_size=80,
        )
    )
    def test_whatever_fails(self, attempts: list[tuple[str, str, int, float]]) -> None:
        """No wait and no refusal is longer than it may be, and in the end nothing is left."""
        clock = Clock()
        limits = GuessingLimits(clock)
        for address, channel, key, pause in attempts:
            self.assertTrue(0 <= limits.wait(address, channel, str(key)) <= MOST_WAIT)
            if not limits.refuses(address, channel, str(key)):
                limits.fail("publish", address, channel, str(key))
            clock.advance(pause)
            limits.forget()
        clock.advance(REFUSE_SECONDS)
        self.assertFalse(any(limits.refuses(address, channel, "?") for address, channel, _, _ in attempts))
        clock.advance(WINDOW_SECONDS)
        limits.forget()
        self.assertEqual(limits.remembered, 0)


class SessionTests(SynchronousTestCase):
    """The server in memory. A publisher with the key "right" is on air on the channel "tv"."""

    def setUp(self) -> None:
        self.world = World()
        self.limits = self.world.factory.options.guessing
        self.publisher = self.world.connect(THERE).open("tv")
        self.publisher.publish("right")

    def play(self, key: str, channel: str = "tv", address: str = HERE) -> Client:
        client = self.world.connect(address).open(channel)
        client.play(key)
        return client

    def publish(self, key: str, channel: str = "tv", address: str = HERE) -> Client:
        client = self.world.connect(address).open(channel)
        client.publish(key)
        return client

    def guess(self, number: int = MAX_KEYS) -> None:
        for one in range(number):
            self.finish(self.play(f"guess-{one}"))

    def slow_down(self) -> None:
        """The address has just failed a few times, on another channel."""
        for number in range(5):
            self.limits.fail("play", HERE, "elsewhere", f"{self.world.clock.seconds()} {number}")

    def finish(self, client: Client) -> list[str]:
        """Lets pass what an attempt may have to wait, and returns the answers' codes."""
        self.world.clock.advance(MOST_WAIT)
        client.new()
        client.leave()
        return codes(client.received)[1:]

    def codes(self, client: Client) -> list[str]:
        client.new()
        return codes(client.received)[1:]  # without connect's

    def test_players_wait_longer_and_longer(self) -> None:
        waits = []
        for number in range(7):
            client = self.play(f"guess-{number}")
            asked = self.world.clock.seconds()
            while not self.codes(client):
                self.world.clock.advance(FIRST_WAIT / 8)
            self.assertEqual(self.codes(client), ["NetStream.Play.BadName"])
            self.assertTrue(client.closing)
            client.leave()
            waits.append(self.world.clock.seconds() - asked)
        self.assertEqual(waits[0], 0)
        for found, expected in zip(waits[1:], (0.125, 0.25, 0.5, 1, 2, 2), strict=True):
            self.assertApproximates(found, expected, expected / 4)  # less what was calm in between
        self.assertEqual(self.limits.failures, {"play": 7, "publish": 0})

    def test_the_right_key_waits_as_long(self) -> None:
        """The time of an answer does not tell which key it was."""
        for key in "right", "guess":
            self.slow_down()
            client = self.play(key)
            self.world.clock.advance(MOST_WAIT - 0.01)
            self.assertEqual((key, self.codes(client)), (key, []))
            self.world.clock.advance(0.01)
            self.assertNotEqual((key, self.codes(client)), (key, []))
            client.leave()

    def test_refused_and_let_in_again(self) -> None:
        for one in range(MAX_KEYS):
            self.assertEqual(self.finish(self.play(f"guess-{one}")), ["NetStream.Play.BadName"])
        self.assertEqual(self.finish(self.play("right")), ["NetStream.Play.BadName"])
        self.assertEqual(self.finish(self.publish("right")), ["NetStream.Publish.BadName"])
        self.assertEqual((self.limits.failures, self.limits.refused), ({"play": MAX_KEYS, "publish": 0}, 2))
        self.assertIn("NetStream.Play.Start", self.codes(self.play("right", address=THERE)))
        radio = self.publish("right", "radio")
        self.world.clock.advance(MOST_WAIT)
        self.assertEqual(self.codes(radio), ["NetStream.Publish.Start"])
        self.world.clock.advance(REFUSE_SECONDS)
        self.assertIn("NetStream.Play.Start", self.codes(self.play("right")))

    def test_an_attempt_that_waits_when_the_refusal_begins(self) -> None:
        self.guess(MAX_KEYS - 2)
        self.slow_down()
        clients = [self.play(key) for key in ("one-more", "and-another", "right")]
        waiting = self.publish("key-of-mine", "tv")
        self.assertEqual([self.codes(client) for client in clients], [[], [], []])
        self.world.clock.advance(MOST_WAIT)
        self.assertEqual([self.codes(client) for client in clients], [["NetStream.Play.BadName"]] * 3)
        self.assertEqual(self.codes(waiting), ["NetStream.Publish.BadName"])
        self.assertEqual(self.limits.refused, 2)
        self.assertEqual([name for name, *_ in self.world.authority.events], ["start"], "nobody was asked about it")

    def test_publishes_that_meet_a_publisher_with_another_key(self) -> None:
        for _ in range(3):
            self.assertEqual(self.finish(self.publish("wrong")), ["NetStream.Publish.BadName"])
        self.assertEqual(self.limits.failures, {"play": 0, "publish": 3})

    def test_publishes_that_the_authority_refuses(self) -> None:
        self.world.authority.ask = True
        for _ in range(2):
            client = self.publish("wrong", "radio")
            self.world.clock.advance(MOST_WAIT)
            self.world.authority.refuse("no")
            self.assertEqual(self.codes(client), ["NetStream.Publish.BadName"])
            client.leave()
        self.assertEqual(self.limits.failures, {"play": 0, "publish": 2})

    def test_the_right_key_is_no_guess(self) -> None:
        """It is refused because the publisher is alive, or because another one was faster."""
        client = self.publish("right")
        self.publisher.feed(b"\x02\0\0\0\0\0\4\3\0\0\0\0\0\0\0\0")  # an acknowledgement: it is alive
        self.world.clock.advance(0.25)
        self.assertEqual(self.codes(client), ["NetStream.Publish.BadName"])
        self.world.authority.ask = True
        first, second = self.publish("a", "radio"), self.publish("b", "radio")
        self.world.authority.accept()
        self.world.authority.accept()
        self.assertEqual(self.codes(first), ["NetStream.Publish.Start"])
        self.assertEqual(self.codes(second), ["NetStream.Publish.BadName"])
        self.assertEqual((self.limits.failures, self.limits.suspects(HERE)), ({"play": 0, "publish": 0}, False))

    def test_names_that_cannot_be_keys_are_no_guesses(self) -> None:
        self.assertEqual(self.finish(self.play("not/a key")), ["NetStream.Play.BadName"])
        self.assertFalse(self.limits.suspects(HERE))

    def test_players_that_came_before_a_publisher_with_another_key(self) -> None:
        players = [self.play(f"guess{number}", "radio") for number in range(MAX_KEYS)]
        self.assertFalse(self.limits.suspects(HERE))
        self.publish("right", "radio", THERE)
        for player in players:
            self.assertIn("NetStream.Play.BadName", self.codes(player))
        self.assertEqual(self.limits.failures, {"play": MAX_KEYS, "publish": 0})
        self.assertTrue(self.limits.refuses(HERE, "radio", "another"))

    def test_one_connection_cannot_wait_with_many_keys(self) -> None:
        client = self.play("key", "radio")
        self.assertIn("NetStream.Play.Start", codes(client.play("key", stream_id=2)))
        self.assertEqual(codes(client.play("another", stream_id=3)), ["NetStream.Play.BadName"])
        self.assertTrue(client.closing)
        self.assertEqual(self.limits.failures["play"], 1)

    def test_media_that_comes_while_a_publish_waits(self) -> None:
        """It is kept, as while the authority is asked."""
        self.slow_down()
        client = self.publish("key", "radio")
        client.send(AVC_HEADER)
        self.world.clock.advance(MOST_WAIT)
        self.assertEqual(self.codes(client), ["NetStream.Publish.Start"])
        found = self.world.broker.channel("radio")
        assert found is not None
        self.assertEqual(len(found[0].program.headers.messages), 1)

    def test_a_player_that_has_waited_gets_its_media(self) -> None:
        self.publisher.send(AVC_HEADER, avc(0, True))
        self.slow_down()
        client = self.play("right")
        self.publisher.send(avc(40, False))
        self.assertEqual(media(client.received), [])
        self.world.clock.advance(MOST_WAIT)
        self.publisher.send(avc(80, False))
        client.new()
        self.assertEqual([message.timestamp for message in media(client.received)], [0, 0, 40, 80])

    def test_a_bug(self) -> None:
        """It ends the connection, also when it shows after the wait."""
        self.slow_down()
        client = self.play("right")
        self.patch(self.world.broker, "play", lambda *_: 1 / 0)
        self.world.clock.advance(MOST_WAIT)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(client.transport.aborted)

    def test_whoever_leaves_while_it_waits_leaves_nothing(self) -> None:
        """Whichever way: lost, closed stream, deleted stream, ended by an operator, the server's end."""
        timers = self.timers()
        for leave in (
            lambda client: client.leave(),
            lambda client: client.call("closeStream", None, stream_id=1),
            lambda client: client.call("deleteStream", None, 1.0),
            lambda client: client.protocol.connection.finish("the end"),
            lambda client: client.protocol.connection.abort("the end"),
            lambda client: self.world.broker.kill("radio", None, "ended by an operator") or client.leave(),
        ):
            for ask in self.play, self.publish:
                self.slow_down()
                client = ask("key", "radio")
                self.assertEqual(self.codes(client), [])
                self.assertEqual(self.timers(), timers + 1)
                leave(client)
                self.assertEqual(self.timers(), timers)
                self.world.clock.advance(MOST_WAIT)
                self.assertEqual([code for code in self.codes(client) if "Start" in code], [])
                if len(self.world.factory.connections) > 1:
                    client.leave()
        self.assertEqual(len(self.world.factory.connections), 1)
        self.assertIsNone(self.world.broker.channel("radio"))
        self.world.pass_time(WINDOW_SECONDS)
        self.assertEqual(self.limits.remembered, 0)

    def timers(self) -> int:
        return len(self.world.clock.getDelayedCalls())

    def test_waiting_counts_as_being_busy(self) -> None:
        self.slow_down()
        client = self.play("right")
        self.assertEqual(codes(client.play("right")), ["NetStream.Play.BadConnection"])
        self.assertEqual(codes(client.publish("right")), ["NetStream.Publish.BadConnection"])
        self.world.clock.advance(MOST_WAIT)
        self.assertIn("NetStream.Play.Start", self.codes(client))

    def test_quiet_while_it_is_refused(self) -> None:
        """One line says so; the attempts that follow are logged at debug level only."""
        self.guess()
        log = Log(self)
        self.finish(self.play("right"))
        self.assertEqual([line for line in log.lines() if "refused: too many" in line and "play on" in line], [])


class ServerTests(TestCase):
    timeout = 120

    async def client(self, server: Server, address: str = "127.0.0.1", channel: str = "channel") -> RTMPClient:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port, bindAddress=(address, 0))
        connected: RTMPClient = await within(connectProtocol(endpoint, RTMPClient()))
        self.addCleanup(connected.transport.abortConnection)
        await connected.open(channel)
        return connected

    async def guess(self, server: Server, key: str) -> None:
        client = await self.client(server)
        client.call("play", None, key, stream_id=1)
        await client.status("NetStream.Play.BadName")
        await within(client.lost)

    async def metrics(self, port: int) -> dict[str, float]:
        response = await within(treq.get(f"http://127.0.0.1:{port}/metrics", persistent=False))
        text = await within(response.text())
        return {name: float(value) for name, value in re.findall(r"(?m)^(rtmp_\S+) (\S+)$", text)}

    async def test_guesses_from_one_address(self) -> None:
        """They take their time, are counted and refused. Another address, another channel and the log notice little."""
        port = free_port()
        server = Server(self, http_port=str(port))
        await server.up()
        publisher = await self.client(server, "127.0.0.2")
        await publisher.publish("right")
        began = reactor.seconds()
        for number in range(4):
            await self.guess(server, f"guess{number}")
        self.assertGreater(reactor.seconds() - began, (1 + 2 + 4) * FIRST_WAIT * 0.9)
        clients = [await self.client(server) for _ in range(16)]
        for number, client in enumerate(clients):
            client.call("play", None, f"another{number}", stream_id=1)
        for client in clients:
            await client.status("NetStream.Play.BadName")
        found = await self.metrics(port)
        self.assertEqual(found['rtmp_keys_refused_total{command="play"}'], MAX_KEYS)
        self.assertEqual(found['rtmp_keys_refused_total{command="publish"}'], 0)
        self.assertEqual(found["rtmp_guessing_refused_total"], 20 - MAX_KEYS)
        player = await self.client(server, "127.0.0.2")
        await player.play("right")
        other = await self.client(server, channel="radio")
        await other.publish("mine")
        await self.guess(server, "right")
        [line] = [line for line in server.lines if "guessing" in line]
        self.assertIn("127.0.0.1", line)
        self.assertNotIn("another", str(server.lines))
