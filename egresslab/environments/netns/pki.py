"""The lab's own certificate authority and what it signs: API server, kubelets, the servers outside.

One authority for everything, so that `curl https://ifconfig.me` in a pod verifies like on any other day. It is made
anew for every lab, its key never leaves the lab's directory, and nothing here is meant to outlive a lab.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from egresslab.environments.netns.files import write_atomically

VALIDITY = timedelta(days=365)
SKEW = timedelta(hours=1)
"""Certificates begin in the past, for clocks that are set back."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Subject:
    """One certificate to sign: file stem, common name and what else the server is called, or that it is a client's."""

    stem: str
    common_name: str
    names: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    client: bool = False


def write_pki(directory: Path, lab: str, subjects: Iterable[Subject]) -> None:
    """Write ca.crt, ca.key and STEM.crt, STEM.key for every subject (PEM; keys 0600)."""
    directory.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name(f"egresslab {lab}")
    authority = (
        _unsigned(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, SHA256())
    )
    _write(directory, "ca", authority, authority_key)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    for subject in subjects:
        key = ec.generate_private_key(ec.SECP256R1())
        others: list[x509.GeneralName] = [x509.DNSName(name) for name in subject.names]
        others += [x509.IPAddress(address) for address in subject.addresses]
        certificate = (
            _unsigned(_name(subject.common_name), authority_name, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_usages(subject)), critical=False)
            .add_extension(x509.SubjectAlternativeName(others), critical=False)
            .add_extension(issuer, critical=False)
            .sign(authority_key, SHA256())
        )
        _write(directory, subject.stem, certificate, key)


def _usages(subject: Subject) -> list[x509.ObjectIdentifier]:
    # etcd serves and, as its own peer, is served with the API server's.
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.CLIENT_AUTH] if subject.client else both if subject.stem == "apiserver" else both[:1]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + VALIDITY)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _write(directory: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(directory / f"{stem}.key", secret, mode=0o600)
    write_atomically(directory / f"{stem}.crt", certificate.public_bytes(Encoding.PEM), mode=0o644)
