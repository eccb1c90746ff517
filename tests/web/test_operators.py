"""The operators' pages: what they show and do, and who may ask."""

from __future__ import annotations

from typing import Any

from twisted.logger import formatEvent

from rtmp_twisted.web.operators import DEFAULT_LIMIT
from rtmp_twisted.wire import amf0
from tests.support.fakes import Log
from tests.support.rtmp_client import AAC_HEADER, METADATA, aac, avc, codes
from tests.web.case import AVC_HEADER, KEY, TOKEN, HTTPCase


class ChannelTests(HTTPCase):
    async def test_on_air(self) -> None:
        self.serve()
        self.publisher("radio")
        self.player("radio")
        self.world.clock.advance(10)
        publisher = self.publisher()
        publisher.send(METADATA, AVC_HEADER, AAC_HEADER)
        self.player()
        self.player()
        sent = [avc(0, True, bytes(1000)), aac(0), avc(2000, True, bytes(1000))]
        publisher.send(*sent)
        self.world.clock.advance(4)
        answer = await self.ask("/api/v1/channels/tv")
        self.assertEqual(answer.code, 200)
        self.assertEqual(answer.headers.getRawHeaders("content-type"), ["application/json"])
        view = answer.json
        size = sum(len(message.body) for message in [*sent, METADATA, AVC_HEADER, AAC_HEADER])
        size -= len(amf0.encode("@setDataFrame"))
        self.assertEqual(view["received"], {"bytes": size, "messages": 6})
        self.assertEqual(view["bit_rate"], 8 * size / 4)
        self.assertEqual((view["name"], view["state"], view["players"]), ("tv", "on air", 2))
        self.assertEqual((view["on_air_seconds"], view["keyframe_interval"]), (4, 2))
        self.assertEqual(view["publisher"], {"address": "192.0.2.1", "client": "An encoder/1.0", "connection": 3})
        video, audio = view["tracks"]
        wanted = {"kind": "video", "codec": "H.264", "codec_string": "avc1.640028", "track": 0}
        self.assertEqual(video, wanted | {"width": 1920, "height": 1080, "frame_rate": 25.0})
        self.assertEqual((audio["kind"], audio["codec"], audio["sample_rate"]), ("audio", "AAC", 44100))

    async def test_delivered_and_skipped(self) -> None:
        """Four figures that are easily swapped; each is different here."""
        self.serve()
        publisher, player = self.publisher(), self.player()
        publisher.send(AVC_HEADER, avc(0, True))
        view = (await self.ask("/api/v1/channels/tv")).json
        self.assertEqual(view["skipped"], {"times": 0, "bytes": 0})
        few = view["delivered"]
        self.assertTrue(2 <= few["messages"] < 10 < few["bytes"] < 1000, few)
        self.fall_behind(publisher, player, 2)
        view = (await self.ask("/api/v1/channels/tv")).json
        self.assertEqual(view["skipped"]["times"], 2)
        self.assertTrue(10_000_000 < view["skipped"]["bytes"] < 24_000_000, view)
        self.assertTrue(few["messages"] < view["delivered"]["messages"] < 20, view)
        self.assertTrue(5_000_000 < view["delivered"]["bytes"] < 20_000_000, view)

    async def test_before_and_after(self) -> None:
        self.serve()
        self.assertEqual((await self.ask("/api/v1/channels")).json, {"total": 0, "channels": []})
        self.assertEqual((await self.ask("/api/v1/channels/tv")).code, 404)
        self.world.authority.ask = True
        self.player()
        view = (await self.ask("/api/v1/channels/tv")).json
        self.assertEqual((view["state"], view["players"], "publisher" in view), ("waiting", 1, False))
        self.publisher()
        view = (await self.ask("/api/v1/channels/tv")).json
        self.assertEqual((view["state"], "bit_rate" in view), ("asking", False))
        self.world.authority.accept()
        view = (await self.ask("/api/v1/channels/tv")).json
        self.assertEqual((view["state"], view["tracks"], view["keyframe_interval"]), ("on air", [], None))

    async def test_list(self) -> None:
        self.serve()
        for number in range(DEFAULT_LIMIT + 5):
            self.publisher(f"c{number}")
        listed = (await self.ask("/api/v1/channels?limit=2&offset=1")).json
        self.assertEqual(listed["total"], DEFAULT_LIMIT + 5)
        self.assertEqual([view["name"] for view in listed["channels"]], ["c1", "c2"])
        self.assertEqual(len((await self.ask("/api/v1/channels")).json["channels"]), DEFAULT_LIMIT)
        self.assertEqual((await self.ask("/api/v1/channels?limit=0")).json["channels"], [])
        self.assertEqual(len((await self.ask("/api/v1/channels?limit=500&offset=100")).json["channels"]), 5)
        for wrong in "limit=-1", "limit=501", "limit=", "offset=x", "limit=1e1", "offset=" + "9" * 5000, "limit=%b2":
            answer = await self.ask(f"/api/v1/channels?{wrong}")
            self.assertEqual((answer.code, "whole number" in answer.json["error"]), (400, True), wrong)

    async def test_odd_names(self) -> None:
        self.serve()
        for name, quoted in ("a/b", "a%2Fb"), ("a b", "a%20b"), ("é", "%C3%A9"), ('"\\', "%22%5C"), ("kill", "kill"):
            self.publisher(name)
            self.assertEqual((await self.ask(f"/api/v1/channels/{quoted}")).json["name"], name)
            metrics = (await self.ask("/metrics")).text
            self.assertIn('channel="' + name.replace("\\", "\\\\").replace('"', '\\"'), metrics)
            killed = await self.ask(f"/api/v1/channels/{quoted}/kill", "POST")
            self.assertEqual(killed.json, {"killed": name})

    async def test_kill(self) -> None:
        self.serve()
        log = Log(self)
        publisher, other = self.publisher(), self.publisher("radio")
        self.assertEqual((await self.ask("/api/v1/channels/tv/kill")).code, 405)
        self.assertFalse(publisher.closing)
        answer = await self.ask("/api/v1/channels/tv/kill", "POST")
        self.assertEqual((answer.code, answer.json), (200, {"killed": "tv"}))
        self.assertTrue(publisher.closing)
        self.assertFalse(other.closing)
        [event] = [event for event in log.events if "was ended" in str(event.get("log_format"))]
        self.assertEqual(formatEvent(event), "HTTP: the publish on channel 'tv' was ended")
        self.assertEqual(event["peer"], "127.0.0.1")
        self.assertEqual((await self.ask("/api/v1/channels/tv/kill", "POST")).code, 404)

    async def test_no_secret_anywhere(self) -> None:
        """No page and no log line holds the key, the stream id (which contains the key here) or the token."""
        log = Log(self)
        self.serve(TOKEN)
        self.publisher()
        self.player()
        for path in "/metrics", "/api/v1/channels", "/api/v1/channels/tv", "/healthz", f"/api/v1/channels/{KEY}":
            answer = await self.ask(path, authorization=f"Bearer {TOKEN}")
            if not path.endswith(KEY):
                self.assertNotIn(KEY, answer.text)
            self.assertNotIn(TOKEN, answer.text)
        self.assertNotIn(TOKEN, log.everything())


