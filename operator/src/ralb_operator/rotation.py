"""When certificates are made anew and what is trusted meanwhile: a pure function from what is stored to what to store.

The property: everybody reads what is stored with a delay (the kubelet takes a minute or two), and whatever two ends have read
within ``Lifetimes.overlap``, their handshake works. So nothing is signed by a new authority before all have been told to trust
it for that long, and an old one is trusted until what it signed has been replaced for that long. Without an authority in store
(lost, or deleted to have a new one) the same steps are taken, for what the old one signed is still good.

Reading and writing may not enter (``cluster.trust``). Trap: one call plans one step. Write it, read again, and plan again until
nothing is left, or two replicas that plan at once end with certificates of different authorities.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE, BadMaterial, check
from ralb_operator.certs import (
    Pair,
    Usage,
    dns_names,
    issue,
    issued_at,
    new_authority,
    permitted_names,
    signed_by,
)

# More are never trusted at once; there are more than two only if somebody deletes authorities one after another.
_MAX_TRUSTED: Final = 4


class Part(StrEnum):
    """What is stored, each in a Secret of its own."""

    OPERATOR = "operator-tls"
    GATEWAY = "gateway-tls"
    AUTHORITY = "ca"


LEAVES: Final = {Part.OPERATOR: Usage.SERVER, Part.GATEWAY: Usage.CLIENT}


@dataclass(frozen=True, slots=True)
class Stored:
    """One part: file name -> content.

    Attributes:
        data: ``tls.crt``, ``tls.key`` and ``ca.crt``, the authorities to trust.
        trusts_since: when the newest authority was added to ``ca.crt``; None for the authority itself, or if unknown.
    """

    data: Mapping[str, bytes] = field(repr=False)
    trusts_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things are valid. Each is replaced after two thirds of its time.

    Attributes:
        authority, leaf: of the certificates.
        overlap: how long it may take until everybody has read what was stored.

    Raises:
        ValueError: a step would not be over before the next is due.
    """

    authority: timedelta = timedelta(days=3650)
    leaf: timedelta = timedelta(days=90)
    overlap: timedelta = timedelta(hours=24)

    def __post_init__(self) -> None:
        if self.overlap < timedelta() or self.leaf < 6 * self.overlap or self.leaf <= timedelta():
            raise ValueError("certificates must be valid for at least six times the overlap of a rotation")
        if self.authority < 3 * self.leaf:
            raise ValueError("the authority must be valid for at least three times as long as what it signs")


@dataclass(frozen=True, slots=True)
class Names:
    """DNS names of both ends, and a title of the installation, for people."""

    title: str
    operator: tuple[str, ...]
    gateway: tuple[str, ...]

    def of(self, part: Part) -> tuple[str, ...]:
        """Names that a leaf must hold."""
        return self.operator if part is Part.OPERATOR else self.gateway


@dataclass(frozen=True, slots=True)
class _Held:
    """A part that could be read: its certificate, and whom it trusts."""

    pair: Pair
    cert: x509.Certificate
    trusts: tuple[x509.Certificate, ...]


def plan(stored: Mapping[Part, Stored], names: Names, lifetimes: Lifetimes, now: datetime) -> dict[Part, Stored]:
    """What to write next; empty when all is well. Parts that are not stored are missing in ``stored``."""
    held = {part: found for part, each in stored.items() if (found := _held(each, now)) is not None}
    authority = held.get(Part.AUTHORITY)
    if authority is None or not _can_sign(authority, names):
        return {Part.AUTHORITY: _new_authority(stored, held, names, lifetimes, now)}
    leaves = {part: held[part] for part in LEAVES if part in held and _usable(held[part], part, authority, names)}
    older = [each for each in authority.trusts if each != authority.cert]
    if _due(authority.cert, now) and not older:
        return {Part.AUTHORITY: _new_authority(stored, held, names, lifetimes, now)}
    replaced = len(leaves) == len(LEAVES) and all(
        signed_by(leaf.cert, authority.cert) and issued_at(leaf.cert) + lifetimes.overlap <= now
        for leaf in leaves.values()
    )
    trusted = (authority.cert, *([] if replaced else [each for each in older if each.not_valid_after_utc > now]))
    if _bundle(trusted) != stored[Part.AUTHORITY].data.get(CA_FILE):
        return {Part.AUTHORITY: _stored(authority.pair, trusted)}
    return _leaf_writes(stored, leaves, _Held(authority.pair, authority.cert, trusted), names, lifetimes, now)


