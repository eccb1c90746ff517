"""Pushes: what the other server gets, when a push begins and ends, and what becomes of the encoder's returns."""

from __future__ import annotations

from typing import Any

from rtmp_twisted.relay.push import DRAIN_SECONDS
from rtmp_twisted.rtmp.session import FOURCCS
from rtmp_twisted.wire import amf0
from tests.relay.case import RelayCase
from tests.support.rtmp_client import AVC_HEADER, METADATA, aac, avc


class PushTests(RelayCase):
    def test_what_the_other_server_is_told(self) -> None:
        """As encoders do it, in their order."""
        stub = self.stub()
        node = self.node("here", push="tv=rtmp://stub/app/se-cret?a=b")
        publisher = node.publisher()
        there = stub.connection
        connect = there.commands[0].argument(0)
        assert isinstance(connect, dict)
        self.assertEqual((connect["app"], connect["tcUrl"]), ("app", "rtmp://stub/app"))
        self.assertEqual(connect["capsEx"], 15.0)
        self.assertEqual((connect["fourCcList"], connect["videoFourCcInfoMap"]), (FOURCCS, {"*": 4.0}))
        self.assertEqual(there.names(), ["connect"])
        self.assertEqual(node.status().state, "connecting")
        there.answer("connect", None, {})
        self.assertEqual(there.names()[1:], ["releaseStream", "FCPublish", "createStream"])
        there.answer("releaseStream", None, error=True)
        there.answer("createStream", None, 3.0)
        publish = there.commands[-1]
        self.assertEqual((publish.name, publish.arguments), ("publish", [None, "se-cret?a=b", "live"]))
        self.assertEqual(there.received[-1].stream_id, 3)
        publisher.send(METADATA)
        self.begin(publisher, avc(5000, True), aac(5010))
        self.assertEqual(there.media(), [])
        there.status("NetStream.Publish.Start")
        self.assertEqual(node.status().state, "live")
        self.assertEqual(there.received[-4].body, METADATA.body)
        bodies = [AVC_HEADER.body, avc(0, True).body, aac(0).body]
        self.assertEqual([message.body for message in there.media()], bodies)
        self.assertEqual([message.timestamp for message in there.media()], [0, 0, 10])
        self.assertEqual({message.stream_id for message in there.media()}, {3})
        publisher.call("deleteStream", None, 1.0)
        self.settle()
        self.assertEqual(there.names()[-2:], ["FCUnpublish", "deleteStream"])
        self.assertEqual(there.commands[-1].argument(1), 3.0)
        self.assertTrue(there.lost)
        self.assertEqual(node.status().state, "off")
        self.assertNotIn("se-cret", self.log.everything())
        lines = [line for line in self.log.lines() if "rtmp://stub/app/*** (push of channel 'tv')" in line]
        self.assertEqual([line.partition("rtmp:")[0] for line in lines], ["connected to ", ""])
        self.assertRegex(lines[1], r"has ended after 0\.0 s, \d+ B: no longer wanted$")

    def test_another_of_these_servers(self) -> None:
        """Every message arrives, through the whole of both."""
        there = self.node("there")
        here = self.node("here", push="tv=rtmp://there/copy/word")
        publisher = here.publisher()
        player = there.player("copy", "word")
        frames = [avc(0, True, b"k" * 5000), aac(3), avc(40, False), avc(80, True), aac(85)]
        self.begin(publisher, *frames)
        received = [message for message in player.new() if message.type_id in (8, 9)]
        self.assertEqual([message.body for message in received], [m.body for m in (AVC_HEADER, *frames)])
        self.assertEqual(here.status().total_bytes > 5000, True)
        self.assertEqual(here.status().reconnects, 0)

    def test_an_encoder_that_comes_back(self) -> None:
        """To the other server it is one stream: no reconnect, and no time that goes back."""
        stub = self.stub()
        node = self.node("here", push="tv=rtmp://stub/app/key")
        publisher = node.publisher()
        self.begin(publisher, avc(7000, True), avc(7040, False))
        there = stub.connection
        there.accept()
        publisher.leave()
        self.pass_time(2)
        self.assertEqual(node.status().state, "live")
        self.begin(node.publisher(), avc(0, True), avc(40, False))
        times = [message.timestamp for message in there.media()]
        self.assertEqual(len(times), 6)
        self.assertEqual(times, sorted(times))
        self.assertTrue(2000 <= times[-1] <= 2200, times)
        self.assertEqual(len(stub.connections), 1)
        self.assertFalse(there.lost)

    def test_an_encoder_that_does_not_come_back(self) -> None:
        stub = self.stub()
        node = self.node("here", push="tv=rtmp://stub/app/key")
        publisher = node.publisher()
        stub.connection.accept()
        publisher.leave()
        self.pass_time(4)
        self.assertFalse(stub.connection.lost)
        self.pass_time(2)
        self.assertEqual(stub.connection.names()[-2:], ["FCUnpublish", "deleteStream"])
        self.assertTrue(stub.connection.lost)
        self.assertEqual(node.world.broker.channels(), [])

    def test_with_a_coordinator(self) -> None:
        """Each publish is another stream: the push ends with it, also where the encoder was lost."""
        stub = self.stub()
        node = self.node("here", push="tv=rtmp://stub/app/key", end_players=True)
        publisher = node.publisher()
        stub.connection.accept()
        self.begin(publisher, avc(0, True))
        publisher.leave()
        self.settle()
        self.assertEqual(stub.connection.names()[-1], "deleteStream")
        self.assertTrue(stub.connection.lost)
        self.assertEqual(node.world.broker.channels(), [])
        self.begin(node.publisher(), avc(0, True))
        stub.connection.accept()
        self.assertEqual((len(stub.connections), len(stub.connection.media())), (2, 2))

    def test_which_channels(self) -> None:
        stub = self.stub()
        node = self.node("here", push="t*=rtmp://stub/app/{channel} tv=rtmp://stub/second/x")
        node.publisher("radio")
        self.assertEqual(stub.connections, [])
        node.publisher("tv")
        for connection in stub.connections:
            connection.answer("connect", None, {})
        names = [connection.commands[1].argument(1) for connection in stub.connections]
        self.assertEqual(names, ["tv", "x"])

    def test_is_no_viewer(self) -> None:
        """Neither a player, nor what makes a channel wait, nor a part of what players received."""
        stub = self.stub()
        node = self.node("here", push="tv=rtmp://stub/app/key")
        publisher = node.publisher()
        stub.connection.accept()
        self.begin(publisher, avc(0, True, bytes(3000)))
        [(channel, _)] = node.world.broker.channels()
        self.assertEqual((len(channel.players), len(channel.pushes)), (0, 1))
        self.assertEqual(channel.traffic().delivered_bytes, 0)
        self.assertGreater(node.status().total_bytes, 3000)

    def test_what_is_not_handed_over_yet(self) -> None:
        """When the channel goes off air, a push that is behind gets what is left, or its time for that."""
        for takes in True, False:
            self.setUp()
            stub = self.stub()
            node = self.node("here", push="tv=rtmp://stub/app/key")
            publisher = node.publisher()
            there = stub.connection
            there.accept()
            near: Any = there.transport.other
            near.producer.pauseProducing()  # the transport's buffer is full
            self.begin(publisher, avc(0, True, bytes(1000)))
            self.assertGreater(node.status().waiting_bytes, 1000)
            publisher.call("deleteStream", None, 1.0)
            self.settle()
            self.assertFalse(there.lost)
            if takes:
                near.producer.resumeProducing()
                self.pass_time(1)
                self.assertEqual(len(there.media()), 2)
            else:
                self.pass_time(DRAIN_SECONDS)
            self.pass_time(1)
            self.assertEqual(node.status().state, "off")

    def test_a_slow_one(self) -> None:
        """Whole groups of pictures are left out, which is counted; others get all."""
        slow, fast = self.stub("slow"), self.stub("fast")
        node = self.node("here", push="tv=rtmp://slow/app/key tv=rtmp://fast/app/key")
        publisher = node.publisher()
        slow.connection.accept()
        fast.connection.accept()
        near: Any = slow.connection.transport.other
        near.producer.pauseProducing()
        for number in range(5):
            self.begin(publisher, avc(number * 1000, True, bytes(3_000_000)))
        near.producer.resumeProducing()
        self.settle()
        self.pass_time(2)
        lines = [line for line in self.log.lines() if "too slow" in line]
        self.assertEqual(lines, ["rtmp://slow/app/*** (push of channel 'tv') is too slow: 6.0 MB left out so far"])
        keyframes = [[m.timestamp for m in one.connection.media() if len(m.body) > 1000] for one in (slow, fast)]
        self.assertEqual(keyframes[1], [0, 1000, 2000, 3000, 4000])
        self.assertEqual(keyframes[0], [0, 1000, 2000])
        first, second = node.relays.statuses("tv")
        self.assertEqual((first.skips, second.skips, second.skipped_bytes), (1, 0, 0))
        self.assertTrue(6_000_000 < first.skipped_bytes < 7_000_000, first)

    def test_late(self) -> None:
        """A server that is there only later gets the stream from the last keyframe on, from 0."""
        node = self.node("here", push="tv=rtmp://stub/app/key")
        publisher = node.publisher()
        self.begin(publisher, avc(0, True, b"old"), avc(2000, True, b"new"), avc(2040, False))
        stub = self.stub()
        self.pass_time(1)
        stub.connection.accept()
        self.assertEqual([message.timestamp for message in stub.connection.media()], [0, 0, 40])
        self.assertTrue(stub.connection.media()[1].body.endswith(b"new"))

    def test_by_api(self) -> None:
        stub = self.stub()
        node = self.node("here")
        status = node.relays.add_push("tv", "rtmp://stub/app/se-cret")
        self.assertEqual((status.state, status.made_by, status.target), ("off", "API", "rtmp://stub/app/***"))
        publisher = node.publisher()
        stub.connection.accept()
        self.assertEqual(node.status().state, "live")
        node.relays.add_push("tv", "rtmp://stub/second/key")
        self.assertEqual(len(stub.connections), 2)
        self.assertTrue(node.relays.remove_push("tv", status.id))
        self.settle()
        self.assertTrue(stub.connections[0].lost)
        self.assertFalse(node.relays.remove_push("tv", status.id))
        publisher.call("deleteStream", None, 1.0)
        self.settle()
        self.assertEqual((node.status().state, node.status().made_by), ("off", "API"))
        for channel, url in ("tv", "http://h/a/b"), ("a/b", "rtmp://h/a/b"), ("t v", "rtmp://h/a/b"):
            self.assertRaises(ValueError, node.relays.add_push, channel, url)

    def test_stopping(self) -> None:
        stub = self.stub()
        node = self.node("here", push="tv=rtmp://stub/app/key")
        node.publisher()
        stub.connection.accept()
        gone = node.relays.stopService()
        self.assertNoResult(gone)
        self.settle()
        self.successResultOf(gone)
        self.assertEqual(stub.connection.names()[-1], "deleteStream")
        self.assertEqual(len(node.world.factory.connections), 1)

    def test_metadata_in_place(self) -> None:
        stub = self.stub()
        node = self.node("here", push="tv=rtmp://stub/app/key")
        publisher = node.publisher()
        stub.connection.accept()
        self.begin(publisher, avc(0, True), METADATA, avc(40, False))
        self.assertIn(METADATA.body, [message.body for message in stub.connection.received])
        self.assertNotIn(
            amf0.encode("onMetaData"), [m.body[: len(amf0.encode("onMetaData"))] for m in stub.connection.received]
        )
