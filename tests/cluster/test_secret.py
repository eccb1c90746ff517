"""What is made with CLUSTER_SECRET: digests, sealed texts and tokens, and what becomes of forged ones."""

from __future__ import annotations

import base64
from typing import Any

import jwt
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.cluster.secret import MAX_SKEW, TOKEN_SECONDS, ClusterSecret

SECRET = "the-secret-of-a-cluster-0123456789"


class DigestTests(SynchronousTestCase):
    def test_compares(self) -> None:
        secret = ClusterSecret(SECRET)
        key = secret.key("tv", 7, secret.digest("tv", 7, "hunter2"))
        self.assertTrue(key.matches("hunter2"))
        for other in ["hunter", "hunter22", "", "Hunter2", "hünter2"]:
            self.assertFalse(key.matches(other), other)

    def test_is_of_one_claim(self) -> None:
        secret = ClusterSecret(SECRET)
        digests = {
            secret.digest("tv", 7, "1key"),
            secret.digest("tv", 8, "1key"),
            secret.digest("tv", 71, "key"),  # the parts run into each other nowhere
            secret.digest("tv7", 1, "key"),
            ClusterSecret("another").digest("tv", 7, "1key"),
        }
        self.assertEqual(len(digests), 5)

    def test_junk_in_place_of_a_digest(self) -> None:
        secret = ClusterSecret(SECRET)
        for junk in ["", "x", "ü", "\udc80"]:
            self.assertFalse(secret.key("tv", 7, junk).matches("key"))


class SealTests(SynchronousTestCase):
    def test_opens(self) -> None:
        secret = ClusterSecret(SECRET)
        for text in ["", "hunter2", "ü\udc80" * 100]:
            sealed = secret.seal(text, "id")
            self.assertEqual(ClusterSecret(SECRET).open(sealed, "id"), text)
            self.assertNotEqual(secret.seal(text, "id"), sealed)
            self.assertNotIn(b"hunter2", base64.b64decode(sealed))

    def test_forged(self) -> None:
        secret = ClusterSecret(SECRET)
        sealed = secret.seal("hunter2", "id")
        data = base64.b64decode(sealed)
        flipped = [bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]) for at in range(len(data))]
        for text in [*(base64.b64encode(one).decode() for one in flipped), sealed[:-4], "", "x", "=", "ü", "A" * 40]:
            self.assertRaises(ValueError, secret.open, text, "id")
        self.assertRaises(ValueError, secret.open, sealed, "another")
        self.assertRaises(ValueError, ClusterSecret("another").open, sealed, "id")


class TokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1_700_000_000.5
        self.secret = ClusterSecret(SECRET, lambda: self.now)

    def sign(self, claims: dict[str, Any], key: bytes | str | None = None, algorithm: str = "HS256") -> str:
        return jwt.encode(claims, self.secret._token_key if key is None else key, algorithm=algorithm)

    def test_holds_for_a_while(self) -> None:
        token = self.secret.token("tv")
        self.assertTrue(self.secret.signed(token, "tv"))
        self.now += TOKEN_SECONDS + MAX_SKEW - 1
        self.assertTrue(self.secret.signed(token, "tv"))
        self.now += 2
        self.assertFalse(self.secret.signed(token, "tv"))
        self.now -= 2 * TOKEN_SECONDS + 2 * MAX_SKEW + 1  # from the future
        self.assertFalse(self.secret.signed(token, "tv"))

    def test_of_one_channel_and_secret(self) -> None:
        token = self.secret.token("tv")
        self.assertFalse(self.secret.signed(token, "radio"))
        self.assertFalse(ClusterSecret("another", lambda: self.now).signed(token, "tv"))

    def test_forged(self) -> None:
        soon = int(self.now) + 30
        good = self.sign({"channel": "tv", "exp": soon})
        self.assertTrue(self.secret.signed(good, "tv"))
        head, payload, signature = good.split(".")
        for token in [
            "",
            "x",
            "a.b.c",
            "." * 2000,
            "x" * 100_000,
            f"{head}.{payload}.",
            f"{head}.{payload}.{signature[:-2]}AA",
            self.sign({"channel": "tv", "exp": soon}, b"x" * 32),
            self.sign({"channel": "tv", "exp": soon}, SECRET),  # as PLAY_SECRET signs, were it the same
            self.sign({"channel": "tv", "exp": soon}, "", "none"),
            self.sign({"channel": "tv"}),
            self.sign({"exp": soon}),
            self.sign({"channel": ["tv"], "exp": soon}),
            self.sign({"channel": "tv", "exp": True}),
            self.sign({"channel": "tv", "exp": float(soon)}),
            self.sign({"channel": "tv", "exp": str(soon)}),
            self.sign({"channel": "tv", "exp": soon + 86400}),
        ]:
            self.assertFalse(self.secret.signed(token, "tv"), token[:200])
