"""A private certificate authority for the tests of TLS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@frozen
class IssuedCertificate:
    """A server's certificate and key, as PEM files."""

    certificate: Path
    key: Path

    def options(self) -> Any:
        """For Twisted servers."""
        return PrivateCertificate.loadPEM(self.certificate.read_bytes() + self.key.read_bytes()).options()


class Authority:
    """Signs server certificates; all its files lie in ``directory``."""

    def __init__(self, directory: str | Path, name: str = "authority") -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._issued = 0
        self._file_name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {name}")])
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = self._directory / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def trust_root(self) -> Any:
        """For Twisted clients."""
        return trustRootFromCertificates([Certificate.loadPEM(self.certificate.read_bytes())])

    def issue(
        self, *names: str, days: int = 30, kind: str = "ecdsa", signed_by_itself: bool = False
    ) -> IssuedCertificate:
        """A certificate for ``names`` (host names and addresses); with ``days`` below 0 it is out of date. ``kind`` of
        its key: ``ecdsa`` or ``rsa``."""
        key: Key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test server")])
        certificate = (
            self._builder(subject, key, days, subject if signed_by_itself else self._name)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .sign(key if signed_by_itself else self._key, hashes.SHA256())
        )
        # Each has files of its own, so that a list of them can be made before the first is used.
        self._issued += 1
        stem = f"{self._file_name}-server-{self._issued}"
        issued = IssuedCertificate(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return issued

    def _builder(
        self, subject: x509.Name, key: Key, days: int = 30, issuer: x509.Name | None = None
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
