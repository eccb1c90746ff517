"""The server's side of the handshake: bytes in, bytes out (RTMP 1.0, section 5.2).

C1 may carry a digest, a convention of Flash Player that the specification does not mention: the HMAC-SHA256 of the
other 1504 bytes, at an offset that four of them give. Two schemes differ in which four. A client that sent one may
refuse to play from a server that does not answer with digests of its own, so S1 and S2 then carry them.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Final

from attrs import define, field

from rtmp_twisted.wire.errors import ProtocolError

VERSION: Final = 3
SIZE: Final = 1536
"""Bytes of C1, C2, S1 and S2 each (sections 5.2.3 and 5.2.4)."""

_DIGEST_SIZE: Final = 32
_CLIENT_KEY: Final = b"Genuine Adobe Flash Player 001"
_SERVER_KEY: Final = b"Genuine Adobe Flash Media Server 001"
_SERVER_KEY_TAIL: Final = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")

_SCHEMES: Final = (8, 772)
"""Where the four bytes stand that give the digest's offset; the digest's own area begins right behind them."""

# Any version but 0 makes clients look for a digest; this one is of a server that sent them in both schemes.
_SERVER_VERSION: Final = bytes((4, 5, 0, 1))

_HTTP_METHODS: Final = b"GPHDOCT"
_TLS_HANDSHAKE: Final = 0x16


@define
class ServerHandshake:
    """One connection's handshake. Feed `receive` until `done`; what then is in `rest` belongs to the chunk stream.

    ``random(n)`` gives n random bytes, ``now()`` the time in milliseconds (used modulo 2**32). Nothing is kept but
    what is missing to C0 and C1, or to C2: at most 1537 bytes, beside what one call of `receive` brings.
    """

    _random: Callable[[int], bytes]
    _now: Callable[[], int]
    done: bool = field(default=False, init=False)
    """C2 has been read. It is not checked."""
    rest: bytes = field(default=b"", init=False, repr=False)
    """What followed C2 in the call that completed it."""
    _buffer: bytearray = field(factory=bytearray, init=False, repr=False)
    _answered: bool = field(default=False, init=False)

    def receive(self, data: bytes) -> bytes:
        """Takes what has arrived and returns what is to be sent: S0, S1 and S2 once C1 is complete, else nothing.

        Raises ProtocolError where the client does not speak RTMP version 3. Must not be called once `done`.
        """
        buffer = self._buffer
        buffer += data
        answer = b""
        if not self._answered:
            if buffer and buffer[0] != VERSION:
                raise ProtocolError(_refusal(bytes(buffer[:8])))
            if len(buffer) < 1 + SIZE:
                return b""
            answer = self._answer(bytes(buffer[1 : 1 + SIZE]))
            self._answered = True
            del buffer[: 1 + SIZE]
        if len(buffer) >= SIZE:
            self.done = True
            self.rest = bytes(buffer[SIZE:])
            buffer.clear()
        return answer

    def _answer(self, c1: bytes) -> bytes:
        time = (self._now() & 0xFFFFFFFF).to_bytes(4, "big")
        for scheme in _SCHEMES:
            offset = _digest_offset(c1, scheme)
            client_digest = c1[offset : offset + _DIGEST_SIZE]
            if compare_digest(_digest_without(c1, offset, _CLIENT_KEY), client_digest):
                s1 = self._s1_with_digest(time, scheme)
                s2 = self._s2_with_digest(client_digest)
                return bytes((VERSION,)) + s1 + s2
        s1 = time + bytes(4) + self._random(SIZE - 8)
        # Section 5.2.4 has the time at which C1 was read in bytes 4 to 8; librtmp compares S2 with the whole of its C1.
        return bytes((VERSION,)) + s1 + c1

    def _s1_with_digest(self, time: bytes, scheme: int) -> bytes:
        s1 = bytearray(time + _SERVER_VERSION + self._random(SIZE - 8))
        offset = _digest_offset(s1, scheme)
        s1[offset : offset + _DIGEST_SIZE] = _digest_without(s1, offset, _SERVER_KEY)
        return bytes(s1)

    def _s2_with_digest(self, client_digest: bytes) -> bytes:
        body = self._random(SIZE - _DIGEST_SIZE)
        key = digest(_SERVER_KEY + _SERVER_KEY_TAIL, client_digest, sha256)
        return body + digest(key, body, sha256)


def _digest_offset(packet: bytes | bytearray, scheme: int) -> int:
    return sum(packet[scheme : scheme + 4]) % 728 + scheme + 4


def _digest_without(packet: bytes | bytearray, offset: int, key: bytes) -> bytes:
    """The digest of all bytes but those at ``offset``, where it is to stand."""
    return digest(key, bytes(packet[:offset] + packet[offset + _DIGEST_SIZE :]), sha256)


def _refusal(start: bytes) -> str:
    version = start[0]
    if version == _TLS_HANDSHAKE:
        return "looks like TLS, not RTMP"
    if version in _HTTP_METHODS:
        return "looks like HTTP, not RTMP"
    if 6 <= version <= 9:
        return f"RTMP version {version} (encrypted) is not supported"
    return f"RTMP version {version} is not supported"
