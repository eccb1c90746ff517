"""A real redis-server on a free port, started and stopped by a test."""

from __future__ import annotations

import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.support.certificates import Authority, IssuedCertificate
from tests.support.fakes import reactor, within


def free_port() -> int:
    """Returns a free TCP port of 127.0.0.1. Another program may take it before it is used: be ready to try again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server(ProcessProtocol):
    def __init__(self) -> None:
        self.ready: Deferred[bool] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._output = b""

    def outReceived(self, data: bytes) -> None:
        self._output += data
        if not self.ready.called and b"Ready to accept connections" in self._output:
            self.ready.callback(True)

    def processEnded(self, reason: Failure) -> None:
        if not self.ready.called:
            self.ready.callback(False)
        self.ended.callback(None)


class RedisServer:
    """A redis-server with its own directory, until `dispose`. Its TCP port stays the same after `stop` and `start`.

    ``options`` are redis-server's, such as ``requirepass``. With ``tls`` the TCP port speaks TLS.
    """

    def __init__(
        self,
        *,
        tls: tuple[Authority, IssuedCertificate] | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        # Not trial's: the path of a UNIX socket may have about a hundred characters only.
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = 0
        self._options = {"save": "", "appendonly": "no", "bind": "127.0.0.1", "dir": str(self.directory)}
        self._options["unixsocket"] = "redis.sock"
        if tls is not None:
            authority, issued = tls
            self._options |= {"port": "0", "tls-cert-file": str(issued.certificate), "tls-key-file": str(issued.key)}
            self._options |= {"tls-ca-cert-file": str(authority.certificate), "tls-auth-clients": "no"}
        self._port_option = "port" if tls is None else "tls-port"
        self._options |= options or {}
        self._server: _Server | None = None
        self._process: Any = None

    async def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise AssertionError("redis-server is not installed; these tests need it")
        for _ in range(10):
            port = self.port or free_port()
            arguments = [program]
            for name, value in {**self._options, self._port_option: str(port)}.items():
                arguments += [f"--{name}", *(value.split(" ") if name == "user" else [value])]
            server = _Server()
            self._process = reactor.spawnProcess(server, program, arguments, env={}, path=str(self.directory))
            if await within(server.ready):
                self._server = server
                self.port = port
                return
        raise AssertionError("redis-server does not start")

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")
        await within(server.ended)

    async def dispose(self) -> None:
        await self.stop()
        shutil.rmtree(self.directory)

    def publish(self, channel: str, message: bytes | str, *login: str) -> int:
        """Publishes a message. Returns how many subscribers it reached. ``login`` are the arguments of AUTH."""
        body = message.encode() if isinstance(message, str) else message
        commands = [[b"AUTH", *(part.encode() for part in login)]] if login else []
        return int(self.ask(*commands, [b"PUBLISH", channel.encode(), body]).removeprefix(":"))

    def ask(self, *commands: list[bytes]) -> str:
        """Sends ``commands`` over the UNIX socket. Returns the last reply, which must be one line."""
        reply = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.directory / "redis.sock"))
            with connection.makefile("rwb") as stream:
                for command in commands:
                    stream.write(b"*%d\r\n" % len(command))
                    for part in command:
                        stream.write(b"$%d\r\n%s\r\n" % (len(part), part))
                    stream.flush()
                    reply = stream.readline()
                    if reply.startswith(b"-"):
                        raise AssertionError(f"Redis says {reply!r}")
        return reply.decode().strip()
