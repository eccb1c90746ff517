"""Pulls: what a server that plays is asked, when a pull begins and ends, and what its players see."""

from __future__ import annotations

from rtmp_twisted.live.player import Cache
from rtmp_twisted.relay.pulls import KEEP_SECONDS, MAX_KEYS
from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.relay.case import RelayCase, StubConnection
from tests.support.memory import Client
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, METADATA, aac, avc, codes

SAMPLE_ACCESS = messages.data(0, "|RtmpSampleAccess", True, True, stream_id=1)


def seen(client: Client) -> list[str]:
    """All status codes so far."""
    client.new()
    return codes(client.received)


def media(client: Client) -> list[Message]:
    return [message for message in client.new() if message.type_id in (AUDIO, VIDEO)]


class DemandTests(RelayCase):
    """A rule for whoever comes."""

    def play(self, there: StubConnection) -> None:
        there.accept()
        there.send(SAMPLE_ACCESS, METADATA, AVC_HEADER, avc(9000, True), avc(9040, False))

    def test_first_and_last(self) -> None:
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there?token=se-cret")
        self.assertEqual(stub.connections, [])
        player = node.player()
        there = stub.connection
        connect = there.commands[0].argument(0)
        assert isinstance(connect, dict)
        self.assertEqual((connect["app"], connect["tcUrl"], connect["videoFunction"]), ("app", "rtmp://stub/app", 1.0))
        self.assertEqual(node.status().state, "connecting")
        there.accept()
        self.assertEqual(there.names(), ["connect", "createStream", "play"])
        self.assertEqual(there.commands[-1].arguments, [None, "there?token=se-cret", -2000.0])
        self.assertEqual(node.status().state, "waiting")
        self.assertEqual(media(player), [])
        there.send(SAMPLE_ACCESS, METADATA, AVC_HEADER, AAC_HEADER, avc(9000, True), avc(9040, False), aac(9045))
        got = media(player)
        self.assertEqual([m.body for m in got[-3:]], [avc(0, True).body, avc(0, False).body, aac(0).body])
        self.assertEqual([message.timestamp for message in got[-3:]], [9000, 9040, 9045])
        self.assertEqual(sum(message.body == SAMPLE_ACCESS.body for message in player.received), 1)
        self.assertEqual(node.status().state, "live")
        self.assertGreater(node.status().total_bytes, 40)
        second = node.player()
        self.assertEqual(len([m for m in media(second) if m.type_id == VIDEO]), 3)
        self.assertEqual(len(stub.connections), 1)
        for client in player, second:
            self.pass_time(KEEP_SECONDS + 5)
            self.assertFalse(there.lost)
            client.leave()
            node.clients.remove(client)
        self.pass_time(KEEP_SECONDS - 1)
        self.assertFalse(there.lost)
        self.pass_time(2)
        self.assertEqual(there.names()[-1], "deleteStream")
        self.assertTrue(there.lost)
        self.assertEqual(node.relays.statuses(), [])
        self.assertEqual(node.world.broker.channels(), [])
        self.assertEqual(node.world.authority.events, [])
        self.assertNotIn("se-cret", self.log.everything())
        node.player()
        self.assertEqual(len(stub.connections), 2)

    def test_a_player_that_comes_back(self) -> None:
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        player = node.player()
        self.play(stub.connection)
        player.leave()
        node.clients.clear()
        self.pass_time(KEEP_SECONDS - 1)
        player = node.player()
        self.pass_time(KEEP_SECONDS)
        self.assertEqual(len(stub.connections), 1)
        self.assertFalse(stub.connection.lost)

    def test_keys(self) -> None:
        """The rule's key is what players have to give; a wrong one begins no pull, and is refused when there is one."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        stranger = node.player(key="wrong")
        self.assertEqual(stub.connections, [])
        node.player()
        self.play(stub.connection)
        self.assertIn("NetStream.Play.BadName", seen(stranger))
        late = node.player(key="wrong")
        self.pass_time(3)  # a second wrong key takes its time
        self.assertIn("NetStream.Play.BadName", seen(late))
        self.assertEqual(len(node.players()), 1)

    def test_any_key(self) -> None:
        stub = self.stub()
        node = self.node("here", pull="*/*=rtmp://stub/app/{channel}")
        players = [node.player("one", "a"), node.player("one", "b")]
        self.assertEqual(len(stub.connections), 1)
        self.play(stub.connection)
        self.assertEqual(stub.connection.commands[-1].argument(1), "one")
        players.append(node.player("one", "c"))
        self.assertEqual([len(media(player)) for player in players], [3, 3, 3])

    def test_the_key_is_passed_on(self) -> None:
        """Whose key is refused there is refused here; who has the right one is not kept out by others."""
        stub = self.stub()
        node = self.node("here", pull="*/*=rtmp://stub/app/{key}")
        stranger = node.player(key="wrong")
        player = node.player(key="right")
        first, second = stub.connections
        second.answer("connect", None, {})
        first.answer("connect", None, {})
        first.answer("createStream", None, 1.0)
        self.assertEqual(first.commands[-1].argument(1), "wrong")
        first.status("NetStream.Play.BadName", "error")
        self.settle()
        self.assertIn("NetStream.Play.BadName", seen(stranger))
        self.assertEqual(node.world.factory.options.guessing.failures["play"], 1)
        self.assertEqual(len(node.players()), 1)
        second.answer("createStream", None, 1.0)
        self.assertEqual(second.commands[-1].argument(1), "right")
        second.status("NetStream.Play.Start")
        second.send(AVC_HEADER, avc(0, True))
        self.assertEqual(len(media(player)), 2)
        late = node.player(key="wrong")
        self.pass_time(3)  # a second wrong key takes its time
        self.assertIn("NetStream.Play.BadName", seen(late))
        self.assertEqual(len(stub.connections), 2)

    def test_many_keys(self) -> None:
        """Of one channel only some are asked about at a time."""
        stub = self.stub()
        node = self.node("here", pull="*/*=rtmp://stub/app/{key}")
        for number in range(MAX_KEYS + 3):
            node.player(key=f"key{number}")
        self.assertEqual(len(stub.connections), MAX_KEYS)

    def test_cache(self) -> None:
        """What a joiner gets is this server's to say."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        node.player()
        self.play(stub.connection)
        late = node.world.connect("192.0.2.3").open("tv")
        late.send(messages.command("play", 5, None, f"key?cache={Cache.NO.value}", stream_id=1))
        stub.connection.send(avc(9080, False))
        self.assertEqual([m.body for m in media(late)], [AVC_HEADER.body])
        stub.connection.send(avc(9120, True))
        self.assertEqual(len(media(late)), 1)

    def test_the_other_side_ends(self) -> None:
        """An end is an end for the players, and no error; what begins there again begins here."""
        for end in "NetStream.Play.UnpublishNotify", "NetStream.Play.Stop", "":
            self.setUp()
            stub = self.stub()
            node = self.node("here", pull="tv/key=rtmp://stub/app/there")
            player = node.player()
            self.play(stub.connection)
            if end:
                stub.connection.status(end)
            else:
                stub.connection.send(messages.user_control(messages.STREAM_EOF, 1))
            self.assertIn("NetStream.Play.UnpublishNotify", codes(player.new()))
            status = node.status()
            self.assertEqual((status.state, status.last_error, status.reconnects), ("waiting", "", 0))
            total = status.total_bytes
            self.assertGreater(total, 0)
            stub.connection.send(AVC_HEADER, avc(50, True))
            self.assertEqual(len(media(player)), 2)
            self.assertGreater(node.status().total_bytes, total)

    def test_the_other_side_fails(self) -> None:
        """Players stay, and go on with time that does not go back."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        player = node.player()
        self.play(stub.connection)
        before = media(player)
        stub.connection.close()
        self.pass_time(1)
        self.assertEqual(len(stub.connections), 2)
        self.play(stub.connection)
        after = player.new()
        self.assertNotIn("NetStream.Play.UnpublishNotify", codes(after))
        times = [m.timestamp for m in before[1:] + after if m.type_id == VIDEO]
        self.assertEqual(times, sorted(times))
        self.assertEqual(len(times), 5)
        self.assertEqual(node.status().reconnects, 1)
        self.assertEqual(node.status().last_error, "it closed the connection")

    def test_a_publish_here(self) -> None:
        """It ends the pull; when it ends, whoever still waits is pulled for."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        player = node.player()
        self.play(stub.connection)
        publisher = node.publisher()
        self.assertTrue(stub.connection.lost)
        self.begin(publisher, avc(0, True, b"from here"))
        self.assertTrue(media(player)[-1].body.endswith(b"from here"))
        self.assertEqual([event[0] for event in node.world.authority.events], ["start"])
        self.assertEqual(node.relays.statuses(), [])
        publisher.call("deleteStream", None, 1.0)
        self.settle()
        self.assertEqual(len(stub.connections), 2)
        self.play(stub.connection)
        self.assertEqual(len(media(player)), 3)

    def test_a_publish_that_is_refused(self) -> None:
        """A stranger who asks ends nothing."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        player = node.player()
        self.play(stub.connection)
        node.world.authority.ask = True
        stranger = node.publisher(key="wrong")
        node.world.authority.refuse()
        self.settle()
        self.assertIn("NetStream.Publish.BadName", seen(stranger))
        stub.connection.send(avc(9080, False))
        self.assertEqual(len(media(player)), 4)

    def test_killed(self) -> None:
        """As an encoder may, it comes back."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        node.player()
        self.play(stub.connection)
        self.assertTrue(node.world.broker.kill("tv", None, "ended by an operator"))
        self.settle()
        self.assertTrue(stub.connections[0].lost)
        self.pass_time(1)
        self.assertEqual(len(stub.connections), 2)

    def test_much_before_it_is_on_air(self) -> None:
        """All that comes in one read is kept."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        player = node.player()
        stub.connection.accept()
        stub.connection.send(AVC_HEADER, *[avc(number, True, bytes(300_000)) for number in range(8)])
        self.assertEqual(len(media(player)), 9)

    def test_reconnect_request(self) -> None:
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        player = node.player()
        self.play(stub.connection)
        stub.connection.send(
            messages.command("onStatus", 0, None, {"code": "NetConnection.Connect.ReconnectRequest", "level": "status"})
        )
        stub.connection.send(avc(9080, False, b"still"), avc(9120, True, b"not this"), avc(9160, False, b"nor this"))
        self.assertTrue(media(player)[-1].body.endswith(b"still"))
        self.assertTrue(stub.connections[0].lost)
        self.pass_time(1)
        self.play(stub.connection)
        self.assertEqual(len(stub.connections), 2)
        self.assertNotIn("NetStream.Play.UnpublishNotify", seen(player))

    def test_a_server_that_asks_and_stops(self) -> None:
        """What it ends until the next connection is there goes on for the players."""
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there")
        player = node.player()
        self.play(stub.connection)
        stub.connection.send(
            messages.command("onStatus", 0, None, {"code": "NetConnection.Connect.ReconnectRequest", "level": "status"})
        )
        stub.connection.status("NetStream.Play.UnpublishNotify")
        stub.connection.close()
        self.pass_time(1)
        self.play(stub.connection)
        self.assertNotIn("NetStream.Play.UnpublishNotify", seen(player))
        self.assertEqual((node.status().reconnects, node.status().last_error), (1, "it asked to reconnect"))


class AlwaysTests(RelayCase):
    def test_always(self) -> None:
        stub = self.stub()
        node = self.node("here", pull="tv/key=rtmp://stub/app/there?always")
        self.settle()
        stub.connection.accept()
        self.assertEqual(stub.connection.commands[-1].argument(1), "there")
        stub.connection.send(AVC_HEADER, avc(0, True))
        self.pass_time(2 * KEEP_SECONDS)
        self.assertEqual(node.status().state, "live")
        player = node.player()
        self.assertEqual(len(media(player)), 2)
        player.leave()
        node.clients.clear()
        self.pass_time(2 * KEEP_SECONDS)
        self.assertEqual(node.status().state, "live")
        publisher = node.publisher()
        self.assertEqual(node.status().state, "off")
        publisher.leave()
        node.clients.clear()
        self.pass_time(6)
        self.assertEqual(node.status().state, "connecting")
        gone = node.relays.stopService()
        self.settle()
        self.successResultOf(gone)
        self.assertEqual(len(node.world.factory.connections), 0)


class NodeTests(RelayCase):
    """From another of these servers."""

    def test_pull_and_push(self) -> None:
        """A chain: an encoder at the first, a pull by the second, a push to the third."""
        first = self.node("first")
        second = self.node("second", pull="tv/key=rtmp://first/tv/key", push="tv=rtmp://third/copy/word")
        third = self.node("third")
        near, far = second.player(), third.player("copy", "word")
        publisher = first.publisher()
        frames = [avc(700, True, b"k" * 9000), aac(703), avc(740, False)]
        self.begin(publisher, *frames)
        self.assertEqual([m.body for m in media(near)], [AVC_HEADER.body, *(m.body for m in frames)])
        self.pass_time(1)
        self.assertEqual([m.body for m in media(far)], [AVC_HEADER.body, *(m.body for m in frames)])
        publisher.call("deleteStream", None, 1.0)
        self.settle()
        self.assertIn("NetStream.Play.UnpublishNotify", codes(near.new()))
        self.pass_time(1)
        self.assertIn("NetStream.Play.UnpublishNotify", codes(far.new()))

    def test_a_wrong_key(self) -> None:
        first = self.node("first")
        second = self.node("second", pull="*/*=rtmp://first/{channel}/{key}")
        first.publisher()
        player, stranger = second.player(), second.player(key="wrong")
        self.pass_time(1)
        self.assertEqual(len(second.players()), 1)
        self.pass_time(KEEP_SECONDS + 2)
        self.assertEqual(len(second.relays.statuses()), 1)
        self.assertIn("NetStream.Play.BadName", seen(stranger))
        self.assertNotIn("NetStream.Play.BadName", seen(player))


class LoopTests(RelayCase):
    def problem(self, *states: tuple[str, str]) -> None:
        found = {status.last_error for node in self.nodes for status in node.relays.statuses()}
        self.assertTrue(any("a loop" in problem for problem in found), found)
        self.assertTrue(any("a loop" in line for line in self.log.lines()))

    def test_push_to_itself(self) -> None:
        node = self.node("here", push="*=rtmp://here/{channel}/key")
        node.publisher()
        self.problem()
        self.assertEqual(len(node.world.broker.channels()), 1)

    def test_push_in_a_circle(self) -> None:
        first = self.node("first", push="*=rtmp://second/{channel}/key")
        self.node("second", push="*=rtmp://first/other/key")
        self.begin(first.publisher(), avc(0, True))
        self.problem()
        self.assertEqual([entry[0].name for entry in first.world.broker.channels()], ["tv"])

    def test_pull_from_itself(self) -> None:
        node = self.node("here", pull="tv/key=rtmp://here/tv/key")
        node.player()
        self.problem()

    def test_pull_in_a_circle(self) -> None:
        """Who waits for each other is no viewer."""
        first = self.node("first", pull="tv/key=rtmp://second/tv/key")
        second = self.node("second", pull="tv/key=rtmp://first/tv/key")
        player = first.player()
        self.problem()
        player.leave()
        first.clients.clear()
        self.pass_time(6 * KEEP_SECONDS)
        self.assertEqual([node.relays.statuses() for node in (first, second)], [[], []])

    def test_what_comes_back(self) -> None:
        """An encoder's stream at the first, pulled by the second; when the encoder is lost, the first pulls it from the
        second, which still has it."""
        first = self.node("first", pull="tv/key=rtmp://second/tv/key?always")
        second = self.node("second", pull="tv/key=rtmp://first/tv/key?always")
        publisher = first.publisher()
        self.pass_time(11)
        self.begin(publisher, avc(0, True))
        self.assertEqual(second.status().state, "live")
        publisher.leave()
        first.clients.clear()
        self.pass_time(20)
        self.assertNotIn("live", [node.status().state for node in (first, second)])

    def test_a_path_that_is_too_long(self) -> None:
        nodes = [self.node(f"n{number}", push=f"*=rtmp://n{number + 1}/{{channel}}/key") for number in range(18)]
        self.begin(nodes[0].publisher(), avc(0, True))
        self.pass_time(1)
        on_air = [len(node.world.broker.channels()) for node in nodes]
        self.assertEqual(on_air, [1] * 16 + [0] * 2)
        self.assertIn("the stream has passed 16 servers already", nodes[15].status().last_error)
