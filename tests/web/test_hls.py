"""rtmp_twisted.web.hls: requests and their answers, with a broker in memory and a clock that tests turn."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.authority import Refused
from rtmp_twisted.live.fragments import FragmentForm
from rtmp_twisted.live.player import Player
from rtmp_twisted.media.flv import FLVFormat
from rtmp_twisted.media.segments import MAX_SEGMENTS
from rtmp_twisted.web import hls as hls_module
from rtmp_twisted.web.answers import OVERHEAD, Answer
from rtmp_twisted.web.framing import chunked
from rtmp_twisted.web.hls import HLS, IDLE_SECONDS, WAIT_SECONDS
from rtmp_twisted.web.hls_files import Wanted
from rtmp_twisted.wire import chunks
from rtmp_twisted.wire.messages import AUDIO, Message
from tests.media.test_fmp4 import AVC, OTHER_AVC, on_track
from tests.media.test_segments import NOW, media
from tests.support.live import FakeWriter, Viewer
from tests.support.memory import Client, World
from tests.support.mp4 import inits, samples
from tests.support.playlists import broken_multivariant_rules, broken_rules, parse
from tests.support.rtmp_client import AAC_HEADER
from tests.support.turns import TurnClock


@define(eq=False)
class FakeAsker:
    """Somebody who asks for a file."""

    code: int = 0
    headers: dict[bytes, bytes] = field(factory=dict)
    body: bytes = b""
    finished: bool = False
    held: int = 0
    gone: bool = False

    def hold(self) -> None:
        self.held += 1

    def reply(self, answer: Answer) -> None:
        if self.gone:
            return
        assert not self.finished
        self.finished = True
        self.code = answer.code
        self.headers = {name.lower(): value for name, value in answer.fields}
        self.body = b"".join(answer.body)
        assert int(self.headers[b"content-length"]) == len(self.body)

    def lose(self) -> None:
        """The client closes the connection."""
        self.gone = True

    @property
    def text(self) -> str:
        return self.body.decode()


def wish(name: str) -> Wanted | Answer:
    """What a file's name with its query asks for."""
    file, _, query = name.partition("?")
    args = {item.partition("=")[0].encode(): [item.partition("=")[2].encode()] for item in query.split("&") if item}
    return Wanted.parse(file, args)


class HLSCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.world = World(clock=self.clock)
        self.hls = HLS(self.world.clock, self.world.broker, 2, 0.3, lambda: NOW + self.world.clock.seconds())
        self.publisher = self.world.connect().open()

    def publish(self, *headers: Message, publisher: Client | None = None) -> None:
        (publisher or self.publisher).publish()
        self.send(*(headers or (AVC, AAC_HEADER)), publisher=publisher)

    def send(self, *messages: Message, publisher: Client | None = None) -> None:
        """Sends media when it is due."""
        for message in messages:
            wait = message.timestamp / 1000 - self.world.clock.seconds()
            if wait > 0:
                self.world.clock.advance(wait)
            (publisher or self.publisher).send(message)
            self.world.broker.scheduler.flush_pending()
            self.world.turn()

    def play(self, seconds: float, start: float = 0.0, **options: Any) -> None:
        self.send(*media(seconds, start=start, first=round(start * 30), **options))

    def get(self, file: str, key: str | None = "key", suffix: bytes = b"") -> FakeAsker:
        asker, wanted = FakeAsker(), wish(file)
        if isinstance(wanted, Answer):
            asker.reply(wanted)
        else:
            self.hls.ask(asker, "channel", key, wanted, suffix)
        self.world.turn()
        return asker

    def text(self, file: str, **options: Any) -> str:
        request = self.get(file, **options)
        self.assertEqual((request.code, request.finished), (200, True))
        return request.text

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.world.clock.advance(1)
            self.hls.check()

    def renditions(self) -> int:
        found = self.world.broker.channel("channel")
        return 0 if found is None else len(found[0].audience.followers)


