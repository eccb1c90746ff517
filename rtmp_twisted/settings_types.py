"""What a setting's text may look like: the kinds that settings.py's table is made of, and the ``.env`` file.

Used by settings.py, and by whoever needs `Networks`. Touches the file system to read ``.env`` and to see whether
a named file can be read; nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from attrs import define, field, frozen

T = TypeVar("T")
Network = IPv4Network | IPv6Network

LONGEST_SHOWN: Final = 200
"""Most characters of a wrong value that an error line repeats."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


@define
class SettingsError(Exception):
    """The settings cannot be used. ``lines`` has one line for each mistake, none of which shows a secret."""

    lines: list[str]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@frozen
class Kind(Generic[T]):
    """One kind of setting.

    ``accepts`` completes the sentence "it takes …"; ``parse`` raises ValueError; ``mask`` makes a value fit to be
    shown, also one that is wrong.
    """

    accepts: str
    parse: Callable[[str], T] = field(repr=False)
    mask: Callable[[str], str] = field(default=str, repr=False)

    @property
    def secret(self) -> bool:
        """Whether nothing of a value may ever be shown, and its blanks count."""
        return self.mask is mask_all


@frozen
class Networks:
    """Addresses and networks, IPv4 and IPv6, or everyone (``*``)."""

    networks: tuple[Network, ...] = ()
    everyone: bool = False

    @classmethod
    def parse(cls, text: str) -> Networks:
        """Reads a comma-separated list. Raises ValueError, also for an empty item."""
        items = [item.strip() for item in text.split(",")]
        networks = tuple(_network(item) for item in items if item != "*")
        return cls(networks, "*" in items)

    def __contains__(self, address: str) -> bool:
        """Whether ``address`` (as a transport's peer has it) is one of these; an IPv4-mapped one counts as IPv4.

        What is no address, such as the path of a UNIX socket, is in ``*`` only.
        """
        if self.everyone or not self.networks:
            return self.everyone
        try:
            parsed = ip_address(address.partition("%")[0])  # an interface may follow a link-local address
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.networks)

    def __bool__(self) -> bool:
        return self.everyone or bool(self.networks)

    def __str__(self) -> str:
        return "*" if self.everyone else ",".join(str(network) for network in self.networks)


EVERYONE: Final = Networks(everyone=True)


def _network(text: str) -> Network:
    """An address or a network. Bits behind the mask are let pass: the servers that this one replaces did so."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _parse_switch(text: str) -> bool:
    word = text.upper()
    if word in ("YES", "TRUE", "1", "ON"):
        return True
    if word in ("NO", "FALSE", "0", "OFF"):
        return False
    raise ValueError


def _parse_address(text: str) -> str:
    if text.lower() == "localhost":
        return "127.0.0.1"
    bracketed = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return str(ip_address(bracketed))


def _parse_text(text: str) -> str:
    if not text.isprintable():
        raise ValueError
    return text


def _parse_word(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError
    return text


def _parse_file(text: str) -> str:
    """The file's absolute path: twistd may change the working directory before the file is read."""
    if not os.path.isfile(text) or not os.access(text, os.R_OK):
        raise ValueError
    return os.path.abspath(text)


def number(lowest: int, highest: int) -> Kind[int]:
    """A whole number in ASCII digits, both bounds included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not lowest <= int(text) <= highest:
            raise ValueError
        return int(text)

    return Kind(f"a whole number from {lowest} to {highest}", parse)


def one_of(*words: str) -> Kind[str]:
    """One of these lower-case words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return Kind(" or ".join(words), parse)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """The same, but None where the setting is left empty."""
    return Kind(kind.accepts, lambda text: kind.parse(text) if text else None, kind.mask)


def url(*schemes: str, query: bool) -> Kind[str]:
    """An absolute URL with a host. Neither its user and password nor its query is ever shown."""

    def parse(text: str) -> str:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError
        wrong_tail = "#" in text or ("?" in text and not query)
        if parts.scheme not in schemes or not parts.hostname or wrong_tail or not re.fullmatch(r"[!-~]+", text):
            raise ValueError
        return text

    tail = "" if query else ", without a query"
    return Kind(f"a {' or '.join(f'{scheme}://' for scheme in schemes)} URL{tail}", parse, mask_url)


def mask_url(text: str) -> str:
    """The URL with what may be secret in it left out; for text that is no URL, too."""
    text = re.sub(r"^([a-z]+://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"\?.+", "?***", text, flags=re.DOTALL)


def mask_all(text: str) -> str:
    """Nothing of the text but whether there is any."""
    return "***" if text else ""


PORT: Final = number(1, 65535)
SWITCH: Final = Kind("YES, TRUE, 1 or ON, or NO, FALSE, 0 or OFF", _parse_switch)
ADDRESS: Final = Kind("an IPv4 or IPv6 address of this machine", _parse_address)
NETWORKS: Final = Kind(
    "addresses and networks with commas between them, such as 127.0.0.1,10.0.0.0/8,2001:db8::/32, or *", Networks.parse
)
TEXT: Final = Kind("text without control characters", _parse_text)
WORD: Final = Kind("printable ASCII characters, no blanks", _parse_word)
FILE: Final = Kind("the path of a file that can be read", _parse_file)
WORDS: Final = Kind("words with blanks between them", lambda text: tuple(_parse_text(text).split()))
SECRET: Final = Kind("text without control characters", _parse_text, mask_all)
SECRET_WORD: Final = Kind("printable ASCII characters, no blanks", _parse_word, mask_all)

_ASSIGNMENT: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*?)\s*", re.DOTALL)
_QUOTED: Final = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?""", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


def read_dotenv(path: Path, mistakes: list[str]) -> dict[str, tuple[str, int]]:
    """The variables that a ``.env`` file sets, each with its line's number; none where there is no such file.

    A line is ``NAME=value``, perhaps behind ``export``; blank ones and those that begin with ``#`` do not count.
    A value in single quotes is taken as it is, one in double quotes knows ``\\n \\r \\t \\" \\\\``, one
    without quotes ends before ``#`` behind a blank. Nothing is expanded. Of two lines for one name the later counts.
    Each wrong line adds one to ``mistakes``, which names the file and the line but never repeats it.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        mistakes.append(f"{path}: cannot be read: {reason}")
        return {}
    found: dict[str, tuple[str, int]] = {}
    for line_number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        assignment = _ASSIGNMENT.fullmatch(line)
        value = _value(assignment[2]) if assignment else None
        if assignment is None:
            mistakes.append(f"{path}, line {line_number}: not of the form NAME=value")
        elif value is None:
            mistakes.append(f"{path}, line {line_number}: {assignment[1]}: a quote is not closed, or text follows it")
        else:
            found[assignment[1]] = value, line_number
    return found


def _value(text: str) -> str | None:
    """What is right of the ``=``; None where its quotes are wrong."""
    if not text.startswith(("'", '"')):
        return re.split(r"(?:^|\s+)#", text, maxsplit=1)[0]
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return None
    if quoted[1] is None:
        return quoted[2]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted[1], flags=re.DOTALL)
