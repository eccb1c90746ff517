"""What callback and coordinator may be told and may answer: addresses and stream ids. Pure; used in integrations/."""

from __future__ import annotations

import ipaddress
import unicodedata

#: Longest stream id, in characters, that another party may give to a publish.
MAX_STREAM_ID = 1024


def plain_address(address: str) -> str:
    """``address`` as text, an IPv4-mapped IPv6 address written as IPv4; anything else unchanged."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def stream_id_problem(stream_id: str) -> str | None:
    """Why ``stream_id`` cannot be used, or None: at most 1,024 characters, none of them a control character."""
    if len(stream_id) > MAX_STREAM_ID:
        return f"a stream id of {len(stream_id)} characters (at most {MAX_STREAM_ID} are taken)"
    if has_control_characters(stream_id):
        return "a stream id with control characters"
    return None
