"""Pushes and pulls in the API and in the metrics."""

from __future__ import annotations

import json

from attrs import define, evolve, field

from rtmp_twisted.live.relays import RelayStatus
from tests.support.fakes import Log
from tests.web.case import TOKEN, FakePeer, HTTPCase

PUSH = RelayStatus(
    id="7",
    kind="push",
    channel="tv",
    target="rtmp://there/app/***",
    made_by="API",
    state="live",
    live_seconds=12.34567,
    bit_rate=2_500_000.4,
    total_bytes=101,
    waiting_bytes=102,
    skips=103,
    skipped_bytes=104,
    reconnects=105,
    last_error="it closed the connection",
)
PULL = evolve(PUSH, id="pull-1", kind="pull", state="waiting", live_seconds=None, total_bytes=201, made_by="PULL")
OTHER = evolve(PUSH, id="8", channel="radio", state="trying again")


@define
class FakeRelays:
    """Does what it is asked, and writes it down."""

    found: list[RelayStatus] = field(factory=lambda: [PUSH, PULL, OTHER])
    asked: list[tuple[str, str]] = field(factory=list)

    def statuses(self, channel: str | None = None) -> list[RelayStatus]:
        return [status for status in self.found if channel in (None, status.channel)]

    def add_push(self, channel: str, url: str) -> RelayStatus:
        if not url.startswith("rtmp://"):
            raise ValueError("an address begins with something else")
        self.asked.append((channel, url))
        return PUSH

    def remove_push(self, channel: str, id: str) -> bool:
        return (channel, id) == ("tv", "7")


class RelayTests(HTTPCase):
    async def test_lists(self) -> None:
        self.serve()
        pushes = (await self.ask("/api/v1/channels/tv/push")).json
        self.assertEqual(
            pushes,
            {
                "total": 1,
                "relays": [
                    {
                        "id": "7",
                        "kind": "push",
                        "channel": "tv",
                        "target": "rtmp://there/app/***",
                        "made_by": "API",
                        "state": "live",
                        "live_seconds": 12.346,
                        "bit_rate": 2_500_000,
                        "bytes": 101,
                        "waiting_bytes": 102,
                        "skipped": {"times": 103, "bytes": 104},
                        "reconnects": 105,
                        "last_error": "it closed the connection",
                    }
                ],
            },
        )
        [pull] = (await self.ask("/api/v1/channels/tv/pull")).json["relays"]
        self.assertEqual((pull["id"], pull["live_seconds"], pull["bytes"]), ("pull-1", None, 201))
        self.assertEqual([one["id"] for one in (await self.ask("/api/v1/relays")).json["relays"]], ["7", "pull-1", "8"])

    async def test_add(self) -> None:
        log = Log(self)
        self.serve()
        path = "/api/v1/channels/tv/push"
        answer = await self.ask(path, "POST", body=json.dumps({"url": "rtmp://there/app/se-cret"}).encode())
        self.assertEqual((answer.code, answer.json["id"]), (201, "7"))
        self.assertEqual(self.relays.asked, [("tv", "rtmp://there/app/se-cret")])
        for body in b"", b"{", b"[]", b'{"url": 1}', b"{}", b"\xff", b"[" * 3000:
            answer = await self.ask(path, "POST", body=body)
            self.assertEqual((answer.code, "the body must be" in answer.json["error"]), (400, True), body)
        answer = await self.ask(path, "POST", body=b'{"url": "http://se-cret"}')
        self.assertEqual((answer.code, answer.json["error"]), (400, "an address begins with something else"))
        self.assertNotIn("se-cret", log.everything())

    async def test_remove(self) -> None:
        self.serve()
        answer = await self.ask("/api/v1/channels/tv/push/7", "DELETE")
        self.assertEqual((answer.code, answer.json), (200, {"removed": "7"}))
        self.assertEqual((await self.ask("/api/v1/channels/tv/push/8", "DELETE")).code, 404)

    async def test_methods(self) -> None:
        self.serve()
        answer = await self.ask("/api/v1/channels/tv/push", "PUT")
        self.assertEqual((answer.code, answer.headers.getRawHeaders("allow")), (405, ["GET, HEAD, POST"]))
        self.assertEqual((await self.ask("/api/v1/channels/tv/push/7")).code, 405)
        self.assertEqual((await self.ask("/api/v1/channels/tv/pull", "POST")).code, 405)
        self.assertEqual((await self.ask("/api/v1/channels/tv/pull/1", "DELETE")).code, 404)

    async def test_token(self) -> None:
        self.serve(TOKEN)
        for method, path in ("GET", "push"), ("POST", "push"), ("DELETE", "push/7"):
            self.assertEqual((await self.ask(f"/api/v1/channels/tv/{path}", method)).code, 401)
        self.assertEqual(self.relays.asked, [])

    async def test_metrics(self) -> None:
        self.serve()
        text = (await self.ask("/metrics")).text
        labels = '{channel="tv",id="7",kind="push",target="rtmp://there/app/***"}'
        for line in (
            f"rtmp_relay_live{labels} 1.0",
            'rtmp_relay_live{channel="tv",id="pull-1",kind="pull",target="rtmp://there/app/***"} 0.0',
            f"rtmp_relay_bit_rate{labels} 2.5000004e+06",
            f"rtmp_relay_bytes_total{labels} 101.0",
            f"rtmp_relay_waiting_bytes{labels} 102.0",
            f"rtmp_relay_skips_total{labels} 103.0",
            f"rtmp_relay_skipped_bytes_total{labels} 104.0",
            f"rtmp_relay_reconnects_total{labels} 105.0",
            'rtmp_relays{kind="push",state="trying again"} 1.0',
            'rtmp_relays{kind="pull",state="waiting"} 1.0',
        ):
            self.assertIn(line, text.splitlines())

    def serve(self, token: str = "", **peers: FakePeer) -> None:
        self.relays = FakeRelays()
        super().serve(token, **peers)
