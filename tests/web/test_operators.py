"""rtmp_twisted.web.operators, metrics, views and sampling: what an operator sees, who may, and what it costs nobody."""

from __future__ import annotations

import json
import re
import socket
import sys
from typing import Any

import treq
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http_headers import Headers

from rtmp_twisted.live.authority import Refused
from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.web.metrics import MAX_CHANNELS, Metrics, TimedAuthority
from rtmp_twisted.web.operators import IDLE_SECONDS, MAX_BODY, MAX_CONNECTIONS, OperatorHTTP
from rtmp_twisted.web.rates import LAG_INTERVAL, RATE_INTERVAL, Sampler
from rtmp_twisted.web.serializers import MAX_METADATA, tracks
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support.fakes import Log, reactor, until, within
from tests.support.memory import Authority, World
from tests.support.programs import ROOT, Program, Server, free_port
from tests.support.rtmp_client import AAC_HEADER, METADATA, aac, avc, client

KEY = "sEcReTkEy"
TOKEN = "a-token-of-some-length"
SPS = bytes.fromhex("67640028acd940780227e5c044000003000400000300c83c60c658")
AVC = b"\x17\x00\0\0\0\x01\x64\x00\x28\xff\xe1" + len(SPS).to_bytes(2, "big") + SPS + b"\x01\x00\x04\x68\xeb\xe3\xcb"
AVC_HEADER = Message(VIDEO, 1, 0, AVC)
"""H.264, 1920 x 1080 at 25 frames per second."""


@frozen
class Answer:
    code: int
    text: str
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@frozen
class FakeLink:
    connected: bool


class Talk(Protocol):
    """A connection, and what has been answered on it."""

    def __init__(self) -> None:
        self.transport: Any
        self.answer = b""
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.answer += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


class HTTPCase(TestCase):
    """The pages on a real port; the RTMP side is in memory."""

    def serve(self, token: str = "", **links: FakeLink) -> None:
        self.world = World(names=NameRules(allow_special=True))
        clock = self.world.clock
        timed = TimedAuthority(self.world.authority, clock)
        self.world.broker.authority = timed
        self.metrics = Metrics(clock, self.world.broker, self.world.factory, timed, links)
        self.port = free_port()
        where = TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1")
        service = OperatorHTTP(clock, where, self.world.broker, self.metrics.sampler, self.metrics.text, token)
        service.privilegedStartService()
        service.startService()
        self.addCleanup(service.stopService)

    async def ask(self, path: str, method: str = "GET", *, body: bytes = b"", **headers: str) -> Answer:
        url = f"http://127.0.0.1:{self.port}{path}"
        response = await within(
            treq.request(
                method, url, headers=Headers({k: [v] for k, v in headers.items()}), data=body, persistent=False
            )
        )
        return Answer(response.code, await within(treq.text_content(response)), response.headers)

    def publisher(self, channel: str = "tv") -> Any:
        publisher = self.world.connect()
        publisher.call("connect", {"app": channel, "flashVer": "An encoder/1.0"}, transaction=1)
        publisher.call("createStream", None, transaction=2)
        publisher.publish(KEY)
        return publisher

    def player(self, channel: str = "tv") -> Any:
        player = self.world.connect("192.0.2.9").open(channel)
        player.play(KEY)
        return player


