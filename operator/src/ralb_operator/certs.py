"""Making certificates: a certificate authority of the installation's own, and the two certificates it signs.

Deciding when to make which (``rotation``) and where they are kept may not enter. Keys are in no ``repr`` and no message.

Trap: names are compared by clients as text, so a Service needs all the forms in which it may be called. And the authority's name
constraints must permit each of them, or every certificate it signs is refused.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Certificates are valid from a little earlier, for machines whose clocks are late.
SKEW: Final = timedelta(minutes=5)
# Longer common names are refused by X.509.
_MAX_NAME: Final = 64
_PEM: Final = serialization.Encoding.PEM


class Usage(Enum):
    """Which end of a connection a certificate is for."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    cert: bytes
    key: bytes = field(repr=False)


def service_names(service: str, namespace: str, cluster_domain: str = "cluster.local") -> tuple[str, ...]:
    """Every form in which a Service is called inside a cluster, the one for other namespaces (``x.y.svc``) first."""
    return (
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}.svc.{cluster_domain}",
        f"{service}.{namespace}",
        service,
    )


def new_authority(title: str, names: Sequence[str], now: datetime, life: timedelta) -> Pair:
    """A self-signed authority that can sign for ``names`` (DNS) and nothing else.

    Args:
        title: who it belongs to; for people.
        names: DNS names it may sign for, with what is below them.
        now: aware time.
        life: how long it is valid from ``now``.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Two authorities of one installation are trusted at once during a rotation: the name tells them apart.
    suffix = f" {serial & 0xFFFFFFFF:08x}"
    name = _name(title[: _MAX_NAME - len(suffix)] + suffix)
    public = key.public_key()
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    constraints = x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(each) for each in names],
        excluded_subtrees=[x509.IPAddress(each) for each in everything],
    )
    builder = (
        _builder(name, name, serial, now, now + life)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return Pair(builder.sign(key, hashes.SHA256()).public_bytes(_PEM), _key_pem(key))


def issue(authority: Pair, names: Sequence[str], usage: Usage, now: datetime, life: timedelta) -> Pair:
    """A certificate for ``names``, signed by ``authority``; it never outlives its authority.

    Raises:
        ValueError: the authority's certificate or key cannot be used.
    """
    parent = x509.load_pem_x509_certificate(authority.cert)
    signer = load_key(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    end = min(now + life, parent.not_valid_after_utc)
    builder = (
        _builder(_name(names[0][:_MAX_NAME]), parent.subject, x509.random_serial_number(), now, end)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage.value]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_key(parent), critical=False)
    )
    return Pair(builder.sign(signer, hashes.SHA256()).public_bytes(_PEM), _key_pem(key))


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in ``pem``.

    Raises:
        ValueError: it is none, or not of an elliptic curve. The message holds nothing of the key.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        # What the parser says may quote what it read.
        raise ValueError(f"not a private key in PEM ({type(error).__name__})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a private key of an elliptic curve")
    return key


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether ``authority`` issued ``certificate``: names and signature, not the times."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # beside InvalidSignature: keys of kinds nobody knows, and all that can be wrong with either
        return False
    return True


def issued_at(certificate: x509.Certificate) -> datetime:
    """When one of our certificates was made (it is valid from ``SKEW`` earlier)."""
    return certificate.not_valid_before_utc + SKEW


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names it is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(names.get_values_for_type(x509.DNSName))
    except Exception:  # no such extension, or none of them can be read
        return ()


def permitted_names(authority: x509.Certificate) -> tuple[str, ...]:
    """The DNS names our authority may sign for."""
    try:
        found = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except Exception:  # as above
        return ()
    return tuple(each.value for each in found or () if isinstance(each, x509.DNSName))


def _builder(
    subject: x509.Name, issuer: x509.Name, serial: int, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(serial)
        .not_valid_before(now.astimezone(UTC) - SKEW)
        .not_valid_after(end.astimezone(UTC))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _authority_key(parent: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
