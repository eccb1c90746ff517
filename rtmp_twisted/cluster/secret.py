"""What the nodes of a cluster make with CLUSTER_SECRET: digests of stream keys (keys.py), sealed texts, and the tokens
by which they know each other. Pure but for the time of day. Used by the cluster's other modules.

Redis sees digests and sealed texts, and never a key. A token says that a node wants one channel, and holds for a
minute. Each of the three has a key of its own, which is derived from the secret (HKDF, RFC 5869), except the digest,
whose key is the secret itself.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from typing import Final

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rtmp_twisted.cluster.keys import KeyDigest, digest
from rtmp_twisted.live.authority import MAX_TOKEN

TOKEN_SECONDS: Final = 60
"""How long a node's token holds."""

MAX_SKEW: Final = 60
"""Seconds that the clocks of two nodes may differ by."""

NONCE_SIZE: Final = 12
"""Bytes of AES-GCM's nonce (NIST SP 800-38D, section 5.2.1.1), which is random."""


class ClusterSecret:
    """``now`` gives the time of day, in seconds since 1970."""

    def __init__(self, secret: str, now: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode()
        self._cipher = AESGCM(self._derive(b"sealed texts"))
        self._token_key = self._derive(b"tokens")
        self._now = now

    def _derive(self, purpose: bytes) -> bytes:
        derivation = HKDF(SHA256(), 32, None, b"rtmp-twisted cluster: " + purpose)
        return derivation.derive(self._secret)

    # Keys

    def digest(self, channel: str, epoch: int, key: str) -> str:
        """What a place in the directory says of its key."""
        return digest(self._secret, channel, epoch, key)

    def key(self, channel: str, epoch: int, digest: str) -> KeyDigest:
        """The key that a place says that of."""
        return KeyDigest(self._secret, channel, epoch, digest)

    def seal(self, text: str, context: str) -> str:
        """Encrypts and signs a text (AES-256-GCM). ``context`` has to be the same to open it."""
        nonce = os.urandom(NONCE_SIZE)
        sealed = self._cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), context.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, context: str) -> str:
        """Raises ValueError where it was not sealed with this secret, in this context."""
        data = base64.b64decode(sealed.encode(), validate=True)
        try:
            text = self._cipher.decrypt(data[:NONCE_SIZE], data[NONCE_SIZE:], context.encode())
        except InvalidTag:
            raise ValueError("sealed with another secret") from None
        return text.decode("utf-8", "surrogatepass")

    # Nodes

    def token(self, channel: str) -> str:
        """Lets a node have a channel: a JSON Web Token, HS256."""
        claims = {"channel": channel, "exp": int(self._now()) + TOKEN_SECONDS}
        return jwt.encode(claims, self._token_key, algorithm="HS256")

    def signed(self, token: str, channel: str) -> bool:
        """Whether a node has made this token for the channel, and not long ago."""
        if len(token) > MAX_TOKEN:
            return False
        try:
            claims = jwt.decode(
                token,
                self._token_key,
                algorithms=["HS256"],
                options={"require": ["exp", "channel"], "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            return False
        expires = claims["exp"]
        if type(expires) is not int or claims["channel"] != channel:
            return False
        return -MAX_SKEW < expires - self._now() <= TOKEN_SECONDS + MAX_SKEW
