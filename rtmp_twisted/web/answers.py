"""What the viewers' site says in the head of its answers. Pure but for the date."""

from __future__ import annotations

from typing import Final

from twisted.web import http
from twisted.web.server import Request

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

SMALL: Final = 16 * 1024
"""Bytes of an answer up to which its head and its body are put together."""

OVERHEAD: Final = 1500
"""Bytes of memory that an answer takes beside its body."""

_SHARED_LINES: Final = "".join(f"{name}: {value}\r\n" for name, value in SHARED.items()).encode()

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


class Answer:
    """A whole answer, which many may get. ``body`` is in pieces; ``seconds``: how long caches may keep it."""

    __slots__ = ("_date", "_message", "body", "code", "fields", "size")

    def __init__(
        self,
        code: int,
        body: tuple[bytes, ...] = (),
        content_type: bytes = b"text/plain; charset=utf-8",
        seconds: int = 1,
        immutable: bool = False,
    ) -> None:
        self.code = code
        self.body = body
        self.size = sum(map(len, body))
        caching = b"public, max-age=%d" % seconds if seconds else b"no-store"
        self.fields = (
            (b"Content-Type", content_type),
            (b"Content-Length", b"%d" % self.size),
            (b"Cache-Control", caching + (b", immutable" if immutable else b"")),
        )
        self._date = b""
        self._message: list[bytes | memoryview] = []

    @property
    def held(self) -> int:
        """Bytes of memory that it takes beside long bodies, which are others'."""
        return OVERHEAD + (2 * self.size if self.size <= SMALL else 0)

    def message(self, date: bytes) -> list[bytes | memoryview]:
        """Returns it as it leaves on a persistent connection (RFC 9112, section 4), in pieces. ``date`` is that of the
        moment; the same object gets the same message, which is made once."""
        if date is not self._date:
            status = b"HTTP/1.1 %d %s\r\nDate: %s\r\n" % (self.code, phrase(self.code), date)
            lines = b"".join(b"%s: %s\r\n" % field for field in self.fields)
            whole = [b"".join((status, _SHARED_LINES, lines, b"\r\n")), *self.body]
            self._date, self._message = date, [b"".join(whole)] if self.size <= SMALL else [*whole]
        return self._message

    def write(self, request: Request) -> None:
        """Answers a request of twisted.web."""
        request.setResponseCode(self.code)
        for name, value in self.fields:
            request.setHeader(name, value)
        if request.method != b"HEAD":
            for piece in self.body:
                request.write(piece)
        request.finish()


def problem(code: int, text: str, seconds: int = 1) -> Answer:
    """An answer with an error, in words; ``seconds``: how long caches may keep it."""
    return Answer(code, (f"{text}\n".encode(),), seconds=seconds)
