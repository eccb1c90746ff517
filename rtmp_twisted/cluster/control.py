"""The control channel between the supervisor and one worker: questions and answers, and sockets that are handed over.

It is AMP over a UNIX socket pair, with one command. A call has a name, values (as JSON), a file descriptor perhaps, and
an answer of the same kind. AMP's values end at 64 kB, so what is longer goes ahead in pieces. Both ends trust each
other: they are processes of one program, and nobody else has the socket.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from itertools import count
from typing import Any, Final, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

PIECE: Final = 60_000
"""Bytes of a value that AMP takes, a little less than 64 kB."""

_log = Logger()


class _Piece(amp.Command):
    """A part of values that are too long, which belong to the next call or answer with this number."""

    arguments = [(b"number", amp.Integer()), (b"data", amp.String())]
    requiresAnswer = False


class _Call(amp.Command):
    arguments = [
        (b"name", amp.String()),
        (b"values", amp.String()),
        (b"ahead", amp.Integer()),
        (b"descriptor", amp.Descriptor(optional=True)),
    ]
    response = [(b"values", amp.String()), (b"ahead", amp.Integer())]


class _Tell(amp.Command):
    arguments = [(b"name", amp.String()), (b"values", amp.String()), (b"ahead", amp.Integer())]
    requiresAnswer = False


class Gone(Exception):
    """The other process has gone, before or instead of an answer."""


class Failed(Exception):
    """The other process could not answer, for a reason that it has logged."""


class Control(amp.AMP):
    """One end. ``handlers``, by name, are called with the values of a call, and ``descriptor`` where it has one, which
    they own. They return values, nothing, or a Deferred of these. ``gone`` is called when the other end is."""

    noisy = False

    def __init__(self, handlers: dict[str, Callable[..., Any]], gone: Callable[[], None]) -> None:
        super().__init__()
        self.handlers = handlers
        self._gone = gone
        self._numbers = count(1)
        self._ahead: dict[int, bytearray] = {}

    def call(self, name: str, descriptor: int | None = None, **values: Any) -> Deferred[dict[str, Any]]:
        """Fires with the answer. Fails with `Gone` or `Failed`. A ``descriptor`` that is sent has to stay open until
        then."""
        if self.transport is None:
            return _failed(Gone())
        ahead, text = self._send_ahead(values)
        asked: Deferred[Any] = self.callRemote(
            _Call, name=name.encode(), values=text, ahead=ahead, descriptor=descriptor
        )
        return asked.addCallbacks(self._read, self._fail)

    def tell(self, name: str, **values: Any) -> None:
        """The same without an answer. Does nothing where the other end is gone."""
        if self.transport is not None:
            ahead, text = self._send_ahead(values)
            self.callRemote(_Tell, name=name.encode(), values=text, ahead=ahead)

    def abort(self) -> None:
        if self.transport is not None:
            cast(Any, self.transport).abortConnection()

    # Inside

    def _send_ahead(self, values: dict[str, Any]) -> tuple[int, bytes]:
        """Sends what is too long, and returns its number (0 for none) and the rest."""
        text = json.dumps(values, separators=(",", ":")).encode()
        if len(text) <= PIECE:
            return 0, text
        number = next(self._numbers)
        while len(text) > PIECE:
            self.callRemote(_Piece, number=number, data=text[:PIECE])
            text = text[PIECE:]
        return number, text

    def _values(self, ahead: int, text: bytes) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(bytes(self._ahead.pop(ahead)) + text if ahead else text)
        return found

    def _read(self, box: dict[str, Any]) -> dict[str, Any]:
        values = self._values(box["ahead"], box["values"])
        if "failed" in values:
            raise Failed
        return values

    def _fail(self, failure: Failure) -> Any:
        raise Gone

    @_Piece.responder
    def _take_piece(self, number: int, data: bytes) -> dict[str, Any]:
        self._ahead.setdefault(number, bytearray()).extend(data)
        return {}

    @_Tell.responder
    def _take_tell(self, name: bytes, values: bytes, ahead: int) -> dict[str, Any]:
        self._take_call(name, values, ahead)
        return {}

    @_Call.responder
    def _take_call(self, name: bytes, values: bytes, ahead: int, descriptor: int | None = None) -> Deferred[Any]:
        answer = maybeDeferred(self._handle, name.decode(), values, ahead, descriptor)
        return answer.addErrback(self._bug, name).addCallback(self._answer)

    def _handle(self, name: str, text: bytes, ahead: int, descriptor: int | None) -> Any:
        values = self._values(ahead, text)
        if descriptor is not None:
            values["descriptor"] = descriptor
        return self.handlers[name](**values)

    def _bug(self, failure: Failure, name: bytes) -> dict[str, Any]:
        """An exception would end the channel, and with it the worker."""
        if not failure.check(Gone, Failed):
            _log.failure("a bug in an answer to another process ({name})", failure, name=name.decode())
        return {"failed": True}

    def _answer(self, answer: dict[str, Any] | None) -> dict[str, Any]:
        ahead, text = self._send_ahead(answer or {})
        return {"values": text, "ahead": ahead}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.transport = None
        self._gone()


def _failed(error: Exception) -> Deferred[Any]:
    failed: Deferred[Any] = Deferred()
    failed.errback(error)
    return failed


def attach(reactor: Any, descriptor: int, control: Control) -> None:
    """Has ``control`` speak over one end of the socket pair, of which a copy is taken."""
    reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, _One(control))


class _One(Factory):
    noisy = False

    def __init__(self, control: Control) -> None:
        self._control = control

    def buildProtocol(self, addr: object) -> Control:
        return self._control
