"""RTMPS as a client: checks the other server's certificate, and says in words what is wrong with it. Used by relays and
link."""

from __future__ import annotations

from typing import Final

from attrs import define
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from rtmp_twisted.rtmp.tls import TLSConnection

_PROBLEMS: Final = {
    9: "is not valid yet",
    10: "is out of date",
    18: "is signed by itself",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted",
    21: "is signed by an authority that is not trusted",
    23: "was revoked",
}
"""What the numbers of OpenSSL's ``X509_V_ERR_…`` mean."""


def client_context(authorities: str = "", insecure: bool = False) -> SSL.Context:
    """What connections are made with. ``authorities``: a PEM file in place of the system's. Raises ValueError."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if insecure:
        return context
    if not authorities:
        context.set_default_verify_paths()
        return context
    try:
        context.load_verify_locations(authorities)
    except SSL.Error:
        raise ValueError(f"{authorities} holds no PEM certificate") from None
    return context


@implementer(IOpenSSLClientConnectionCreator)
@define
class ServerCheck:
    """Makes one connection to ``host``. Afterwards, ``problem`` says why its certificate was not taken."""

    context: SSL.Context
    host: str
    insecure: bool = False
    problem: str = ""

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = TLSConnection(self.context, None)
        connection.set_connect_state()
        if not _is_address(self.host):
            connection.set_tlsext_host_name(self.host.encode("idna"))
        if not self.insecure:
            connection.set_verify(SSL.VERIFY_PEER, self._verify)
        return connection

    def _verify(self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
        """Called by OpenSSL for each certificate of the chain, the server's own last."""
        if not ok:
            self.problem = f"its certificate {_PROBLEMS.get(error, f'cannot be verified (error {error})')}"
        elif not depth:
            self._verify_name(certificate.to_cryptography())
        return not self.problem

    def _verify_name(self, certificate: x509.Certificate) -> None:
        verify = verify_certificate_ip_address if _is_address(self.host) else verify_certificate_hostname
        try:
            verify(certificate, self.host)
        except (VerificationError, CertificateError):
            self.problem = f"its certificate is not for {self.host}"


def _is_address(host: str) -> bool:
    return bool(isIPAddress(host) or isIPv6Address(host))
