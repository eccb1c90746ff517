"""Broken and hostile clients: each is a function that makes one connection, and ends it in its own way.

Blocking sockets, in threads. A stranger may raise OSError, since the server may close the connection at any time. It
returns a socket that it leaves open, which is closed after many others have come, or None.
"""

from __future__ import annotations

import math
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from benchmark import rtmp

TIMEOUT_S = 30.0
CHANNEL = "bench0"
KEY = "key"
"""The channel that is on air, and its key."""


@dataclass(frozen=True)
class Target:
    """Where the server is, the address to come from, and until when (in monotonic seconds) an attacker goes on."""

    port: int
    ssl_port: int
    source: str
    http_port: int = 0
    web_port: int = 0
    web_ssl_port: int = 0
    until: float = math.inf

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until


Stranger = Callable[[Target], socket.socket | None]


def connect(target: Target, secured: bool = False) -> socket.socket:
    port = target.ssl_port if secured else target.port
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S, (target.source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reset(connection: socket.socket) -> None:
    """Closes with an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_to_end(connection: socket.socket) -> None:
    """Reads until the server closes the connection."""
    with connection, suppress(OSError):
        while connection.recv(65536):
            pass


def read_until(connection: socket.socket, text: bytes) -> None:
    """Reads until ``text`` has arrived. Raises OSError if it does not."""
    seen = b""
    while text not in seen:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError(f"closed before {text!r}")
        seen = (seen + data)[-65536:]


def opened(target: Target, app: str) -> socket.socket:
    """Connects to an application: handshake and ``connect``."""
    connection = connect(target)
    connection.sendall(rtmp.handshake(random.randbytes(1528)) + bytes(1536) + rtmp.connect("host", 1935, app))
    read_until(connection, b"NetConnection.Connect.Success")
    return connection


def publishing(target: Target, chunk_size: int = 4096) -> socket.socket:
    """A connection that publishes on a channel of its own."""
    connection = opened(target, f"own{random.randrange(10**9)}")
    connection.sendall(rtmp.publish(1, "key", chunk_size))
    read_until(connection, b"NetStream.Publish.Start")
    return connection


def leaves_at_once(target: Target) -> None:
    connect(target).close()


def resets_at_once(target: Target) -> None:
    reset(connect(target))


def leaves_in_the_handshake(target: Target) -> None:
    with connect(target) as connection:
        connection.sendall(rtmp.handshake(random.randbytes(1528))[: random.randrange(1, 1537)])


def stays_silent(target: Target) -> socket.socket:
    return connect(target)


def stays_silent_in_the_handshake(target: Target) -> socket.socket:
    connection = connect(target)
    connection.sendall(rtmp.handshake(random.randbytes(1528))[: random.randrange(1, 1537)])
    return connection


def stays_silent_in_tls(target: Target) -> socket.socket:
    connection = connect(target, secured=True)
    connection.sendall(client_hello()[: random.choice((5, 100, 10_000))])
    return connection


def talks_nonsense(target: Target) -> None:
    connection = connect(target)
    connection.sendall(b"\x03" * random.choice((0, 1)) + random.randbytes(random.randrange(1, 20_000)))
    connection.shutdown(socket.SHUT_WR)
    read_to_end(connection)


def talks_nonsense_as_rtmp(target: Target) -> None:
    connection = connect(target)
    connection.sendall(rtmp.handshake(random.randbytes(1528)) + bytes(1536) + random.randbytes(5000))
    connection.shutdown(socket.SHUT_WR)
    read_to_end(connection)


def talks_http(target: Target) -> None:
    connection = connect(target)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    read_to_end(connection)


def talks_tls_to_rtmp(target: Target) -> None:
    connection = connect(target)
    connection.sendall(client_hello())
    read_to_end(connection)


def talks_rtmp_to_tls(target: Target) -> None:
    connection = connect(target, secured=True)
    connection.sendall(rtmp.handshake(random.randbytes(1528)))
    read_to_end(connection)


def leaves_in_tls(target: Target) -> None:
    connection = connect(target, secured=True)
    connection.sendall(client_hello())
    connection.recv(random.choice((1, 65536)))
    reset(connection)


def publishes_over_tls_and_resets(target: Target) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = context.wrap_socket(connect(target, secured=True))
    connection.sendall(rtmp.handshake(random.randbytes(1528)) + bytes(1536))
    connection.sendall(rtmp.connect("host", 1935, f"own{random.randrange(10**9)}"))
    read_until(connection, b"NetConnection.Connect.Success")
    connection.sendall(rtmp.publish(1, "key", 4096) + media(3000)[:2000])
    reset(connection)


def sends_byte_by_byte(target: Target) -> None:
    with connect(target) as connection:
        for byte in rtmp.handshake(random.randbytes(1528))[:100]:
            connection.sendall(bytes((byte,)))
            time.sleep(0.001)


def resets_in_a_message(target: Target) -> None:
    connection = publishing(target)
    connection.sendall(media(100_000)[: random.randrange(1, 100_000)])
    reset(connection)


def publishes_and_vanishes(target: Target) -> None:
    connection = publishing(target)
    connection.sendall(media(1000) * 5)
    connection.close()


def publishes_and_leaves(target: Target) -> None:
    with publishing(target) as connection:
        connection.sendall(media(1000) + rtmp.command("deleteStream", 5.0, None, 1.0, chunk_size=4096))


def announces_much(target: Target) -> None:
    """As a publisher, announces 16 MiB on each of many chunk streams, and sends one chunk of each."""
    connection = publishing(target)
    for number in range(200):
        connection.sendall(bytes((0, number)) + b"\0\0\0\xff\xff\xff\x09\1\0\0\0" + bytes(4096))
    reset(connection)


def announces_much_too_early(target: Target) -> None:
    connection = opened(target, "early")
    connection.sendall(b"\x05\0\0\0\xff\xff\xff\x14\0\0\0\0" + bytes(128))
    read_to_end(connection)


def floods_with_commands(target: Target) -> None:
    connection = opened(target, "flood")
    with suppress(OSError):
        for _ in range(200):
            connection.sendall(rtmp.command("_checkbw", 9.0, None) * 10)
    read_to_end(connection)


def plays_and_never_reads(target: Target) -> socket.socket:
    connection = connect(target)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(rtmp.handshake(random.randbytes(1528)) + bytes(1536) + rtmp.connect("host", 1935, CHANNEL))
    connection.sendall(rtmp.play(1, KEY))
    return connection


def plays_and_resets(target: Target) -> None:
    connection = opened(target, CHANNEL)
    connection.sendall(rtmp.play(1, KEY))
    read_until(connection, b"NetStream.Play.Start")
    connection.recv(65536)
    reset(connection)


def plays_with_a_wrong_key(target: Target) -> None:
    connection = opened(target, CHANNEL)
    connection.sendall(rtmp.play(1, "wrong"))
    read_to_end(connection)


def publishes_where_somebody_does(target: Target) -> None:
    connection = opened(target, CHANNEL)
    connection.sendall(rtmp.publish(1, random.choice((KEY, "wrong")), 4096))
    read_to_end(connection)


def comes_with_a_crowd(target: Target) -> None:
    """More connections from one address than are allowed: the server closes those beyond the limit at once."""
    crowd = []
    with suppress(OSError):
        crowd = [connect(target, secured=number % 2 == 1) for number in range(12)]
    for connection in crowd:
        reset(connection)


def media(size: int) -> bytes:
    """A keyframe of ``size`` bytes, in chunks of 4096."""
    return rtmp.chunks(6, rtmp.VIDEO, 0, 1, b"\x17\x01\0\0\0" + bytes(size), 4096)


def client_hello() -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


RTMP_STRANGERS: list[Stranger] = [
    leaves_at_once,
    resets_at_once,
    leaves_in_the_handshake,
    stays_silent,
    stays_silent_in_the_handshake,
    stays_silent_in_tls,
    talks_nonsense,
    talks_nonsense_as_rtmp,
    talks_http,
    talks_tls_to_rtmp,
    talks_rtmp_to_tls,
    leaves_in_tls,
    publishes_over_tls_and_resets,
    sends_byte_by_byte,
    resets_in_a_message,
    publishes_and_vanishes,
    publishes_and_leaves,
    announces_much,
    announces_much_too_early,
    floods_with_commands,
    plays_and_never_reads,
    plays_and_resets,
    plays_with_a_wrong_key,
    publishes_where_somebody_does,
    comes_with_a_crowd,
]
