"""A channel that is published on one worker and seen on all: places, keys, take-overs, and who moves where."""

from __future__ import annotations

import os
import signal

from twisted.internet.task import LoopingCall

from rtmp_twisted.wire import messages
from tests.support.programs import free_port
from tests.support.rtmp_client import AVC_HEADER, avc, client, codes
from tests.workers.case import WorkersCase


class ChannelTests(WorkersCase):
    async def test_seen_on_both(self) -> None:
        """Players wait on both workers. One pull serves the worker without the publisher, and ends behind them."""
        await self.serve()
        players = [await self.waiting() for _ in range(4)]
        publisher = await self.publisher()
        await self.see(players, b"key")
        publisher.send(avc(40, False, b"second"))
        await self.see(players, b"second")
        for player in players:
            self.assertEqual([one.timestamp for one in player.media()], [0, 0, 40])
        pulls = [line for line in self.server.lines if "connected to rtmp://worker-" in line]
        self.assertEqual(len(pulls), 1, pulls)
        publisher.call("closeStream", None, stream_id=1)
        for player in players:
            await player.status("NetStream.Play.UnpublishNotify")
        again = await self.publisher(key="key")
        again.send(avc(0, True, b"another"))
        await self.see(players, b"another")

    async def test_worker_that_is_behind(self) -> None:
        """It hears of the claims of several publishes before it reads the first of these, and plays the last one."""
        await self.serve()
        here, there = await self.waiting(), await self.waiting()
        publisher = await self.publisher()
        await self.see([here, there], b"key")
        os.kill(self.pid(2), signal.SIGSTOP)
        for frame in b"second", b"third":
            publisher.call("closeStream", None, stream_id=1)
            await publisher.publish()
            # More than is read at a time.
            publisher.send(AVC_HEADER, *(avc(time, not time, frame + bytes(50_000)) for time in range(4)))
            await self.see([here], frame, 4)
        os.kill(self.pid(2), signal.SIGCONT)
        await self.see([there], b"third")

    async def test_keys(self) -> None:
        """A wrong key is refused on either worker, before and after the publisher comes, and counts as a guess."""
        await self.serve()
        wrong = [await self.waiting(key="wrong") for _ in range(2)]
        right = [await self.waiting() for _ in range(2)]
        publisher = await self.publisher()
        for player in wrong:
            await player.status("NetStream.Play.BadName")
        await self.see(right, b"key")
        secure = await self.connect()
        secure.call("play", None, "bad", -2000.0, stream_id=1)
        await secure.status("NetStream.Play.BadName")
        publisher.send(avc(40, False, b"on"))
        await self.see(right, b"on")

    async def test_wrong_key_elsewhere(self) -> None:
        """Over TLS, so that it stays on the worker that has nothing of the channel: it never plays."""
        await self.serve(**self.tls())
        await self.publisher()
        player = await self.connect(secure=True)
        player.call("play", None, "bad", -2000.0, stream_id=1)
        await player.status("NetStream.Play.BadName")
        self.assertNotIn("NetStream.Play.Start", codes(player.received))
        good = await self.connect(secure=True)
        await good.play()
        await self.see([good], b"key")

    async def test_guessing(self) -> None:
        """Ten keys, tried on both workers, are ten: the next one is refused unseen."""
        await self.serve(**self.tls())
        await self.publisher()
        for number in range(10):
            guesser = await self.connect(secure=number % 2 == 0)
            guesser.call("play", None, f"guess{number}", -2000.0, stream_id=1)
            await guesser.status("NetStream.Play.BadName")
            await self.leave(guesser)
        await self.server.until("guessing: 10 wrong keys from 127.0.0.1")
        last = await self.connect()
        last.call("play", None, "key", -2000.0, stream_id=1)
        answer = await last.status("NetStream.Play.BadName")
        self.assertIn(b"too many wrong keys", answer.body)

    async def test_take_over_between_workers(self) -> None:
        """The silent publisher's worker keeps its viewers: they go on with the new one's, in time."""
        await self.serve(publish_takeover_seconds="1", **self.tls())
        await self.publisher()
        there = await self.waiting(secure=True)
        here = await self.waiting()
        await self.see([there, here], b"key")
        live = await self.connect(secure=True)
        live.call("publish", None, "another", "live", stream_id=1)
        await live.status("NetStream.Publish.BadName")
        second = await self.publisher(secure=True)
        second.send(avc(40, True, b"taken over"))
        await self.see([there, here], b"taken over")
        for player in there, here:
            times = [one.timestamp for one in player.media()]
            self.assertEqual(times, sorted(times))
            self.assertNotIn("NetStream.Play.UnpublishNotify", codes(player.received))
        self.assertTrue(any("taken over by a new connection" in line for line in self.server.lines))

    async def test_a_live_one_is_not_taken_over(self) -> None:
        await self.serve(publish_takeover_seconds="2", **self.tls())
        first = await self.publisher()
        second = await self.connect(secure=True)
        second.call("publish", None, "key", "live", stream_id=1)
        sending = LoopingCall(lambda: first.send(avc(40, False)))
        self.addCleanup(sending.stop)
        sending.start(0.1)
        answer = await second.status("NetStream.Publish.BadName")
        self.assertIn(b"live publisher", answer.body)


class MoveTests(WorkersCase):
    async def test_all_in_one_write(self) -> None:
        """A player that says everything at once, on the other worker, is answered once and gets its media."""
        await self.serve()
        await self.publisher()
        player = await client(self.server.port)
        self.addCleanup(self.leave, player)
        size = messages.set_chunk_size(1000)
        connect = messages.command("connect", 1, {"app": "channel"})
        player.send(size)
        player.chunk_size = 1000
        player.send(
            connect,
            messages.command("createStream", 2, None),
            messages.command("play", 3, None, "key", -2000.0, stream_id=1),
            messages.user_control(messages.PING_REQUEST, 7),
        )
        await self.see([player], b"key")
        await player.until(lambda one: one.body == b"\0\x07\0\0\0\x07", "the answer to the ping")
        self.assertEqual(codes(player.received).count("NetConnection.Connect.Success"), 1)
        self.assertEqual(codes(player.received).count("NetStream.Play.Start"), 1)
        await self.server.until(r"w2 #1 127.0.0.1 goes on in another worker")
        await self.server.until(r'w1 #2 127.0.0.1 playing channel "channel"')

    async def test_many_small_channels(self) -> None:
        """Publisher and viewer of a small channel meet on one worker: nothing is pulled."""
        await self.serve()
        for number in range(12):
            await self.publisher(f"channel{number}")
        players = []
        for number in (7, 0, 3, 2, 5, 4, 1, 6, 11, 10, 9, 8):
            player = await self.connect(f"channel{number}")
            await player.play()
            players.append(player)
        await self.see(players, b"key")
        self.assertEqual([line for line in self.server.lines if "rtmp://worker-" in line], [])

    async def test_one_large_channel(self) -> None:
        """It is spread over both, and stays so when half of them leave."""
        port = str(free_port())
        await self.serve(http_port=port)
        publisher = await self.publisher()
        players = []
        for _ in range(300):
            player = await self.connect()
            await player.play()
            players.append(player)
        publisher.send(avc(40, False, b"all"))
        await self.see(players, b"all")
        loads = await self.loads(port, 301)
        self.assertGreater(min(loads), 0.8 * max(loads))
        for number, player in enumerate(players):
            if number % 4 < 2:  # as many of each worker, where they came in turn
                player.transport.abortConnection()
        loads = await self.loads(port, 151)
        self.assertGreater(min(loads), 0.8 * max(loads))
