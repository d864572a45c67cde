"""TLS material of one process: its certificate, its key and whom it trusts; checked before use, replaced while running.

Both ends of the connection between gateway and operator use this. Making certificates may not enter, nor anything of gRPC. What
is bad or half-written never replaces what works. Keys and whatever parsers quote are in no message, ``repr`` or log line.

Trap: a mounted Secret changes by a swap of the ``..data`` symlink, so one read must go through one target of that link. Read
file by file through the folder, a certificate may come with the key of the next one.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LOG = logging.getLogger(__name__)

CERT_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
CA_FILE: Final = "ca.crt"
# Larger files are no certificates; a Secret cannot hold more either.
_MAX_BYTES: Final = 1024 * 1024


class BadMaterial(ValueError):
    """Material that cannot be used; the message says why, without content."""


@dataclass(frozen=True, slots=True)
class Material:
    """Checked material, all PEM.

    Attributes:
        cert: the certificate, followed by intermediate ones.
        key: its private key.
        ca: the authorities to trust.
        version: changes when any of them does; says nothing about the key.
        not_after: Unix seconds at which the certificate ends.
    """

    cert: bytes = field(repr=False)
    key: bytes = field(repr=False)
    ca: bytes = field(repr=False)
    version: str
    not_after: float


def check(cert: bytes, key: bytes, ca: bytes, now: float) -> Material:
    """Material that belongs together and is valid at ``now`` (Unix seconds).

    Raises:
        BadMaterial: something does not parse, the key is another's, or the time is over or not yet come.
    """
    leaf = _certificates(cert, CERT_FILE)[0]
    _certificates(ca, CA_FILE)
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except Exception as error:
        raise BadMaterial(f"{KEY_FILE} holds no usable private key in PEM ({type(error).__name__})") from None
    try:
        belongs = _public(leaf.public_key()) == _public(private.public_key())
    except Exception as error:  # keys are parsed only now, and some are of kinds nobody knows
        raise BadMaterial(f"{CERT_FILE} holds no usable public key ({type(error).__name__})") from None
    if not belongs:
        raise BadMaterial(f"{KEY_FILE} is not the key of the certificate in {CERT_FILE}")
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now >= end.timestamp():
        raise BadMaterial(f"the certificate in {CERT_FILE} expired at {end:%Y-%m-%dT%H:%M:%SZ}")
    if now < start.timestamp():
        raise BadMaterial(
            f"the certificate in {CERT_FILE} is not valid before {start:%Y-%m-%dT%H:%M:%SZ}; is the clock right?"
        )
    version = hashlib.sha256(b"\0".join((cert, ca))).hexdigest()[:16]
    return Material(cert, key, ca, version, end.timestamp())


class Keeper:
    """The last good material, and what is wrong with the newest if that is not it.

    Offer and wait on one event loop; ``current`` may be read from any thread.

    Args:
        source: where material comes from, for messages, like ``/etc/ralb-tls``.
        clock: Unix seconds.

    Attributes:
        current: what to use; None before the first.
        problem: why the newest offered is not in use; "" if it is.
        accepted, refused: how often material was taken over and turned down.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time.time) -> None:
        self.source = source
        self.current: Material | None = None
        self.problem = ""
        self.accepted = 0
        self.refused = 0
        self._clock = clock
        self._offered: tuple[bytes, bytes, bytes] | None = None
        self._changed = asyncio.Event()
        self._expiry_told = ""

    def offer(self, cert: bytes, key: bytes, ca: bytes) -> None:
        """Use this from now on, if it is good; the same again changes nothing."""
        offered = (cert, key, ca)
        # What was refused is checked anew: it may have become valid.
        if offered == self._offered and not self.problem:
            self._tell_expiry()
            return
        try:
            material = check(cert, key, ca, self._clock())
        except BadMaterial as error:
            self._refuse(str(error), again=offered == self._offered)
            self._offered = offered
            return
        self._offered = offered
        self.problem = ""
        self.accepted += 1
        self.current = material
        end = datetime.fromtimestamp(material.not_after, UTC)
        _LOG.info(
            "TLS material %s from %s in use, valid until %s", material.version, self.source, f"{end:%Y-%m-%dT%H:%MZ}"
        )
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def fail(self, problem: str) -> None:
        """Material could not be read at all. ``problem`` must hold none of it."""
        again = self._offered is None and self.problem == problem
        self._offered = None
        self._refuse(problem, again=again)

    async def wait(self, than: str = "") -> Material:
        """Material of another version than ``than``; waits until there is."""
        while (current := self.current) is None or current.version == than:
            await self._changed.wait()
        return current

    def _refuse(self, problem: str, *, again: bool) -> None:
        if not again:
            self.refused += 1
        if problem != self.problem:
            self.problem = problem
            keeps = "the last good material stays in use" if self.current else "there is none to use"
            _LOG.error("TLS material from %s cannot be used: %s; %s", self.source, problem, keeps)
        self._tell_expiry()

    def _tell_expiry(self) -> None:
        current = self.current
        if current is not None and self._clock() >= current.not_after and self._expiry_told != current.version:
            self._expiry_told = current.version
            _LOG.error("the certificate in use, from %s, has expired; connections will be refused", self.source)


