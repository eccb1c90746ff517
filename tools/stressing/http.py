"""Hostile HTTP clients, as ``strangers`` and ``attackers`` are of RTMP: of the viewers' site, over TLS too, and of the
operators'."""

from __future__ import annotations

import random
import socket
import ssl
import time
from contextlib import ExitStack, suppress

from .strangers import CHANNEL, KEY, TIMEOUT_S, Target, client_hello, read_to_end, read_until, reset

PAGE = f"/{CHANNEL}/{KEY}"
FLV = f"{PAGE}.flv"
MP4 = f"{PAGE}.mp4"
BATCH = 16 * 1024
HELD = 250
"""Half requests that an attacker holds at a time."""

SHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + "A" * 22 + "==",
)


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def connect(target: Target, port: int | None = None, receive_buffer: int = 0) -> socket.socket:
    """A connection to the web server, or to another port."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(min(TIMEOUT_S, max(0.1, target.until - time.monotonic())))
    connection.bind((target.source, 0))
    connection.connect(("127.0.0.1", target.web_port if port is None else port))
    return connection


def secured(target: Target) -> socket.socket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connect(target, target.web_ssl_port))


# Strangers


def leaves_in_a_request(target: Target) -> None:
    with connect(target) as connection:
        connection.sendall(request(FLV)[: random.randrange(1, 40)])


def stays_silent_in_a_request(target: Target) -> socket.socket:
    connection = connect(target)
    connection.sendall(request(FLV)[: random.randrange(0, 40)])
    return connection


def talks_nonsense_to_http(target: Target) -> None:
    connection = connect(target)
    connection.sendall(b"GET " * random.choice((0, 1)) + random.randbytes(random.randrange(1, 20_000)))
    connection.shutdown(socket.SHUT_WR)
    read_to_end(connection)


def talks_tls_to_http(target: Target) -> None:
    connection = connect(target)
    connection.sendall(client_hello() + b"\r\n\r\n")
    read_to_end(connection)


def watches_and_resets(target: Target) -> None:
    connection = secured(target) if random.random() < 0.3 else connect(target)
    connection.sendall(request(random.choice((FLV, MP4))))
    read_until(connection, b" 200 ")
    connection.recv(65536)
    reset(connection)


def watches_and_never_reads(target: Target) -> socket.socket:
    connection = connect(target, receive_buffer=4096)
    connection.sendall(request(random.choice((FLV, MP4)), *random.choice(((), SHAKE))))
    return connection


def waits_and_leaves(target: Target) -> None:
    connection = connect(target)
    connection.sendall(request(f"/own{random.randrange(10**9)}/key.flv"))
    time.sleep(0.01)
    connection.close()


def watches_with_a_wrong_key(target: Target) -> None:
    connection = connect(target)
    connection.sendall(request(f"/{CHANNEL}/wrong.flv"))
    read_to_end(connection)


def breaks_websocket(target: Target) -> None:
    connection = connect(target)
    connection.sendall(request(FLV, *SHAKE))
    read_until(connection, b" 101 ")
    connection.sendall(random.randbytes(100))
    reset(connection) if random.random() < 0.5 else read_to_end(connection)


def asks_for_segments(target: Target) -> None:
    connection = connect(target)
    connection.sendall(request(f"{PAGE}/index.m3u8") + request(f"{PAGE}/v0.m3u8?_HLS_msn=1") + request(f"{PAGE}/x"))
    connection.recv(65536)
    reset(connection)


STRANGERS = [
    leaves_in_a_request,
    stays_silent_in_a_request,
    talks_nonsense_to_http,
    talks_tls_to_http,
    watches_and_resets,
    watches_and_never_reads,
    waits_and_leaves,
    watches_with_a_wrong_key,
    breaks_websocket,
    asks_for_segments,
]


# Attackers


def half_requests(target: Target) -> None:
    """Connections to the viewers' ports that never finish their request, one after the other as fast as they can."""
    _half_requests(target, target.web_port, target.web_ssl_port)


def operators_half_requests(target: Target) -> None:
    """The same on the operators' port."""
    _half_requests(target, target.http_port)


def requests_without_end(target: Target) -> None:
    """The page and what is not there, many requests in one piece, again and again."""
    _exchange(target, target.web_port, request(PAGE, method="HEAD") + request("/nothing"))


