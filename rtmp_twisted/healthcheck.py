"""``python -m rtmp_twisted.healthcheck``: tells whether the server on this machine, or in this container, is alive.

The exit status is 0 if the server answers an RTMP handshake. Otherwise it is 1, and one line says why. The settings are
read from the environment and ``.env``, as the server does it; settings that the server got as options are not known
here. This is a separate program with blocking I/O, without Twisted.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from rtmp_twisted.settings import Settings, SettingsError
from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.handshake import ClientHandshake

SECONDS = 5.0
"""Time limit for each step of the handshake."""


def check(settings: Settings) -> None:
    """Makes an RTMP handshake with RTMP_PORT. Raises OSError if it fails."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind_address, settings.bind_address)
    with socket.create_connection((host, settings.rtmp_port), SECONDS) as connection:
        handshake = ClientHandshake(os.urandom, lambda: 0)
        header = b"PROXY UNKNOWN\r\n" if host in settings.proxy_protocol_from else b""
        connection.sendall(header + handshake.start())
        while not handshake.done:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            try:
                connection.sendall(handshake.receive(data))
            except ProtocolError as problem:
                raise ConnectionError(f"another program than an RTMP server answered: {problem}") from None


def main() -> int:
    try:
        check(Settings.load(os.environ, {}, Path(".env")))
    except SettingsError as error:
        print("\n".join(error.lines))
        return 1
    except OSError as error:
        print(f"no RTMP server answers: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
