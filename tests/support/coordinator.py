"""A coordinator as the specification has it: a real WebSocket server that answers as a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import txaio
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import maybeDeferred

from tests.support.fakes import reactor, read_token, until

_silent = txaio.make_logger(level="none")  # type: ignore[attr-defined]

PATH = "/ws/control/rtmp"


def read_message(text: str) -> tuple[str, dict[str, str]]:
    """Returns the type and the parameters of a message. Does not use the code under test."""
    first, *lines = text.split("\n\n")[0].splitlines()
    parameters = {}
    for line in lines:
        name, _, value = line.partition(":")
        parameters[name.strip().lower()] = value.strip()
    return first.strip(), parameters


class Visit(WebSocketServerProtocol):  # type: ignore[misc]
    """One connection from a server under test."""

    log = _silent

    def onConnect(self, request: ConnectionRequest) -> None:
        coordinator: Coordinator = self.factory.coordinator
        coordinator.requests.append((request.path, dict(request.headers)))
        if coordinator.refuse is not None:
            raise ConnectionDeny(coordinator.refuse, "token refused")
        claims = read_token(request.headers.get("x-control-auth-token", ""), coordinator.secret)
        coordinator.tokens.append((request.headers["x-control-auth-token"], claims))

    def onOpen(self) -> None:
        coordinator: Coordinator = self.factory.coordinator
        coordinator.visits.append(self)
        coordinator.on_open(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        coordinator: Coordinator = self.factory.coordinator
        kind, parameters = read_message(payload.decode())
        coordinator.messages.append((kind, parameters))
        coordinator.on_message(self, kind, parameters)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        coordinator: Coordinator = self.factory.coordinator
        coordinator.closings.append((wasClean, code))
        if self in coordinator.visits:
            coordinator.visits.remove(self)

    def say(self, text: str) -> None:
        self.sendMessage(text.encode())

    def drop(self) -> None:
        """Aborts the connection."""
        self.transport.abortConnection()


OnMessage = Callable[[Visit, str, dict[str, str]], None]


def accept(visit: Visit, kind: str, parameters: dict[str, str]) -> None:
    """Accepts each publish with the stream id ``id-of-CHANNEL``, in the real coordinator's form: without blanks."""
    if kind == "PUBLISH-REQUEST":
        channel = parameters["stream-channel"]
        visit.say(
            f"PUBLISH-ACCEPT\nRequest-ID:{parameters['request-id']}\nStream-Channel:{channel}\n"
            f"Stream-ID:id-of-{channel}\n"
        )


def deny(visit: Visit, kind: str, parameters: dict[str, str]) -> None:
    if kind == "PUBLISH-REQUEST":
        visit.say(
            f"PUBLISH-DENY\nRequest-ID:{parameters['request-id']}\nStream-Channel:{parameters['stream-channel']}\n"
        )


def silent(visit: Visit, kind: str, parameters: dict[str, str]) -> None:
    """Receives everything and answers nothing."""


class Coordinator:
    """``on_open``, ``on_message`` and ``refuse`` (an HTTP status) may be replaced at any time."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.tokens: list[tuple[str, dict[str, Any]]] = []
        self.messages: list[tuple[str, dict[str, str]]] = []
        self.closings: list[tuple[bool, int | None]] = []
        self.visits: list[Visit] = []
        self.on_open: Callable[[Visit], None] = lambda visit: None
        self.on_message: OnMessage = accept
        self.refuse: int | None = None
        self._port: Any = None
        self._scheme = "ws"
        self._number = 0

    def listen(self, tls: Any = None) -> None:
        """Listens on a free port, or on the same port as before a `stop`."""
        factory = WebSocketServerFactory(reactor=reactor)
        factory.log = _silent
        factory.protocol = Visit
        factory.noisy = False
        factory.coordinator = self
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        if tls is None:
            self._port = reactor.listenTCP(self._number, factory, interface="127.0.0.1")
        else:
            self._scheme = "wss"
            self._port = reactor.listenSSL(self._number, factory, tls, interface="127.0.0.1")
        self._number = self._port.getHost().port

    @property
    def base_url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._number}"

    async def stop(self) -> None:
        """Stops listening, and drops all connections."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        for visit in list(self.visits):
            visit.drop()
        await until(lambda: not self.visits, "the end of all connections")

    @property
    def visit(self) -> Visit:
        """The connection that is open now."""
        return self.visits[-1]

    def heard(self, kind: str) -> list[dict[str, str]]:
        """Returns the parameters of all messages of one type that were received, in order."""
        return [parameters for name, parameters in self.messages if name == kind]
