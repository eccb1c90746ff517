"""rtmp_twisted.web.playlists: playlists of any source keep all rules, and the validator finds each rule broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.media.fmp4 import Muxer
from rtmp_twisted.media.segments import Segmenter
from rtmp_twisted.web.playlists import SUFFIX, media_playlist, multivariant_playlist
from rtmp_twisted.wire.messages import Message
from tests.media.test_fmp4 import AVC, OTHER_AVC, as_bytes, write
from tests.media.test_segments import NOW, media
from tests.support import playlists
from tests.support.playlists import broken_multivariant_rules, broken_rules, merge_delta, parse
from tests.support.rtmp_client import AAC_HEADER


def text_of(segmenter: Segmenter, skip: bool = False, **others: Segmenter) -> str:
    segmenter.tell_times()
    return media_playlist(segmenter, "v0", skip, others).replace(SUFFIX, "")


def follow(segmenter: Segmenter, *messages: Message) -> list[str]:
    """Each playlist that differs from the one before, while media comes in."""
    muxer, found = Muxer(0), []
    for message in messages:
        data = as_bytes(write(muxer, message))
        if segmenter.feed(data, NOW + message.timestamp / 1000) and segmenter.target is not None:
            found.append(text_of(segmenter))
    return found


class PlaylistTests(SynchronousTestCase):
    def test_the_text(self) -> None:
        segmenter = Segmenter(1, 0.5, 100)
        [*_, text] = follow(segmenter, AVC, AAC_HEADER, *media(1.6, keyframes=1, rate=10))
        self.assertEqual(
            text.splitlines(),
            [
                "#EXTM3U",
                "#EXT-X-VERSION:9",
                "#EXT-X-TARGETDURATION:1",
                "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=6.0,PART-HOLD-BACK=1.518",
                "#EXT-X-PART-INF:PART-TARGET=0.506",
                "#EXT-X-MEDIA-SEQUENCE:100",
                "#EXT-X-DISCONTINUITY-SEQUENCE:0",
                "#EXT-X-INDEPENDENT-SEGMENTS",
                '#EXT-X-MAP:URI="v0-init-100.mp4"',
                "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.100Z",
                '#EXT-X-PART:DURATION=0.50000,URI="v0-part-10000.m4s",INDEPENDENT=YES',
                '#EXT-X-PART:DURATION=0.50000,URI="v0-part-10001.m4s"',
                "#EXTINF:1.00000,",
                "v0-100.m4s",
                "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:21.100Z",
                '#EXT-X-PART:DURATION=0.50000,URI="v0-part-10002.m4s",INDEPENDENT=YES',
                '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="v0-part-10003.m4s"',
            ],
        )

    def test_all_variants(self) -> None:
        variants = {}
        for name, header in ("v0", AVC), ("v1", OTHER_AVC):
            variants[name] = Segmenter(2, 0.3, 1)
            follow(variants[name], header, AAC_HEADER, *media(5))
        text = multivariant_playlist(variants)
        self.assertEqual(list(broken_multivariant_rules(text)), [])
        [first, second] = re.findall(r"#EXT-X-STREAM-INF:(.*)\n(.*)\0\n", text)
        self.assertEqual((first[1], second[1]), ("v0.m3u8", "v1.m3u8"))
        attributes = playlists.attributes(first[0])
        self.assertEqual(attributes["CODECS"], "avc1.42c00d,mp4a.40.2")
        self.assertEqual((attributes["RESOLUTION"], attributes["FRAME-RATE"]), ("322x242", "29.970"))
        self.assertGreaterEqual(int(attributes["BANDWIDTH"]), variants["v0"].peak)

    def test_sound_alone(self) -> None:
        segmenter = Segmenter(2, 0.3, 1)
        found = follow(segmenter, AAC_HEADER, *media(20, video=False))
        self.check(found)
        text = multivariant_playlist({"v0": segmenter})
        self.assertEqual(list(broken_multivariant_rules(text)), [])
        self.assertIn('CODECS="mp4a.40.2"\n', text)

    def test_the_measured_frame_rate(self) -> None:
        """Where the codec's configuration has none."""
        segmenter = Segmenter(2, 0.3, 1)
        follow(segmenter, OTHER_AVC._replace(body=AVC.body[:-40] + bytes(40)), *media(5, rate=24, sound=False))
        self.assertRegex(multivariant_playlist({"v0": segmenter}), r"FRAME-RATE=2[34]\.\d{3}\n")

    def test_the_end(self) -> None:
        segmenter = Segmenter(2, 0.3, 1)
        [*_, before] = follow(segmenter, AVC, AAC_HEADER, *media(7))
        segmenter.end()
        text = text_of(segmenter)
        self.assertEqual(broken_rules(text, before), [])
        self.assertTrue(text.endswith("#EXT-X-ENDLIST\n"))

    def test_delta_updates(self) -> None:
        """A client that has had the playlist before knows the same segments as one that gets all of it."""
        segmenter = Segmenter(1, 0.3, 1)
        muxer, skipped, before = Muxer(0), 0, ""
        for message in AVC, AAC_HEADER, *media(20, keyframes=1):
            if segmenter.feed(as_bytes(write(muxer, message)), NOW) and segmenter.target:
                full, delta = text_of(segmenter), text_of(segmenter, skip=True)
                self.assertEqual(broken_rules(delta), [])
                if before:
                    known = [(s.number, s.uri, s.duration) for s in parse(full).complete]
                    self.assertEqual(merge_delta(before, delta), known)
                skipped = max(skipped, parse(delta).skipped)
                before = full
        self.assertGreater(skipped, 0)

    def test_reports_of_other_variants(self) -> None:
        one, other = Segmenter(2, 0.3, 1), Segmenter(2, 0.3, 1)
        follow(one, AVC, AAC_HEADER, *media(5))
        follow(other, AVC, AAC_HEADER, *media(4.7))
        text = text_of(one, v1=other)
        self.assertEqual(broken_rules(text), [])
        self.assertIn('#EXT-X-RENDITION-REPORT:URI="v1.m3u8",LAST-MSN=3,LAST-PART=1\n', text)

    def check(self, found: list[str]) -> None:
        self.assertGreater(len(found), 20)
        self.assertEqual(broken_rules(found[0]), [])
        for before, text in pairwise(found):
            self.assertEqual(broken_rules(text, before), [], text)

    @settings(max_examples=5, phases=[Phase.generate])
    @given(st.floats(0.5, 6), st.sampled_from([10, 12.5, 15, 24, 25, 30, 60]), st.sampled_from([1.0, 2.0, 4.0]),
           st.sampled_from([0.2, 0.3, 1.0]), st.booleans())  # fmt: skip
    def test_any_source(self, keyframes: float, rate: float, segment: float, part: float, sound: bool) -> None:
        """Half a minute of it; then another configuration; then a gap."""
        segmenter = Segmenter(segment, part, 1)
        kind = {"keyframes": keyframes, "rate": rate}
        headers = [AVC, *([AAC_HEADER] if sound else [])]
        messages = [*headers, *media(30, sound=sound, **kind)]  # type: ignore[arg-type]
        messages += [OTHER_AVC._replace(timestamp=30_000), *media(9, start=30, sound=sound, **kind)]  # type: ignore[arg-type]
        messages += media(30, start=45, sound=sound, **kind)  # type: ignore[arg-type]
        self.check(follow(segmenter, *messages))
        self.assertEqual(sum(s.discontinuity for s in segmenter.segments) + segmenter.discontinuities, 2)


