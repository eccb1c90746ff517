"""Channels and keys as clients write them: the address's parts that they send, what counts in them, and the query.

An address ``rtmp://HOST/CHANNEL/KEY`` comes in two parts: the ``app`` of ``connect``, and the stream's name of
``publish`` or ``play``. In the ordinary form one is the channel and the other is the key. An ``app`` may end with
slashes, and each part may have a query, which begins at its first ``?``; only the stream's counts. Whatever is allowed
as it stands means what it says. All other forms are read only where that one would be refused:

- ``CHANNEL/KEY`` as the ``app``, with an empty stream name (gortmplib and MediaMTX; ffmpeg where a slash follows). A
  query of the ``app`` counts then as well; a field that the stream's name has too is the stream name's.
- Empty path segments do not count: ``CHANNEL//KEY``, ``/CHANNEL``, ``/KEY``, ``KEY/``.
- An application instance ``_definst_`` behind the channel does not count.
- ``%`` and two hexadecimal digits stand for a character, which is decoded once.

With ID_ALLOW_SPECIAL_CHARACTERS, slashes and ``%`` are characters of a name like any others, so that only the first of
these is left: the key is what is behind the ``app``'s last slash, where the stream's name is empty and an empty key is
not allowed. With ID_ALLOW_EMPTY and without special characters, an empty stream name is an empty key, unless the
``app`` has a key.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from attrs import frozen

MAX_QUERY_FIELDS: Final = 32
"""Fields read from a query string; more make it count as empty."""

INSTANCE: Final = "_definst_"
"""The application instance that some clients and guides put behind an application: Adobe's default."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]*\Z")
_SPECIAL = re.compile(r"[^>|\n]*\Z")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")


class BadName(Exception):
    """A channel or key that the rules do not allow; ``str(error)`` says why, without the name itself."""


class App(NamedTuple):
    """What the ``app`` of a ``connect`` says. ``key`` is None where it has none; ``query`` is what follows its ``?``.

    Among names with special characters, a key may still be behind the channel's last slash: see `NameRules.stream`.
    """

    channel: str
    key: str | None
    query: str

    @property
    def shown(self) -> str:
        """The channel as the log shows it: without what may be a key."""
        before, slash, _ = self.channel.rpartition("/")
        return f"{before}/…" if slash else self.channel


class StreamAddress(NamedTuple):
    """What a client wants to publish or to play. ``query`` has the fields of the query strings that count."""

    channel: str
    key: str
    query: dict[str, str]


@frozen
class NameRules:
    """``max_length`` in characters; the other two are ID_ALLOW_EMPTY and ID_ALLOW_SPECIAL_CHARACTERS."""

    max_length: int = 128
    allow_empty: bool = False
    allow_special: bool = False

    def app(self, text: str) -> App:
        """Reads the ``app`` of a ``connect``. Raises BadName where the channel, or a key behind it, is not allowed."""
        path, _, query = text.partition("?")
        if self.allow_special:
            return App(self._check_special(path.rstrip("/")), None, query)
        segments = _segments(path)
        if len(segments) > 1 and segments[1] == INSTANCE:
            del segments[1]
        if len(segments) > 2:
            raise BadName("the address has more than a channel and a key")
        channel = self.check(segments[0] if segments else "")
        return App(channel, self.check(segments[1]) if len(segments) > 1 else None, query)

    def stream(self, app: App, text: str) -> StreamAddress:
        """Reads the stream's name of a ``publish`` or ``play`` behind ``app``. Raises BadName where it or the channel
        is not allowed."""
        path, _, query = text.partition("?")
        channel, key = app.channel, app.key
        if self.allow_special:
            segments = [path] if path else []
            if not path and not self.allow_empty and "/" in channel:
                channel, _, key = channel.rpartition("/")
                channel = channel.rstrip("/")
        else:
            segments = _segments(path)
            if len(segments) > 1 and segments[0] == INSTANCE:
                del segments[0]
        fields = _fields(query)
        if key is not None:
            segments.insert(0, key)
            fields = _fields(app.query) | fields
        if len(segments) > 1:
            raise BadName("the address has more than a channel and a key")
        return StreamAddress(self.check(channel), self.check(segments[0] if segments else ""), fields)

    def check(self, name: str) -> str:
        """Returns a channel's name or a key as it is. Raises BadName where it is not allowed."""
        if not name and not self.allow_empty:
            raise BadName("it is empty")
        if len(name) > self.max_length:
            raise BadName(f"it has {len(name)} characters, where {self.max_length} are allowed")
        if self.allow_special:
            if not _SPECIAL.match(name):
                raise BadName("it has a '>', '|' or line feed")
        elif not _PLAIN.match(name):
            raise BadName("it has characters other than letters, digits, '-' and '_'")
        return name

    def _check_special(self, name: str) -> str:
        """The same for a channel that may have a key behind its last slash."""
        channel, slash, key = name.rpartition("/")
        if slash and not self.allow_empty and len(name) > self.max_length:
            self.check(channel.rstrip("/"))
            self.check(key)
            return name
        return self.check(name)


def fields(app: App, text: str) -> dict[str, str]:
    """The fields of the queries of a play request's stream name and of its ``app``; the stream name's count first."""
    return _fields(app.query) | _fields(text.partition("?")[2])


def _segments(path: str) -> list[str]:
    """The path's segments that are not empty, decoded."""
    return [_ENCODED.sub(_decoded, segment) for segment in path.split("/") if segment]


def _decoded(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def _fields(query: str) -> dict[str, str]:
    """The fields of a query string."""
    try:
        return dict(parse_qsl(query, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError:
        return {}
