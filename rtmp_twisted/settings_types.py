"""The types of settings: what text each accepts, and how a value is shown. The table in settings.py is made of them.

Used by settings.py, and by other modules for `Networks`. The only I/O is to see whether a named file can be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from attrs import define, field, frozen

T = TypeVar("T")
Network = IPv4Network | IPv6Network

LONGEST_SHOWN: Final = 200
"""How many characters of a wrong value an error line repeats at most."""

MAX_WORKERS: Final = 64
"""Most workers. ``auto`` may be less than the cores of a larger machine."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


@define
class SettingsError(Exception):
    """The settings cannot be used. ``lines`` has one line for each mistake. No line shows a secret."""

    lines: list[str]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Mistake(ValueError):
    """A value cannot be used; ``str(error)`` says why, and holds no secret."""


@frozen
class Kind(Generic[T]):
    """One type of setting.

    ``accepts`` completes the sentence "it takes …". ``parse`` raises ValueError for text that it does not accept, or
    Mistake, which says more.
    ``mask`` removes what is secret from a value, valid or not, before it is shown.
    """

    accepts: str
    parse: Callable[[str], T] = field(repr=False)
    mask: Callable[[str], str] = field(default=str, repr=False)

    @property
    def secret(self) -> bool:
        """Whether a value is never shown. Blanks at the ends of such a value are part of it."""
        return self.mask is mask_all


@frozen
class Networks:
    """A set of addresses and networks, IPv4 and IPv6, or everyone (``*``)."""

    networks: tuple[Network, ...] = ()
    everyone: bool = False

    @classmethod
    def parse(cls, text: str) -> Networks:
        """Reads a comma-separated list and skips empty items. Raises ValueError, also for a list without any item."""
        items = [item.strip() for item in text.split(",") if item.strip()]
        if not items:
            raise ValueError
        networks = tuple(_network(item) for item in items if item != "*")
        return cls(networks, "*" in items)

    def __contains__(self, address: str) -> bool:
        """Whether ``address`` (the host of a transport's peer) is in this set. An IPv4-mapped address counts as IPv4.

        Text that is not an address, such as the path of a UNIX socket, is in ``*`` only.
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
    """Reads an address or a network. Host bits may be set (``10.1.2.3/8``), as the servers that this one replaces
    allowed it."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _parse_boolean(text: str) -> bool:
    word = text.upper()
    if word in ("YES", "TRUE", "1", "ON"):
        return True
    if word in ("NO", "FALSE", "0", "OFF"):
        return False
    raise ValueError


def _parse_workers(text: str) -> int:
    return (
        min(len(os.sched_getaffinity(0)), MAX_WORKERS)
        if text.lower() == "auto"
        else integer(1, MAX_WORKERS).parse(text)
    )


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
    """Returns the absolute path, because twistd may change the working directory before the file is read."""
    if not os.path.isfile(text) or not os.access(text, os.R_OK):
        raise ValueError
    return os.path.abspath(text)


def integer(lowest: int, highest: int) -> Kind[int]:
    """A whole number in ASCII digits. Both bounds are included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not lowest <= int(text) <= highest:
            raise ValueError
        return int(text)

    return Kind(f"a whole number from {lowest} to {highest}", parse)


def decimal(lowest: float, highest: float) -> Kind[float]:
    """A number with at most three decimals. Both bounds are included."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text) or not lowest <= float(text) <= highest:
            raise ValueError
        return float(text)

    return Kind(f"a number from {lowest:g} to {highest:g}", parse)


def one_of(*words: str) -> Kind[str]:
    """One of ``words``, which are lower case. The text may be in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return Kind(" or ".join(words), parse)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """The same type, but None if the setting is empty."""
    return Kind(kind.accepts, lambda text: kind.parse(text) if text else None, kind.mask)


def url(*schemes: str, query: bool) -> Kind[str]:
    """An absolute URL with a host. User name, password and query are never shown."""

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
    """Returns the URL without user name, password and query. The text need not be a valid URL."""
    text = re.sub(r"^([a-z]+://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"\?.+", "?***", text, flags=re.DOTALL)


def mask_all(text: str) -> str:
    """Returns asterisks, or nothing for an empty text."""
    return "***" if text else ""


PORT: Final = integer(1, 65535)
BOOLEAN: Final = Kind("YES, TRUE, 1 or ON, or NO, FALSE, 0 or OFF", _parse_boolean)
ADDRESS: Final = Kind("an IPv4 or IPv6 address of this machine", _parse_address)
NETWORKS: Final = Kind(
    "addresses and networks separated by commas, such as 127.0.0.1,10.0.0.0/8,2001:db8::/32, or *", Networks.parse
)
TEXT: Final = Kind("text without control characters", _parse_text)
WORD: Final = Kind("printable ASCII characters without blanks", _parse_word)
FILE: Final = Kind("the path of a file that can be read", _parse_file)
WORDS: Final = Kind("words separated by blanks", lambda text: tuple(_parse_text(text).split()))
WORKERS: Final = Kind(f"a whole number from 1 to {MAX_WORKERS}, or auto", _parse_workers)
SECRET: Final = Kind("text without control characters", _parse_text, mask_all)
SECRET_WORD: Final = Kind("printable ASCII characters without blanks", _parse_word, mask_all)