class AnswerTests(HLSCase):
    def test_everything_that_a_player_asks_for(self) -> None:
        self.publish()
        self.play(5)
        index = self.text("index.m3u8")
        self.assertEqual(list(broken_multivariant_rules(index)), [])
        self.play(4, start=5)
        text = self.text("v0.m3u8")
        self.assertEqual(broken_rules(text), [])
        playlist = parse(text)
        self.assertEqual([segment.duration for segment in playlist.complete], [2.0, 2.0])
        init = self.get(playlist.segments[0].map)
        segments = [self.get(segment.uri) for segment in playlist.complete]
        parts = [self.get(part.uri) for part in playlist.parts]
        self.assertEqual({request.headers[b"content-type"] for request in (init, *segments, *parts)}, {b"video/mp4"})
        self.assertEqual(len(inits(init.body)), 1)
        begins = playlist.segments[-1].parts
        self.assertEqual(segments[0].body + segments[1].body, b"".join(p.body for p in parts[: -len(begins)]))
        video = [sample for sample in samples(segments[0].body) if sample.track == 1]
        self.assertEqual([sample.data for sample in video], [b"picture"] * 60)
        self.assertEqual([sample.keyframe for sample in video], [True] + [False] * 59)

    def test_what_caches_are_told(self) -> None:
        """What never changes may be kept for long; an answer that has waited as long as it is of use."""
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.play(4, start=5)
        playlist = parse(self.text("v0.m3u8"))
        number = playlist.segments[-1].number
        for file, expected in (
            ("index.m3u8", b"public, max-age=1"),
            ("v0.m3u8", b"public, max-age=1"),
            (f"v0.m3u8?_HLS_msn={number}&_HLS_part=0", b"public, max-age=12"),
            (playlist.complete[0].uri, b"public, max-age=3600, immutable"),
            (playlist.parts[-1].uri, b"public, max-age=3600, immutable"),
            (playlist.segments[0].map, b"public, max-age=3600, immutable"),
            ("v0-1.m4s", b"public, max-age=1"),
        ):
            self.assertEqual(self.get(file).headers[b"cache-control"], expected)

    def test_playlists_wait_for_a_segment(self) -> None:
        """Players that know no parts take one without segments for a broken one."""
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        request = self.get("v0.m3u8")
        self.assertFalse(request.finished)
        self.assertTrue(self.get("v0.m3u8?_HLS_msn=1&_HLS_part=0").finished)
        self.play(2, start=5)
        self.assertTrue(request.finished)
        self.assertEqual(len(parse(request.text).complete), 1)

    def test_uris_carry_the_token(self) -> None:
        self.publish()
        self.play(5)
        self.text("index.m3u8", key=None)
        self.play(2, start=5)
        for file, key in ("index.m3u8", None), ("v0.m3u8", None):
            text = self.text(file, key=key, suffix=b"?token=a.b.c")
            uris = [line for line in text.splitlines() if not line.startswith("#")]
            uris += [line.partition('URI="')[2].partition('"')[0] for line in text.splitlines() if "URI=" in line]
            self.assertGreater(len(uris), 0)
            for uri in uris:
                self.assertTrue(uri.endswith("?token=a.b.c"), uri)
        self.assertNotIn("token", self.text("v0.m3u8", key=None))

    def test_names_that_are_none(self) -> None:
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        for file in "", "v.m3u8", "v1.m3u8", "v999.m3u8", "v0-1.mp4", "v0-init-1.m4s", "v0-init-1.mp4", "v0", "x.m3u8":
            self.assertEqual((file, self.get(file).code), (file, 404))

    def test_directives(self) -> None:
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.play(2, start=5)
        number = parse(self.text("v0.m3u8")).segments[-1].number
        for query, code in (
            ("_HLS_msn=x", 400),
            ("_HLS_msn=-1", 400),
            ("_HLS_part=1", 400),
            ("_HLS_msn=1&_HLS_part=x", 400),
            (f"_HLS_msn={number + 3}", 400),
            (f"_HLS_msn={number - 1}", 200),
            (f"_HLS_msn={number}&_HLS_part=0", 200),
            ("_HLS_skip=YES", 200),
        ):
            self.assertEqual((query, self.get(f"v0.m3u8?{query}").code), (query, code))

    def test_a_delta_update(self) -> None:
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.play(20, start=5)
        self.assertIn("#EXT-X-SKIP:SKIPPED-SEGMENTS=1\n", self.text("v0.m3u8?_HLS_skip=YES"))
        self.assertNotIn("#EXT-X-SKIP", self.text("v0.m3u8"))

    def test_tracks(self) -> None:
        """Each video track is a variant. Its playlist says how far the others are."""
        headers = [AVC, on_track(OTHER_AVC, 1), AAC_HEADER]
        self.publish(*headers)

        def both(seconds: float, start: float = 0) -> None:
            for message in media(seconds, start=start, first=round(start * 30)):
                self.send(message, *([on_track(message, 1)] if message.type_id == 9 else []))

        both(5)
        index = self.text("index.m3u8")
        self.assertEqual(list(broken_multivariant_rules(index)), [])
        self.assertEqual([line for line in index.splitlines() if line.endswith(".m3u8")], ["v0.m3u8", "v1.m3u8"])
        self.assertIn("RESOLUTION=322x242", index)
        self.assertIn("RESOLUTION=1918x1076", index)
        both(4, start=5)
        first, second = (parse(self.text(f"v{track}.m3u8")) for track in range(2))
        self.assertEqual([s.number for s in first.segments], [s.number for s in second.segments])
        self.assertEqual(broken_rules(second.text), [])
        [report] = second.all("EXT-X-RENDITION-REPORT")
        self.assertTrue(report.startswith(f'URI="v0.m3u8",LAST-MSN={first.segments[-1].number},LAST-PART='))
        for playlist, width in (first, 322), (second, 1918):
            [init] = inits(self.get(playlist.segments[0].map).body)
            self.assertEqual(init.description["tracks"][0]["width"], width)

    def test_sound_alone(self) -> None:
        self.publish(AAC_HEADER)
        self.play(1, video=False)
        request = self.get("index.m3u8")
        self.play(8, start=1, video=False)
        self.assertIn('CODECS="mp4a.40.2"\n', request.text)
        self.assertEqual(broken_rules(self.text("v0.m3u8")), [])


