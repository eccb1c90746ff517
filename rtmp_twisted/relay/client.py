"""The client's side of an RTMP connection: connect, createStream, then publish or play (RTMP 1.0, section 7.2).

`ClientSession` is the handler of a connection in the client's role, as `ServerSession` is of one that came in. link
opens it; push and pull say what is published or played. Whatever the other server does ends this connection at most,
with a reason in words. What it says is bounded, and shown without the stream's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from rtmp_twisted._version import __version__
from rtmp_twisted.live.path import PATH
from rtmp_twisted.live.player import Player
from rtmp_twisted.peer_errors import PeerError, describe
from rtmp_twisted.reconnecting import OneShotEvent
from rtmp_twisted.relay_rules import Address
from rtmp_twisted.rtmp.connection import Connection
from rtmp_twisted.rtmp.interfaces import ConnectionState
from rtmp_twisted.rtmp.protocol import RTMPProtocol
from rtmp_twisted.rtmp.session import ENHANCED, MAX_COMMANDS, RECONNECT_REQUEST
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.messages import Command, Message

ANSWER_SECONDS: Final = 10
"""How long the other server may take for each answer."""

MAX_UNASKED: Final = 256 * 1024
"""Bytes a second that a server may send that is published to: it has nothing to say but answers."""

SHOWN: Final = 200
"""Characters of the other server's words that are shown."""

AGENT: Final = f"FMLE/3.0 (compatible; rtmp-twisted/{__version__})"
"""What servers are told: some look for the name that every encoder begins with."""

_PLAYS: Final[dict[str, amf0.Value]] = {
    "fpad": False,
    "capabilities": 239.0,
    "audioCodecs": 3575.0,
    "videoCodecs": 252.0,
    "videoFunction": 1.0,
}
"""What a player can do, as every player says it (section 7.2.1.1)."""


class Refused(PeerError):
    """The other server will not have it. ``redirect``: where to ask instead, or empty. ``key``: because of the key."""

    def __init__(self, reason: str, redirect: str = "", key: bool = False) -> None:
        super().__init__(reason)
        self.redirect = redirect
        self.key = key


class ClientOwner(Protocol):
    """Who is told what the other server says of what is published or played."""

    def told(self, code: str, info: dict[str, amf0.Value]) -> None:
        """A status that is no error."""

    def reconnect(self, url: str) -> None:
        """The other server asks to connect once more; to ``url``, or (empty) to where it is."""

    def checked(self, session: ClientSession) -> None:
        """Called every second or so."""

    def ended(self, session: ClientSession) -> None:
        """The connection is lost, or will be closed when what was sent has left."""


