"""TLS of the picker's port.

Gateways usually take any certificate from their picker, so one made at the start is the default; it lives in memory only.
One from a directory (a mounted Secret) is read again when its files change: new connections get the new one, open ones go
on.

Trap: a context that is loaded again keeps the certificate of before beside the new one if their keys are of different kinds,
and goes on showing it. So what is read makes a new context, and the one servers were given hands every connection to it.
"""

import contextlib
import datetime
import logging
import os
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ralb_extproc.epp.options import DIRECTORY, OFF, SELF_SIGNED

_LOG = logging.getLogger(__name__)
_NAME: Final = "ralb-endpoint-picker"
_VALID: Final = datetime.timedelta(days=3650)
_EARLIER: Final = datetime.timedelta(days=1)  # clocks differ


class PickerTls:
    """The server's side of TLS as it was asked for.

    Args:
        mode: ``off``, ``self-signed`` or ``dir:PATH`` (with ``tls.crt`` and ``tls.key``).

    Attributes:
        context: for servers; None when off.

    Raises:
        ValueError: an unknown mode, or files that are no certificate with its key.
        OSError: files that cannot be read.
    """

    def __init__(self, mode: str) -> None:
        self.context: ssl.SSLContext | None = None
        self._folder: Path | None = None
        self._seen: tuple[tuple[int, int, int], ...] = ()
        if mode == OFF:
            return
        self.context = _context()
        if mode == SELF_SIGNED:
            _load_self_signed(self.context)
        elif mode.startswith(DIRECTORY) and len(mode) > len(DIRECTORY):
            self._folder = Path(mode.removeprefix(DIRECTORY))
            self._seen = self._state(self._folder)
            _load(self.context, self._folder)
            self._newest = self.context
            # Called for every connection, whether or not the client names a server.
            self.context.sni_callback = self._hand_over
        else:
            raise ValueError(f"--epp-tls is off, self-signed or dir:PATH, not {mode!r}")

    def refresh(self) -> bool:
        """Read the files again if they changed; whether they were. Broken ones leave the old in use."""
        folder = self._folder
        if folder is None:
            return False
        try:
            state = self._state(folder)
            if state == self._seen:
                return False
            self._seen = state
            newest = _context()
            _load(newest, folder)
            self._newest = newest
        except (OSError, ValueError) as error:
            _LOG.error("the certificate in %s cannot be used, the one before stays: %s", folder, error)
            return False
        _LOG.info("the certificate in %s was read again", folder)
        return True

    def _hand_over(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._newest

    @staticmethod
    def _state(folder: Path) -> tuple[tuple[int, int, int], ...]:
        stats = [(folder / name).stat() for name in ("tls.crt", "tls.key")]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


def _load(context: ssl.SSLContext, folder: Path) -> None:
    try:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key", password=_no_password)
    except ssl.SSLError as error:  # its text names the fault, never what is in the files
        raise ValueError(f"tls.crt and tls.key in {folder} are no certificate with its key: {error}") from None


def _no_password() -> bytes:
    raise ValueError("the key is encrypted")


def _load_self_signed(context: ssl.SSLContext) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME), x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with _file_of(certificate.public_bytes(pem) + private) as path:
        context.load_cert_chain(path)


@contextlib.contextmanager
def _file_of(data: bytes) -> Iterator[str]:
    """A path of the data for OpenSSL, which reads files only: in memory where that can be, as disks may be read only."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(_NAME)
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name
