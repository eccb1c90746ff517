"""Hostile clients that do one expensive thing as fast as they can: each is a function, and is called again and again.

Strangers are many and short; attackers are few, come from one address each, and try to take the server's time or memory
away from others. ``attack`` runs them, in threads, and measures what they achieve. An attacker may raise OSError, when
the server closes its connection for instance. One that needs preparations goes on until its target ``is_over``.
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache

from benchmark import rtmp

from . import http
from .strangers import CHANNEL, KEY, Target, connect, opened, publishing, read_to_end, read_until, reset

Attacker = Callable[[Target], None]

BATCH = 65536
"""Bytes of a flood that are sent at once."""

ATTACKERS_AT_ONCE = 4
SLOW_CONNECTIONS = 64
BURST = 50
"""Players that join at once."""
CROWD = 200
"""Players that leave at once, of one attacker."""

NULLS = b"\x05" * 65_000
"""AMF 0 nulls: each is a value of its own to the decoder."""


def nobody(target: Target) -> None:
    """Does nothing: what an undisturbed server and this machine do by themselves."""
    time.sleep(max(0.0, target.until - time.monotonic()))


def half_messages(target: Target) -> None:
    """Publishes two messages of 16 MiB at the same time, less their last byte, and leaves."""
    with _publishing(target) as connection:
        for chunk_stream in (6, 7):
            connection.sendall(_half_message(chunk_stream))


def tls_players_that_never_read(target: Target) -> None:
    """Players over TLS of a channel with frames of 8 MB, who read nothing and leave."""
    publisher = opened(target, app := _own_app())
    publisher.sendall(rtmp.publish(1, KEY, BATCH))
    read_until(publisher, b"NetStream.Publish.Start")
    for is_key in (True, False, False, False):
        publisher.sendall(_video(8_000_000, is_key))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    while not target.is_over:
        player = context.wrap_socket(_limited(connect(target, secured=True), target))
        _say_play(player, app, KEY)
        read_until(player, b"NetStream.Play.Start")
        time.sleep(0.05)
        reset(player)
    publisher.close()


def codec_headers(target: Target) -> None:
    """A publisher that fills every slot for codec headers, and then replaces the first one with headers of 4 bytes."""
    connection = _publishing(target)
    for type_id, first, codec in ((rtmp.VIDEO, 0x96, b"avc1"), (rtmp.AUDIO, 0x95, b"mp4a")):
        for kind in (0, 4):  # sequence start, and metadata or channel configuration
            for track in range(256):
                body = bytes((first, kind)) + codec + bytes((track,))
                connection.sendall(rtmp.chunks(6, type_id, 0, 1, body, BATCH))
    _flood(connection, target, rtmp.chunks(6, rtmp.VIDEO, 0, 1, b"\x17\0\0\0", BATCH), b"\xc6\x17\0\0\0")


def empty_audio(target: Target) -> None:
    """A publisher of audio messages without content, each a chunk of one byte, at 5 Mbit/s."""
    connection = _publishing(target)
    connection.sendall(rtmp.chunks(4, rtmp.AUDIO, 0, 1, b"", BATCH))
    while not target.is_over:
        connection.sendall(b"\xc4" * 6250)
        time.sleep(0.01)


def empty_control_messages(target: Target) -> None:
    """Acknowledgements, user control messages and window sizes without content, each a chunk of one byte."""
    for type_id in (3, rtmp.USER_CONTROL, 5):
        with suppress(ConnectionError):
            connection = _limited(opened(target, _own_app()), target)
            _flood(connection, target, rtmp.chunks(2, type_id, 0, 0, b"", BATCH), b"\xc2", for_seconds=1.0)


def chunks_of_one_byte(target: Target) -> None:
    """A chunk size of 1, and frames of 64 kB from a publisher, or messages of 60 kB from a client that publishes
    nothing."""
    if random.random() < 0.5:
        frame = rtmp.chunks(6, rtmp.VIDEO, 0, 1, b"\x27\x01\0\0\0" + bytes(BATCH), 1)
        _flood(_publishing(target, chunk_size=1), target, b"", frame, for_seconds=1.0)
    else:
        announced = rtmp.chunks(2, rtmp.SET_CHUNK_SIZE, 0, 0, struct.pack(">I", 1), rtmp.DEFAULT_CHUNK_SIZE)
        message = rtmp.chunks(5, rtmp.DATA, 0, 0, bytes(60_000), 1)
        _flood(_limited(opened(target, _own_app()), target), target, announced, message, for_seconds=1.0)


def nulls_before_connect(target: Target) -> None:
    """``connect`` commands with 65,000 arguments."""
    with _limited(connect(target), target) as connection:
        connection.sendall(rtmp.handshake(random.randbytes(1528)) + bytes(1536))
        for _ in range(20):
            connection.sendall(_command("connect", 1.0))


def nulls_before_publish(target: Target) -> None:
    """Other commands with 65,000 arguments, from a client that has connected."""
    with _limited(opened(target, _own_app()), target) as connection:
        for _ in range(20):
            connection.sendall(_command("_checkbw", 9.0))


def joiners_of_a_million_messages(target: Target) -> None:
    """A channel whose cache has a million messages of one byte, and players on message stream 2 who join and leave."""
    publisher, app = _with_a_million_messages(target)
    while not target.is_over:
        player = opened(target, app)
        player.sendall(rtmp.command("createStream", 4.0, None) + rtmp.play(2, KEY))
        read_until(player, b"NetStream.Play.Start")
        reset(player)
    publisher.close()


def viewers_of_a_million_messages(target: Target) -> None:
    """The same channel, with viewers over HTTP, for whom it is made into other forms."""
    publisher, app = _with_a_million_messages(target)
    while not target.is_over:
        http.watch_a_moment(target, app)
    publisher.close()


def key_guessing(target: Target) -> None:
    """Publishes or plays with a wrong key, and waits for the answer."""
    connection = _limited(opened(target, CHANNEL), target)
    key = f"guess{random.randrange(10**9)}"
    connection.sendall(random.choice((rtmp.play(1, key), rtmp.publish(1, key, 4096))))
    read_to_end(connection)


def slow_operators(target: Target) -> None:
    """Connections to the operators' port that never finish their request."""
    with ExitStack() as stack:
        for _ in range(SLOW_CONNECTIONS // ATTACKERS_AT_ONCE):
            connection = socket.create_connection(("127.0.0.1", target.http_port), 5, (target.source, 0))
            stack.enter_context(connection).sendall(b"GET /metrics HTTP/1.1\r\n")
        nobody(target)


def bursts_of_joiners(target: Target) -> None:
    """Players who join the channel that is on air, from an address each, and leave after a moment."""
    with ExitStack() as stack:
        for _ in range(BURST):
            _say_play(stack.enter_context(_from_anywhere(target)), CHANNEL, KEY)
        time.sleep(0.1)


def crowds_that_leave(target: Target) -> None:
    """Players of a channel of their own, from an address each, who all leave when its publisher does."""
    publisher = opened(target, app := _own_app())
    publisher.sendall(rtmp.publish(1, KEY, BATCH))
    read_until(publisher, b"NetStream.Publish.Start")
    publisher.sendall(_video(1000, True))
    players = []
    for _ in range(CROWD):
        players.append(_limited(_from_anywhere(target), target))
        _say_play(players[-1], app, KEY)
    for player in players:
        read_until(player, b"NetStream.Play.Start")
    publisher.sendall(rtmp.command("deleteStream", 5.0, None, 1.0))
    for player in players:
        reset(player)
    publisher.close()


ATTACKERS: dict[str, Attacker] = {
    attacker.__name__.replace("_", "-"): attacker
    for attacker in (
        nobody,
        half_messages,
        tls_players_that_never_read,
        codec_headers,
        empty_audio,
        empty_control_messages,
        chunks_of_one_byte,
        nulls_before_connect,
        nulls_before_publish,
        joiners_of_a_million_messages,
        viewers_of_a_million_messages,
        key_guessing,
        slow_operators,
        bursts_of_joiners,
        crowds_that_leave,
        *http.ATTACKERS,
    )
}


def _with_a_million_messages(target: Target) -> tuple[socket.socket, str]:
    """A publisher of a million messages of one byte in one group of pictures, and its channel."""
    publisher = opened(target, app := _own_app())
    publisher.sendall(rtmp.publish(1, KEY, BATCH))
    read_until(publisher, b"NetStream.Publish.Start")
    publisher.sendall(_video(100, True) + rtmp.chunks(4, rtmp.AUDIO, 0, 1, b"\xaf", BATCH))
    for _ in range(31):
        publisher.sendall(b"\xc4\xaf" * (BATCH // 2))
    return publisher, app


def _own_app() -> str:
    return f"own{random.randrange(10**9)}"


def _from_anywhere(target: Target) -> socket.socket:
    """A connection from an address that no other has."""
    source = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    return connect(Target(target.port, target.ssl_port, source))


def _publishing(target: Target, chunk_size: int = BATCH) -> socket.socket:
    return _limited(publishing(target, chunk_size), target)


def _limited(connection: socket.socket, target: Target) -> socket.socket:
    """The connection, which waits no longer than the attack lasts."""
    connection.settimeout(max(0.1, target.until - time.monotonic()))
    return connection


def _say_play(player: socket.socket, app: str, key: str) -> None:
    """All that a player says, in one piece, without waiting for an answer."""
    shaken = rtmp.handshake(random.randbytes(1528)) + bytes(1536)
    player.sendall(shaken + rtmp.connect("host", 1935, app) + rtmp.play(1, key))


def _flood(
    connection: socket.socket, target: Target, first: bytes, repeated: bytes, for_seconds: float = 3600.0
) -> None:
    """Sends ``first``, and then ``repeated`` again and again."""
    data = repeated * max(1, BATCH // len(repeated))
    end = time.monotonic() + for_seconds
    connection.sendall(first)
    while not target.is_over and time.monotonic() < end:
        connection.sendall(data)
    connection.close()


def _command(name: str, transaction: float) -> bytes:
    return rtmp.chunks(3, rtmp.COMMAND, 0, 0, rtmp.amf0(name, transaction) + NULLS, rtmp.DEFAULT_CHUNK_SIZE)


@cache
def _half_message(chunk_stream: int) -> bytes:
    return rtmp.chunks(chunk_stream, rtmp.VIDEO, 0, 1, b"\x27\x01\0\0\0" + bytes(0xFFFFFF - 5), BATCH)[:-1]


@cache
def _video(size: int, is_key: bool) -> bytes:
    head = struct.pack(">BI", 0x17 if is_key else 0x27, 1 << 24)
    return rtmp.chunks(6, rtmp.VIDEO, 0, 1, head + bytes(size), BATCH)
