"""Metrics, as Prometheus reads them."""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted._version import __version__
from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.memory import NO_LIMIT
from rtmp_twisted.web.metrics import MAX_CHANNELS, MAX_NAME, TimedAuthority
from rtmp_twisted.web.status import ServerStatus
from tests.support.memory import Authority
from tests.support.rtmp_client import avc
from tests.web.case import AVC, AVC_HEADER, KEY, FakePeer, HTTPCase


class MetricsTests(HTTPCase):
    async def scrape(self) -> dict[str, float]:
        """Returns all samples. Each family must have its type, and no sample may come twice."""
        text = (await self.ask("/metrics")).text
        families = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))
        found: dict[str, float] = {}
        for name, labels, value in re.findall(r"(?m)^([a-z_]+)(\{.*\})? (\S+)$", text):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            self.assertIn(family if family in families else name, families)
            self.assertNotIn(name + labels, found)
            found[name + labels] = float(value)
        return found

    async def test_numbers(self) -> None:
        self.serve(redis=FakePeer(True), coordinator=FakePeer(False))
        publisher = self.publisher()
        player = self.player()
        self.player("radio").leave()
        publisher.send(AVC_HEADER, avc(0, True, bytes(1000)))
        self.player("radio")
        self.world.authority.ask = True
        self.publisher("news")
        self.world.factory.limits.refused["too many from one address"] += 7
        guessing = self.world.factory.options.guessing
        guessing.failures.update(play=5, publish=6)
        guessing.refused += 8
        self.world.clock.advance(2)
        found = await self.scrape()
        expected = {
            f'rtmp_version_info{{version="{__version__}"}}': 1,
            "rtmp_connections": 4,
            "rtmp_connections_total": 5,
            'rtmp_connections_refused_total{reason="too many from one address"}': 7,
            'rtmp_keys_refused_total{command="play"}': 5,
            'rtmp_keys_refused_total{command="publish"}': 6,
            "rtmp_guessing_refused_total": 8,
            'rtmp_channels{state="on air"}': 1,
            'rtmp_channels{state="waiting"}': 1,
            'rtmp_channels{state="asking"}': 1,
            "rtmp_players": 2,
            'rtmp_channel_players{channel="tv"}': 1,
            'rtmp_channel_players{channel="radio"}': 1,
            'rtmp_channel_players{channel="news"}': 0,
            "rtmp_received_messages_total": 2,
            "rtmp_received_bytes_total": len(AVC) + 1005,
            'rtmp_channel_bit_rate{channel="tv"}': (len(AVC) + 1005) * 4,
            "rtmp_player_skips_total": 0,
            "rtmp_merge_interval_seconds": 0,
            'rtmp_link_up{link="redis"}': 1,
            'rtmp_link_up{link="coordinator"}': 0,
            "rtmp_channels_not_shown": 0,
        }
        self.assertEqual({name: found.get(name) for name in expected}, expected)
        self.assertNotIn('rtmp_channel_bit_rate{channel="radio"}', found)
        self.assertNotIn('rtmp_channel_bit_rate{channel="news"}', found)
        self.assertGreater(found["process_resident_memory_bytes"], 1_000_000)
        player.leave()
        publisher.leave()
        after = await self.scrape()
        self.assertGreaterEqual(after["rtmp_delivered_bytes_total"], found["rtmp_delivered_bytes_total"])
        self.assertEqual(after["rtmp_connections"], 2)

    async def test_delivered_and_skipped(self) -> None:
        """Four figures that are easily swapped; each is different here."""
        self.serve()
        publisher, player = self.publisher(), self.player()
        self.fall_behind(publisher, player, 2)
        found = await self.scrape()
        self.assertEqual(found["rtmp_player_skips_total"], 2)
        self.assertTrue(10_000_000 < found["rtmp_player_skipped_bytes_total"] < 24_000_000, found)
        self.assertTrue(2 < found["rtmp_delivered_messages_total"] < 20, found)
        self.assertTrue(5_000_000 < found["rtmp_delivered_bytes_total"] < 20_000_000, found)

    async def test_merge_interval(self) -> None:
        """It is shown as it is, in seconds."""
        self.serve()
        self.patch(ServerStatus, "merge_interval", 0.125)
        self.assertEqual((await self.scrape())["rtmp_merge_interval_seconds"], 0.125)

    async def test_memory(self) -> None:
        self.serve()
        publisher = self.publisher()
        publisher.send(avc(0, True, bytes(50_000)), avc(40, False))
        self.world.pass_time(1)
        found = await self.scrape()
        self.assertTrue(50_000 < found["rtmp_memory_held_bytes"] < 100_000, found)
        self.assertEqual(found["rtmp_memory_limit_bytes"], NO_LIMIT)
        self.assertEqual(found["rtmp_memory_shrinks_total"], 0)
        self.world.broker.memory.limit = 40_000
        self.world.pass_time(1)
        self.world.turn()
        found = await self.scrape()
        self.assertEqual((found["rtmp_memory_limit_bytes"], found["rtmp_memory_shrinks_total"]), (40_000, 1))
        self.assertLess(found["rtmp_memory_held_bytes"], 40_000)

    async def test_labels_are_bounded(self) -> None:
        """Their number, and the length of a name."""
        self.serve()
        self.publisher("x" * (MAX_NAME + 1))
        self.publisher("y" * MAX_NAME)
        for number in range(MAX_CHANNELS + 5):
            self.publisher(f"c{number}")
        found = await self.scrape()
        self.assertEqual(sum(name.startswith("rtmp_channel_players") for name in found), MAX_CHANNELS)
        self.assertEqual(sum(name.startswith("rtmp_channel_bit_rate") for name in found), MAX_CHANNELS)
        self.assertIn('rtmp_channel_players{channel="c0"}', found)
        self.assertIn('rtmp_channel_players{channel="%s"}' % ("y" * MAX_NAME), found)
        self.assertNotIn("x" * (MAX_NAME + 1), str(found))
        self.assertEqual(found["rtmp_channels_not_shown"], 7)
        self.assertEqual(found['rtmp_channels{state="on air"}'], MAX_CHANNELS + 7)

    async def test_authority(self) -> None:
        self.serve()
        await self.timed.start("tv", KEY, "192.0.2.1")
        name = 'rtmp_authority_seconds_count{event="start",outcome="accepted"}'
        self.assertEqual((await self.scrape())[name], 1)

    async def test_reactor_lag(self) -> None:
        self.serve()
        self.world.clock.advance(3)
        self.assertEqual((await self.scrape())["rtmp_reactor_lag_seconds_sum"], 2.5)


class TimedAuthorityTests(SynchronousTestCase):
    def test_answers_pass_through(self) -> None:
        clock = Clock()
        inner = Authority(ask=True)
        timed = TimedAuthority(inner, clock)
        accepted, refused = timed.start("tv", KEY, "192.0.2.1"), timed.start("radio", "key", "192.0.2.2")
        clock.advance(2)
        inner.accept("the id")
        clock.advance(1)
        inner.refuse("no")
        self.assertEqual(self.successResultOf(accepted), "the id")
        self.assertEqual(str(self.failureResultOf(refused, Refused).value), "no")
        told: Deferred[None] = timed.end("tv", KEY, "the id", "192.0.2.1")
        self.successResultOf(told)
        expected = [
            ("start", "tv", KEY, "192.0.2.1"),
            ("start", "radio", "key", "192.0.2.2"),
            ("end", "tv", KEY, "the id", "192.0.2.1"),
        ]
        self.assertEqual(inner.events, expected)
        sums = {
            tuple(sample.labels.values()): sample.value
            for metric in timed.histogram.collect()
            for sample in metric.samples
            if sample.name.endswith("_sum")
        }
        self.assertEqual(sums, {("start", "accepted"): 2, ("start", "refused"): 3, ("stop", "done"): 0})
