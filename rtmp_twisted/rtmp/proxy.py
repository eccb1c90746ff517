"""The PROXY protocol's header, versions 1 and 2: the address of the client behind a proxy. Used by listener.

Source: "The PROXY protocol", versions 1 & 2, by Willy Tarreau (HAProxy's doc/proxy-protocol.txt), sections 2.1 and 2.2.
Pure: bytes in, header out.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from attrs import frozen

from rtmp_twisted.wire.errors import ProtocolError

MAX_LINE = 107
"""Bytes of a version 1 header, with its CRLF (section 2.1)."""

MAX_HEADER = 4096
"""Bytes of a version 2 header. The format allows 65,551; addresses take at most 232, known additions a few hundred."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})\r\n")
_LOCAL, _PROXY = 0, 1
_OVER_TCP = {0x11: (IPv4Address, 4), 0x21: (IPv6Address, 16)}
_NOT_OVER_TCP = frozenset((0x00, 0x12, 0x22, 0x31, 0x32))  # unspecified, datagrams, UNIX sockets


@frozen
class ProxyHeader:
    """``size`` in bytes: what follows belongs to the client. ``address`` is the client's, IPv4 or IPv6 as the header
    has it; empty where the header names none: a proxy's own connection, or one that came to it by other ways."""

    size: int
    address: str = ""
    port: int = 0


def read_header(data: bytes) -> ProxyHeader | None:
    """The header that ``data`` begins with, or None while it is not all there. Raises ProtocolError for any other
    beginning, as soon as that is certain."""
    if data[:12] == _SIGNATURE[: len(data)]:
        return _read_version_2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _read_version_1(data)
    raise ProtocolError("no PROXY header")


def _read_version_1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_LINE) + 2
    if end < 2:
        if len(data) >= MAX_LINE:
            raise ProtocolError("a PROXY header without an end")
        return None
    if data.startswith(b"PROXY UNKNOWN"):
        return ProxyHeader(end)
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        raise ProtocolError("a PROXY header that is not understood")
    kind = IPv4Address if match[1] == b"4" else IPv6Address
    try:
        address, _ = kind(match[2].decode()), kind(match[3].decode())
    except ValueError:
        raise ProtocolError("a PROXY header with a wrong address") from None
    if int(match[4]) > 0xFFFF or int(match[5]) > 0xFFFF:
        raise ProtocolError("a PROXY header with a wrong port")
    return ProxyHeader(end, str(address), int(match[4]))


def _read_version_2(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    size = 16 + int.from_bytes(data[14:16], "big")
    if size > MAX_HEADER:
        raise ProtocolError(f"a PROXY header of {size} bytes")
    if len(data) < size:
        return None
    version, command = divmod(data[12], 16)
    if version != 2 or command > _PROXY:
        raise ProtocolError(f"a PROXY header of version {version} with command {command}")
    if command == _LOCAL or data[13] in _NOT_OVER_TCP:
        return ProxyHeader(size)
    if data[13] not in _OVER_TCP:
        raise ProtocolError(f"a PROXY header with protocol {data[13]:#x}")
    kind, length = _OVER_TCP[data[13]]
    if size < 16 + 2 * length + 4:
        raise ProtocolError("a PROXY header that is too short for its addresses")
    ports = 16 + 2 * length
    return ProxyHeader(size, str(kind(data[16 : 16 + length])), int.from_bytes(data[ports : ports + 2], "big"))