def next_ends(stored: Mapping[Part, Stored]) -> dict[Part, datetime]:
    """When each certificate in store ends, as far as they can be read."""
    ends = {}
    for part, each in stored.items():
        found = _parsed(each.data.get(CERT_FILE, b""))
        if found:
            ends[part] = found[0].not_valid_after_utc
    return ends


def _leaf_writes(
    stored: Mapping[Part, Stored],
    leaves: Mapping[Part, _Held],
    authority: _Held,
    names: Names,
    lifetimes: Lifetimes,
    now: datetime,
) -> dict[Part, Stored]:
    since = {part: _trusts_since(stored.get(part), authority.cert, now) for part in LEAVES}
    everywhere = all(part in leaves and since[part] + lifetimes.overlap <= now for part in LEAVES)
    writes = {}
    for part, usage in LEAVES.items():
        leaf = leaves.get(part)
        due = leaf is not None and (_due(leaf.cert, now) or not signed_by(leaf.cert, authority.cert))
        if leaf is None or (due and everywhere):
            pair = issue(authority.pair, names.of(part), usage, now, lifetimes.leaf)
        else:
            pair = leaf.pair
        wanted = _stored(pair, authority.trusts, since[part])
        if stored.get(part) != wanted:
            writes[part] = wanted
    return writes


def _new_authority(
    stored: Mapping[Part, Stored], held: Mapping[Part, _Held], names: Names, lifetimes: Lifetimes, now: datetime
) -> Stored:
    pair = new_authority(names.title, [*names.operator, *names.gateway], now, lifetimes.authority)
    old = stored.get(Part.AUTHORITY)
    # Whoever vouches for what is in use stays trusted until that is replaced, even if its key is lost.
    still = _parsed(old.data.get(CA_FILE, b"")) if old else []
    for part in LEAVES:
        leaf = held.get(part)
        still += [each for each in leaf.trusts if signed_by(leaf.cert, each)] if leaf else []
    valid = [each for each in still if each.not_valid_after_utc > now]
    return _stored(pair, [*_parsed(pair.cert), *valid][:_MAX_TRUSTED])


def _held(stored: Stored, now: datetime) -> _Held | None:
    cert, key, ca = (stored.data.get(name, b"") for name in (CERT_FILE, KEY_FILE, CA_FILE))
    found = _parsed(cert)
    if not found:
        return None
    # What is not valid yet is no reason to make another: the clock of the replica that made it is ahead of ours.
    when = max(now, found[0].not_valid_before_utc)
    try:
        check(cert, key, ca, when.timestamp())
    except BadMaterial:
        return None
    return _Held(Pair(cert, key), found[0], tuple(_parsed(ca)))


def _can_sign(authority: _Held, names: Names) -> bool:
    wanted = {*names.operator, *names.gateway}
    return signed_by(authority.cert, authority.cert) and wanted <= set(permitted_names(authority.cert))


def _usable(leaf: _Held, part: Part, authority: _Held, names: Names) -> bool:
    if set(dns_names(leaf.cert)) != set(names.of(part)):
        return False
    try:
        usages = leaf.cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except Exception:  # no such extension, or none of them can be read
        return False
    return LEAVES[part].value in usages and any(signed_by(leaf.cert, each) for each in authority.trusts)


def _due(cert: x509.Certificate, now: datetime) -> bool:
    made = issued_at(cert)
    return now >= made + (cert.not_valid_after_utc - made) * 2 / 3


def _trusts_since(stored: Stored | None, authority: x509.Certificate, now: datetime) -> datetime:
    if stored is None or stored.trusts_since is None or stored.trusts_since > now:
        return now
    return stored.trusts_since if authority in _parsed(stored.data.get(CA_FILE, b"")) else now


def _stored(pair: Pair, trusted: Sequence[x509.Certificate], since: datetime | None = None) -> Stored:
    return Stored({CERT_FILE: pair.cert, KEY_FILE: pair.key, CA_FILE: _bundle(trusted)}, since)


def _bundle(trusted: Iterable[x509.Certificate]) -> bytes:
    unique = dict.fromkeys(trusted)
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in unique)


def _parsed(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception:  # the parser has exceptions of its own beside ValueError, such as InvalidVersion
        return []
