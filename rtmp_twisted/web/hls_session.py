"""The following requests of an HLS player, on the connection of its first one, without the HTTP parser.

A player with low latency asks seven times a second, and twisted.web takes several times as long for a request as all
the rest. Once a connection has been let in for a stream by the usual way, requests of the same form for the same stream
are read here: a GET of a file in the same folder, with the same token, whole, alone and without a body. Any other one
takes the usual way, which may refuse it. Made by watch.py.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web import http

from rtmp_twisted.web.answers import SHARED
from rtmp_twisted.web.hls import Answer, Stream, Wanted

MAX_REQUEST: Final = 4096
"""Bytes of a request that is read here."""

_END: Final = b"\r\n\r\n"
_UNUSUAL: Final = re.compile(
    rb"(?i)\r\n(?:connection:(?!\s*keep-alive\s*\r)|content-length:|transfer-encoding:|expect:|upgrade:|range:|if-"
    rb"|[ \t:])"
)
"""Fields that the usual way has to see, and what is no field."""
_DIRECTIVE: Final = re.compile(rb"(_HLS_(?:msn|part|skip))=([\w]{1,12})")
_SHARED: Final = "".join(f"{name}: {value}\r\n" for name, value in SHARED.items()).encode()
_PHRASES: Final = {code: b"HTTP/1.1 %d %s\r\n" % (code, phrase) for code, phrase in http.RESPONSES.items()}


class Connection(Protocol):
    """The connection, between two requests."""

    def request_received(self) -> None:
        """A request is complete."""

    def wait(self) -> None:
        """Its answer has to wait. Nothing more is read until `answer`."""

    def answer(self, code: int, pieces: list[bytes]) -> None:
        """Writes an answer."""

    @property
    def lost(self) -> bool:
        """Whether it is not there any more."""


@frozen
class HLSSession:
    """``folder`` is the path of the stream with its slashes, ``token`` the field of the query that is needed, or empty,
    ``suffix`` what the URIs of playlists get; it ends at ``until`` by the clock, unless that is None."""

    clock: IReactorTime
    connection: Connection
    stream: Stream
    folder: bytes
    token: bytes
    suffix: bytes
    until: float | None

    def read(self, data: bytes) -> bool:
        """Answers a request, now or later; or returns False where it has to take the usual way."""
        wanted = self._wanted(data)
        if wanted is None:
            return False
        self.connection.request_received()
        if isinstance(wanted, Answer):
            self.answer(wanted)
        else:
            self.stream.ask(self, wanted)
        return True

    def _wanted(self, data: bytes) -> Wanted | Answer | None:
        if len(data) > MAX_REQUEST or not data.startswith(b"GET " + self.folder) or data.find(_END) != len(data) - 4:
            return None
        line, _, fields = data.partition(b"\r\n")
        target, _, version = line[4 + len(self.folder) :].partition(b" ")
        if version != b"HTTP/1.1" or _UNUSUAL.search(b"\r\n" + fields) is not None or self.stream.closed:
            return None
        if self.until is not None and self.clock.seconds() >= self.until:
            return None
        file, _, query = target.partition(b"?")
        arguments: dict[bytes, list[bytes]] = {}
        token = not self.token
        for field in query.split(b"&") if query else ():
            directive = _DIRECTIVE.fullmatch(field)
            if directive is not None:
                arguments[directive[1]] = [directive[2]]
            elif field == self.token:
                token = True
            else:
                return None
        return Wanted.parse(file.decode("latin-1"), arguments, self.suffix) if token else None

    # What the stream calls

    @property
    def gone(self) -> bool:
        return self.connection.lost

    def wait(self) -> None:
        self.connection.wait()

    def answer(self, answer: Answer) -> None:
        head = b"%s%sDate: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: %s\r\n\r\n" % (
            *(_PHRASES[answer.code], _SHARED, _date(self.clock), answer.content_type),
            *(sum(map(len, answer.body)), answer.caching),
        )
        self.connection.answer(answer.code, [head, *answer.body])


_dates: dict[str, Any] = {"second": None, "text": b""}


def _date(clock: IReactorTime) -> bytes:
    """The date as an answer's head has it, made once a second."""
    second = int(clock.seconds())
    if _dates["second"] != second:
        _dates["second"], _dates["text"] = second, http.datetimeToString()
    text: bytes = _dates["text"]
    return text
