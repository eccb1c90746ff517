"""What the live room tells whoever operates the server: how much has gone through, headers, keyframes."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live import cursor as cursor_module
from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.channel import ChannelOptions
from rtmp_twisted.live.player import Cache, Player
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.live.traffic import Traffic
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.wire import messages
from tests.live.test_broker import Publisher
from tests.support.live import FakeWriter, Viewer, join, make_channel
from tests.support.memory import Authority
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, METADATA, aac, avc


class TrafficTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        scheduler = FlushScheduler(self.clock, 0, self.clock.seconds, Turns(self.clock))
        self.broker = Broker(self.clock, Authority(), scheduler, ChannelOptions(whole_stream=True))

    def publish(self) -> Publication:
        publication = self.broker.publish("channel", "key", "192.0.2.1", Publisher())
        self.clock.advance(0)
        return publication

    def play(self) -> Viewer:
        viewer = Viewer(self.clock, FakeWriter())
        viewer.player = Player(viewer, viewer.writer, "key", Cache.ALL)
        self.broker.play("channel", viewer.player)
        self.broker.start(viewer.player)
        return viewer

    def expect(self, viewers: list[Viewer], received: list[bytes]) -> None:
        """What the broker says of the traffic is what the viewers' transports have, headers for joiners aside."""
        traffic = self.broker.traffic()
        self.assertEqual(traffic.received_messages, len(received))
        self.assertEqual(traffic.received_bytes, sum(map(len, received)))
        self.assertEqual(traffic.delivered_messages, sum(len(viewer.messages()) for viewer in viewers))
        self.assertEqual(traffic.delivered_bytes, sum(len(viewer.writer.taken) for viewer in viewers))
        self.assertEqual((traffic.skips, traffic.skipped_bytes), (0, 0))

    def test_whatever_comes_and_goes(self) -> None:
        self.assertEqual(self.broker.traffic(), Traffic())
        received: list[bytes] = []
        publication = self.publish()

        def publish(time: int) -> None:
            for message in aac(time), avc(time, time % 2 == 0):
                publication.write(message)
                received.append(message.body)
            self.broker.scheduler.flush_pending()

        viewers = [self.play()]
        publish(0)
        publish(1)
        self.expect(viewers, received)
        viewers.append(self.play())  # gets what is kept as well
        publish(2)
        self.expect(viewers, received)
        self.broker.leave(viewers[0].player)
        publish(3)
        self.expect(viewers, received)
        self.broker.end(publication)
        self.expect(viewers, received)
        publication = self.publish()
        publish(4)
        self.expect(viewers, received)
        self.broker.end(publication)
        self.broker.leave(viewers[1].player)
        self.assertEqual(self.broker.channels(), [])
        self.expect(viewers, received)

    def test_players_that_change_what_they_get(self) -> None:
        """The stream's bytes and messages count, also those that the player wanted left out."""
        publication = self.publish()
        viewer = self.play()
        viewer.player.enable(audio=False)
        self.broker.scheduler.flush_pending()
        before = self.broker.traffic()
        publication.write(aac(0))
        self.broker.scheduler.flush_pending()
        publication.write(aac(1))
        self.broker.scheduler.flush_pending()
        after = self.broker.traffic()
        self.assertEqual(after.delivered_messages - before.delivered_messages, 2)

    def test_a_slow_player(self) -> None:
        self.patch(cursor_module, "MAX_LAG", 1000)
        channel = make_channel()
        channel.begin("key")
        viewer = join(channel, room=0)
        for time in range(10):
            channel.publish(avc(time * 40, True, bytes(500)))
            channel.flush()
        viewer.take()
        traffic = channel.traffic()
        self.assertEqual((traffic.skips, traffic.skipped_bytes), (viewer.player.skips, viewer.player.skipped_bytes))
        self.assertGreater(traffic.skips, 0)
        self.assertEqual(traffic.delivered_messages, len(viewer.messages()))


class ChannelTests(SynchronousTestCase):
    def test_headers(self) -> None:
        channel = make_channel()
        channel.begin("key")
        self.assertEqual(channel.program.headers.messages, ())
        channel.publish(METADATA)
        channel.publish(AVC_HEADER)
        channel.publish(AAC_HEADER)
        self.assertEqual(channel.program.headers.messages, (messages.data_name(METADATA)[1], AVC_HEADER, AAC_HEADER))
        channel.end()
        self.assertEqual(channel.program.headers.messages, ())

    def test_keyframe_interval(self) -> None:
        channel = make_channel()
        seen: list[Any] = []
        channel.begin("key")
        for time, keyframe in (0xFFFFFFFF - 499, True), (0, False), (500, True), (1000, False), (2500, True):
            channel.publish(avc(time, keyframe))
            seen.append(channel.publication.keyframe_interval)
        self.assertEqual(seen, [None, None, 1000, 1000, 2000])
        channel.end()

    def test_of_one_name(self) -> None:
        clock = Clock()
        broker = Broker(clock, Authority(ask=True), FlushScheduler(clock, 0, lambda: 0.0, Turns(clock)))
        self.assertIsNone(broker.channel("channel"))
        publication = broker.publish("channel", "key", "192.0.2.1", Publisher())
        found = broker.channel("channel")
        assert found is not None
        self.assertEqual((found[0].name, found[1]), ("channel", publication))
        self.assertEqual(broker.channels(), [found])
        self.assertEqual(broker.merge_interval, 0.0)