class DrainTests(HTTPCase):
    async def test_drained(self) -> None:
        """Players go in steps; who understands a request to reconnect gets one; a publisher that does not stays. New
        ones are turned away, until the drain is ended."""
        self.serve(TOKEN)
        token: Any = {"authorization": f"Bearer {TOKEN}"}
        publisher = self.publisher()
        publisher.send(AVC_HEADER, avc(0, True))
        players = [self.player() for _ in range(25)]
        modern = self.world.connect()
        modern.call("connect", {"app": "tv", "capsEx": 1.0}, transaction=1)
        modern.call("createStream", None, transaction=2)
        modern.play(KEY)
        self.assertEqual((await self.ask("/readyz")).text, "ok\n")
        self.assertEqual((await self.ask("/api/v1/drain", "POST")).code, 401)
        drained = await self.ask("/api/v1/drain", "POST", **token)
        self.assertEqual(drained.json, {"draining": True, "publishers": 1, "players": 24})  # 3 of 27 were looked at
        self.assertEqual([(await self.ask(path)).code for path in ("/readyz", "/healthz")], [404, 200])
        self.assertEqual(sum(player.closing for player in players), 2)
        for command in "publish", "play":
            late = self.world.connect("192.0.2.7").open("tv" if command == "play" else "radio")
            self.assertIn(
                f"NetStream.{command.capitalize()}.BadName", codes(late.call(command, None, KEY, stream_id=1))
            )
            self.assertTrue(late.closing)
        self.assertEqual(list(self.world.factory.options.guessing.sources), [])
        again = await self.ask("/api/v1/drain", "POST", **token)
        self.assertEqual(again.json["players"], 24)
        for _ in range(8):
            self.world.clock.advance(1)
        self.assertEqual(sum(player.closing for player in players), 25)
        self.assertFalse(modern.closing)
        self.assertEqual(codes(modern.new())[-1], "NetConnection.Connect.ReconnectRequest")
        self.assertFalse(publisher.closing)
        left = await self.ask("/api/v1/drain", **token)
        self.assertEqual(left.json, {"draining": True, "publishers": 1, "players": 1})
        self.assertEqual((await self.ask("/api/v1/drain", "DELETE", **token)).json["draining"], False)
        self.assertEqual((await self.ask("/readyz")).code, 200)
        self.assertFalse(self.player().closing)

    async def test_ended_halfway(self) -> None:
        self.serve()
        self.publisher()
        players = [self.player() for _ in range(20)]
        await self.ask("/api/v1/drain", "POST")
        await self.ask("/api/v1/drain", "DELETE")
        self.world.clock.advance(20)
        self.assertEqual(sum(player.closing for player in players), 2)


