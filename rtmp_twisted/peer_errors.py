"""Descriptions of other parties' failures that are safe to log: they hold no secret."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionClosed, DNSLookupError
from twisted.python.failure import Failure


class PeerError(Exception):
    """Another party did not do what was expected. The text comes from this server and holds nothing secret."""


def describe(problem: BaseException | Failure | None) -> str:
    """Returns what went wrong, for a log line, without any text that could hold a secret.

    Libraries put what was sent (an AUTH command, a URL with a password) into the texts of their exceptions. So the
    text is shown only of network errors and of `PeerError`; of any other exception, the type.
    """
    error: Any = problem.value if isinstance(problem, Failure) else problem
    while reasons := getattr(error, "reasons", None):
        error = reasons[0].value
    name = type(error).__name__
    if isinstance(error, PeerError):
        return str(error)
    if isinstance(error, (ConnectError, ConnectionClosed, ConnectionAborted, DNSLookupError)):
        return str(error).rstrip(".")
    if name in ("TimeoutError", "CancelledError"):
        return "no answer in time"
    if type(error).__module__.startswith("OpenSSL."):
        return f"TLS: {_openssl_reasons(error)}"
    if type(error).__module__.startswith("service_identity"):
        return f"TLS: the certificate is for another name ({name})"
    return name


def _openssl_reasons(error: BaseException) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(str(entry[-1]) for entry in entries if isinstance(entry, tuple) and entry) or "connection failed"
