"""HLS playlists (RFC 8216bis), taken apart, and a validator of what a live low-latency playlist has to be.

A rule is a function that says whether it is kept. Rules about one playlist are in `RULES`, those about a playlist and
the one that the same client got before in `UPDATE_RULES`. Sections are those of RFC 8216bis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

from attrs import define, field

ROUNDING = 0.0011
"""Seconds by which sums of rounded durations may differ."""

MEDIA_TAGS = {
    *("EXTM3U", "EXT-X-VERSION", "EXT-X-TARGETDURATION", "EXT-X-SERVER-CONTROL", "EXT-X-PART-INF"),
    *("EXT-X-MEDIA-SEQUENCE", "EXT-X-DISCONTINUITY-SEQUENCE", "EXT-X-INDEPENDENT-SEGMENTS", "EXT-X-SKIP"),
    *("EXT-X-MAP", "EXT-X-PROGRAM-DATE-TIME", "EXT-X-DISCONTINUITY", "EXT-X-PART", "EXTINF"),
    *("EXT-X-PRELOAD-HINT", "EXT-X-RENDITION-REPORT", "EXT-X-ENDLIST"),
}
"""What a media playlist of this server consists of."""

ONCE = MEDIA_TAGS - {
    *("EXT-X-MAP", "EXT-X-PROGRAM-DATE-TIME", "EXT-X-DISCONTINUITY", "EXT-X-PART", "EXTINF"),
    *("EXT-X-PRELOAD-HINT", "EXT-X-RENDITION-REPORT"),
}


@define
class Part:
    uri: str
    duration: float
    independent: bool


@define
class Segment:
    """``uri`` is empty for the segment that is being made."""

    number: int
    uri: str = ""
    duration: float = 0.0
    parts: list[Part] = field(factory=list)
    map: str = ""
    date: datetime | None = None
    discontinuity: bool = False


@define
class Playlist:
    text: str
    lines: list[tuple[str, str]] = field(factory=list)
    """The tags in order, without the hash, and what stands behind their colons; URIs have no tag."""
    segments: list[Segment] = field(factory=list)
    skipped: int = 0

    def all(self, tag: str) -> list[str]:
        return [value for name, value in self.lines if name == tag]

    def value(self, tag: str) -> str:
        return (self.all(tag) or [""])[0]

    def number(self, tag: str, default: float = 0) -> float:
        return float(self.value(tag) or default)

    def attribute(self, tag: str, name: str) -> str:
        return attributes(self.value(tag)).get(name, "")

    @property
    def target(self) -> float:
        return self.number("EXT-X-TARGETDURATION")

    @property
    def part_target(self) -> float:
        return float(self.attribute("EXT-X-PART-INF", "PART-TARGET") or 0)

    @property
    def complete(self) -> list[Segment]:
        return [segment for segment in self.segments if segment.uri]

    @property
    def parts(self) -> list[Part]:
        return [part for segment in self.segments for part in segment.parts]

    @property
    def next_part(self) -> tuple[int, int]:
        """The segment and part that come next, as ``_HLS_msn`` and ``_HLS_part`` name them."""
        last = self.segments[-1]
        return (last.number + 1, 0) if last.uri else (last.number, len(last.parts))

    @property
    def ended(self) -> bool:
        return bool(self.all("EXT-X-ENDLIST"))


def attributes(text: str) -> dict[str, str]:
    """An attribute list (section 4.2)."""
    return {name: value.strip('"') for name, value in re.findall(r'([A-Z0-9-]+)=("[^"]*"|[^",]*)', text)}


def parse(text: str) -> Playlist:
    playlist = Playlist(text)
    for line in text.split("\n"):
        if line.startswith("#EXT"):
            name, _, value = line[1:].partition(":")
            playlist.lines.append((name, value))
        elif line:
            playlist.lines.append(("", line))
    playlist.skipped = int(playlist.attribute("EXT-X-SKIP", "SKIPPED-SEGMENTS") or 0)
    number = int(playlist.number("EXT-X-MEDIA-SEQUENCE")) + playlist.skipped
    segment, current_map = Segment(number), ""
    for name, value in playlist.lines:
        match name:
            case "EXT-X-MAP":
                current_map = attributes(value).get("URI", "")
            case "EXT-X-PROGRAM-DATE-TIME":
                segment.date = datetime.fromisoformat(value) if DATE.fullmatch(value) else None
            case "EXT-X-DISCONTINUITY":
                segment.discontinuity = True
            case "EXT-X-PART":
                found = attributes(value)
                duration = float(found.get("DURATION") or 0)
                segment.parts.append(Part(found.get("URI", ""), duration, found.get("INDEPENDENT") == "YES"))
            case "EXTINF":
                segment.duration = float(value.partition(",")[0])
            case "":
                segment.uri, segment.map = value, current_map
                playlist.segments.append(segment)
                segment = Segment(segment.number + 1)
    if segment.parts:
        segment.map = current_map
        playlist.segments.append(segment)
    return playlist


DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

# One playlist.


def begins_with_extm3u(p: Playlist) -> bool:
    """Section 4.1, 4.4.1.1; lines end with a line feed, and there are no control characters."""
    return (
        p.text.startswith("#EXTM3U\n") and p.text.endswith("\n") and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", p.text)
    )


def known_tags_only(p: Playlist) -> bool:
    """Section 4.4: no tag of a multivariant playlist, and none that does not exist."""
    return all(not name or name in MEDIA_TAGS for name, _ in p.lines)


def tags_once(p: Playlist) -> bool:
    """Sections 4.4.1 and 4.4.3: tags that apply to the playlist stand in it once."""
    return all(len(p.all(tag)) <= 1 for tag in ONCE)


def well_formed_attributes(p: Playlist) -> bool:
    """Section 4.2: names once, values in the right form."""
    for tag in "EXT-X-SERVER-CONTROL", "EXT-X-PART-INF", "EXT-X-PART", "EXT-X-MAP", "EXT-X-PRELOAD-HINT", "EXT-X-SKIP":
        for value in p.all(tag):
            if not re.fullmatch(r'[A-Z0-9-]+=("[^"]*"|[^",\s]+)(,[A-Z0-9-]+=("[^"]*"|[^",\s]+))*', value):
                return False
            names = re.findall(r"([A-Z0-9-]+)=", re.sub(r'"[^"]*"', "", value))
            if len(names) != len(set(names)):
                return False
    return True


def version_is_enough(p: Playlist) -> bool:
    """Section 8: 6 for EXT-X-MAP, 9 for EXT-X-SKIP."""
    return p.number("EXT-X-VERSION") >= 9


def has_target(p: Playlist) -> bool:
    """Section 4.4.3.1."""
    return bool(re.fullmatch(r"[1-9]\d*", p.value("EXT-X-TARGETDURATION")))


def segments_within_target(p: Playlist) -> bool:
    """Section 4.4.3.1: durations, rounded to whole seconds, are not above the target."""
    return all(int(segment.duration + 0.5) <= p.target for segment in p.segments)


def sequence_before_segments(p: Playlist) -> bool:
    """Sections 4.4.3.2 and 4.4.3.3: both numbers stand before the first segment."""
    names = [name for name, _ in p.lines]
    first = min(
        (names.index(tag) for tag in ("EXTINF", "EXT-X-PART", "EXT-X-DISCONTINUITY") if tag in names), default=0
    )
    return all(tag in names[:first] for tag in ("EXT-X-MEDIA-SEQUENCE", "EXT-X-DISCONTINUITY-SEQUENCE"))


def segments_have_durations(p: Playlist) -> bool:
    """Section 4.4.4.1: one EXTINF before each URI, with a title that may be empty."""
    tags = [(name, value) for name, value in p.lines if name in ("", "EXTINF")]
    return all(name == ("EXTINF", "")[place % 2] for place, (name, _) in enumerate(tags)) and all(
        re.fullmatch(r"\d+(\.\d+)?,.*", value) for value in p.all("EXTINF")
    )


def has_map(p: Playlist) -> bool:
    """Sections 3.1.1 and 4.4.4.5: fragmented MP4 needs an initialisation section."""
    return all(segment.map for segment in p.segments)


def other_map_behind_discontinuity(p: Playlist) -> bool:
    """Section 4.4.4.3: what a segment needs to be decoded changes at a discontinuity only."""
    return all(one.map == following.map or following.discontinuity for one, following in pairwise(p.segments))


def part_target_is_said(p: Playlist) -> bool:
    """Section 4.4.3.7."""
    return not p.parts or p.part_target > 0


def parts_within_target(p: Playlist) -> bool:
    """Section 4.4.4.9."""
    return all(part.duration <= p.part_target + ROUNDING for part in p.parts)


def parts_nearly_target(p: Playlist) -> bool:
    """Section 4.4.4.9: at least 85 %, but for the last one of a segment."""
    segments = [segment.parts[:-1] if segment.uri else segment.parts for segment in p.segments]
    return all(part.duration >= 0.85 * p.part_target - ROUNDING for parts in segments for part in parts)


def parts_make_the_segment(p: Playlist) -> bool:
    """Section 3.3: parts are the whole of their segment."""
    return all(
        abs(sum(part.duration for part in segment.parts) - segment.duration) <= ROUNDING * len(segment.parts)
        for segment in p.complete
        if segment.parts
    )


def recent_segments_have_parts(p: Playlist) -> bool:
    """Section 6.2.2: parts stay for three Target Durations."""
    age = sum(part.duration for segment in p.segments if not segment.uri for part in segment.parts)
    for segment in reversed(p.complete):
        if age < 3 * p.target - ROUNDING and not segment.parts:
            return False
        age += segment.duration
    return True


def blocking_reload(p: Playlist) -> bool:
    """Section 4.4.3.8, and appendix B.1."""
    return p.attribute("EXT-X-SERVER-CONTROL", "CAN-BLOCK-RELOAD") == "YES"


def part_hold_back(p: Playlist) -> bool:
    """Section 4.4.3.8: at least twice, better three times the Part Target Duration."""
    return float(p.attribute("EXT-X-SERVER-CONTROL", "PART-HOLD-BACK") or 0) >= 3 * p.part_target - ROUNDING


def skip_until(p: Playlist) -> bool:
    """Section 4.4.3.8: at least six Target Durations."""
    return float(p.attribute("EXT-X-SERVER-CONTROL", "CAN-SKIP-UNTIL") or 0) >= 6 * p.target


def skips_old_segments_only(p: Playlist) -> bool:
    """Section 6.2.5.1: what is left reaches back to the Skip Boundary."""
    listed = sum(segment.duration or sum(part.duration for part in segment.parts) for segment in p.segments)
    until = float(p.attribute("EXT-X-SERVER-CONTROL", "CAN-SKIP-UNTIL") or 0)
    return not p.all("EXT-X-SKIP") or (p.skipped > 0 and listed >= until - ROUNDING * len(p.segments))


def one_hint(p: Playlist) -> bool:
    """Section 4.4.5.3: one of each type, of a part that is not there yet; none behind the end."""
    hints = [attributes(value) for value in p.all("EXT-X-PRELOAD-HINT")]
    known = {part.uri for part in p.parts}
    return len(hints) == (not p.ended) and all(
        hint.get("TYPE") == "PART" and hint["URI"] not in known for hint in hints
    )


def uris_are_unique(p: Playlist) -> bool:
    """Section 6.2.1: a URI stands for one thing."""
    uris = [part.uri for part in p.parts] + [segment.uri for segment in p.complete]
    return all(uris) and len(uris) == len(set(uris))


def dates_fit(p: Playlist) -> bool:
    """Sections 4.4.4.6 and 6.2.1: with time zone and milliseconds, and as far apart as the segments are long."""
    if any(segment.date is None for segment in p.segments):
        return False
    return all(
        following.discontinuity or abs((following.date - one.date).total_seconds() - one.duration) <= 0.002  # type: ignore[operator]
        for one, following in pairwise(p.segments)
    )


def independent_segments(p: Playlist) -> bool:
    """Section 4.4.2.1: where it says so, each segment begins with a keyframe."""
    said = bool(p.all("EXT-X-INDEPENDENT-SEGMENTS"))
    return not said or all(segment.parts[0].independent for segment in p.segments if segment.parts)


def reports_are_whole(p: Playlist) -> bool:
    """Section 4.4.5.4."""
    reports = [attributes(value) for value in p.all("EXT-X-RENDITION-REPORT")]
    return all(
        report.get("URI") and ":" not in report["URI"] and {"LAST-MSN", "LAST-PART"} <= set(report)
        for report in reports
    )


# A playlist and the one before.


def targets_stay(old: Playlist, new: Playlist) -> bool:
    """Sections 4.4.3.1 and 4.4.3.7, 6.2.1."""
    return (old.target, old.part_target) == (new.target, new.part_target)


def numbers_grow(old: Playlist, new: Playlist) -> bool:
    """Section 6.2.2."""
    first, last = new.number("EXT-X-MEDIA-SEQUENCE"), new.segments[-1].number
    return first >= old.number("EXT-X-MEDIA-SEQUENCE") and last >= old.segments[-1].number


def segments_stay(old: Playlist, new: Playlist) -> bool:
    """Section 6.2.1: nothing changes but what is appended, and what is removed from the beginning."""
    before = {segment.number: segment for segment in old.complete}
    for segment in new.complete:
        same = before.get(segment.number)
        if same is not None and (same.uri, same.duration, same.map, same.discontinuity) != (
            *(segment.uri, segment.duration, segment.map, segment.discontinuity),
        ):
            return False
    missing = {s.number for s in old.complete} - {s.number for s in new.complete}
    return all(number < new.number("EXT-X-MEDIA-SEQUENCE") + new.skipped for number in missing)


def dates_stay(old: Playlist, new: Playlist) -> bool:
    """Section 6.2.1."""
    before = {segment.number: segment.date for segment in old.segments}
    return all(before.get(segment.number, segment.date) == segment.date for segment in new.segments)


def parts_stay(old: Playlist, new: Playlist) -> bool:
    """Section 6.2.1: a part that was there is the same, and in the same segment."""
    before = {segment.number: segment.parts for segment in old.segments}
    for segment in new.segments:
        known = before.get(segment.number, [])
        if segment.parts and segment.parts[: len(known)] != known:
            return False
    return True


def hint_is_kept(old: Playlist, new: Playlist) -> bool:
    """Section 6.2.6: the next part is the one that was announced."""
    known = {part.uri for part in old.parts}
    added = [part.uri for part in new.parts if part.uri not in known]
    return not added or not old.parts or added[0] == old.attribute("EXT-X-PRELOAD-HINT", "URI")


def discontinuities_are_counted(old: Playlist, new: Playlist) -> bool:
    """Section 6.2.2."""
    gone = [s for s in old.segments if s.number < new.number("EXT-X-MEDIA-SEQUENCE")]
    counted = new.number("EXT-X-DISCONTINUITY-SEQUENCE") - old.number("EXT-X-DISCONTINUITY-SEQUENCE")
    return counted >= 0 and (bool(old.skipped) or counted == sum(segment.discontinuity for segment in gone))


def long_enough(old: Playlist, new: Playlist) -> bool:
    """Section 6.2.2: nothing is removed where less than three Target Durations would be left."""
    removed = new.number("EXT-X-MEDIA-SEQUENCE") > old.number("EXT-X-MEDIA-SEQUENCE")
    return not removed or bool(new.skipped) or sum(segment.duration for segment in new.complete) >= 3 * new.target


def the_end_is_final(old: Playlist, new: Playlist) -> bool:
    """Section 4.4.3.4."""
    return not old.ended or old.text == new.text


RULES: list[Callable[[Playlist], bool]] = [
    *(begins_with_extm3u, known_tags_only, tags_once, well_formed_attributes, version_is_enough, has_target),
    *(segments_within_target, sequence_before_segments, segments_have_durations, has_map, part_target_is_said),
    *(parts_within_target, parts_nearly_target, parts_make_the_segment, recent_segments_have_parts, blocking_reload),
    *(part_hold_back, skip_until, skips_old_segments_only, one_hint, uris_are_unique, dates_fit),
    *(independent_segments, reports_are_whole, other_map_behind_discontinuity),
]
UPDATE_RULES: list[Callable[[Playlist, Playlist], bool]] = [
    *(targets_stay, numbers_grow, segments_stay, dates_stay, parts_stay, hint_is_kept),
    *(discontinuities_are_counted, long_enough, the_end_is_final),
]


def broken_rules(text: str, before: str | None = None) -> list[str]:
    """The names of the rules that a media playlist breaks; ``before`` is the one that it takes the place of."""
    playlist = parse(text)
    broken = [rule.__name__ for rule in RULES if not rule(playlist)]
    if before is not None:
        old = parse(before)
        broken += [rule.__name__ for rule in UPDATE_RULES if not rule(old, playlist)]
    return broken


def merge_delta(full: str, delta: str) -> list[Any]:
    """The complete segments of a playlist before and a delta update of it, as a client has them (section 6.3.7)."""
    new = parse(delta)
    kept = {segment.number: segment for segment in parse(full).complete}
    first = int(new.number("EXT-X-MEDIA-SEQUENCE"))
    old = [kept[number] for number in range(first, first + new.skipped)]
    return [(segment.number, segment.uri, segment.duration) for segment in old + new.complete]


def broken_multivariant_rules(text: str) -> Iterator[str]:
    """What is wrong with a multivariant playlist (sections 4.4.6 and 6.2.4)."""
    lines = text.splitlines()
    if lines[0] != "#EXTM3U" or not text.endswith("\n"):
        yield "it does not begin with EXTM3U"
    if any(line.startswith(("#EXTINF", "#EXT-X-TARGETDURATION", "#EXT-X-PART", "#EXT-X-MAP")) for line in lines):
        yield "a tag of a media playlist"
    infos = [place for place, line in enumerate(lines) if line.startswith("#EXT-X-STREAM-INF:")]
    if not infos or any(place + 1 >= len(lines) or lines[place + 1].startswith("#") for place in infos):
        yield "a variant without a URI"
    for place in infos:
        found = attributes(lines[place].partition(":")[2])
        if not re.fullmatch(r"[1-9]\d*", found.get("BANDWIDTH", "")):
            yield "no BANDWIDTH"
        if not re.fullmatch(r"[\w.-]+(,[\w.-]+)*", found.get("CODECS", "")):
            yield "no CODECS"
        if re.match(r"(avc1|hvc1|av01|vp09)", found.get("CODECS", "")):
            if not re.fullmatch(r"\d+x\d+", found.get("RESOLUTION", "")):
                yield "no RESOLUTION"
            if not re.fullmatch(r"\d+\.\d{3}", found.get("FRAME-RATE", "")):
                yield "no FRAME-RATE"