Change = Callable[[str], str]


def replace(old: str, new: str, count: int = 1) -> Change:
    """Replaces what a regular expression finds, which has to be there."""

    def change(text: str) -> str:
        changed, found = re.subn(old, new, text, count=count, flags=re.M)
        assert found, old
        return changed

    return change


HINT = r"^#EXT-X-PRELOAD-HINT.*\n"

BROKEN: list[tuple[str, Change]] = [
    ("begins_with_extm3u", replace(r"\A#EXTM3U\n", "")),
    ("begins_with_extm3u", replace(r"v0-100", "v0-\x07100")),
    ("known_tags_only", replace(r"^#EXT-X-VERSION", '#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="x"\n#EXT-X-VERSION')),
    ("tags_once", replace(r"^(#EXT-X-TARGETDURATION.*\n)", r"\1\1")),
    ("well_formed_attributes", replace(r"PART-TARGET=0.300", 'PART-TARGET="0.300')),
    ("well_formed_attributes", replace(r"TYPE=PART", "TYPE=PART,TYPE=PART")),
    ("version_is_enough", replace(r"VERSION:9", "VERSION:6")),
    ("has_target", replace(r"TARGETDURATION:2", "TARGETDURATION:2.0")),
    ("segments_within_target", replace(r"#EXTINF:2.00000", "#EXTINF:2.60000")),
    ("sequence_before_segments", replace(r"(#EXT-X-DISCONTINUITY-SEQUENCE.*\n)((.*\n)*?#EXTINF.*\n)", r"\2\1")),
    ("segments_have_durations", replace(r"^#EXTINF.*\n", "")),
    ("segments_have_durations", replace(r"#EXTINF:2.00000,", "#EXTINF:2.00000")),
    ("has_map", replace(r"^#EXT-X-MAP.*\n", "")),
    ("other_map_behind_discontinuity", replace(r"^(v0-100.m4s\n)", r'\1#EXT-X-MAP:URI="v0-init-101.mp4"\n')),
    ("part_target_is_said", replace(r"^#EXT-X-PART-INF.*\n", "")),
    ("parts_within_target", replace(r"PART:DURATION=0.30000", "PART:DURATION=0.31000")),
    ("parts_nearly_target", replace(r"PART:DURATION=0.30000", "PART:DURATION=0.25000")),
    ("parts_make_the_segment", replace(r"PART:DURATION=0.20000", "PART:DURATION=0.10000")),
    ("recent_segments_have_parts", replace(r"(#EXT-X-PART:.*\n)+(#EXTINF)", r"\2")),
    ("blocking_reload", replace(r"CAN-BLOCK-RELOAD=YES,", "")),
    ("part_hold_back", replace(r"PART-HOLD-BACK=0.9", "PART-HOLD-BACK=0.8")),
    ("skip_until", replace(r"CAN-SKIP-UNTIL=12.0", "CAN-SKIP-UNTIL=11.0")),
    ("skips_old_segments_only", replace(r"^(#EXT-X-MAP)", r"#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n\1")),
    ("one_hint", replace(HINT, "")),
    ("one_hint", replace(r"\Z", "#EXT-X-ENDLIST\n")),
    ("one_hint", replace(r'(URI="(v0-part-\d+.m4s)".*\n)(#EXT-X-PRELOAD-HINT:TYPE=PART),.*', r'\1\3,URI="\2"')),
    ("uris_are_unique", replace(r"^v0-101.m4s", "v0-100.m4s")),
    ("dates_fit", replace(r"^#EXT-X-PROGRAM-DATE-TIME.*\n", "")),
    ("dates_fit", replace(r"(DATE-TIME:.*)Z", r"\1")),
    ("dates_fit", replace(r"(DATE-TIME:.*)\.\d+Z", r"\1.500Z")),
    ("independent_segments", replace(r",INDEPENDENT=YES", "")),
    ("reports_are_whole", replace(r"\Z", '#EXT-X-RENDITION-REPORT:URI="v1.m3u8",LAST-MSN=3\n')),
    ("reports_are_whole", replace(r"\Z", '#EXT-X-RENDITION-REPORT:URI="http://x/",LAST-MSN=3,LAST-PART=1\n')),
]  # fmt: skip
"""How a playlist is broken, and the rule that finds it."""

