"""What of a pool's Secrets is fit for use, and what becomes of the rest."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ralb_api.objects import ModelPool
from ralb_operator.certs import new_authority
from ralb_operator.compile import Reason
from ralb_operator.compile.backends import Backends, Backing, backends
from ralb_operator.view import Secret, View

AUTHORITY = new_authority("ca", ["provider.test"], datetime.now(UTC), timedelta(days=1))
OTHER = new_authority("other", ["provider.test"], datetime.now(UTC), timedelta(days=1))


def found(key: bytes, ca: bytes) -> Backends:
    tls = {"caCertificateRef": {"name": "both"}}
    external = {"host": "provider.test", "tls": tls, "credentialsRef": {"name": "both"}}
    spec = {"model": {"name": "m"}, "backend": {"external": external}}
    pool = ModelPool.model_validate({"metadata": {"name": "cloud", "namespace": "team"}, "spec": spec})
    secret = Secret("team", "both", {"apiKey": key, "ca.crt": ca})
    return backends(View(secrets={("team", "both"): secret}), {pool.key: pool})


def backing(key: bytes, ca: bytes) -> Backing:
    result = found(key, ca)
    assert result.problems == ()
    (only,) = result.by_pool.values()
    return only


def of_a_later_version(pem: bytes) -> bytes:
    """The same certificate saying that it is of a version of X.509 that does not exist."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    later = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)
    assert later != der
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(later) + b"-----END CERTIFICATE-----\n"


def test_only_certificates_are_taken_from_a_file_of_authorities() -> None:
    """Authorities are not redacted in Envoy's config dump."""
    ca = b"# ours\r\n" + AUTHORITY.cert + AUTHORITY.key + OTHER.cert + AUTHORITY.cert
    assert backing(b"k", ca).ca == AUTHORITY.cert + OTHER.cert


@pytest.mark.parametrize(
    "ca",
    [b"", b"\xff\xfe\x00", AUTHORITY.key, AUTHORITY.cert[:-40], of_a_later_version(AUTHORITY.cert)],
    ids=["empty", "bytes", "a key", "cut off", "odd version"],
)
def test_what_is_no_certificate_is_the_pools_own_problem(ca: bytes) -> None:
    result = found(b"k", ca)
    (problem,) = result.problems
    assert (problem.reason, problem.object) == (Reason.SECRET_KEY_INVALID, next(iter(result.by_pool)))
    assert "PRIVATE" not in str(problem)
    assert not any(each.resolved for each in result.by_pool.values())


@pytest.mark.parametrize("key", [b"sk-1", b"sk-1\n", b" sk-1\r\n", b"\tsk-1 \n\n"])
def test_line_ends_are_not_part_of_a_key(key: bytes) -> None:
    assert backing(key, AUTHORITY.cert).key == b"sk-1"


@pytest.mark.parametrize(
    "key", [b"", b"\n", b"sk 1", b"sk-1\r\nx-evil: 1", b"sk-\x00", "sk-\ufeff1".encode(), "sk-1".encode("utf-16")]
)
def test_what_is_no_key_is_refused_without_being_shown(key: bytes) -> None:
    result = found(key, AUTHORITY.cert)
    (problem,) = result.problems
    assert problem.reason == Reason.SECRET_KEY_INVALID
    assert "sk" not in str(problem)
