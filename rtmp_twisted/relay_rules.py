"""Addresses of other RTMP servers, and the rules of PUSH and PULL: how they are written, checked, and shown.

Used by settings.py and by relay/. An address is ``rtmp://HOST[:PORT]/APP/NAME``: the application is all but the last
segment of the path, as encoders split it, and the name is often a stream key. It is never shown.

    PUSH  CHANNEL=URL          CHANNEL may have ``*``, URL may have ``{channel}``
    PULL  CHANNEL/KEY=URL      KEY ``*`` takes any, and URL may have ``{key}``

Of a URL's query, the words ``insecure`` and ``always`` are for this server. The rest belongs to the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlsplit

from attrs import field, frozen

from rtmp_twisted.settings_types import Mistake

PORTS: Final = {"rtmp": 1935, "rtmps": 443}
"""The schemes, and the port of each where an address has none."""

MAX_LENGTH: Final = 2048
"""Characters of the longest address."""

INSECURE: Final = "insecure"
"""Takes any certificate."""
ALWAYS: Final = "always"
"""Pulls whether somebody watches or not."""


@frozen
class Address:
    """Where a stream is pushed to, or pulled from. ``name`` is what is published or played, with its query; a
    secret."""

    scheme: str
    host: str
    port: int
    app: str = field(repr=False)
    name: str = field(repr=False)
    insecure: bool = False

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises Mistake, with what is wrong and without the address."""
        if len(text) > MAX_LENGTH:
            raise Mistake(f"an address has more than {MAX_LENGTH} characters")
        if not re.fullmatch(r"[!-~]+", text):
            raise Mistake("an address has blanks, or characters that are not ASCII")
        try:
            parts = urlsplit(text, allow_fragments=False)
        except ValueError:
            raise Mistake("the host of an address cannot be read") from None
        if parts.scheme not in PORTS:
            raise Mistake(f"an address begins with {parts.scheme[:20]!r}, not with rtmp:// or rtmps://")
        if "@" in parts.netloc:
            raise Mistake("an address has a user name, and logging in with one is not supported")
        try:
            port = parts.port
        except ValueError:
            raise Mistake("the port of an address is not a number from 1 to 65535") from None
        if port == 0:
            raise Mistake("the port of an address is not a number from 1 to 65535")
        if not parts.hostname:
            raise Mistake("an address has no host")
        app, _, name = parts.path.strip("/").rpartition("/")
        query = parts.query
        if not app and "/" in query:  # APP?backup=1/KEY, which YouTube has
            fields, _, rest = query.rpartition("/")
            app = f"{name}?{fields}"
            name, _, query = rest.partition("?")
        elif not app:
            app, name = name, ""  # a path of one segment, as MediaMTX has it
        if not app:
            raise Mistake("an address has no path: rtmp://HOST/APP/KEY")
        words = query.split("&")
        insecure = INSECURE in words
        if insecure and parts.scheme != "rtmps":
            raise Mistake("'insecure' is for rtmps:// only")
        query = "&".join(word for word in words if word not in (INSECURE, ALWAYS))
        name += f"?{query}" if query else ""
        return cls(parts.scheme, parts.hostname, port or PORTS[parts.scheme], app, name, insecure)

    @property
    def tc_url(self) -> str:
        """The ``tcUrl`` of a ``connect``: without the name."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}/{self.app}"

    def __str__(self) -> str:
        """As it may be shown to anybody who may read the log."""
        return mask(f"{self.tc_url}/{self.name}" if self.name else self.tc_url)


def mask(text: str) -> str:
    """Returns an address without what may be secret: a user, the path behind the application's first segment, the
    query.

    The text need not be a valid address. A path of one segment is hidden as well: it may be a key.
    """
    text = re.sub(r"^([a-z]+://)[^/]*@", r"\1***@", text)
    match = re.match(r"([a-z]+://[^/?]*)(/[^/?]+(?=/))?", text)
    if match is None:
        return "***"
    return (match[1] + (match[2] or "") + "/***") if len(match[0]) < len(text) else text


@frozen
class Rule:
    """``channel`` is a pattern, ``key`` (of a pull) what players have to give, None for any."""

    channel: str
    key: str | None = field(repr=False)
    url: str = field(repr=False)
    always: bool = False

    def __str__(self) -> str:
        """As it may be shown to anybody who may read the log."""
        key = "" if self.key == "" else "/*" if self.key is None else f"/{self.key}"
        return _mask_rule(f"{self.channel}{key}={self.url}")

    def matches(self, channel: str) -> bool:
        pattern = ".*".join(map(re.escape, self.channel.split("*")))
        return re.fullmatch(pattern, channel, re.DOTALL) is not None

    def address(self, channel: str, key: str = "") -> Address:
        """The address for one channel, and the key that its player has given. Raises Mistake if it is too long."""
        return Address.parse(_fill(self.url, quote(channel, safe=""), quote(key, safe="")))

    @property
    def passes_key(self) -> bool:
        """Whether the other server is asked about the player's key."""
        return "{key}" in self.url