class ChannelPageTests(HTTPCase):
    async def test_on_air(self) -> None:
        self.serve()
        publisher = self.publisher()
        publisher.send(METADATA, AVC_HEADER, AAC_HEADER)
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
        self.assertEqual((view["name"], view["state"], view["players"]), ("tv", "on air", 1))
        self.assertEqual((view["on_air_seconds"], view["keyframe_interval"]), (4, 2))
        self.assertEqual(view["publisher"], {"address": "192.0.2.1", "client": "An encoder/1.0", "connection": 1})
        video, audio = view["tracks"]
        wanted = {"kind": "video", "codec": "H.264", "codec_string": "avc1.640028", "track": 0}
        self.assertEqual(video, wanted | {"width": 1920, "height": 1080, "frame_rate": 25.0})
        self.assertEqual((audio["kind"], audio["codec"], audio["sample_rate"]), ("audio", "AAC", 44100))
        self.assertGreater(view["delivered"]["bytes"], 2000)
        self.assertEqual(view["skipped"], {"times": 0, "bytes": 0})

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
        for number in range(5):
            self.publisher(f"c{number}")
        listed = (await self.ask("/api/v1/channels?limit=2&offset=1")).json
        self.assertEqual((listed["total"], [view["name"] for view in listed["channels"]]), (5, ["c1", "c2"]))
        self.assertEqual(len((await self.ask("/api/v1/channels")).json["channels"]), 5)
        self.assertEqual((await self.ask("/api/v1/channels?offset=9")).json["channels"], [])
        for wrong in "limit=-1", "limit=1001", "limit=", "offset=x", "limit=1e1", "offset=" + "9" * 5000, "limit=%b2":
            answer = await self.ask(f"/api/v1/channels?{wrong}")
            self.assertEqual((answer.code, "whole number" in answer.json["error"]), (400, True), wrong)

    async def test_odd_names(self) -> None:
        self.serve()
        for name, quoted in ("a/b", "a%2Fb"), ("a b", "a%20b"), ("é", "%C3%A9"), ('"\\', "%22%5C"), ("kill", "kill"):
            self.publisher(name)
            self.assertEqual((await self.ask(f"/api/v1/channels/{quoted}")).json["name"], name)
            self.assertIn('channel="' + name.replace("\\", "\\\\").replace('"', '\\"'), await self.text())
            killed = await self.ask(f"/api/v1/channels/{quoted}/kill", "POST")
            self.assertEqual(killed.json, {"killed": name})

    async def text(self) -> str:
        return (await self.ask("/metrics")).text

    async def test_kill(self) -> None:
        self.serve()
        log = Log(self)
        publisher = self.publisher()
        self.assertEqual((await self.ask("/api/v1/channels/tv/kill")).code, 405)
        self.assertFalse(publisher.closing)
        answer = await self.ask("/api/v1/channels/tv/kill", "POST")
        self.assertEqual((answer.code, answer.json), (200, {"killed": "tv"}))
        self.assertTrue(publisher.closing)
        self.assertIn("HTTP: ended what was publishing on channel 'tv'", log.lines())
        self.assertEqual((await self.ask("/api/v1/channels/tv/kill", "POST")).code, 404)

    async def test_no_secret_anywhere(self) -> None:
        """Neither the key nor the stream id, which is made of the key here; nor the token, in the log either."""
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
        """Without a token a page that somebody looks at on the server's machine must not get at the server."""
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
        for path in "/healthz", "/metrics", "/api/v1/channels":
            for method in "POST", "PUT", "DELETE", "NONSENSE":
                answer = await self.ask(path, method)
                self.assertEqual((answer.code, answer.headers.getRawHeaders("allow")), (405, ["GET, HEAD"]))
            whole, head = await self.ask(path), await self.ask(path, "HEAD")
            self.assertEqual((head.code, head.text), (200, ""))
            self.assertEqual(whole.headers.getRawHeaders("server"), ["rtmp-twisted"])
        self.assertEqual(self.flushLoggedErrors(), [])