def operators_requests_without_end(target: Target) -> None:
    """The same on the operators' port, which takes one request a connection."""
    with connect(target, target.http_port) as connection:
        connection.sendall(request(random.choice(("/metrics", "/api/v1/channels", "/nothing"))))
        read_to_end(connection)


def answers_that_nobody_reads(target: Target) -> None:
    """Many requests in one piece for the page, without reading an answer."""
    with ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(connect(target, receive_buffer=4096))
            with suppress(OSError):
                connection.setblocking(False)
                connection.send(request(PAGE) * 1000)
        time.sleep(0.2)


def long_heads(target: Target) -> None:
    """Heads of requests that grow to the limit, and beyond it."""
    with connect(target) as connection, suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * random.choice((400, 2000, 20_000)) + b"\r\n")
        read_to_end(connection)


def viewers_that_never_read(target: Target) -> None:
    """Viewers, as many as an address may have, who read nothing and leave after a while."""
    with ExitStack() as stack:
        for number in range(64):
            connection = stack.enter_context(connect(target, receive_buffer=4096))
            connection.sendall(request((FLV, MP4)[number % 2]))
        time.sleep(1.0)


def viewers_that_come_and_go(target: Target) -> None:
    """Viewers who leave with the first bytes."""
    watch_a_moment(target, CHANNEL)


def watch_a_moment(target: Target, channel: str) -> None:
    """A viewer who leaves with the first bytes."""
    with connect(target) as connection:
        path = f"/{channel}/{KEY}.{random.choice(('flv', 'mp4'))}"
        connection.sendall(request(path, *random.choice(((), SHAKE))))
        connection.recv(1024)


def guessing_over_http(target: Target) -> None:
    """Wrong keys, for streams and for segments."""
    key = f"guess{random.randrange(10**9)}"
    with connect(target) as connection:
        connection.sendall(request(f"/{CHANNEL}/{key}{random.choice(('.flv', '/index.m3u8'))}", "Connection: close"))
        read_to_end(connection)


def channels_without_end(target: Target) -> None:
    """Waits for publishers of channels that nobody knows."""
    with ExitStack() as stack:
        for _ in range(64):
            connection = stack.enter_context(connect(target))
            suffix = random.choice((".flv", ".mp4", "/index.m3u8"))
            connection.sendall(request(f"/own{random.randrange(10**9)}/key{suffix}"))
        time.sleep(0.1)


def pings_without_end(target: Target) -> None:
    """A WebSocket client that pings as fast as it can, and reads nothing."""
    with connect(target, receive_buffer=4096) as connection, suppress(OSError):
        connection.sendall(request(FLV, *SHAKE))
        connection.recv(1024)
        while not target.is_over:
            connection.sendall((b"\x89\xfd" + bytes(4 + 125)) * 100)


def tls_handshakes_without_end(target: Target) -> None:
    """Handshakes over TLS, each for one request."""
    with suppress(ssl.SSLError), secured(target) as connection:
        connection.sendall(request("/nothing", "Connection: close"))
        read_to_end(connection)


ATTACKERS = [
    half_requests,
    operators_half_requests,
    requests_without_end,
    operators_requests_without_end,
    answers_that_nobody_reads,
    long_heads,
    viewers_that_never_read,
    viewers_that_come_and_go,
    guessing_over_http,
    channels_without_end,
    pings_without_end,
    tls_handshakes_without_end,
]


def _half_requests(target: Target, *ports: int) -> None:
    with ExitStack() as stack:
        for _ in range(HELD):
            if target.is_over:
                return
            connection = stack.enter_context(connect(target, random.choice(ports)))
            connection.sendall(b"GET /tv/key.flv HTTP/1.1\r\nHost: localhost\r\nX: ")


def _exchange(target: Target, port: int, piece: bytes) -> None:
    """Sends a request again and again, and reads the answers."""
    with connect(target, port) as connection:
        batch = piece * (BATCH // len(piece))
        connection.settimeout(0.01)
        while not target.is_over:
            with suppress(TimeoutError):
                connection.sendall(batch)
            with suppress(TimeoutError):
                while connection.recv(1 << 20):
                    pass
