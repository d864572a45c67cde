"""Certificates over the years: whatever two ends have read lately, they must understand each other."""

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given, settings
from hypothesis import strategies as st
from support_trust import GATEWAY_NAMES, OPERATOR_NAMES, SERVER_NAME, YEAR, utc_now

from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE
from ralb_operator.certs import SKEW, Usage, issue, new_authority
from ralb_operator.rotation import LEAVES, Lifetimes, Names, Part, Stored, plan

NAMES = Names("RALB ralb/ralb", OPERATOR_NAMES, GATEWAY_NAMES)
TIMES = Lifetimes()
START = datetime(2027, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


class Cluster:
    """What is stored, and what each leaf was since when."""

    def __init__(self, now: datetime = START, lifetimes: Lifetimes = TIMES) -> None:
        self.now = now
        self.lifetimes = lifetimes
        self.stored: dict[Part, Stored] = {}
        self.history: dict[Part, list[tuple[datetime, Stored]]] = {part: [] for part in LEAVES}
        self.steps = 0

    def step(self) -> bool:
        """One plan, written; False if there was nothing to do."""
        writes = plan(self.stored, NAMES, self.lifetimes, self.now)
        for part, each in writes.items():
            self.put(part, each)
        self.steps += bool(writes)
        return bool(writes)

    def put(self, part: Part, stored: Stored) -> None:
        self.stored[part] = stored
        if part in self.history:
            self.history[part].append((self.now, stored))

    def settle(self) -> None:
        for _ in range(5):
            if not self.step():
                return
        raise AssertionError("it never ends")

    def lately(self, part: Part) -> list[Stored]:
        """Versions that somebody may have at present."""
        history = self.history[part]
        ended = [at for at, _ in history[1:]] + [None]
        return [
            each
            for (_, each), end in zip(history, ended, strict=True)
            if end is None or self.now - end < self.lifetimes.overlap
        ]

    def assert_understood(self) -> None:
        for operator in self.lately(Part.OPERATOR):
            for gateway in self.lately(Part.GATEWAY):
                verify(operator, gateway, self.now)


def verify(operator: Stored, gateway: Stored, at: datetime) -> None:
    """Both directions of a handshake, as far as certificates go."""

    def builder(trusts: Stored) -> PolicyBuilder:
        return PolicyBuilder().store(Store(x509.load_pem_x509_certificates(trusts.data[CA_FILE]))).time(at)

    builder(gateway).build_server_verifier(x509.DNSName(SERVER_NAME)).verify(certificate(operator), [])
    builder(operator).build_client_verifier().verify(certificate(gateway), [])


def certificate(stored: Stored) -> x509.Certificate:
    return x509.load_pem_x509_certificate(stored.data[CERT_FILE])


def authorities(stored: Stored) -> list[int]:
    return [each.serial_number for each in x509.load_pem_x509_certificates(stored.data[CA_FILE])]


def grown(now: datetime = START) -> Cluster:
    cluster = Cluster(now)
    cluster.settle()
    return cluster


def test_from_nothing_to_three_parts_in_two_steps() -> None:
    cluster = Cluster()
    assert set(plan({}, NAMES, TIMES, START)) == {Part.AUTHORITY}
    cluster.settle()
    assert set(cluster.stored) == set(Part)
    assert cluster.steps == 2
    cluster.assert_understood()
    assert not cluster.step()
    operator, gateway = cluster.stored[Part.OPERATOR], cluster.stored[Part.GATEWAY]
    assert certificate(operator).not_valid_before_utc == START - SKEW
    assert certificate(operator).not_valid_after_utc == START + 90 * DAY
    names = certificate(operator).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {
        "ralb-operator",
        "ralb-operator.ralb",
        "ralb-operator.ralb.svc",
        "ralb-operator.ralb.svc.cluster.local",
    }
    assert KEY_FILE in gateway.data
    assert cluster.stored[Part.AUTHORITY].data[KEY_FILE] not in (operator.data[KEY_FILE], gateway.data[KEY_FILE])


def test_leaves_are_renewed_after_two_thirds_of_their_time_and_the_authority_stays() -> None:
    cluster = grown()
    before = dict(cluster.stored)
    cluster.now = START + 60 * DAY - HOUR
    assert not cluster.step()
    cluster.now = START + 60 * DAY
    assert cluster.step()
    assert cluster.stored[Part.AUTHORITY] == before[Part.AUTHORITY]
    for part in LEAVES:
        assert certificate(cluster.stored[part]).not_valid_after_utc == START + 150 * DAY
        assert cluster.stored[part].trusts_since == before[part].trusts_since
    cluster.assert_understood()


def test_steps_of_a_new_authority() -> None:
    cluster = grown()
    old = authorities(cluster.stored[Part.AUTHORITY])
    cluster.now = START + timedelta(days=3650) * 2 / 3
    cluster.settle()
    both = authorities(cluster.stored[Part.AUTHORITY])
    assert both[1:] == old
    # At first it is only announced. (The leaves were expired and are new, so it has signed them at once.)
    cluster = grown()
    cluster.now = START + timedelta(days=2400)
    cluster.settle()
    leaves = {part: cluster.stored[part].data[CERT_FILE] for part in LEAVES}
    cluster.now = START + timedelta(days=3650) * 2 / 3
    cluster.settle()
    announced = cluster.now
    both = authorities(cluster.stored[Part.AUTHORITY])
    assert len(both) == 2
    for part in LEAVES:
        assert cluster.stored[part].data[CERT_FILE] == leaves[part]
        assert authorities(cluster.stored[part]) == both
        assert cluster.stored[part].trusts_since == announced
    cluster.now = announced + TIMES.overlap - HOUR
    assert not cluster.step()
    cluster.now = announced + TIMES.overlap
    cluster.settle()
    for part in LEAVES:
        assert cluster.stored[part].data[CERT_FILE] != leaves[part]
        assert authorities(cluster.stored[part]) == both
    cluster.now += TIMES.overlap - HOUR
    assert not cluster.step()
    cluster.now += HOUR
    cluster.settle()
    assert authorities(cluster.stored[Part.GATEWAY]) == authorities(cluster.stored[Part.AUTHORITY]) == both[:1]
    cluster.assert_understood()


def test_a_crash_between_announcing_and_telling_does_not_shorten_the_overlap() -> None:
    cluster = grown()
    del cluster.stored[Part.AUTHORITY]
    assert cluster.step()  # only the authority itself
    leaves = {part: cluster.stored[part].data[CERT_FILE] for part in LEAVES}
    cluster.now += 3 * TIMES.overlap
    cluster.settle()
    assert {part: cluster.stored[part].data[CERT_FILE] for part in LEAVES} == leaves
    cluster.assert_understood()
    cluster.now += TIMES.overlap
    cluster.settle()
    assert all(cluster.stored[part].data[CERT_FILE] != leaves[part] for part in LEAVES)


@pytest.mark.parametrize("part", list(Part))
@pytest.mark.parametrize("damage", ["missing", "rubbish", "another-key", "empty"])
def test_damage_is_repaired(part: Part, damage: str) -> None:
    cluster = grown()
    other = grown().stored[part].data
    before = cluster.stored[part]
    if damage == "missing":
        del cluster.stored[part]
    else:
        bad = {"rubbish": {CERT_FILE: b"x"}, "another-key": {KEY_FILE: other[KEY_FILE]}, "empty": {}}[damage]
        data = {} if damage == "empty" else {**before.data, **bad}
        cluster.stored[part] = replace(before, data=data)
    for each in LEAVES:
        cluster.history[each].clear()
    cluster.settle()
    for each in LEAVES:
        cluster.history[each].append((cluster.now, cluster.stored[each]))
    cluster.assert_understood()
    assert cluster.stored[part].data[CERT_FILE] != before.data[CERT_FILE] or damage == "empty"


def test_other_names_make_new_certificates_at_once() -> None:
    cluster = grown()
    names = replace(NAMES, operator=("x.ralb.svc",))
    for _ in range(3):
        for part, each in plan(cluster.stored, names, TIMES, cluster.now).items():
            cluster.stored[part] = each
    assert plan(cluster.stored, names, TIMES, cluster.now) == {}
    sans = certificate(cluster.stored[Part.OPERATOR]).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert sans.value.get_values_for_type(x509.DNSName) == ["x.ralb.svc"]


def test_a_replica_whose_clock_is_late_leaves_certificates_alone() -> None:
    cluster = grown()
    cluster.now = START - HOUR
    assert not cluster.step() or all(
        cluster.stored[part].data[CERT_FILE] == cluster.history[part][0][1].data[CERT_FILE] for part in LEAVES
    )
    assert authorities(cluster.stored[Part.AUTHORITY]) == authorities(cluster.history[Part.GATEWAY][0][1])


EVENTS = st.lists(
    st.tuples(
        st.timedeltas(min_value=timedelta(minutes=1), max_value=timedelta(days=6)),
        st.sampled_from(["settle", "settle", "settle", "crash", "nobody", "lose-authority"]),
    ),
    min_size=5,
    max_size=120,
)


@settings(max_examples=40, deadline=None)
@given(events=EVENTS)
def test_at_no_moment_of_a_rotation_does_a_handshake_fail(events: list[tuple[timedelta, str]]) -> None:
    # Short lives, so that authorities come to their end within the test.
    cluster = Cluster(lifetimes=Lifetimes(timedelta(days=300), timedelta(days=60), timedelta(days=2)))
    cluster.settle()
    idle = timedelta()
    for wait, event in events:
        cluster.now += wait
        idle += wait
        cluster.assert_understood()
        if event == "lose-authority":
            # Not while an earlier loss is still being dealt with: that would need more than a leaf's life in all.
            if len(authorities(cluster.stored[Part.AUTHORITY])) > 1:
                continue
            cluster.stored.pop(Part.AUTHORITY)
            cluster.settle()
        elif event == "crash":
            cluster.step()
        elif event == "settle" or idle > timedelta(days=8):
            cluster.settle()
            idle = timedelta()
        cluster.assert_understood()
    assert len(authorities(cluster.stored[Part.GATEWAY])) <= 2


def test_verify_can_fail() -> None:
    one, other = grown(), grown()
    with pytest.raises(VerificationError):
        verify(one.stored[Part.OPERATOR], other.stored[Part.GATEWAY], START)
    with pytest.raises(VerificationError):
        verify(one.stored[Part.OPERATOR], one.stored[Part.GATEWAY], START + 90 * DAY + HOUR)
    with pytest.raises(VerificationError):
        verify(one.stored[Part.GATEWAY], one.stored[Part.OPERATOR], START)


def handshake(operator: Stored, gateway: Stored, folder: Path) -> None:
    """A real one, in memory, each end with nothing but what it has read."""
    ends = {}
    for name, stored, protocol in (
        ("server", operator, ssl.PROTOCOL_TLS_SERVER),
        ("client", gateway, ssl.PROTOCOL_TLS_CLIENT),
    ):
        context = ssl.SSLContext(protocol)
        pem = folder / f"{name}.pem"
        pem.write_bytes(stored.data[CERT_FILE] + stored.data[KEY_FILE])
        context.load_cert_chain(pem)
        context.load_verify_locations(cadata=stored.data[CA_FILE].decode())
        context.verify_mode = ssl.CERT_REQUIRED
        ends[name] = context
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ends["server"].wrap_bio(to_server, to_client, server_side=True)
    client = ends["client"].wrap_bio(to_client, to_server, server_hostname=SERVER_NAME)
    pending = [client, server]
    for _ in range(10):
        for end in list(pending):
            try:
                end.do_handshake()
                pending.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not pending:
            return
    raise AssertionError("no end of the handshake")


def test_real_handshakes_between_all_that_may_meet(tmp_path: Path) -> None:
    """A whole rotation of an authority that lies in the last days, so that all it made is valid now."""
    cluster = grown(utc_now() - 8 * DAY)
    del cluster.stored[Part.AUTHORITY]
    met = 0
    while cluster.now < utc_now():
        cluster.settle()
        for operator in cluster.lately(Part.OPERATOR):
            for gateway in cluster.lately(Part.GATEWAY):
                handshake(operator, gateway, tmp_path)
                met += 1
        cluster.now += 6 * HOUR
    assert len({*map(certificate, (each for _, each in cluster.history[Part.OPERATOR]))}) == 2
    assert len(cluster.history[Part.OPERATOR]) == 4  # made, announced, replaced, the old authority let go
    assert met > 40
    first, last = cluster.history[Part.OPERATOR][0][1], cluster.history[Part.GATEWAY][-1][1]
    with pytest.raises(ssl.SSLError):
        handshake(first, last, tmp_path)


def test_authority_signs_for_its_names_only(tmp_path: Path) -> None:
    now = utc_now()
    authority = new_authority("T", OPERATOR_NAMES, now, YEAR)
    good = issue(authority, OPERATOR_NAMES, Usage.SERVER, now, YEAR)
    client = issue(authority, ["ralb-operator"], Usage.CLIENT, now, YEAR)
    other = issue(authority, ["example.com"], Usage.CLIENT, now, YEAR)

    def stored(pair: object) -> Stored:
        return Stored({CERT_FILE: pair.cert, KEY_FILE: pair.key, CA_FILE: authority.cert})  # type: ignore[attr-defined]

    handshake(stored(good), stored(client), tmp_path)
    with pytest.raises(ssl.SSLError, match="permitted subtree violation"):
        handshake(stored(good), stored(other), tmp_path)
    cert = x509.load_pem_x509_certificate(authority.cert)
    assert cert.extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert cert.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert cert.extensions.get_extension_for_class(x509.NameConstraints).critical
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    # What it signs does not outlive it.
    long = issue(authority, OPERATOR_NAMES, Usage.SERVER, now, 9 * YEAR)
    assert x509.load_pem_x509_certificate(long.cert).not_valid_after_utc == cert.not_valid_after_utc


@pytest.mark.parametrize(
    ("authority", "leaf", "overlap"),
    [(3650, 5, 1), (200, 90, 1), (3650, 90, -1), (3650, 0, 0)],
)
def test_lifetimes_that_cannot_work_are_refused(authority: int, leaf: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="must be valid for at least"):
        Lifetimes(authority * DAY, leaf * DAY, overlap * DAY)