class WaitingTests(HLSCase):
    def start(self) -> int:
        """On air, with a stream; returns the number of the segment that is being made."""
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.play(2.5, start=5)
        return parse(self.text("v0.m3u8")).segments[-1].number

    def test_the_first_playlist(self) -> None:
        """It waits until it is known how long segments are."""
        self.publish()
        self.play(1)
        request = self.get("index.m3u8")
        self.play(0.9, start=1)
        self.assertEqual((request.finished, request.held), (False, 1))
        self.play(0.5, start=1.9)
        self.assertEqual((request.finished, request.code), (True, 200))

    def test_a_part(self) -> None:
        number = self.start()
        known = len(parse(self.text("v0.m3u8")).segments[-1].parts)
        request = self.get(f"v0.m3u8?_HLS_msn={number}&_HLS_part={known}")
        hinted = self.get(parse(self.text("v0.m3u8")).attribute("EXT-X-PRELOAD-HINT", "URI"))
        self.assertFalse(request.finished or hinted.finished)
        self.play(0.4, start=7.5)
        playlist = parse(request.text)
        self.assertEqual(len(playlist.segments[-1].parts), known + 1)
        self.assertEqual(self.get(playlist.parts[-1].uri).body, hinted.body)

    def test_a_segment(self) -> None:
        number = self.start()
        request = self.get(f"v0.m3u8?_HLS_msn={number}")
        behind = self.get(f"v0.m3u8?_HLS_msn={number}&_HLS_part=99")  # the first part of the next segment
        self.play(0.4, start=7.5)
        self.assertFalse(request.finished)
        self.play(0.7, start=7.9)
        self.assertEqual(parse(request.text).complete[-1].number, number)
        self.assertEqual(len(parse(behind.text).segments[-1].parts), 1)

    def test_too_long(self) -> None:
        """Three Target Durations."""
        number = self.start()
        request = self.get(f"v0.m3u8?_HLS_msn={number}")
        self.pass_time(5)
        self.assertFalse(request.finished)
        self.pass_time(1)
        self.assertEqual((request.code, request.headers[b"cache-control"]), (503, b"no-store"))

    def test_a_client_that_has_gone(self) -> None:
        number = self.start()
        one, other = self.get(f"v0.m3u8?_HLS_msn={number}"), self.get(f"v0.m3u8?_HLS_msn={number}")
        one.lose()
        other.lose()
        self.play(1, start=7.5)
        self.assertEqual((one.code, other.code), (0, 0))

    def test_many_are_answered_in_several_turns(self) -> None:
        self.patch(hls_module, "ANSWERS_AT_ONCE", 10)
        number = self.start()
        known = len(parse(self.text("v0.m3u8")).segments[-1].parts)
        requests = [self.get(f"v0.m3u8?_HLS_msn={number}&_HLS_part={known}") for _ in range(35)]
        counts = [0]
        for message in media(0.4, start=7.5, first=225):
            data = chunks.encode(message, 4, self.publisher.chunk_size)
            self.publisher.protocol.dataReceived(data)
            self.world.broker.scheduler.flush_pending()
            self.clock.turn()
            counts.append(sum(request.finished for request in requests))
        self.assertEqual(sorted(set(counts)), [0, 10, 20, 30, 35])

    def test_a_publisher(self) -> None:
        request = self.get("index.m3u8")
        self.assertFalse(request.finished)
        self.publish()
        self.play(3)
        self.assertEqual(request.code, 200)

    def test_nobody_publishes(self) -> None:
        request = self.get("index.m3u8")
        self.pass_time(WAIT_SECONDS - 1)
        self.assertFalse(request.finished)
        self.pass_time(1)
        self.assertEqual(request.code, 404)
        self.pass_time(1)
        self.assertEqual(self.world.broker.channels(), [])

    def test_many_who_wait_for_publishers(self) -> None:
        self.patch(hls_module, "MAX_STREAMS", 3)
        requests, wanted = [FakeAsker() for _ in range(4)], wish("index.m3u8")
        assert isinstance(wanted, Wanted)
        for number, request in enumerate(requests):
            self.hls.ask(request, f"channel{number}", None, wanted)
        self.assertEqual([request.code for request in requests], [0, 0, 0, 404])


