"""What is exchanged with and said about other parties: addresses, stream ids, errors and tokens."""

from __future__ import annotations

import warnings

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed

from rtmp_twisted.integrations.tokens import signed_token
from rtmp_twisted.integrations.validation import plain_address, stream_id_problem
from rtmp_twisted.peer_errors import PeerError, describe
from tests.support.fakes import read_token


class AddressTests(SynchronousTestCase):
    def test_plain(self) -> None:
        for given, expected in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::FFFF:c000:201", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("", ""),
            ("a socket", "a socket"),
        ]:
            self.assertEqual(plain_address(given), expected)


class StreamIdTests(SynchronousTestCase):
    def test_usable(self) -> None:
        for stream_id in ["", "id", "a b:c|d>e", "ünïcode", "x" * 1024]:
            self.assertIsNone(stream_id_problem(stream_id))

    def test_unusable(self) -> None:
        for stream_id in ["x" * 1025, "a\x00", "\n", "a\x1bb", "\x7f", "\x85"]:
            self.assertIsNotNone(stream_id_problem(stream_id))


class DescribeTests(SynchronousTestCase):
    def test_secrets_are_not_shown(self) -> None:
        for error in [ValueError("hunter2"), ResponseFailed([Failure(KeyError("hunter2"))])]:
            self.assertNotIn("hunter2", describe(error))

    def test_says_what_happened(self) -> None:
        self.assertIn("refused", describe(ConnectionRefusedError()))
        self.assertIn("refused", describe(Failure(ConnectionRefusedError())))
        self.assertEqual(describe(PeerError("AUTH was refused")), "AUTH was refused")
        self.assertEqual(describe(ResponseFailed([Failure(CancelledError())])), "no answer in time")
        self.assertEqual(describe(TimeoutError("hunter2")), "no answer in time")
        self.assertEqual(describe(ValueError("hunter2")), "ValueError")

    def test_tls(self) -> None:
        for error, expected in (
            (SSL.Error([("SSL routines", "", "certificate verify failed")]), "TLS: certificate verify failed"),
            (SSL.Error([("", "", "one"), ("", "", "two")]), "TLS: one, two"),
            (SSL.SysCallError(-1, "Unexpected EOF"), "TLS: connection failed"),
            (SSL.Error(), "TLS: connection failed"),
            (VerificationError([]), "TLS: the certificate is for another name (VerificationError)"),
        ):
            self.assertEqual(describe(error), expected)


class TokenTests(SynchronousTestCase):
    def test_any_secret(self) -> None:
        """Secrets that PyJWT would refuse or warn about work too: the readers of the tokens accept them."""
        pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for secret in ["", "short", "long " * 20, "ünïcode", pem, '{"kty": "oct", "k": "AAAA"}']:
                token = signed_token({"sub": "rtmp_event", "iat": 17}, secret)
                self.assertEqual(read_token(token, secret), {"sub": "rtmp_event", "iat": 17})

    def test_another_secret_does_not_fit(self) -> None:
        with self.assertRaises(AssertionError):
            read_token(signed_token({}, "one"), "two")

    def test_any_text_in_claims(self) -> None:
        for text in ["ünï", "\x00\n", 'a"b', "x" * 10_000, "\ud800"]:
            self.assertEqual(read_token(signed_token({"key": text}, "s"), "s")["key"], text)
