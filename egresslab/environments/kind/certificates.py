"""The certificate of the world outside, signed by a cluster's own authority."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from egresslab.environments.netns.files import write_atomically
from egresslab.errors import EnvironmentFailure

VALIDITY, SKEW = timedelta(days=365), timedelta(hours=1)


def write_certificate(
    directory: Path,
    authority: str,
    key: str,
    names: Iterable[str],
    addresses: Iterable[IPv4Address | IPv6Address],
) -> None:
    """Write outside.crt and outside.key, given the authority's certificate and key (PEM)."""
    signer = load_pem_private_key(key.encode(), None)
    if not isinstance(signer, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise EnvironmentFailure("is of a kind that cannot sign here", object="the cluster's authority")
    issuer = x509.load_pem_x509_certificate(authority.encode())
    own, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    others: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    others += [x509.IPAddress(address) for address in addresses]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "outside")]))
        .issuer_name(issuer.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_authority(issuer), critical=False)
        .sign(signer, SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(directory / "outside.key", secret.decode(), mode=0o600)
    write_atomically(directory / "outside.crt", certificate.public_bytes(Encoding.PEM).decode(), mode=0o644)


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """As the issuer names its own key, however it came to that name (RFC 5280, 4.2.1.1)."""
    named = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named.value)