def parse_push(text: str) -> tuple[Rule, ...]:
    """Reads the rules of PUSH. Raises Mistake."""
    return tuple(_rule(word, _push_rule) for word in text.split())


def parse_pull(text: str) -> tuple[Rule, ...]:
    """Reads the rules of PULL. Raises Mistake."""
    return tuple(_rule(word, _pull_rule) for word in text.split())


def parse_server(text: str) -> str:
    """Reads the address of a server, ``rtmp://HOST[:PORT]``, and returns it with the port. Raises Mistake."""
    if re.fullmatch(r"[a-z]+://[^/?]*/?", text) is None:
        raise Mistake("it is more than a scheme, a host and a port")
    address = Address.parse(text.rstrip("/") + "/app")
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{address.scheme}://{host}:{address.port}"


def mask_rules(text: str) -> str:
    """Returns the rules without keys."""
    return " ".join(_mask_rule(word) for word in text.split())


def _rule(word: str, make: Callable[[str, str], Rule]) -> Rule:
    name, separator, url = word.partition("=")
    if not separator or "://" in name:
        raise Mistake("a rule has no '=' between channel and address")
    rule = make(name, url)
    if not rule.channel:
        raise Mistake("a rule has no channel")
    left = re.findall(r"\{[^}]*\}?|\}", _fill(url, "", ""))
    if left:
        raise Mistake(f"{left[0][:20]!r} in an address means nothing; {{channel}} and, in PULL, {{key}} do")
    rule.address("channel", "key")
    return rule


def _push_rule(channel: str, url: str) -> Rule:
    if "{key}" in url:
        raise Mistake("{key} is for PULL only")
    if ALWAYS in _query(url):
        raise Mistake("'always' is for PULL only")
    return Rule(channel, "", url)


def _pull_rule(name: str, url: str) -> Rule:
    channel, separator, key = name.rpartition("/")
    if not separator or not key:
        raise Mistake("a rule of PULL begins with CHANNEL/KEY, the key that players have to give, or * for any")
    rule = Rule(channel, None if key == "*" else key, url, ALWAYS in _query(url))
    if rule.passes_key and rule.key is not None:
        raise Mistake("{key} in an address needs the key *: it is the one that a player gives")
    if rule.always and ("*" in channel or rule.passes_key):
        raise Mistake("'always' needs one channel, and an address without {key}")
    return rule


def _query(url: str) -> list[str]:
    return url.partition("?")[2].split("&")


def _fill(url: str, channel: str, key: str) -> str:
    return re.sub(r"\{(channel|key)\}", lambda match: channel if match[1] == "channel" else key, url)


def _mask_rule(word: str) -> str:
    name, separator, url = word.partition("=")
    channel, slash, key = name.partition("/")
    shown = channel + slash + ("*" if key == "*" else "***" if key else "")
    return f"{shown}={mask(url)}" if separator else "***"
