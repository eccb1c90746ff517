"""``python -m rtmp_twisted.healthcheck``: whether the server of this machine, or container, answers a client.

Exit status 0 if it does, 1 with one line if not. Reads the same settings as the server, from the environment and
``.env``; it does not see what was given as options. A program of its own: blocking, without Twisted.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from rtmp_twisted.settings import Settings, SettingsError

SECONDS = 5.0
"""For each step of the handshake."""

_PART = 1536


def check(settings: Settings) -> None:
    """A handshake with RTMP_PORT. Raises OSError where it fails."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind_address, settings.bind_address)
    with socket.create_connection((host, settings.rtmp_port), SECONDS) as connection:
        hello = b"\x03" + bytes(8) + os.urandom(_PART - 8)
        if host in settings.proxy_protocol_from:
            hello = b"PROXY UNKNOWN\r\n" + hello
        connection.sendall(hello)
        answer = b""
        while len(answer) < 1 + 2 * _PART:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            answer += data
        if answer[0] != 3:
            raise ConnectionError("what answers is no RTMP server")
        connection.sendall(answer[1 : 1 + _PART])


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
