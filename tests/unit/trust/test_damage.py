"""Certificates with damage anywhere: the last good material stays in use, and what is stored is brought in order again."""

import base64
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from support_trust import GATEWAY_NAMES, OPERATOR_NAMES

from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE, BadMaterial, Keeper, check
from ralb_operator.rotation import Lifetimes, Names, Part, Stored, next_ends, plan

NAMES = Names("RALB ralb/ralb", OPERATOR_NAMES, GATEWAY_NAMES)
NOW = datetime.now(UTC)


def settled(stored: dict[Part, Stored]) -> dict[Part, Stored]:
    for _ in range(8):
        writes = plan(stored, NAMES, Lifetimes(), NOW)
        if not writes:
            return stored
        stored = {**stored, **writes}
    raise AssertionError("it never ends")


GOOD = settled({})


def der_of(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def pem_of(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def swapped(pem: bytes, old: str, new: str) -> bytes:
    der = der_of(pem)
    changed = der.replace(bytes.fromhex(old), bytes.fromhex(new))
    assert changed != der
    return pem_of(changed)


@st.composite
def damaged(draw: st.DrawFn) -> dict[Part, Stored]:
    stored = dict(GOOD)
    for part in draw(st.sets(st.sampled_from(list(Part)), min_size=1)):
        data = dict(stored[part].data)
        for name in draw(st.sets(st.sampled_from([CERT_FILE, CA_FILE]), min_size=1)):
            der = bytearray(der_of(data[name]))
            places = st.tuples(st.integers(0, len(der) - 1), st.integers(0, 255))
            for place, value in draw(st.lists(places, min_size=1, max_size=3)):
                der[place] = value
            data[name] = pem_of(bytes(der))
        stored[part] = Stored(data, stored[part].trusts_since)
    return stored


@settings(max_examples=150, deadline=None)
@given(stored=damaged())
def test_damage_of_any_kind(stored: dict[Part, Stored]) -> None:
    next_ends(stored)
    for part, each in settled(stored).items():
        check(each.data[CERT_FILE], each.data[KEY_FILE], each.data[CA_FILE], NOW.timestamp())
        keeper = Keeper("somewhere", NOW.timestamp)
        keeper.offer(*(GOOD[part].data[name] for name in (CERT_FILE, KEY_FILE, CA_FILE)))
        keeper.offer(*(stored[part].data[name] for name in (CERT_FILE, KEY_FILE, CA_FILE)))
        assert keeper.current is not None
        assert keeper.problem or keeper.current.cert == stored[part].data[CERT_FILE]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a003020102", "a003020107"),  # a version that does not exist
        ("2a8648ce3d030107", "2a8648ce3d030177"),  # a curve nobody knows
        ("2a8648ce3d0201", "2a8648ce3d0277"),  # a kind of key nobody knows
        ("034200", "034201"),  # a key of a length that cannot be
    ],
)
def test_what_the_parser_has_its_own_errors_for(old: str, new: str) -> None:
    data = GOOD[Part.OPERATOR].data
    bad = swapped(data[CERT_FILE], old, new)
    with pytest.raises(BadMaterial):
        check(bad, data[KEY_FILE], data[CA_FILE], NOW.timestamp())
    for part in Part:
        ca = swapped(GOOD[part].data[CA_FILE], old, new)
        both = {**GOOD[part].data, CERT_FILE: swapped(GOOD[part].data[CERT_FILE], old, new), CA_FILE: ca}
        settled({**GOOD, part: Stored(both, GOOD[part].trusts_since)})
