from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.handshake import ServerHandshake

# The client's side, written from the description in session.md and not with the server's code.
PLAYER = b"Genuine Adobe Flash Player 001"
SERVER = b"Genuine Adobe Flash Media Server 001"
CONSTANT = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
NOW = 0x1_0203_0405
SCHEMES = (12, 776)


def sha(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def digest_in(packet: bytes, scheme: int, key: bytes) -> tuple[bytes, bytes]:
    """The digest that stands in ``packet`` and the one that ought to."""
    at = (packet[scheme - 4] + packet[scheme - 3] + packet[scheme - 2] + packet[scheme - 1]) % 728 + scheme
    return packet[at : at + 32], sha(key, packet[:at] + packet[at + 32 :])


def c1_with_digest(seed: int, scheme: int) -> bytes:
    c1 = random.Random(seed).randbytes(1536)
    stands, ought = digest_in(c1, scheme, PLAYER)
    return c1.replace(stands, ought)


def random_source() -> Callable[[int], bytes]:
    return random.Random(1).randbytes


def server() -> ServerHandshake:
    return ServerHandshake(random=random_source(), now=lambda: NOW)


def feed(pieces: Iterable[bytes]) -> tuple[ServerHandshake, list[bytes]]:
    """Feeds a handshake as a connection would: what comes behind C2 is no longer for it."""
    handshake = server()
    written = []
    rest = b""
    for piece in pieces:
        if handshake.done:
            rest += piece
            continue
        answer = handshake.receive(piece)
        if answer:
            written.append(answer)
    handshake.rest += rest
    return handshake, written


PLAIN_C1 = b"\x00\x00\x00\x07\x00\x00\x00\x00" + random.Random(5).randbytes(1528)
C2 = random.Random(6).randbytes(1536)


class Plain(SynchronousTestCase):
    def test_answer(self) -> None:
        handshake = server()
        answer = handshake.receive(b"\x03" + PLAIN_C1)
        self.assertEqual(len(answer), 1 + 1536 + 1536)
        self.assertEqual(answer[:9], b"\x03\x02\x03\x04\x05\x00\x00\x00\x00")
        self.assertEqual(answer[9:1537], random_source()(1528))
        self.assertEqual(answer[1537:], PLAIN_C1)
        self.assertFalse(handshake.done)

    def test_end(self) -> None:
        handshake = server()
        handshake.receive(b"\x03" + PLAIN_C1)
        self.assertEqual(handshake.receive(C2[:-1]), b"")
        self.assertFalse(handshake.done)
        self.assertEqual(handshake.receive(C2[-1:] + b"chunks"), b"")
        self.assertTrue(handshake.done)
        self.assertEqual(handshake.rest, b"chunks")

    def test_c2_is_not_checked(self) -> None:
        handshake, _ = feed([b"\x03" + PLAIN_C1, bytes(1536)])
        self.assertTrue(handshake.done)
        self.assertEqual(handshake.rest, b"")

    def test_every_split(self) -> None:
        """In two pieces, the client not waiting for anything (librtmp and others do not)."""
        data = b"\x03" + PLAIN_C1 + C2 + b"chunks"
        _, whole = feed([data])
        for at in range(1, len(data)):
            handshake, written = feed([data[:at], data[at:]])
            self.assertEqual((handshake.done, handshake.rest, written), (True, b"chunks", whole), at)

    def test_byte_by_byte(self) -> None:
        data = b"\x03" + PLAIN_C1 + C2 + b"chunks"
        handshake, written = feed(data[n : n + 1] for n in range(len(data)))
        self.assertEqual((handshake.done, handshake.rest, written), (True, b"chunks", feed([data])[1]))

    def test_nothing(self) -> None:
        handshake = server()
        self.assertEqual(handshake.receive(b""), b"")
        self.assertFalse(handshake.done)

    def test_repr_holds_no_bytes_of_the_client(self) -> None:
        handshake, _ = feed([b"\x03" + PLAIN_C1 + C2 + b"secret"])
        self.assertNotIn("secret", repr(handshake))


class Digest(SynchronousTestCase):
    def test_answer(self) -> None:
        for scheme in SCHEMES:
            for seed in range(50):
                c1 = c1_with_digest(seed, scheme)
                answer = server().receive(b"\x03" + c1)
                s1, s2 = answer[1:1537], answer[1537:]
                self.assertEqual((len(answer), answer[0]), (3073, 3))
                self.assertEqual(s1[:4], b"\x02\x03\x04\x05")
                self.assertGreaterEqual(s1[4], 3, "ffmpeg looks for a digest from version 3 on")
                stands, ought = digest_in(s1, scheme, SERVER)
                self.assertEqual(stands, ought)
                clients, _ = digest_in(c1, scheme, PLAYER)
                self.assertEqual(s2[-32:], sha(sha(SERVER + CONSTANT, clients), s2[:-32]))

    def test_extreme_offsets(self) -> None:
        """The first and the last place where a digest can stand, and the sum that wraps."""
        for scheme in SCHEMES:
            for four in (bytes(4), b"\xff\xff\xd9\x00", b"\xff\xff\xda\x00", b"\xff\xff\xff\xff"):
                c1 = bytearray(random.Random(9).randbytes(1536))
                c1[scheme - 4 : scheme] = four
                at = sum(four) % 728 + scheme
                c1[at : at + 32] = sha(PLAYER, bytes(c1[:at] + c1[at + 32 :]))
                s1 = server().receive(b"\x03" + bytes(c1))[1:1537]
                stands, ought = digest_in(s1, scheme, SERVER)
                self.assertEqual(stands, ought)

    def test_a_wrong_digest_is_none(self) -> None:
        for scheme in SCHEMES:
            c1 = bytearray(c1_with_digest(3, scheme))
            c1[1535] ^= 1
            self.assertEqual(server().receive(b"\x03" + bytes(c1))[1537:], bytes(c1))

    def test_every_split(self) -> None:
        for scheme in SCHEMES:
            data = b"\x03" + c1_with_digest(4, scheme) + C2 + b"chunks"
            _, whole = feed([data])
            for at in range(1, len(data)):
                handshake, written = feed([data[:at], data[at:]])
                self.assertEqual((handshake.done, handshake.rest, written), (True, b"chunks", whole), at)

    def test_byte_by_byte(self) -> None:
        data = b"\x03" + c1_with_digest(4, 776) + C2
        handshake, written = feed(data[n : n + 1] for n in range(len(data)))
        self.assertEqual((handshake.done, handshake.rest, written), (True, b"", feed([data])[1]))


class Hostile(SynchronousTestCase):
    def test_versions(self) -> None:
        for version in range(256):
            if version == 3:
                continue
            error = self.assertRaises(ProtocolError, server().receive, bytes((version,)))
            self.assertIn("RTMP", str(error))

    def test_reasons(self) -> None:
        for data, reason in (
            (b"\x06" + PLAIN_C1, "RTMP version 6 (encrypted) is not supported"),
            (b"\x09", "RTMP version 9 (encrypted) is not supported"),
            (b"\x0a", "RTMP version 10 is not supported"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "looks like TLS, not RTMP"),
            (b"GET / HTTP/1.1\r\n", "looks like HTTP, not RTMP"),
            (b"POST /open/1 HTTP/1.1\r\n", "looks like HTTP, not RTMP"),
        ):
            error = self.assertRaises(ProtocolError, server().receive, data)
            self.assertEqual(str(error), reason)

    def test_memory(self) -> None:
        """A client that never finishes costs what it has sent, and what it sends too much is handed on at once."""
        handshake = server()
        handshake.receive(b"\x03" + bytes(1535))
        handshake.receive(bytes(1 + 1535))
        self.assertLessEqual(len(handshake._buffer), 1537 + 1536)
        handshake.receive(bytes(1) + b"x" * 65536)
        self.assertEqual((len(handshake._buffer), len(handshake.rest)), (0, 65536))

    @given(st.lists(st.binary(max_size=2000), max_size=5), st.booleans())
    def test_any_bytes(self, pieces: list[bytes], right_version: bool) -> None:
        try:
            feed([b"\x03", *pieces] if right_version else pieces)
        except ProtocolError:
            self.assertFalse(right_version)
