"""Small rules on texts that callback, coordinator and Redis share: addresses, stream ids, reasons for the log.

Pure; called from outside/ only.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from typing import Any

from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionClosed, DNSLookupError
from twisted.python.failure import Failure

#: Longest stream id, in characters, that another party may give to a publish.
MAX_STREAM_ID = 1024


class LinkError(Exception):
    """Another party did not do what was expected; the text is made here and holds nothing secret."""


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


def describe(problem: BaseException | Failure | None) -> str:
    """What went wrong, for a log line, without a text that could hold a secret.

    Libraries put what was sent (an AUTH command, a URL with a password) into the texts of their exceptions, so only
    the texts of the network's own errors are shown, and of others their type.
    """
    error: Any = problem.value if isinstance(problem, Failure) else problem
    while reasons := getattr(error, "reasons", None):
        error = reasons[0].value
    name = type(error).__name__
    if isinstance(error, LinkError):
        return str(error)
    if isinstance(error, (ConnectError, ConnectionClosed, ConnectionAborted, DNSLookupError)):
        return str(error).rstrip(".")
    if name in ("TimeoutError", "CancelledError"):
        return "no answer in time"
    if type(error).__module__.startswith("OpenSSL."):
        return f"TLS: {_openssl_reasons(error)}"
    if type(error).__module__.startswith("service_identity"):
        return f"TLS: the certificate is for another name ({name})"
    return name


def _openssl_reasons(error: BaseException) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(str(entry[-1]) for entry in entries if isinstance(entry, tuple) and entry) or "connection failed"
