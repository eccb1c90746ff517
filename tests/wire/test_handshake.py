"""rtmp_twisted.wire.handshake: both sides against tables and an independent digest, and against each other."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.wire.errors import ProtocolError
from rtmp_twisted.wire.handshake import SCHEMES, ClientHandshake, ServerHandshake

# The digests, written from the description in the specification of the project and not with the code under test.
PLAYER = b"Genuine Adobe Flash Player 001"
SERVER = b"Genuine Adobe Flash Media Server 001"
CONSTANT = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
NOW = 0x1_0203_0405

Handshake = ServerHandshake | ClientHandshake


def sha(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def digest_in(part: bytes, scheme: int, key: bytes) -> tuple[bytes, bytes]:
    """The digest that is in ``part`` and the one that should be."""
    at = (part[scheme] + part[scheme + 1] + part[scheme + 2] + part[scheme + 3]) % 728 + scheme + 4
    return part[at : at + 32], sha(key, part[:at] + part[at + 32 :])


def part_with_digest(seed: int, scheme: int, key: bytes) -> bytes:
    """A C1 or S1."""
    part = random.Random(seed).randbytes(1536)
    found, expected = digest_in(part, scheme, key)
    return part.replace(found, expected)


def random_source(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def server() -> ServerHandshake:
    return ServerHandshake(random=random_source(), now=lambda: NOW)


def client(scheme: int | None = SCHEMES[0]) -> ClientHandshake:
    return ClientHandshake(random=random_source(2), now=lambda: NOW, scheme=scheme)


def feed(handshake: Handshake, pieces: Iterable[bytes]) -> tuple[bool, bytes, list[bytes]]:
    """Feeds a handshake as a connection would. Returns whether it is done, what follows it, and what it sent."""
    sent = [handshake.start()]
    rest = b""
    for piece in pieces:
        if handshake.done:
            rest += piece
            continue
        sent.append(handshake.receive(piece))
    return handshake.done, handshake.rest + rest, [data for data in sent if data]


def splits(data: bytes) -> Iterator[list[bytes]]:
    """``data`` byte by byte, and in two pieces in every way."""
    yield [data[n : n + 1] for n in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


PLAIN = b"\x00\x00\x00\x07\x00\x00\x00\x00" + random.Random(5).randbytes(1528)
"""A C1 or S1 without a digest."""

LAST = random.Random(6).randbytes(1536)
"""A C2 or S2 that answers nothing."""


class PlainServer(SynchronousTestCase):
    def test_answer(self) -> None:
        handshake = server()
        self.assertEqual(handshake.start(), b"")
        answer = handshake.receive(b"\x03" + PLAIN)
        self.assertEqual(len(answer), 1 + 1536 + 1536)
        self.assertEqual(answer[:9], b"\x03\x02\x03\x04\x05\x00\x00\x00\x00")
        self.assertEqual(answer[9:1537], random_source()(1528))
        self.assertEqual(answer[1537:], PLAIN)
        self.assertFalse(handshake.done)


class PlainClient(SynchronousTestCase):
    def test_start(self) -> None:
        self.assertEqual(client(None).start(), b"\x03\x02\x03\x04\x05\x00\x00\x00\x00" + random_source(2)(1528))

    def test_c2_is_the_echo_of_s1(self) -> None:
        """Also where C1 had a digest that the server did not understand."""
        for scheme in None, *SCHEMES:
            handshake = client(scheme)
            handshake.start()
            self.assertEqual(handshake.receive(b"\x03" + PLAIN), PLAIN)
            self.assertFalse(handshake.done)


class Either(SynchronousTestCase):
    """What holds for both sides, with and without digests."""

    def setUp(self) -> None:
        self.cases: list[tuple[Callable[[], Handshake], bytes]] = [(server, PLAIN), (client, PLAIN)]
        self.cases += [(server, part_with_digest(4, scheme, PLAYER)) for scheme in SCHEMES]
        self.cases += [(client, part_with_digest(4, scheme, SERVER)) for scheme in SCHEMES]

    def test_end(self) -> None:
        for make, first in self.cases:
            handshake = make()
            handshake.start()
            handshake.receive(b"\x03" + first)
            self.assertEqual(handshake.receive(LAST[:-1]), b"")
            self.assertFalse(handshake.done)
            self.assertEqual(handshake.receive(LAST[-1:] + b"chunks"), b"")
            self.assertTrue(handshake.done)
            self.assertEqual(handshake.rest, b"chunks")

    def test_the_last_part_is_not_checked(self) -> None:
        for make, first in self.cases:
            done, rest, _ = feed(make(), [b"\x03" + first, bytes(1536)])
            self.assertEqual((done, rest), (True, b""))

    def test_every_split(self) -> None:
        """The peer does not have to wait for anything: librtmp and others do not."""
        for make, first in self.cases:
            data = b"\x03" + first + LAST + b"chunks"
            whole = feed(make(), [data])
            self.assertEqual(whole[:2], (True, b"chunks"))
            for pieces in splits(data):
                self.assertEqual(feed(make(), pieces), whole, len(pieces[0]))

    def test_nothing(self) -> None:
        for make, _ in self.cases:
            handshake = make()
            handshake.start()
            self.assertEqual(handshake.receive(b""), b"")
            self.assertFalse(handshake.done)

    def test_repr_holds_no_bytes_of_the_peer(self) -> None:
        for make, first in self.cases:
            handshake = make()
            feed(handshake, [b"\x03" + first + LAST + b"secret"])
            self.assertNotIn("secret", repr(handshake))

    def test_memory(self) -> None:
        """A peer that never finishes costs at most one part, and what it sends behind the last one is handed on."""
        for make, first in self.cases:
            handshake = make()
            handshake.start()
            handshake.receive(b"\x03" + first[:-1])
            self.assertEqual(handshake.held_bytes, 1536)
            handshake.receive(first[-1:] + bytes(1535))
            self.assertEqual(handshake.held_bytes, 1535)
            handshake.receive(bytes(1) + b"x" * 65536)
            self.assertEqual((handshake.held_bytes, len(handshake.rest)), (65536, 65536))


class ServerDigest(SynchronousTestCase):
    def test_answer(self) -> None:
        for scheme in SCHEMES:
            for seed in range(50):
                c1 = part_with_digest(seed, scheme, PLAYER)
                answer = server().receive(b"\x03" + c1)
                s1, s2 = answer[1:1537], answer[1537:]
                self.assertEqual((len(answer), answer[0]), (3073, 3))
                self.assertEqual(s1[:4], b"\x02\x03\x04\x05")
                self.assertGreaterEqual(s1[4], 3, "ffmpeg looks for a digest from version 3 on")
                found, expected = digest_in(s1, scheme, SERVER)
                self.assertEqual(found, expected)
                clients, _ = digest_in(c1, scheme, PLAYER)
                self.assertEqual(s2[-32:], sha(sha(SERVER + CONSTANT, clients), s2[:-32]))

    def test_extreme_offsets(self) -> None:
        """The first and the last place where a digest can be, and the sum that wraps."""
        for scheme in SCHEMES:
            for four in (bytes(4), b"\xff\xff\xd9\x00", b"\xff\xff\xda\x00", b"\xff\xff\xff\xff"):
                c1 = bytearray(random.Random(9).randbytes(1536))
                c1[scheme : scheme + 4] = four
                at = sum(four) % 728 + scheme + 4
                c1[at : at + 32] = sha(PLAYER, bytes(c1[:at] + c1[at + 32 :]))
                s1 = server().receive(b"\x03" + bytes(c1))[1:1537]
                found, expected = digest_in(s1, scheme, SERVER)
                self.assertEqual(found, expected)

    def test_a_wrong_digest_is_none(self) -> None:
        for scheme in SCHEMES:
            c1 = bytearray(part_with_digest(3, scheme, PLAYER))
            c1[1535] ^= 1
            self.assertEqual(server().receive(b"\x03" + bytes(c1))[1537:], bytes(c1))


class ClientDigest(SynchronousTestCase):
    def test_start(self) -> None:
        for scheme in SCHEMES:
            c0_c1 = client(scheme).start()
            c1 = c0_c1[1:]
            self.assertEqual((len(c1), c0_c1[:5]), (1536, b"\x03\x02\x03\x04\x05"))
            self.assertGreater(c1[4:8], bytes((9, 0, 115, 0)), "the first Flash Player that sent digests")
            found, expected = digest_in(c1, scheme, PLAYER)
            self.assertEqual(found, expected)

    def test_by_default_in_the_first_scheme(self) -> None:
        handshake = ClientHandshake(random_source(), lambda: NOW)
        found, expected = digest_in(handshake.start()[1:], 8, PLAYER)
        self.assertEqual(found, expected)

    def test_c2(self) -> None:
        """Signed where S1 has a digest in either scheme, whatever C1 had."""
        for own in None, *SCHEMES:
            for scheme in SCHEMES:
                s1 = part_with_digest(7, scheme, SERVER)
                handshake = client(own)
                handshake.start()
                c2 = handshake.receive(b"\x03" + s1)
                servers, _ = digest_in(s1, scheme, SERVER)
                self.assertEqual(len(c2), 1536)
                self.assertEqual(c2[-32:], sha(sha(PLAYER + CONSTANT, servers), c2[:-32]))

    def test_a_wrong_digest_is_none(self) -> None:
        for scheme in SCHEMES:
            s1 = part_with_digest(3, scheme, SERVER)[:-1] + b"?"
            handshake = client()
            handshake.start()
            self.assertEqual(handshake.receive(b"\x03" + s1), s1)


class EachAgainstTheOther(SynchronousTestCase):
    def test_every_scheme_and_size(self) -> None:
        for scheme in None, *SCHEMES:
            for size in 1, 7, 1536, 1537, 4000:
                caller, accepter = client(scheme), server()
                to_server, to_client = caller.start(), accepter.start()
                c1 = to_server[1:]
                while to_server or to_client:
                    piece, to_server = to_server[:size], to_server[size:]
                    if piece:
                        to_client += accepter.receive(piece)
                    piece, to_client = to_client[:size], to_client[size:]
                    if piece:
                        to_server += caller.receive(piece)
                self.assertEqual((caller.done, accepter.done), (True, True), (scheme, size))
                self.assertEqual((caller.rest, accepter.rest), (b"", b""))
                self.assertEqual((caller.held_bytes, accepter.held_bytes), (0, 0))
                self.assertEqual(len(c1), 1536)

    def test_both_sides_sign(self) -> None:
        for scheme in SCHEMES:
            caller = client(scheme)
            c0_c1 = caller.start()
            answer = server().receive(c0_c1)
            c2 = caller.receive(answer)
            s1, s2 = answer[1:1537], answer[1537:]
            servers, expected = digest_in(s1, scheme, SERVER)
            self.assertEqual(servers, expected, "S1 has the client's scheme")
            clients, _ = digest_in(c0_c1[1:], scheme, PLAYER)
            self.assertEqual(s2[-32:], sha(sha(SERVER + CONSTANT, clients), s2[:-32]))
            self.assertEqual(c2[-32:], sha(sha(PLAYER + CONSTANT, servers), c2[:-32]))

    def test_without_digests_both_echo(self) -> None:
        caller = client(None)
        c0_c1 = caller.start()
        answer = server().receive(c0_c1)
        self.assertEqual(answer[1537:], c0_c1[1:])
        self.assertEqual(caller.receive(answer), answer[1:1537])


class Hostile(SynchronousTestCase):
    def test_versions(self) -> None:
        for version in range(256):
            if version == 3:
                continue
            for handshake in server(), client():
                handshake.start()
                error = self.assertRaises(ProtocolError, handshake.receive, bytes((version,)))
                self.assertIn("RTMP", str(error))

    def test_reasons(self) -> None:
        for data, reason in (
            (b"\x06" + PLAIN, "RTMP version 6 (encrypted) is not supported"),
            (b"\x09", "RTMP version 9 (encrypted) is not supported"),
            (b"\x0a", "RTMP version 10 is not supported"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "looks like TLS, not RTMP"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "looks like TLS, not RTMP"),
            (b"GET / HTTP/1.1\r\n", "looks like HTTP, not RTMP"),
            (b"POST /open/1 HTTP/1.1\r\n", "looks like HTTP, not RTMP"),
            (b"HTTP/1.1 400 Bad Request\r\n", "looks like HTTP, not RTMP"),
        ):
            for handshake in server(), client():
                handshake.start()
                error = self.assertRaises(ProtocolError, handshake.receive, data)
                self.assertEqual(str(error), reason)

    @given(st.sampled_from([server, client]), st.lists(st.binary(max_size=2000), max_size=5), st.booleans())
    def test_any_bytes(self, make: Callable[[], Handshake], pieces: list[bytes], right_version: bool) -> None:
        handshake = make()
        handshake.start()
        for piece in [b"\x03", *pieces] if right_version else pieces:
            if handshake.done:
                break
            try:
                sent = handshake.receive(piece)
            except ProtocolError:
                self.assertFalse(right_version)
                return
            self.assertIn(len(sent), (0, 3073 if make is server else 1536))
            self.assertLessEqual(handshake.held_bytes, len(piece) if handshake.done else 1536)
