"""What the viewers' site says in the head of its answers. Pure but for the date."""

from __future__ import annotations

from typing import Final

from twisted.web import http

SHARED: Final = {
    "Server": "rtmp-twisted",
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer has: media may be used by pages of any origin. The site knows no cookies."""

PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "86400",
    "Cache-Control": "no-store",
}
"""What the answer to OPTIONS has (Fetch, section 3.3)."""

ENDLESS: Final = {"Cache-Control": "no-store", "Accept-Ranges": "none", "X-Accel-Buffering": "no"}
"""What the head of a stream has: nobody may keep it, and nginx passes it on as it comes."""

TOO_MANY_REQUESTS: Final = 429
"""A status that twisted.web has no name for (RFC 6585, section 4)."""

_PHRASES: Final = {**http.RESPONSES, TOO_MANY_REQUESTS: b"Too Many Requests"}


def phrase(code: int) -> bytes:
    """The words that go with a status."""
    return _PHRASES.get(code, b"")


def head(code: int, headers: dict[str, str]) -> bytes:
    """The head of an answer that ends with its connection (RFC 9112, sections 4 and 6.3)."""
    lines = [f"HTTP/1.1 {code} {phrase(code).decode()}"]
    fields = {**SHARED, "Date": http.datetimeToString().decode(), "Connection": "close", **headers}
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def refusal(code: int, reason: str, with_body: bool) -> bytes:
    """A whole answer with an error, in words."""
    body = f"{reason}\n".encode()
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
    }
    return head(code, headers) + (body if with_body else b"")
