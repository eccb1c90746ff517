"""Who may watch."""

from __future__ import annotations

from typing import Any

import jwt
from attrs import evolve
from twisted.logger import LogLevel

from rtmp_twisted.rtmp.guessing import FIRST_WAIT, MAX_KEYS, REFUSE_SECONDS
from rtmp_twisted.settings_types import Networks
from tests.support.fakes import Log, until
from tests.support.memory import codes, media
from tests.web.watch_case import ANYONE, HEADERS, SECRET, STREAM_KEY, TOKEN, WatchCase


class KeyTests(WatchCase):
    async def test_wrong_keys(self) -> None:
        """Refused, counted, made to wait, and refused unseen in the end; on that channel and from that address only."""
        self.serve()
        log = Log(self)
        publisher = self.on_air()
        other = self.on_air("other", "key")
        guessing = self.world.factory.options.guessing
        for number in range(MAX_KEYS):
            viewer = await self.watch(f"/tv/guess{number}.flv")
            await self.turned_away(viewer)
            self.assertEqual(viewer.code, 403)
        self.assertEqual(guessing.failures, {"play": MAX_KEYS, "publish": 0})
        for key in "guess-again", STREAM_KEY:
            viewer = await self.watch(f"/tv/{key}.flv")
            await self.turned_away(viewer)
            self.assertEqual(viewer.code, 429)
        self.assertIn(b"HTTP/1.1 429 Too Many Requests\r\n", viewer.connection.answer)
        self.assertEqual(guessing.refused, 2)
        viewer = await self.watch("/other/key.flv")
        await self.until_answered(viewer)
        await viewer.has(*HEADERS, *self.group(other, 0))
        self.world.clock.advance(REFUSE_SECONDS)
        viewer = await self.watch()
        await self.until_answered(viewer)
        await viewer.has(*HEADERS, *self.group(publisher, 0))
        self.assertNotIn(STREAM_KEY, log.everything())
        self.assertNotIn("guess-again", log.everything())

    async def test_the_wait_comes_before_the_key_is_compared(self) -> None:
        """So a client that hangs up early learns nothing."""
        self.serve()
        self.on_air()
        viewer = await self.watch("/tv/wrong.flv")
        await viewer.gone()
        await self.waiting(0)
        viewer = await self.watch("/tv/wrong2.flv")
        await self.waiting(1)
        self.world.clock.advance(FIRST_WAIT * 0.9)
        viewer.connection.transport.loseConnection()
        await self.waiting(0)
        self.world.clock.advance(FIRST_WAIT)
        self.assertEqual(self.world.factory.options.guessing.failures["play"], 1)

    async def test_who_may_play(self) -> None:
        self.serve(players=Networks.parse("192.0.2.0/24"))
        self.on_air()
        viewer = await self.watch()
        await viewer.gone()
        self.assertEqual((viewer.code, viewer.body), (403, b"this address may not watch\n"))
        self.assertEqual(self.world.factory.options.guessing.failures["play"], 0)

    async def turned_away(self, viewer: Any) -> None:
        await self.until_answered(viewer)
        await viewer.gone()
        await self.waiting(0)

    async def until_answered(self, viewer: Any) -> None:
        def answered() -> bool:
            self.world.clock.advance(0.05)
            return b"\r\n\r\n" in viewer.connection.answer

        await until(answered, "an answer")


class AnyoneTests(WatchCase):
    async def test_no_key(self) -> None:
        self.serve(ANYONE)
        publisher = self.on_air()
        viewer = await self.watch("/tv.flv")
        await viewer.has(*HEADERS, *self.group(publisher, 0))
        self.assertEqual((await self.ask("/tv")).code, 200)
        self.assertEqual((await self.ask(f"/tv/{STREAM_KEY}.flv")).code, 404)