class Directory:
    """Follows a folder with ``tls.crt``, ``tls.key`` and ``ca.crt``, as a mounted Secret has them.

    Args:
        folder: the folder.
        keeper: gets what is found.
        interval: seconds between two looks.
    """

    def __init__(self, folder: Path, keeper: Keeper, interval: float = 5.0) -> None:
        self._folder = folder
        self._keeper = keeper
        self._interval = interval

    async def look(self) -> None:
        """Read once and offer what is there."""
        try:
            cert, key, ca = await asyncio.to_thread(read, self._folder)
        except OSError as error:
            name = os.path.basename(error.filename or "") or str(self._folder)
            self._keeper.fail(f"cannot read {name}: {error.strerror or type(error).__name__}")
        except BadMaterial as error:
            self._keeper.fail(str(error))
        else:
            self._keeper.offer(cert, key, ca)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval)


def read(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Certificate, key and authorities as they are in ``folder``, unchecked, all of one version of a mounted Secret.

    Raises:
        OSError: a file is missing or cannot be read.
        BadMaterial: a file is too large to be material.
    """
    data = folder / "..data"
    while True:
        base = data.resolve() if data.is_symlink() else folder
        try:
            return _read(base / CERT_FILE), _read(base / KEY_FILE), _read(base / CA_FILE)
        except FileNotFoundError:
            # The version it began with may have been replaced meanwhile. Another one is another try; the same is an error.
            if not data.is_symlink() or data.resolve() == base:
                raise


class MaterialCollector(Collector):
    """Prometheus series about the material of one process."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def collect(self) -> Iterable[Metric]:
        """The series."""
        keeper = self._keeper
        yield GaugeMetricFamily(
            "ralb_tls_certificate_not_after_seconds",
            "Unix time at which the TLS certificate in use ends; 0 if there is none.",
            value=keeper.current.not_after if keeper.current else 0.0,
        )
        yield GaugeMetricFamily(
            "ralb_tls_material_bad",
            "1 if the newest TLS material cannot be used and an older one (or none) is.",
            value=float(bool(keeper.problem)),
        )
        yield CounterMetricFamily(
            "ralb_tls_material_accepted", "TLS material taken into use.", value=float(keeper.accepted)
        )
        yield CounterMetricFamily("ralb_tls_material_refused", "TLS material turned down.", value=float(keeper.refused))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise BadMaterial(f"{path.name} is larger than {_MAX_BYTES} bytes")
    return data


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception as error:
        raise BadMaterial(f"{name} holds no certificate in PEM ({type(error).__name__})") from None


def _public(key: object) -> bytes:
    encode = getattr(key, "public_bytes")  # noqa: B009  # every kind of public key has it, their union type does not
    encoded = encode(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(encoded, bytes)
    return encoded
