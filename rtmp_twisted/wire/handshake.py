"""The handshake, from the client's and from the server's side: bytes in, bytes out (RTMP 1.0, section 5.2).

The two sides differ in who begins and in their answers; all else is in their common base class. An owner of either
sends what `start` returns, feeds what arrives to `receive` and sends what that returns, until `done` is true.

C1 and S1 may carry a digest. The specification does not mention it; Flash Player introduced it. It is the HMAC-SHA256
of the other 1504 bytes, and four of these bytes tell its offset. There are two schemes, which differ in which four
bytes these are. C2 and S2 then end with a digest as well, whose key is made from the digest in S1 or C1. A client that
sent a digest may refuse to play from a server that answers without one.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Final

from attrs import define, field

from rtmp_twisted.wire.errors import ProtocolError

VERSION: Final = 3
"""C0 and S0: the only version that is spoken here (section 5.2.2)."""

SIZE: Final = 1536
"""Bytes of each of C1, C2, S1 and S2 (sections 5.2.3 and 5.2.4)."""

SCHEMES: Final = (8, 772)
"""The two digest schemes, each named by the offset of the four bytes that tell where the digest is. The digest is
within the 764 bytes from that offset on. Flash Player uses the first scheme for plain RTMP."""

_DIGEST_SIZE: Final = 32
"""Bytes of an HMAC-SHA256."""

_CLIENT_KEY: Final = b"Genuine Adobe Flash Player 001"
"""The key of the digest in C1."""

_SERVER_KEY: Final = b"Genuine Adobe Flash Media Server 001"
"""The key of the digest in S1."""

_KEY_TAIL: Final = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
"""Follows either key in the one that signs the digest of C2 or S2."""

_NO_VERSION: Final = bytes(4)
"""Bytes 4 to 7 of a C1 or S1 without a digest: zero, as the specification has it."""

_CLIENT_VERSION: Final = bytes((10, 0, 45, 2))
"""Bytes 4 to 7 of a C1 with a digest: a version of Flash Player. Servers look for a digest where they are not 0."""

_SERVER_VERSION: Final = bytes((4, 5, 0, 1))
"""Bytes 4 to 7 of an S1 with a digest: a version of Flash Media Server that sent digests in both schemes."""

_HTTP_LETTERS: Final = b"GPHDOCT"
"""The first letters of HTTP's methods, and of its answers ("HTTP/1.1 …")."""

_TLS_RECORDS: Final = (0x15, 0x16)
"""The first byte of TLS alerts and of TLS handshakes."""


@define
class _Handshake:
    """What both sides have in common.

    ``random(n)`` returns n random bytes. ``now()`` returns the time in milliseconds; it is used modulo 2**32.
    """

    _random: Callable[[int], bytes]
    _now: Callable[[], int]
    done: bool = field(default=False, init=False)
    """Whether the peer's last part, C2 or S2, has arrived. Its content is not checked."""
    rest: bytes = field(default=b"", init=False, repr=False)
    """What followed C2 or S2 in the call of `receive` that completed it: the first bytes of the chunk stream."""
    _buffer: bytearray = field(factory=bytearray, init=False, repr=False)
    _answered: bool = field(default=False, init=False)

    @property
    def held_bytes(self) -> int:
        """Bytes that are kept until more arrive: at most 1536 between two calls of `receive`, and `rest`."""
        return len(self._buffer) + len(self.rest)

    def receive(self, data: bytes) -> bytes:
        """Takes bytes that have arrived, and returns the bytes to send, often none.

        Raises ProtocolError where the peer does not speak RTMP version 3. Must not be called once `done` is true.
        """
        buffer = self._buffer
        buffer += data
        answer = b""
        if not self._answered:
            if buffer and buffer[0] != VERSION:
                raise ProtocolError(_refusal(buffer[0]))
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

    def _answer(self, received: bytes) -> bytes:
        """What is to be sent once the peer's C1 or S1 has arrived."""
        raise NotImplementedError

    def _first_part(self, version: bytes, key: bytes, scheme: int | None) -> bytes:
        """C0 and C1, or S0 and S1; with a digest unless ``scheme`` is None."""
        time = (self._now() & 0xFFFFFFFF).to_bytes(4, "big")
        part = bytearray(time + (_NO_VERSION if scheme is None else version) + self._random(SIZE - 8))
        if scheme is not None:
            offset = _digest_offset(part, scheme)
            part[offset : offset + _DIGEST_SIZE] = _digest_of_others(part, offset, key)
        return bytes((VERSION,)) + part

    def _signed_part(self, key: bytes, received_digest: bytes) -> bytes:
        """C2 or S2 that answers a digest."""
        body = self._random(SIZE - _DIGEST_SIZE)
        return body + digest(digest(key + _KEY_TAIL, received_digest, sha256), body, sha256)


@define
class ServerHandshake(_Handshake):
    """One connection's handshake on the side that accepted it.

    `receive` returns S0, S1 and S2 once C1 has arrived. They carry digests where C1 has one, in the same scheme.
    """

    def start(self) -> bytes:
        """Returns nothing: the client begins."""
        return b""

    def _answer(self, received: bytes) -> bytes:
        scheme, client_digest = _find_digest(received, _CLIENT_KEY)
        s0_s1 = self._first_part(_SERVER_VERSION, _SERVER_KEY, scheme)
        # Section 5.2.4 puts the time of reading into bytes 4 to 7 of the echo, but librtmp compares all of S2 with C1.
        return s0_s1 + (self._signed_part(_SERVER_KEY, client_digest) if client_digest else received)


@define
class ClientHandshake(_Handshake):
    """One connection's handshake on the side that made it.

    `start` returns C0 and C1, with a digest in ``scheme`` (one of `SCHEMES`) or without one (None). `receive` returns
    C2 once S1 has arrived: with a digest where S1 has one, else S1's echo. `done` is true once S2 has arrived.
    """

    _scheme: int | None = SCHEMES[0]

    def start(self) -> bytes:
        """Returns C0 and C1. Must be called once, before `receive`."""
        return self._first_part(_CLIENT_VERSION, _CLIENT_KEY, self._scheme)

    def _answer(self, received: bytes) -> bytes:
        _, server_digest = _find_digest(received, _SERVER_KEY)
        return self._signed_part(_CLIENT_KEY, server_digest) if server_digest else received


def _find_digest(part: bytes, key: bytes) -> tuple[int | None, bytes]:
    """The scheme of the digest in C1 or S1 and the digest itself; None and nothing where there is no valid one."""
    for scheme in SCHEMES:
        offset = _digest_offset(part, scheme)
        found = part[offset : offset + _DIGEST_SIZE]
        if compare_digest(_digest_of_others(part, offset, key), found):
            return scheme, found
    return None, b""


def _digest_offset(part: bytes | bytearray, scheme: int) -> int:
    return sum(part[scheme : scheme + 4]) % 728 + scheme + 4


def _digest_of_others(part: bytes | bytearray, offset: int, key: bytes) -> bytes:
    """The digest of all bytes but the 32 at ``offset``, which are the digest's own."""
    return digest(key, bytes(part[:offset] + part[offset + _DIGEST_SIZE :]), sha256)


def _refusal(version: int) -> str:
    if version in _TLS_RECORDS:
        return "looks like TLS, not RTMP"
    if version in _HTTP_LETTERS:
        return "looks like HTTP, not RTMP"
    if 6 <= version <= 9:
        return f"RTMP version {version} (encrypted) is not supported"
    return f"RTMP version {version} is not supported"
