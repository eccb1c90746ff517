"""The signed tokens that callback and coordinator expect: JWT, compact form, HS256.

Pure but for PyJWT. Called by callback.py and control.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from jwt import PyJWS
from jwt.algorithms import HMACAlgorithm


class _AnySecret(HMACAlgorithm):
    """HMAC with whatever secret the user has chosen.

    PyJWT refuses an empty secret and warns of a short one, on each token. The parties that read these tokens take
    both, and the start has warned of an empty one already.
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> None:
        return None


_signer = PyJWS(algorithms=["HS256"])
_signer.unregister_algorithm("HS256")
_signer.register_algorithm("HS256", _AnySecret(HMACAlgorithm.SHA256))


def signed_token(claims: Mapping[str, str | int], secret: str) -> str:
    """A JWT of ``claims``, signed with ``secret`` (any text, also an empty one); RFC 7519, RFC 7515 section 7.1."""
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return _signer.encode(payload, secret, algorithm="HS256")
