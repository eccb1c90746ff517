"""What a request for a file of HLS asks for: the file's name, and the delivery directives in its query. Pure.

    index.m3u8                     the multivariant playlist, which players begin with
    v0.m3u8                        the media playlist of video track 0
    v0-init-5.mp4                  the initialisation section that is in force since segment 5
    v0-5.m4s, v0-part-512.m4s      a segment, a part

Source: RFC 8216bis, section 6.2.5 (delivery directives).
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen
from twisted.web import http

from rtmp_twisted.web.answers import Answer, problem

INDEX: Final = "index.m3u8"
"""The file that players begin with."""

GONE: Final = problem(http.NOT_FOUND, "there is no such file, or not any more")

_FILE: Final = re.compile(r"v(\d{1,3})(\.m3u8|-(?:(init)-|(part)-|)(\d{1,12})\.(mp4|m4s))")
_NUMBER: Final = re.compile(rb"\d{1,12}")


@frozen(cache_hash=True)
class Wanted:
    """What a request asks for. ``track`` is None for the multivariant playlist. ``kind`` is "playlist", "init", "part"
    or "segment"; ``number`` that of a file. ``reload``: the segment and part that a playlist has to have."""

    track: int | None
    kind: str
    number: int
    reload: tuple[int, int] | None
    skip: bool

    @classmethod
    def parse(cls, file: str, arguments: dict[bytes, list[bytes]]) -> Wanted | Answer:
        """Reads the name of a file, and the delivery directives (section 6.2.5)."""
        if file == INDEX:
            return cls(None, "playlist", 0, None, False)
        match = _FILE.fullmatch(file)
        if match is None:
            return GONE
        track, _, init, part, number, ending = match.groups()
        kind = init or part or ("segment" if number else "playlist")
        if int(track) > 255 or (ending == "mp4") != (kind == "init" and ending is not None):
            return GONE
        reload = _reload(arguments) if kind == "playlist" else None
        if isinstance(reload, Answer):
            return reload
        skip = arguments.get(b"_HLS_skip", [b""])[-1] in (b"YES", b"v2")
        return cls(int(track), kind, int(number or 0), reload, skip)


def _reload(arguments: dict[bytes, list[bytes]]) -> tuple[int, int] | Answer | None:
    segment, part = (arguments.get(name, [b""])[-1] for name in (b"_HLS_msn", b"_HLS_part"))
    if not segment and not part:
        return None
    if not _NUMBER.fullmatch(segment) or (part and not _NUMBER.fullmatch(part)):
        return problem(http.BAD_REQUEST, "_HLS_msn and _HLS_part are whole numbers, and the second needs the first")
    return int(segment), int(part) if part else -1