class HostileTests(HTTPCase):
    async def test_long_bodies(self) -> None:
        self.serve()
        publisher = self.publisher()
        path = "/api/v1/channels/tv/kill"
        await self.assertFailure(self.deferred(self.ask(path, "POST", body=bytes(MAX_BODY + 1))), Exception)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await self.talk(head.encode() + (b"800\r\n" + bytes(2048) + b"\r\n") * 3 + b"0\r\n\r\n")
        self.assertEqual(answer, b"")
        self.assertFalse(publisher.closing)
        self.assertEqual((await self.ask(path, "POST", body=bytes(MAX_BODY))).code, 200)

    async def test_nonsense(self) -> None:
        self.serve()
        for request in (
            b"\0\1\2\3\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /%ff%00%zz/\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: \xff\xfe[[\r\nConnection: close\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nAuthorization: \xff \xff\r\nHost: [::1\r\nConnection: close\r\n\r\n",
            b"GET /api/v1/channels?limit=%FF HTTP/1.0\r\n\r\n",
            b"A" * 100_000,
        ):
            answer = await self.talk(request)
            self.assertRegex(answer, rb"\A(HTTP/1\.[01] (4\d\d|200)|\Z)", request)
            self.assertEqual((await self.ask("/healthz")).code, 200)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_many_connections(self) -> None:
        self.serve()
        idle = [await self.open() for _ in range(MAX_CONNECTIONS)]
        self.assertEqual(await self.talk(b"GET /healthz HTTP/1.0\r\n\r\n"), b"")
        idle[0].transport.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        await within(idle[0].ended)
        self.assertIn(b"ok\n", idle[0].answer)
        self.assertIn(b"ok\n", await self.talk(b"GET /healthz HTTP/1.0\r\n\r\n"))

    async def test_idle_connections(self) -> None:
        self.serve()
        talk = await self.open()
        talk.transport.write(b"GET /healthz HTTP/1.1\r\n\r\nGET /hea")
        await until(lambda: b"ok\n" in talk.answer, "an answer")
        self.world.clock.advance(IDLE_SECONDS + 1)
        await within(talk.ended)

    def deferred(self, work: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(work)

    async def open(self) -> Talk:
        talk: Talk = await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", self.port), Talk())
        return talk

    async def talk(self, request: bytes) -> bytes:
        """What is answered to these bytes, until the server closes the connection."""
        talk = await self.open()
        talk.transport.write(request)
        await within(talk.ended)
        return talk.answer


class MetricsTests(HTTPCase):
    async def numbers(self) -> dict[str, float]:
        """The samples of a scrape; each family must have its help and type."""
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
        self.serve(redis=FakeLink(True), coordinator=FakeLink(False))
        publisher = self.publisher()
        player = self.player()
        publisher.send(AVC_HEADER, avc(0, True, bytes(1000)))
        self.player("radio")
        self.world.factory.limits.refused["too many from one address"] += 3
        self.world.clock.advance(2)
        found = await self.numbers()
        expected = {
            "rtmp_connections": 3,
            "rtmp_connections_total": 3,
            'rtmp_connections_refused_total{reason="too many from one address"}': 3,
            'rtmp_channels{state="on air"}': 1,
            'rtmp_channels{state="waiting"}': 1,
            'rtmp_channels{state="asking"}': 0,
            "rtmp_players": 2,
            'rtmp_channel_players{channel="tv"}': 1,
            'rtmp_channel_players{channel="radio"}': 1,
            "rtmp_received_messages_total": 2,
            "rtmp_received_bytes_total": len(AVC) + 1005,
            'rtmp_channel_bit_rate{channel="tv"}': (len(AVC) + 1005) * 4,
            "rtmp_player_skips_total": 0,
            "rtmp_merge_interval_seconds": 0,
            'rtmp_link_up{link="redis"}': 1,
            'rtmp_link_up{link="coordinator"}': 0,
            'rtmp_authority_seconds_count{event="start",outcome="accepted"}': 1,
            "rtmp_channels_not_shown": 0,
        }
        self.assertEqual({name: found.get(name) for name in expected}, expected)
        self.assertNotIn('rtmp_channel_bit_rate{channel="radio"}', found)
        self.assertGreater(found["process_resident_memory_bytes"], 1_000_000)
        before = found["rtmp_delivered_bytes_total"]
        player.leave()
        publisher.leave()
        after = await self.numbers()
        self.assertGreaterEqual(after["rtmp_delivered_bytes_total"], before)
        self.assertEqual(after["rtmp_connections"], 1)
        self.assertEqual(after['rtmp_authority_seconds_count{event="stop",outcome="done"}'], 1)

    async def test_labels_are_bounded(self) -> None:
        self.serve()
        for number in range(MAX_CHANNELS + 5):
            self.publisher(f"c{number}")
        found = await self.numbers()
        self.assertEqual(sum(name.startswith("rtmp_channel_players") for name in found), MAX_CHANNELS)
        self.assertEqual(sum(name.startswith("rtmp_channel_bit_rate") for name in found), MAX_CHANNELS)
        self.assertIn('rtmp_channel_players{channel="c0"}', found)
        self.assertEqual(found["rtmp_channels_not_shown"], 5)
        self.assertEqual(found['rtmp_channels{state="on air"}'], MAX_CHANNELS + 5)


class SamplerTests(HTTPCase):
    def rate(self) -> float:
        found = self.world.broker.channel("tv")
        assert found is not None and found[1] is not None
        return self.metrics.sampler.bit_rate("tv", found[1], found[1].received_bytes)

    def test_bit_rate(self) -> None:
        self.serve()
        publisher = self.publisher()
        self.assertEqual(self.rate(), 0)
        frame = avc(0, True, bytes(995))
        for tick in range(160):  # 10 s at 8000 bit/s, then 30 s at 80 bit/s
            if tick < 40:
                publisher.send(avc(tick * 250, True, bytes(245)))
            self.world.clock.advance(0.25)
            if 8 < tick < 40:
                self.assertTrue(7000 < self.rate() < 9000, (tick, self.rate()))
        self.assertEqual(self.rate(), 0)
        publisher.call("closeStream", None, stream_id=1)
        publisher.publish(KEY)
        publisher.send(frame)
        self.world.clock.advance(1)
        self.assertEqual(self.rate(), 8000)

    def test_reactor_lag(self) -> None:
        clock = Clock()
        world = World(clock=clock)
        lags: list[float] = []
        sampler = Sampler(clock, world.broker, lags.append)
        sampler.start()
        clock.advance(LAG_INTERVAL)
        clock.advance(LAG_INTERVAL + 3)
        clock.advance(LAG_INTERVAL)
        self.assertEqual(lags, [0, 3, 0])
        clock.advance(RATE_INTERVAL)
        sampler.stop()
        sampler.stop()
        self.assertEqual(clock.getDelayedCalls(), [])


class TimedAuthorityTests(SynchronousTestCase):
    def test_answers_pass_through(self) -> None:
        clock = Clock()
        inner = Authority(ask=True)
        timed = TimedAuthority(inner, clock)
        accepted, refused = timed.start("tv", KEY, "192.0.2.1"), timed.start("tv", KEY, "192.0.2.1")
        clock.advance(2)
        inner.accept("the id")
        inner.refuse("no")
        self.assertEqual(self.successResultOf(accepted), "the id")
        self.assertEqual(str(self.failureResultOf(refused, Refused).value), "no")
        self.successResultOf(timed.end("tv", KEY, "the id", "192.0.2.1"))
        self.assertEqual([event[0] for event in inner.events], ["start", "start", "end"])
        sums = {
            tuple(sample.labels.items()): sample.value
            for metric in timed.histogram.collect()
            for sample in metric.samples
            if sample.name.endswith("_sum")
        }
        self.assertEqual(
            sums,
            {
                (("event", "start"), ("outcome", "accepted")): 2,
                (("event", "start"), ("outcome", "refused")): 2,
                (("event", "stop"), ("outcome", "done")): 0,
            },
        )


class TracksTests(SynchronousTestCase):
    def test_metadata_fills_gaps(self) -> None:
        vp6 = b"\x17\x00\0\0\0\x01\x64\x00\x28\xff\xe0"  # H.264 without a parameter set
        for values, wanted in (
            ({"width": 640.0, "height": 360.0, "framerate": 29.97}, {"width": 640, "height": 360, "frame_rate": 29.97}),
            ({"width": -1.0, "height": float("nan"), "framerate": float("inf")}, {}),
            ({"width": "640", "height": True, "framerate": None}, {}),
        ):
            metadata = messages.data(0, "onMetaData", amf0.ECMAArray(**values))
            [found] = tracks((metadata, Message(VIDEO, 1, 0, vp6)))
            self.assertEqual({name: found[name] for name in ("width", "height", "frame_rate") if name in found}, wanted)
            json.dumps(found, allow_nan=False)

    def test_headers_win(self) -> None:
        metadata = messages.data(0, "onMetaData", {"width": 1.0, "framerate": 1.0})
        [found] = tracks((metadata, AVC_HEADER))
        self.assertEqual((found["width"], found["frame_rate"]), (1920, 25))

    def test_what_is_not_understood(self) -> None:
        for metadata in (
            messages.data(0, "onMetaData"),
            messages.data(0, "onMetaData", "text"),
            messages.data(0, "onMetaData", {"width": 5.0, "x": "y" * MAX_METADATA}),
            Message(messages.DATA_AMF0, 0, 0, b"\x02\x00\x0aonMetaData\x03\xff\xff"),
            Message(messages.DATA_AMF3, 0, 0, b"\x11\xff"),
        ):
            self.assertEqual(tracks((metadata,)), [])
            self.assertEqual(tracks((metadata, AVC_HEADER)), tracks((AVC_HEADER,)))
        self.assertEqual(tracks((Message(AUDIO, 1, 0, b""), Message(VIDEO, 1, 0, b"\x17"))), [])


class ServerTests(TestCase):
    """In the server as it is started."""

    timeout = 120

    async def test_on_and_off(self) -> None:
        port = free_port()
        server = Server(self, http_port=str(port), log_debug="YES")
        await server.until(f"info HTTP on 127.0.0.1:{port}")
        await server.up()
        publisher = await client(server.port)
        await publisher.open("tv")
        await publisher.publish(KEY)
        url = f"http://127.0.0.1:{port}"
        view = await within(treq.json_content(await within(treq.get(f"{url}/api/v1/channels/tv", persistent=False))))
        self.assertEqual(view["state"], "on air")
        text = await within(treq.text_content(await within(treq.get(f"{url}/metrics", persistent=False))))
        self.assertIn('rtmp_channel_players{channel="tv"} 0.0', text)
        killed = await within(treq.post(f"{url}/api/v1/channels/tv/kill", persistent=False))
        self.assertEqual(killed.code, 200)
        await within(publisher.lost)
        idle = socket.create_connection(("127.0.0.1", port))
        self.addCleanup(idle.close)
        server.signal(15)
        self.assertEqual(await within(server.ended), 0)
        self.assertNotIn(KEY, "\n".join(server.lines))

    async def test_port_in_use(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            server = Server(self, http_port=str(port))
            self.assertEqual(await within(server.ended), 1)
        [line] = [line for line in server.lines if "listen" in line]
        self.assertIn(f"HTTP: Couldn't listen on 127.0.0.1:{port}", line)

    async def test_imported_when_on(self) -> None:
        script = """
import sys
from twisted.internet import reactor
from rtmp_twisted.settings import Settings
from rtmp_twisted.tap import assemble
assemble(Settings(), reactor)
print("without:", *({"prometheus_client", "twisted.web.server"} & set(sys.modules)))
assemble(Settings(http_port=1), reactor)
print("with:", *sorted({"prometheus_client", "twisted.web.server"} & set(sys.modules)))
"""
        program = Program(self, sys.executable, "-c", script, PYTHONPATH=str(ROOT))
        self.assertEqual(await within(program.ended), 0, str(program))
        self.assertEqual(program.lines, ["without:", "with: prometheus_client twisted.web.server"])
