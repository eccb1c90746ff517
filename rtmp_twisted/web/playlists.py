"""HLS playlists as text, from what a `Segmenter` holds. Pure. Used by hls.py.

Each URI in them is relative, and followed by `SUFFIX`, which the caller replaces by the query string that the client
came with: so a playlist is written once for all clients, whatever their tokens are.

Source: RFC 8216bis (protocol version 9), sections 4.4.1 to 4.4.6 and 6.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from rtmp_twisted.media.segments import Part, Segment, Segmenter

SUFFIX: Final = "\0"
"""Stands behind each URI."""

LISTED: Final = 7
"""Complete segments in a playlist. One that has been in it is kept for as long again (section 6.2.2)."""

SHORTEST_TARGETS: Final = 3
"""Target Durations that a playlist lasts at least, once it has (section 6.2.2)."""

SKIP_TARGETS: Final = 6
"""Target Durations from the end of the playlist, before which a delta update leaves segments out (at least 6)."""

PART_TARGETS: Final = 3
"""Target Durations from the end of the playlist, for which it lists parts (section 6.2.2: at least 3)."""

HOLD_BACK_PARTS: Final = 3
"""Part Target Durations that players should stay behind the end (section 4.4.3.8: at least 2, better 3)."""

HEADROOM: Final = 1.1
"""By how much the announced bit rate is higher than the highest that was measured."""


def media_playlist(segmenter: Segmenter, name: str, skip: bool, others: Mapping[str, Segmenter]) -> str:
    """Returns a media playlist. ``name`` begins the names of its files; ``others`` are the other variants. With
    ``skip`` it is a delta update, where that is shorter. The segmenter has to have a target and a part."""
    target = segmenter.target
    assert target is not None
    unlisted = _unlisted(segmenter, target)
    complete = list(segmenter.segments)[unlisted:]
    current = segmenter.current
    segments = complete if current is None or not current.parts else [*complete, current]
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:9",
        f"#EXT-X-TARGETDURATION:{target}",
        f"#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={SKIP_TARGETS * target}.0,"
        f"PART-HOLD-BACK={HOLD_BACK_PARTS * segmenter.part_target:.3f}",
        f"#EXT-X-PART-INF:PART-TARGET={segmenter.part_target:.3f}",
        f"#EXT-X-MEDIA-SEQUENCE:{segments[0].number}",
    ]
    before = sum(segment.discontinuity for segment in list(segmenter.segments)[:unlisted])
    lines.append(f"#EXT-X-DISCONTINUITY-SEQUENCE:{segmenter.discontinuities + before}")
    if all(segment.independent for segment in segments):
        lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    ages = _ages(segments)
    skipped = sum(age > SKIP_TARGETS * target for segment, age in zip(complete, ages, strict=False)) if skip else 0
    if skipped:
        lines.append(f"#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}")
    init = None
    for segment, age in zip(segments[skipped:], ages[skipped:], strict=True):
        if segment.discontinuity:
            lines.append("#EXT-X-DISCONTINUITY")
        if segment.init is not init:
            init = segment.init
            lines.append(f'#EXT-X-MAP:URI="{name}-init-{init.number}.mp4{SUFFIX}"')
        lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{_date(segment.time)}")
        if age < PART_TARGETS * target:
            lines += [_part(part, name) for part in segment.parts]
        if segment is not current:
            lines += (f"#EXTINF:{segment.duration:.5f},", f"{name}-{segment.number}.m4s{SUFFIX}")
    lines += _end(segmenter, name, others)
    return "\n".join(lines) + "\n"


def multivariant_playlist(variants: Mapping[str, Segmenter]) -> str:
    """Returns the playlist of all variants, by the names of their files. Each has to have a part."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:9"]
    for name, segmenter in variants.items():
        lines += (f"#EXT-X-STREAM-INF:{','.join(_attributes(segmenter))}", f"{name}.m3u8{SUFFIX}")
    return "\n".join(lines) + "\n"


def _unlisted(segmenter: Segmenter, target: int) -> int:
    """How many complete segments are only kept for those who know them from an earlier playlist."""
    unlisted = max(0, len(segmenter.segments) - LISTED)
    length = sum(segment.duration for segment in list(segmenter.segments)[unlisted:])
    while unlisted and length < SHORTEST_TARGETS * target:
        unlisted -= 1
        length += segmenter.segments[unlisted].duration
    return unlisted


def _attributes(segmenter: Segmenter) -> Iterator[str]:
    newest = segmenter.newest
    assert newest is not None
    peak = segmenter.peak or 8 * newest.size / max(newest.duration, 0.001)
    yield f"BANDWIDTH={int(peak * HEADROOM) + 1}"
    yield f'CODECS="{newest.init.codecs}"'
    first = newest.init.tracks[0]
    if "width" in first and "height" in first:
        yield f"RESOLUTION={first['width']}x{first['height']}"
    if first["kind"] == "video":
        rate = first.get("frame_rate") or segmenter.frame_rate or newest.frames / max(newest.duration, 0.001)
        yield f"FRAME-RATE={rate:.3f}"


def _part(part: Part, name: str) -> str:
    independent = ",INDEPENDENT=YES" if part.independent else ""
    return f'#EXT-X-PART:DURATION={part.duration:.5f},URI="{name}-part-{part.number}.m4s{SUFFIX}"{independent}'


def _end(segmenter: Segmenter, name: str, others: Mapping[str, Segmenter]) -> Iterator[str]:
    if segmenter.ended:
        yield "#EXT-X-ENDLIST"
        return
    yield f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="{name}-part-{segmenter.part_number}.m4s{SUFFIX}"'
    for other, theirs in others.items():
        last = theirs.newest
        if last is not None:
            yield (
                f'#EXT-X-RENDITION-REPORT:URI="{other}.m3u8{SUFFIX}",LAST-MSN={last.number},'
                f"LAST-PART={len(last.parts) - 1}"
            )


def _ages(segments: list[Segment]) -> list[float]:
    """Seconds from the end of each segment to the end of the playlist."""
    ages: list[float] = []
    age = 0.0
    for segment in reversed(segments):
        ages.append(age)
        age += segment.duration
    return ages[::-1]


def _date(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