BROKEN_UPDATES: list[tuple[str, Change]] = [
    ("targets_stay", replace(r"TARGETDURATION:2", "TARGETDURATION:3")),
    ("targets_stay", replace(r"PART-TARGET=0.300", "PART-TARGET=0.320")),
    ("numbers_grow", replace(r"MEDIA-SEQUENCE:\d+", "MEDIA-SEQUENCE:50")),
    ("segments_stay", replace(r"^#EXTINF:2.00000,\n(v0-103)", r"#EXTINF:1.99900,\n\1")),
    ("segments_stay", replace(r"^v0-103.m4s", "v0-103a.m4s")),
    ("segments_stay", replace(r"^#EXT-X-PROGRAM-DATE-TIME.*\n(#EXT-X-PART.*\n)*#EXTINF.*\nv0-104.*\n", "")),
    ("dates_stay", replace(r"(DATE-TIME:.*)\.\d+Z", r"\1.999Z", 99)),
    ("parts_stay", replace(r"part-(\d+).m4s", r"p-\1.m4s", 99)),
    ("hint_is_kept", replace(r"part-(\d+)(\.m4s\".*\n(#EXTINF.*\nv0.*\n)?#EXT-X-PRE)", r"part-\g<1>9\2")),
    ("discontinuities_are_counted", replace(r"DISCONTINUITY-SEQUENCE:\d+", "DISCONTINUITY-SEQUENCE:101")),
    ("long_enough", replace(r'^(#EXT-X-MAP.*\n)(.*\n)*(v0-106.m4s)', r"\1#EXTINF:2.0,\n\3")),
]  # fmt: skip


