"""The viewers' addresses: what a path asks for, and with what it is let in. Pure.

    /CHANNEL/KEY              the page
    /CHANNEL/KEY.flv, .mp4    an endless stream; of any suffix that is not in `FORMATS`, it is part of the key
    /CHANNEL/KEY/NAME         a file of a format that has several, such as index.m3u8

Where no key is needed, or it is in the query (``?token=``), the same without ``/KEY``: ``/CHANNEL``, ``/CHANNEL.flv``,
``/CHANNEL/index.m3u8``. Segments are percent-decoded once, after the path has been split, so that ``%2F`` is a
character of a name. The rules for names (rtmp/names.py) hold for the channel, and for the key unless it is a token.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from attrs import frozen

from rtmp_twisted.rtmp.names import BadName, NameRules

FORMATS: Final = ("flv", "mp4", "jpg")
"""The suffixes of what is one file or stream."""

MAX_FILE: Final = 64
"""Characters of the longest name of a file."""


class NoSuchPath(Exception):
    """There is nothing at this path; ``str(error)`` says why, without the path itself."""


@frozen
class Target:
    """What a path asks for: the page (neither ``format`` nor ``file``), a format, or a file of a format. ``key`` is
    None where the path has none."""

    channel: str
    key: str | None
    format: str = ""
    file: str = ""


def parse(path: bytes, names: NameRules, keyless: bool, token: bool) -> Target:
    """Reads a path, which begins with a slash and has no query. ``keyless``: it has no key; ``token``: its key is a
    token, for which there are no rules here. Raises NoSuchPath."""
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in path[1:].split(b"/")]
    except UnicodeDecodeError:
        raise NoSuchPath("it is not UTF-8") from None
    file = ""
    if len(segments) == (2 if keyless else 3):
        file = segments.pop()
        if not file or len(file) > MAX_FILE:
            raise NoSuchPath("it has no name of a file")
    if len(segments) != (1 if keyless else 2):
        raise NoSuchPath("it is not a channel" if keyless else "it is not a channel and a key")
    name, format = (segments[-1], "") if file else _split(segments[-1])
    channel, key = (name, None) if keyless else (segments[0], name)
    try:
        names.check(channel)
        if key is not None and not token:
            names.check(key)
    except BadName as error:
        raise NoSuchPath(str(error)) from None
    return Target(channel, key, format, file)


def _split(segment: str) -> tuple[str, str]:
    """A name, and the format behind it or nothing."""
    name, dot, suffix = segment.rpartition(".")
    return (name, suffix) if dot and suffix in FORMATS else (segment, "")
