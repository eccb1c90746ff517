"""Signed tokens for the callback and the coordinator: JSON Web Tokens, compact form, HS256. Pure but for PyJWT."""

from __future__ import annotations

import json
from collections.abc import Mapping

from jwt import PyJWS
from jwt.algorithms import HMACAlgorithm


class _AnySecret(HMACAlgorithm):
    """HMAC with any secret that the user has chosen.

    PyJWT refuses an empty secret and warns about a short one, for each token. The parties that read these tokens
    accept both, and the server has warned about an empty one at its start.
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> None:
        return None


_signer = PyJWS(algorithms=["HS256"])
_signer.unregister_algorithm("HS256")
_signer.register_algorithm("HS256", _AnySecret(HMACAlgorithm.SHA256))


def signed_token(claims: Mapping[str, str | int], secret: str) -> str:
    """Returns a JWT of ``claims``, signed with ``secret``, which may be any text, even empty.

    RFC 7519; RFC 7515, section 7.1.
    """
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return _signer.encode(payload, secret, algorithm="HS256")
