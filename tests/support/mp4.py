"""Fragmented MP4 (ISO/IEC 14496-12) as initialisation sections and samples: an independent reader, which follows the
boxes' sizes and flags."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

MOVIE = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"moof", b"traf", b"dinf"}
"""The boxes that hold boxes only."""


class Init(NamedTuple):
    """An initialisation section: what its ``free`` box says; by track id its handler, sample entry and timescale."""

    description: dict[str, Any]
    tracks: dict[int, tuple[bytes, bytes, int]]


class Sample(NamedTuple):
    track: int
    time: int
    duration: int
    composition: int
    keyframe: bool
    data: bytes


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of ``data``, which has to be whole ones: their types and contents."""
    offset = 0
    while offset < len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        assert 8 <= size <= len(data) - offset, (kind, size, len(data) - offset)
        yield kind, data[offset + 8 : offset + size]
        offset += size


def find(data: bytes, *path: bytes) -> list[bytes]:
    """The contents of the boxes that a path of types leads to."""
    found = [content for kind, content in boxes(data) if kind == path[0]]
    return [inner for content in found for inner in find(content, *path[1:])] if len(path) > 1 else found


def parse_mp4(data: bytes) -> list[Init | Sample]:
    """What a stream holds, in order."""
    found: list[Init | Sample] = []
    description: dict[str, Any] = {}
    moof = b""
    moof_size = 0
    for kind, content in boxes(data):
        if kind == b"free":
            description = json.loads(content)
        elif kind == b"moov":
            found.append(Init(description, {number: track for number, *track in map(_track, find(content, b"trak"))}))
        elif kind == b"moof":
            moof, moof_size = content, len(content) + 8
        elif kind == b"mdat":
            found += _samples(moof, moof_size, content)
        else:
            assert kind == b"ftyp", kind
    return found


def inits(data: bytes) -> list[Init]:
    return [item for item in parse_mp4(data) if isinstance(item, Init)]


def samples(data: bytes) -> list[Sample]:
    return [item for item in parse_mp4(data) if isinstance(item, Sample)]


def check_stream(found: list[Init | Sample]) -> None:
    """Fails unless each fragment is of a track that the last initialisation section has, and the frames of a track are
    decoded one after the other."""
    known: set[int] = set()
    times: dict[int, int] = {}
    for item in found:
        if isinstance(item, Init):
            known = set(item.tracks)
            times.clear()
        else:
            assert item.track in known
            assert item.time > times.get(item.track, -1) and item.duration > 0
            times[item.track] = item.time


def _track(trak: bytes) -> Any:
    [header], [media], [handler] = find(trak, b"tkhd"), find(trak, b"mdia", b"mdhd"), find(trak, b"mdia", b"hdlr")
    [description] = find(trak, b"mdia", b"minf", b"stbl", b"stsd")
    [(entry, _)] = boxes(description[8:])
    assert header[0] == media[0] == 0
    return struct.unpack_from(">I", header, 12)[0], handler[8:12], entry, struct.unpack_from(">I", media, 12)[0]


def _samples(moof: bytes, moof_size: int, mdat: bytes) -> Iterator[Sample]:
    for traf in find(moof, b"traf"):
        [tfhd], [tfdt], runs = find(traf, b"tfhd"), find(traf, b"tfdt"), find(traf, b"trun")
        flags, track = struct.unpack(">II", tfhd[:8])
        assert flags == 0x020000
        assert tfdt[0] == 1
        time = struct.unpack(">Q", tfdt[4:])[0]
        for run in runs:
            head, count, offset = struct.unpack_from(">IIi", run)
            assert head == 0x01000F01 and len(run) == 12 + 16 * count
            position = offset - moof_size - 8
            for duration, size, sample_flags, composition in struct.iter_unpack(">IIIi", run[12:]):
                assert 0 <= position <= len(mdat) - size
                keyframe = not sample_flags & 0x10000
                yield Sample(track, time, duration, composition, keyframe, mdat[position : position + size])
                time += duration
                position += size
            assert position == len(mdat)
