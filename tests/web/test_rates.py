"""Bit rates and the reactor's lag, on a clock."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.web.rates import LAG_INTERVAL, RATE_INTERVAL, Sampler
from rtmp_twisted.web.status import one_channel
from tests.support.memory import World
from tests.support.rtmp_client import avc


class SamplerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.lags: list[float] = []
        self.sampler = Sampler(self.world.clock, self.world.broker, self.lags.append)
        self.sampler.start()

    def rate(self) -> float:
        channel: Any = one_channel(self.world.broker, "tv")
        return self.sampler.bit_rate(channel)

    def test_bit_rate(self) -> None:
        publisher = self.world.connect().open("tv")
        publisher.publish()
        self.assertEqual(self.rate(), 0)
        for tick in range(160):  # 10 s at 8000 bit/s, then 30 s without data
            if tick < 40:
                publisher.send(avc(tick * 250, True, bytes(245)))
            self.world.clock.advance(0.25)
            if 8 < tick < 40:
                self.assertTrue(7000 < self.rate() < 9000, (tick, self.rate()))
        self.assertEqual(self.rate(), 0)
        publisher.call("closeStream", None, stream_id=1)
        publisher.publish()
        publisher.send(avc(0, True, bytes(995)))
        self.world.clock.advance(1)
        self.assertEqual(self.rate(), 8000)

    def test_average_of_one_to_two_intervals(self) -> None:
        publisher = self.world.connect().open("tv")
        publisher.publish()
        self.world.clock.pump([RATE_INTERVAL] * 4)
        publisher.send(avc(0, True, bytes(995)))
        self.world.clock.advance(1)
        self.assertEqual(self.rate(), 8000 / (RATE_INTERVAL + 1))
        self.world.clock.pump([RATE_INTERVAL - 1, RATE_INTERVAL - 1])
        self.assertEqual(self.rate(), 8000 / (2 * RATE_INTERVAL - 1))
        self.world.clock.advance(1)
        self.assertEqual(self.rate(), 0)

    def test_before_it_is_on_air(self) -> None:
        self.world.authority.ask = True
        self.world.connect().open("tv").publish()
        self.world.clock.advance(1)
        self.assertEqual(self.rate(), 0)

    def test_reactor_lag(self) -> None:
        clock = self.world.clock
        clock.advance(LAG_INTERVAL)
        clock.advance(LAG_INTERVAL + 3)
        clock.advance(LAG_INTERVAL)
        self.assertEqual(self.lags, [0, 3, 0])
        self.sampler.stop()
        self.sampler.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