class ValidatorTests(SynchronousTestCase):
    def test_each_rule(self) -> None:
        segmenter = Segmenter(2, 0.3, 100)
        good = follow(segmenter, AVC, AAC_HEADER, *media(9))[-1]
        self.assertEqual(broken_rules(good), [])
        for rule, change in BROKEN:
            self.assertIn(rule, broken_rules(change(good)), rule)
        self.assertEqual({rule for rule, _ in BROKEN}, {rule.__name__ for rule in playlists.RULES})

    def test_each_rule_about_updates(self) -> None:
        first, second = self.pair()
        self.assertEqual(broken_rules(second, first), [])
        for rule, change in BROKEN_UPDATES:
            self.assertIn(rule, broken_rules(change(second), first), rule)
        ended = second.replace("#EXT-X-PRELOAD-HINT", "#EXT-X-ENDLIST\n#")
        self.assertIn("the_end_is_final", broken_rules(second, ended))
        rules = {rule for rule, _ in BROKEN_UPDATES} | {"the_end_is_final"}
        self.assertEqual(rules, {rule.__name__ for rule in playlists.UPDATE_RULES})

    def pair(self) -> tuple[str, str]:
        """A playlist, and the next one where a segment has been removed from its beginning."""
        found = follow(Segmenter(2, 0.3, 100), AVC, AAC_HEADER, *media(23))
        firsts = [int(parse(text).number("EXT-X-MEDIA-SEQUENCE")) for text in found]
        place = firsts.index(101)
        return found[place - 1], found[place]

    def test_multivariant_playlists(self) -> None:
        segmenter = Segmenter(2, 0.3, 100)
        follow(segmenter, AVC, AAC_HEADER, *media(5))
        good = multivariant_playlist({"v0": segmenter}).replace(SUFFIX, "")
        for problem, change in (
            ("it does not begin with EXTM3U", replace("#EXTM3U\n", "")),
            ("a tag of a media playlist", replace("#EXT-X-VERSION", "#EXT-X-TARGETDURATION:2\n#EXT-X-VERSION")),
            ("a variant without a URI", replace("v0.m3u8", "#")),
            ("no BANDWIDTH", replace(r"BANDWIDTH=\d+,", "")),
            ("no CODECS", replace(r"CODECS=", "CODEC=")),
            ("no RESOLUTION", replace(r"RESOLUTION=\d+x", "RESOLUTION=")),
            ("no FRAME-RATE", replace(r",FRAME-RATE.*", "")),
        ):
            self.assertEqual(list(broken_multivariant_rules(change(good))), [problem])
