"""Ends that come at an awkward moment: while an answer is under way, over an answer, and when the server stops."""

from __future__ import annotations

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.rtmp import connection as connection_module
from rtmp_twisted.rtmp.connection import LINGER_SECONDS
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.messages import AGGREGATE, Message
from tests.support.fakes import Log
from tests.support.memory import Client, World, codes, media
from tests.support.rtmp_client import AVC_HEADER, aac, avc

BROKEN = Message(AGGREGATE, 1, 0, b"\x08\x00\xff\xff" + bytes(20))
"""An aggregate message whose part is longer than itself."""


class AskingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log(self)
        self.world = World(ask=True)
        self.client = self.world.connect().open()
        self.client.publish()

    def events(self) -> list[str]:
        return [event[0] for event in self.world.authority.events]

    def test_held_media_that_cannot_be_understood(self) -> None:
        self.client.send(aac(0), BROKEN)
        self.assertTrue(self.client.transport.aborted)
        self.world.authority.accept()
        self.client.leave()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.log.lines(LogLevel.critical), [])
        [line] = [line for line in self.log.lines() if line.startswith("disconnected")]
        self.assertIn("longer than itself", line)
        self.assertEqual(self.events(), ["start", "end"])
        self.assertEqual(self.world.broker.channels(), [])

    def test_answer_after_the_end(self) -> None:
        self.client.leave()
        self.world.authority.accept()
        self.assertEqual(self.events(), ["start", "end"])
        self.assertEqual(self.world.broker.channels(), [])

    def test_killed(self) -> None:
        self.client.send(aac(0))
        self.assertTrue(self.world.broker.kill("channel", None, "killed"))
        self.assertEqual(codes(self.client.new()), ["NetStream.Publish.BadName"])
        self.assertTrue(self.client.closing)
        self.world.authority.accept()
        self.assertEqual(self.events(), ["start", "end"])
        self.assertEqual(self.client.new(), [])

    def test_closed_by_the_client_and_opened_again(self) -> None:
        self.client.send(aac(0))
        self.client.call("closeStream", None, stream_id=1)
        self.client.publish("other")
        self.world.authority.accept("first")
        self.world.authority.accept("second")
        self.client.send(aac(1))
        self.assertIn("NetStream.Publish.Start", codes(self.client.new()))
        self.assertEqual([event[:4] for event in self.world.authority.events][2], ("end", "channel", "key", "first"))
        player = self.world.connect().open()
        player.play("other")
        self.client.send(aac(2))
        self.assertEqual([m.timestamp for m in media(player.new())], [2])

    def test_refused_while_the_client_sends(self) -> None:
        self.client.send(aac(0))
        self.world.authority.refuse("no")
        self.assertEqual(codes(self.client.new()), ["NetStream.Publish.BadName"])
        self.assertTrue(self.client.closing)
        self.client.send(aac(1))
        self.world.pass_time(LINGER_SECONDS)
        self.assertTrue(self.client.transport.aborted)


class OverAnAnswerTests(SynchronousTestCase):
    """A connection whose client reads nothing ends in the middle of the command that is one too many."""

    def overfill(self, client: Client, *command: object, stream_id: int = 1) -> None:
        """Sends the command when there is no room for its answers."""
        client.protocol.connection.writer.pauseProducing()
        self.patch(connection_module, "MAX_WAITING", 10)
        client.send(messages.command(*command, stream_id=stream_id))  # type: ignore[arg-type]
        self.assertTrue(client.transport.aborted)

    def test_play(self) -> None:
        for on_air in False, True:
            world = World()
            publisher = world.connect().open()
            if on_air:
                publisher.publish()
            client = world.connect().open()
            self.overfill(client, "play", 5, None, "key")
            client.leave()
            publisher.leave()
            self.assertEqual(world.broker.channels(), [])

    def test_publish(self) -> None:
        world = World()
        client = world.connect().open()
        self.overfill(client, "publish", 5, None, "key", "live")
        client.leave()
        self.assertEqual(world.broker.channels(), [])
        self.assertEqual([event[0] for event in world.authority.events], ["start", "end"])

    def test_a_stranger_is_refused(self) -> None:
        world = World()
        stranger, publisher = world.connect().open(), world.connect().open()
        waiting = sum(len(chunks.encode(answer, 3, 4096)) for answer in stranger.play("wrong"))
        stranger.protocol.connection.writer.pauseProducing()
        self.patch(connection_module, "MAX_WAITING", waiting + 100)
        stranger.send(messages.user_control(messages.PING_REQUEST, 0))
        self.assertFalse(stranger.transport.aborted)
        self.assertIn("NetStream.Publish.Start", codes(publisher.publish()))
        self.assertTrue(stranger.transport.aborted)


class ServerStopsTests(SynchronousTestCase):
    def test_everyone_is_told(self) -> None:
        """In whatever order the connections are ended, players hear that the publish has ended."""
        for _ in range(10):
            world = World()
            players = [world.connect().open() for _ in range(3)]
            publisher = world.connect().open()
            publisher.publish()
            publisher.send(AVC_HEADER, avc(0, True))
            for player in players:
                player.play()
            done = world.factory.finish_all("the server is stopping")
            self.assertEqual(codes(publisher.new()), ["NetStream.Unpublish.Success"])
            for player in players:
                self.assertIn("NetStream.Play.UnpublishNotify", codes(player.new()))
                self.assertTrue(player.closing)
            for client in publisher, *players:
                self.assertNoResult(done)
                client.leave()
            self.successResultOf(done)
            self.assertEqual([event[0] for event in world.authority.events], ["start", "end"])

    def test_requests_to_reconnect(self) -> None:
        """Who has said that it understands one gets it (Enhanced RTMP v2, "Reconnect Request"), and goes on until it
        leaves. Nobody else is told, nor waited for."""
        world = World()
        asked = []
        for capabilities in 1.0, 15.0, 14.0, 0.0, float("nan"), float("inf"), "1", None:
            client = world.connect()
            client.call("connect", {"app": "channel", "capsEx": capabilities}, transaction=1)
            client.call("createStream", None, transaction=2)
            asked.append(client)
        asked[0].publish()
        left = world.factory.request_reconnects()
        request = b"\x02\0\x08onStatus\0" + bytes(8) + b"\x05\x03"
        for client in asked[2:]:
            self.assertEqual(client.new(), [])
        asked[0].send(AVC_HEADER, avc(0, True))
        player = world.connect().open()
        self.assertEqual(len(media(player.play())), 2)
        for client in asked[:2]:
            self.assertNoResult(left)
            [message] = client.new()
            self.assertEqual((message.type_id, message.stream_id), (20, 0))
            self.assertTrue(message.body.startswith(request), message.body)
            self.assertEqual(codes([message]), ["NetConnection.Connect.ReconnectRequest"])
            client.leave()
        self.successResultOf(left)
        self.successResultOf(world.factory.request_reconnects())

    def test_nobody_there(self) -> None:
        self.successResultOf(World().factory.finish_all("the server is stopping"))