class ClientSession:
    """``wants_media``: it plays. ``lost`` happens when the transport is gone."""

    def __init__(self, connection: Connection, address: Address, owner: ClientOwner, wants_media: bool) -> None:
        self.connection = connection
        self.address = address
        self.lost = OneShotEvent()
        self.player: Player | None = None
        """What reads the channel that is published."""
        self.bit_rate = 0.0
        """Media in the last second, in bit/s."""
        self.settled = False
        """Whether it publishes or plays: from now on an error is the end."""
        self._owner = owner
        self._wants_media = wants_media
        self._ready: Deferred[None] = Deferred()
        self._answers: dict[float, Deferred[Command]] = {}
        self._status: Deferred[dict[str, amf0.Value]] | None = None  # awaited behind publish or play
        self._awaited = ""  # what is awaited, for the reason
        self._awaited_since = 0.0
        self._transaction = 0
        self._commands = 0
        self._delivered = 0
        self._stream_id = 0
        self._reason = ""

    # What opens it

    async def open(self, path: tuple[str, ...], offer: tuple[str, ...] = ()) -> int:
        """Shakes hands, connects, and creates a stream, whose id it returns. ``path``: the servers that the stream has
        passed; ``offer``: commands with the stream's name that encoders send before. Raises PeerError."""
        await self._ready
        connection, address = self.connection, self.address
        wishes: dict[str, amf0.Value] = {
            "app": address.app,
            **({} if self._wants_media else {"type": "nonprivate"}),
            "flashVer": AGENT,
            "tcUrl": address.tc_url,
            **(_PLAYS if self._wants_media else {}),
            **ENHANCED,
        }
        if path:
            wishes[PATH] = ",".join(path)
        await self._call("connect", wishes)
        connection.enter(ConnectionState.IDLE)
        for name in offer:
            self._send(name, None, address.name)
        created = (await self._call("createStream", None)).argument(1)
        if not isinstance(created, float) or not 1 <= created < 2**32:
            raise PeerError("createStream was answered without a stream")
        self._stream_id = int(created)
        return self._stream_id

    async def start(self, command: str, *arguments: amf0.Value) -> dict[str, amf0.Value]:
        """Publishes or plays; returns the status that says so. Raises PeerError."""
        self.connection.enter(ConnectionState.PLAYING if self._wants_media else ConnectionState.PUBLISHING)
        self._status = Deferred()
        self._await(command)
        self._send(command, None, self.address.name, *arguments, stream_id=self._stream_id)
        info = await self._status
        self.settled = True
        return info

    def send_command(self, name: str, *arguments: amf0.Value) -> None:
        """Sends a command whose answer does not matter."""
        self._send(name, None, *arguments)

    # KeptConnection

    def close(self, reason: str = "no longer wanted") -> None:
        """Says goodbye, and closes when all has been delivered. ``reason`` counts where nothing has happened before."""
        self._reason = self._reason or reason
        if self._stream_id and self.connection.state is not ConnectionState.CLOSING:
            if not self._wants_media:
                self.send_command("FCUnpublish", self.address.name)
            self.send_command("deleteStream", float(self._stream_id))
        self.connection.finish(self._reason)

    def abort(self) -> None:
        self.connection.abort(self._reason or "no longer wanted")

    def fail(self, reason: str) -> None:
        """Ends it at once, for a reason that is shown as its last error."""
        self._reason = self._reason or reason
        self.connection.abort(reason)

    # What the connection calls

    def handshaken(self) -> None:
        self._ready.callback(None)

    def receive(self, message: Message) -> None:
        if message.type_id == messages.USER_CONTROL:
            if messages.parse_user_control(message)[0] == messages.STREAM_EOF and self.settled:
                self._owner.told("NetStream.Play.Stop", {})  # what it means here
            return
        if message.type_id not in (messages.COMMAND_AMF0, messages.COMMAND_AMF3):
            return
        self._commands += 1
        if self._commands > MAX_COMMANDS:
            raise ProtocolError(f"more than {MAX_COMMANDS} commands in a second")
        command = messages.parse_command(message)
        if command.name in ("_result", "_error"):
            answer = self._answers.pop(command.transaction_id, None)
            if answer is None:
                return
            if command.name == "_result":
                answer.callback(command)
            else:
                answer.errback(self._refused(command.argument(1)))
        elif command.name == "onStatus":
            info = command.argument(1)
            if isinstance(info, dict):
                self._receive_status(info)

    def drained(self) -> None:
        if self.player is not None:
            self.player.resume()

    def blocked(self) -> None:
        if self.player is not None:
            self.player.blocked()

    def delivered(self) -> int:
        return 0 if self.player is None else self.player.delivered()

    def check(self, received: int, seconds: float) -> None:
        self._commands = 0
        delivered = self.delivered()
        moved = received if self._wants_media else delivered - self._delivered
        self._delivered = delivered
        if seconds > 0:
            self.bit_rate = 8 * moved / seconds
        if not self._wants_media and received > MAX_UNASKED * max(seconds, 1):
            self.fail("it sends data that nobody has asked for")
        elif self._awaited and self._now() - self._awaited_since >= ANSWER_SECONDS:
            self.fail(f"no answer to {self._awaited} within {ANSWER_SECONDS} s")
        else:
            self._owner.checked(self)

    def end(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._owner.ended(self)
        waiting: list[Deferred[Any]] = [self._ready, *self._answers.values()]
        waiting += [] if self._status is None else [self._status]
        self._answers.clear()
        for deferred in waiting:
            if not deferred.called:
                deferred.errback(PeerError(self._reason))
                deferred.addErrback(lambda _: None)  # perhaps nobody waits for it

    def gone(self) -> None:
        """The transport is gone."""
        self.lost.happen(self._reason)

    # Inside

    def _now(self) -> float:
        return self.connection.options.clock.seconds()

    def _await(self, what: str) -> None:
        self._awaited, self._awaited_since = what, self._now()

    def _send(self, name: str, *arguments: amf0.Value, stream_id: int = 0) -> int:
        self._transaction += 1
        self.connection.send(messages.command(name, self._transaction, *arguments, stream_id=stream_id))
        return self._transaction

    async def _call(self, name: str, *arguments: amf0.Value) -> Command:
        answer: Deferred[Command] = Deferred()
        self._await(name)
        self._answers[self._send(name, *arguments)] = answer
        command = await answer
        self._awaited = ""
        return command

    def _receive_status(self, info: dict[str, amf0.Value]) -> None:
        code = info.get("code")
        if not isinstance(code, str):
            return
        if code == RECONNECT_REQUEST:
            self._reason = "it asked to reconnect"  # whatever it says until then
            url = info.get("tcUrl")
            self._owner.reconnect(url if isinstance(url, str) else "")
        elif info.get("level") == "error" or code in _ENDS:
            error = self._refused(info)
            if self._status is not None and not self._status.called:
                self._awaited = ""
                self._status.errback(error)
            elif self.settled:
                self.fail(str(error))
        else:
            if self._status is not None and not self._status.called and code in _STARTS:
                self._awaited = ""
                self._status.callback(info)
            self._owner.told(code, info)

    def _refused(self, info: amf0.Value) -> Refused:
        """What the other server says of a refusal, in words."""
        fields = info if isinstance(info, dict) else {}
        code, description = self._shown(fields.get("code")), self._shown(fields.get("description"))
        said = f" ({': '.join(filter(None, (code, description)))})" if code or description else ""
        more = fields.get("ex")
        redirect = more.get("redirect") if isinstance(more, dict) else fields.get("redirect")
        if isinstance(redirect, str) and redirect:
            return Refused(f"it sends us elsewhere{said}", redirect)
        key = code.endswith(".BadName")
        return Refused(f"it refused {'the key' if key else 'that'}{said}", key=key)

    def _shown(self, text: amf0.Value) -> str:
        """The other server's words without what may be the key, on one line."""
        if not isinstance(text, str):
            return ""
        name, app = self.address.name, self.address.app
        for secret in filter(None, (name, name.partition("?")[0], "" if name else app)):
            text = text.replace(secret, "***")
        return "".join(character if character.isprintable() else " " for character in text)[:SHOWN].strip()


class ClientProtocol(RTMPProtocol):
    """Twisted's side of such a connection."""

    problem: Callable[[], str]
    """What TLS has found out about the other server, or an empty text."""

    def __init__(self, session: ClientSession, problem: Callable[[], str]) -> None:
        super().__init__(session.connection)
        self.session = session
        self.problem = problem

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connection.lost(self.problem() or _end(reason))
        self.session.gone()
        transport: Any = None
        self.transport = transport


def _end(reason: Failure) -> str:
    words = describe(reason)
    return "it closed the connection" if words.startswith("Connection was closed cleanly") else words


_STARTS: Final = frozenset(("NetStream.Publish.Start", "NetStream.Play.Start"))
_ENDS: Final = frozenset(
    (
        "NetConnection.Connect.Rejected",
        "NetConnection.Connect.Closed",
        "NetStream.Publish.BadName",
        "NetStream.Publish.Denied",
        "NetStream.Unpublish.Success",
        "NetStream.Play.BadName",
        "NetStream.Play.StreamNotFound",
        "NetStream.Play.Failed",
        "NetStream.Failed",
    )
)
"""Statuses that end what is published or played, whatever their level says."""
