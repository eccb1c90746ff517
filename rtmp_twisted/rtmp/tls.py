"""RTMPS: the certificate and its key, read from files, and read again when the files change. Used by tap.py, and only
where RTMPS is on.

What connections get is the newest pair that belongs together; those that are open keep theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; all of them have forward secrecy and authenticate what they encrypt. TLS 1.3 has no others."""

MAX_FILE = 1024 * 1024
"""Bytes of a certificate's or key's file that are read; a chain takes a few thousand."""

SOON = timedelta(days=7)
"""A certificate with less time left is warned of, when it is read."""

_log = Logger()


class _TLSProtocol(TLSMemoryBIOProtocol):
    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """Drops the way that an error of TLS has come. It leads through frames which refer to the error: else they
        would keep the connection, with what OpenSSL holds for it, until the garbage collector comes."""
        if reason is not None:
            reason.cleanFailure()
        super()._tlsShutdownFinished(reason)


class SecuredFactory(TLSMemoryBIOFactory):
    """TLS in front of another factory. Writes what it is given at once, where Twisted's own default collects it first:
    media is merged already, and the flush scheduler has to see what a write really costs."""

    noisy = False
    protocol = _TLSProtocol


class TLSConnection(SSL.Connection):
    def do_handshake(self) -> None:
        """A goodbye in the handshake is an error like others: Twisted (26.10) trips over the one that has no reason in
        it."""
        try:
            super().do_handshake()
        except SSL.ZeroReturnError:
            raise SSL.Error([("SSL routines", "", "the other side left in the handshake")]) from None


@implementer(IOpenSSLServerConnectionCreator)
class Certificates(Service):
    """``certificate`` and ``key``: PEM files; the first may have the chain behind the certificate, or in any order.
    ``check_seconds``: how often they are looked at, 0 for never. Raises ValueError where they cannot be used."""

    def __init__(self, clock: IReactorTime, certificate: str, key: str, check_seconds: float) -> None:
        self.changed: Callable[[bytes, bytes], None] = lambda certificate, key: None
        """Called with each pair that has been read again."""
        self._files = (certificate, key)
        self._clock = clock
        self._check_seconds = check_seconds
        self._checks = LoopingCall(self.check)
        self._checks.clock = clock
        self._seen = self._look()
        self.pem = self._read()
        """What is in the two files."""
        self._context, self._leaf = _context(*self.pem)

    def startService(self) -> None:
        super().startService()
        self._tell()
        if self._check_seconds:
            self._checks.start(self._check_seconds, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._checks.running:
            self._checks.stop()

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return TLSConnection(self._context, None)

    def check(self) -> None:
        """Reads the files again if one has changed. Of a pair that cannot be used nothing is kept but an error in the
        log; until it changes once more it is not tried again."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self.reload()

    def reload(self) -> None:
        """Reads the files again, whether they have changed or not."""
        self._seen = self._look()
        try:
            pem = self._read()
            self._context, self._leaf = _context(*pem)
        except ValueError as problem:
            _log.error("RTMPS goes on with the certificate that it has: {problem}", problem=problem)
        else:
            self.pem = pem
            self.changed(*pem)
            self._tell()

    def _tell(self) -> None:
        names = ", ".join(_names(self._leaf))
        until = self._leaf.not_valid_after_utc
        _log.info("RTMPS certificate for {names}, valid until {until:%Y-%m-%d %H:%M} UTC", names=names, until=until)
        left = until - datetime.now(UTC)
        if left < SOON:
            days = max(left.days, 0)
            state = "is out of date" if left < timedelta() else f"is valid for {days} more day{'s' * (days != 1)}"
            _log.warn("the RTMPS certificate {state}", state=state)

    def _look(self) -> list[tuple[int, ...]]:
        """What changes when somebody writes, replaces or moves one of the files, or lets it be read."""
        found: list[tuple[int, ...]] = []
        for path in self._files:
            try:
                state = os.stat(path)
            except OSError as error:
                found.append((error.errno or 0,))
            else:
                found.append((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
        return found

    def _read(self) -> tuple[bytes, bytes]:
        contents = []
        for variable, path in zip(("SSL_CERT", "SSL_KEY"), self._files, strict=True):
            try:
                with open(path, "rb") as file:
                    contents.append(file.read(MAX_FILE))
            except OSError as error:
                raise ValueError(f"{variable}: {path} cannot be read: {error.strerror}") from None
        return contents[0], contents[1]


@implementer(IOpenSSLServerConnectionCreator)
class GivenCertificates:
    """The same where another process has read the files."""

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self.change(certificate, key)

    def change(self, certificate: bytes, key: bytes) -> None:
        self._context, _ = _context(certificate, key)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return TLSConnection(self._context, None)


def _context(certificate: bytes, key: bytes) -> tuple[SSL.Context, x509.Certificate]:
    """What connections are made with, and the server's own certificate. Raises ValueError."""
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except ValueError:
        raise ValueError("SSL_CERT: it has no PEM certificate, or a broken one") from None
    try:
        private_key = load_pem_private_key(key, password=None)
    except TypeError:
        raise ValueError("SSL_KEY: the key is encrypted; it takes one without a passphrase") from None
    except Exception:  # UnsupportedAlgorithm, or whatever a strange key leads to
        raise ValueError("SSL_KEY: it has no PEM private key, or one that cannot be used") from None
    public_key = private_key.public_key()
    own = [one for one in chain if one.public_key() == public_key]
    if not own:
        raise ValueError("SSL_CERT and SSL_KEY do not belong together")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_id(b"rtmps")
    context.set_tlsext_servername_callback(_withhold_tickets)
    try:
        context.use_certificate(own[0])
        for other in chain:
            if other is not own[0]:
                context.add_extra_chain_cert(other)
        context.use_privatekey(private_key)  # type: ignore[arg-type]  # refuses what is not for TLS
        context.check_privatekey()
    except (SSL.Error, TypeError, ValueError):
        raise ValueError("SSL_CERT and SSL_KEY cannot be used for TLS") from None
    return context, own[0]


def _withhold_tickets(connection: SSL.Connection) -> None:
    """No session tickets for a client that does not say which server it wants (RFC 6066, section 3).

    One of those is Debian's librtmp (rtmpdump, GStreamer's rtmpsrc and rtmpsink): with TLS 1.3 tickets come behind the
    handshake, and it takes them for an error.
    """
    if connection.get_servername() is None and connection.get_protocol_version() == SSL.TLS1_3_VERSION:
        connection.set_options(SSL.OP_NO_TICKET)


def _names(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses that it is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return [certificate.subject.rfc4514_string()]
    return [str(name.value) for name in found]