class TokenTests(WatchCase):
    async def test_either_way(self) -> None:
        """In place of the key, or in the query; it ends the session when it expires."""
        self.serve(TOKEN)
        publisher = self.on_air()
        token = self.token()
        first = self.group(publisher, 0)
        viewers = [await self.watch(path) for path in (f"/tv/{token}.flv", f"/tv.flv?x=y&token={token}")]
        for viewer in viewers:
            await viewer.has(*HEADERS, *first)
        self.world.clock.advance(59)
        self.service.check()
        self.assertEqual(len(self.viewers.all), 2)
        self.world.clock.advance(1)
        self.service.check()
        for viewer in viewers:
            await viewer.gone()
            self.assertEqual((viewer.bodies(), viewer.ended), (HEADERS + first, True))
        for path in f"/tv/{token}", f"/tv?token={token}":
            self.assertEqual((await self.ask(path)).code, 200)

    async def test_those_that_are_not_valid(self) -> None:
        self.serve(TOKEN)
        log = Log(self)
        self.on_air()
        good = self.token()
        head, payload, signature = good.split(".")
        wrong = {
            "the token is for another channel": [self.token("radio"), self.token(channel=None)],
            "the token is not valid": [
                STREAM_KEY,
                self.token(secret="another secret of thirty-two bytes"),
                f"{head}.{payload}.",
                f"{head}.{payload}.{signature[::-1]}",
                jwt.encode({"channel": "tv", "exp": self.now + 60}, "", "none"),
                jwt.encode({"channel": "tv", "exp": self.now + 60}, SECRET * 2, "HS512"),
                jwt.encode({"channel": "tv"}, SECRET),
                jwt.encode({"channel": "tv", "exp": True}, SECRET),
                jwt.encode({"channel": "tv", "exp": 1e400}, SECRET),
                self.token(nbf=4_000_000_000),
            ],
        }
        for reason, tokens in wrong.items():
            for token in tokens:
                self.world.clock.advance(1000)  # nobody waits for a guess
                self.now -= 1000
                viewer = await self.watch(f"/tv/{token}.flv")
                await viewer.gone()
                self.assertEqual((viewer.code, viewer.body.decode()), (403, f"{reason}\n"), token)
        failures = self.world.factory.options.guessing.failures["play"]
        self.assertEqual(failures, sum(map(len, wrong.values())))
        self.world.clock.advance(1000)
        viewer = await self.watch(f"/tv/{self.token(seconds=-1)}.flv")
        await viewer.gone()
        self.assertEqual((viewer.code, viewer.body), (403, b"the token has expired\n"))
        self.assertEqual(self.world.factory.options.guessing.failures["play"], failures)  # no guess
        for path in "/tv.flv", "/tv.flv?token=", "/tv.flv?token=" + "x" * 2049:
            self.assertEqual((await self.ask(path)).code, 404)
        self.assertNotIn(SECRET, log.everything())
        self.assertNotIn(good, log.everything())

    async def test_a_viewer_that_waits(self) -> None:
        """The publisher's key is not compared; a token that expires meanwhile lets nobody in."""
        self.serve(TOKEN)
        viewer, late = await self.watch(f"/tv/{self.token()}.flv"), await self.watch(f"/tv/{self.token(seconds=5)}.flv")
        await self.waiting(2)
        self.world.clock.advance(5)
        self.service.check()
        await late.gone()
        publisher = self.on_air()
        await viewer.has(*HEADERS, *self.group(publisher, 0))
        self.assertEqual(late.connection.answer, b"")


class RTMPTokenTests(WatchCase):
    """The same tokens for RTMP players, whatever WEB_PLAY says."""

    def rtmp(self, **world: Any) -> None:
        self.serve(**world)
        self.world.factory.options = evolve(self.world.factory.options, tokens=self.tokens)

    def play(self, name: str, app: str = "tv") -> Any:
        player = self.world.connect("192.0.2.9").open(app)
        player.received.clear()
        player.play(name)
        return player

    async def test_behind_the_name(self) -> None:
        self.rtmp()
        log = Log(self)
        publisher = self.on_air()
        first = self.group(publisher, 0)
        token = self.token()
        players = [self.play(f"{name}?token={token}") for name in ("", "anything.at/all", STREAM_KEY)]
        players.append(self.play("", f"tv?token={token}"))
        for player in players:
            self.assertIn("NetStream.Play.Start", codes(player.received))
            self.assertEqual([m.body for m in media(player.received)][-3:], first)
        self.world.pass_time(59)
        self.assertFalse(any(player.closing for player in players))
        self.world.pass_time(1)
        for player in players:
            self.assertTrue(player.closing)
            self.assertIn("NetStream.Play.UnpublishNotify", codes(player.new()))
        self.assertNotIn(token, log.everything())

    async def test_refused(self) -> None:
        self.rtmp()
        self.on_air()
        for name in (
            f"{STREAM_KEY}?token=x",
            "?token=" + "x" * 2049,
            f"?token={self.token('radio')}",
            f"?token={self.token(seconds=-1)}",
        ):
            self.world.pass_time(1000)
            self.now -= 1000
            player = self.play(name)
            self.assertEqual((codes(player.received)[-1:], player.closing), (["NetStream.Play.BadName"], True), name)
        self.assertEqual(self.world.factory.options.guessing.failures["play"], 3)

    async def test_it_never_publishes(self) -> None:
        """Behind the name of a publish it is a part of the query, as any other."""
        self.rtmp(ask=True)
        publisher = self.world.connect().open("tv")
        publisher.publish(f"?token={self.token()}")
        self.assertIn("NetStream.Publish.BadName", codes(publisher.received))
        self.assertEqual(self.world.authority.events, [])

    async def test_without_a_secret(self) -> None:
        """It means nothing."""
        self.serve()
        log = Log(self)
        self.on_air()
        player = self.play(f"wrong?token={self.token()}")
        self.assertEqual(codes(player.received)[-1:], ["NetStream.Play.BadName"])
        self.assertTrue(any("refused" in line for line in log.lines(LogLevel.info)))
