"""The form of addresses and stream ids that are exchanged with the callback and the coordinator. Pure."""

from __future__ import annotations

import ipaddress
import unicodedata

MAX_STREAM_ID = 1024
"""Longest stream id, in characters, that another party may give to a publish."""


def plain_address(address: str) -> str:
    """Returns ``address`` as text, an IPv4-mapped IPv6 address as IPv4. Anything that is no address is unchanged."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def stream_id_problem(stream_id: str) -> str | None:
    """Returns why ``stream_id`` cannot be used, or None if it can.

    A stream id has at most `MAX_STREAM_ID` characters, and none of them is a control character.
    """
    if len(stream_id) > MAX_STREAM_ID:
        return f"a stream id of {len(stream_id)} characters (the limit is {MAX_STREAM_ID})"
    if has_control_characters(stream_id):
        return "a stream id with control characters"
    return None
