"""What workers, and the nodes of machines, know of a publisher's key: enough to compare it. Between workers the secret
is the supervisor's, made at its start; between machines it is CLUSTER_SECRET."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from attrs import field, frozen

SECRET_SIZE: Final = 32
"""Bytes of the secret."""


def digest(secret: bytes, channel: str, epoch: int, key: str) -> str:
    """HMAC-SHA256 over the channel, its claim's epoch and the key, each with its length before it."""
    parts = [channel.encode("utf-8", "surrogatepass"), b"%d" % epoch, key.encode("utf-8", "surrogatepass")]
    text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    return hmac.new(secret, text, hashlib.sha256).hexdigest()


@frozen
class KeyDigest:
    """A `live.directory.Key`: that of the claim with ``epoch``."""

    secret: bytes = field(repr=False)
    channel: str
    epoch: int
    digest: str = field(repr=False)

    def matches(self, key: str) -> bool:
        made = digest(self.secret, self.channel, self.epoch, key)
        return hmac.compare_digest(self.digest.encode("utf-8", "surrogatepass"), made.encode())