class AccessTests(HTTPCase):
    PATHS = "/metrics", "/api/v1/channels", "/api/v1/channels/tv", "/api/v1/channels/tv/kill", "/", "/nothing"

    async def test_token(self) -> None:
        self.serve(TOKEN)
        self.publisher()
        for given in "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN} x":
            for path in self.PATHS:
                for method in "GET", "POST":
                    answer = await self.ask(path, method, authorization=given)
                    self.assertEqual((answer.code, path), (401, path))
                    self.assertTrue(answer.headers.getRawHeaders("www-authenticate"))
        self.assertEqual((await self.ask("/healthz")).text, "ok\n")
        for given in f"Bearer {TOKEN}", f"bearer  {TOKEN}":
            self.assertEqual((await self.ask("/metrics", authorization=given, Host="anything")).code, 200)
        self.assertEqual((await self.ask("/nothing", authorization=f"Bearer {TOKEN}")).code, 404)
        killed = await self.ask("/api/v1/channels/tv/kill", "POST", authorization=f"Bearer {TOKEN}")
        self.assertEqual(killed.code, 200)

    async def test_pages_in_a_browser(self) -> None:
        """Without a token, a web page open on the server's machine cannot use the API."""
        self.serve()
        publisher = self.publisher()
        for path in self.PATHS:
            self.assertEqual((await self.ask(path, "POST", Origin="http://evil.example")).code, 403)
            self.assertEqual((await self.ask(path, "POST", Origin="null")).code, 403)
            self.assertEqual((await self.ask(path, "POST", Host="evil.example")).code, 403)
        self.assertFalse(publisher.closing)
        for host in "localhost", "localhost:99", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST":
            self.assertEqual((await self.ask("/metrics", Host=host)).code, 200, host)

    async def test_methods(self) -> None:
        self.serve()
        for path in "/healthz", "/readyz", "/metrics", "/api/v1/channels":
            for method in "POST", "PUT", "DELETE", "NONSENSE":
                answer = await self.ask(path, method)
                self.assertEqual((answer.code, answer.headers.getRawHeaders("allow")), (405, ["GET, HEAD"]))
            whole, head = await self.ask(path), await self.ask(path, "HEAD")
            self.assertEqual((head.code, head.text), (200, ""))
            if path != "/metrics":  # it grows
                self.assertEqual(head.headers.getRawHeaders("content-length"), [str(len(whole.text))])
            for name, value in ("server", "rtmp-twisted"), ("cache-control", "no-store"):
                self.assertEqual(whole.headers.getRawHeaders(name), [value])
        kill = await self.ask("/api/v1/channels/tv/kill")
        self.assertEqual(kill.headers.getRawHeaders("allow"), ["POST"])
        self.assertEqual(self.flushLoggedErrors(), [])