class AccessTests(HLSCase):
    def test_keys(self) -> None:
        """A wrong one is told for any file, whether there are segments or not."""
        self.publish()
        self.play(5)
        for _ in range(2):
            for file in "index.m3u8", "v0.m3u8", "v0-1.m4s":
                self.assertRaises(Refused, self.get, file, key="another")
            self.text("index.m3u8")
            self.text("index.m3u8", key=None)

    def test_a_publisher_with_another_key(self) -> None:
        request = self.get("index.m3u8", key="another")
        self.publish()
        self.assertEqual(request.code, 404)

    def test_another_key_later(self) -> None:
        """Segments of a publish are not for those who know the key of the next one, nor the other way round."""
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.publisher.call("deleteStream", None, 1.0)
        other = self.world.connect("192.0.2.9").open()
        other.publish("another")
        self.assertRaises(Refused, self.get, "v0.m3u8")
        self.assertFalse(self.get("v0.m3u8", key="another").finished)


class LifeTests(HLSCase):
    def test_gone_when_nobody_asks_any_more(self) -> None:
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.assertEqual(self.renditions(), 1)
        self.play(4, start=5)
        self.pass_time(IDLE_SECONDS - 5)
        uri = parse(self.text("v0.m3u8")).complete[0].uri
        self.pass_time(IDLE_SECONDS - 1)
        self.assertEqual(self.renditions(), 1)
        self.pass_time(1)
        self.assertEqual(self.renditions(), 0)
        self.assertEqual(self.get(uri).code, 404)
        self.assertEqual(self.renditions(), 0)

    def test_the_end(self) -> None:
        """Who waits is answered, and playlists have an end. The next publish has other numbers."""
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.play(2, start=5)
        playlist = parse(self.text("v0.m3u8"))
        number = playlist.segments[-1].number
        waiting = self.get(f"v0.m3u8?_HLS_msn={number + 1}")
        hinted = self.get(playlist.attribute("EXT-X-PRELOAD-HINT", "URI"))
        self.publisher.call("deleteStream", None, 1.0)
        self.assertEqual(hinted.code, 200)
        self.assertTrue(waiting.text.endswith("#EXT-X-ENDLIST\n"))
        self.assertEqual(broken_rules(waiting.text, playlist.text), [])
        total = sum(segment.duration for segment in parse(waiting.text).segments)
        self.assertAlmostEqual(total, 7 - 4, places=1)
        self.assertEqual(self.text("v0.m3u8"), waiting.text)
        self.publisher.call("createStream", None)
        other = self.world.connect("192.0.2.9").open()
        self.publish(publisher=other)
        request = self.get("v0.m3u8")
        self.assertFalse(request.finished)
        self.send(*media(5, start=8), publisher=other)
        self.assertGreater(parse(request.text).segments[0].number, number)
        self.assertEqual(self.renditions(), 1)

    def test_a_publisher_that_returns(self) -> None:
        """The same playlists go on, behind a discontinuity."""
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        self.play(2.5, start=5)
        before = self.text("v0.m3u8")
        self.publisher.leave()
        self.pass_time(3)
        other = self.world.connect("192.0.2.9").open()
        self.publish(publisher=other)
        self.send(*media(5), publisher=other)
        text = self.text("v0.m3u8")
        self.assertEqual(broken_rules(text, before), [])
        self.assertEqual([s.discontinuity for s in parse(text).segments], [False, False, True, False, False])

    def test_memory(self) -> None:
        """Segments count as the channel's, and most are given up when memory is short."""
        self.publish()
        self.play(5)
        found = self.world.broker.channel("channel")
        assert found is not None
        channel = found[0]
        self.text("index.m3u8")
        self.play(20, start=5)
        text = self.text("v0.m3u8")
        bodies = [self.get(segment.uri).body for segment in parse(text).complete]
        channel.account.settle()
        held = channel.account.held
        self.assertGreater(held, sum(map(len, bodies)))
        channel._shrink()
        channel.account.settle()
        self.assertLess(channel.account.held, held - sum(map(len, bodies[:-4])))
        self.assertEqual(len(parse(self.text("v0.m3u8")).complete), hls_module.KEPT_SEGMENTS)

    def test_how_long_segments_are_kept(self) -> None:
        """One that is not listed any more is there for its own duration, and that of the longest playlist that had it
        (RFC 8216bis, section 6.2.2), and not for much longer."""
        self.publish()
        self.play(5)
        self.text("index.m3u8")
        last_listed: dict[str, tuple[int, float]] = {}
        kept, gone = 0, 0
        for second in range(5, 65, 2):
            self.play(2, start=second)
            complete = parse(self.text("v0.m3u8")).complete
            for uri, (listed, length) in last_listed.items():
                code = self.get(uri).code
                if second - listed - 2 < length:
                    kept += 1
                    self.assertEqual(code, 200, uri)
                elif second - listed > length + 4:
                    gone += 1
                    self.assertEqual(code, 404, uri)
            for segment in complete:
                length = segment.duration + sum(other.duration for other in complete)
                last_listed[segment.uri] = second, length
        self.assertGreater(kept, 50)
        self.assertGreater(gone, 50)

    def test_all_that_viewers_need(self) -> None:
        """FLV and fragmented MP4 keep one group of pictures each, HLS 16 segments at most; 30 s behind the last viewer
        the channel's account has what it had before."""
        self.publish()
        self.play(5)
        broker = self.world.broker
        found = broker.channel("channel")
        assert found is not None
        channel = found[0]

        def held_for_viewers() -> int:
            channel.account.settle()
            return channel.account.held - channel.audience.held() - channel.program.headers.size

        self.assertEqual(held_for_viewers(), 0)
        owner = Viewer(self.world.clock, FakeWriter())
        players = [Player(owner, FakeWriter(), None, form=form) for form in (FLVFormat, chunked(FragmentForm()))]
        for player in players:
            broker.play("channel", player)
            broker.start(player)
        self.get("index.m3u8")
        most = 0
        for message in media(60, start=5, first=150):
            body = message.body if message.type_id == AUDIO else message.body + bytes(5000)
            self.send(Message(message.type_id, 1, message.timestamp, body))
            most = max(most, held_for_viewers())
            if message.timestamp % 5000 == 0:
                self.get("v0.m3u8")
        [stream] = self.hls._streams.values()
        segments = stream.variants[0].segmenter.segments
        size = max(segment.size for segment in segments)
        self.assertEqual(len(segments), MAX_SEGMENTS - 1)
        self.assertTrue((MAX_SEGMENTS + 2) * size < most < 1.1 * (MAX_SEGMENTS + 3) * size, most / size)
        for player in players:
            broker.leave(player)
        self.text("v0.m3u8")
        self.pass_time(IDLE_SECONDS - 1)
        self.assertGreater(held_for_viewers(), 15 * size)
        self.pass_time(1)
        self.assertEqual(held_for_viewers(), 0)

    def test_answers_that_are_kept(self) -> None:
        """Not many, on the channel's account, and until something is new."""
        self.patch(hls_module, "MAX_ANSWERS", 5)
        self.publish()
        self.play(7)
        self.text("index.m3u8")
        [stream] = self.hls._streams.values()
        self.play(2, start=7)
        before = stream.held()
        size = len(self.text("v0.m3u8?_HLS_msn=1&_HLS_part=0"))
        self.assertGreater(stream.held() - before, size)
        for number in range(1, 30):
            self.text(f"v0.m3u8?_HLS_msn=1&_HLS_part={number}")
            self.assertLessEqual(stream.held() - before, 5 * (2 * size + OVERHEAD))
        self.play(0.5, start=9)
        self.assertEqual(stream._answers, {})

    def test_the_server_stops(self) -> None:
        request = self.get("index.m3u8")
        self.hls.close()
        self.assertEqual(request.code, 503)
        self.assertEqual(self.world.broker.channels(), [])
