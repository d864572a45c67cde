"""Reports between replicas: bounded, honest about what does not fit, and counted only while they are renewed."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support_fake_api import FakeApi, Fault
from support_net import wait_until

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.listwatch import Item
from ralb_operator.cluster.programmed import Report
from ralb_operator.cluster.reports import (
    ANNOTATION,
    MAX_BYTES,
    MAX_REPLICAS,
    Owner,
    Peers,
    ReportWriter,
    decode,
    encode,
    lease,
)
from ralb_operator.troubles import Trouble

words = st.text(st.characters(codec="utf-8"), max_size=60)
names = st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True)
troubles = st.builds(
    Trouble,
    pool=names,
    series=names,
    error=st.sampled_from(("", "timeout")),
    pods=st.integers(0, 9),
    of=st.integers(0, 9),
    examples=st.lists(names, max_size=3).map(tuple),
)
reports = st.builds(
    Report,
    replica=names,
    edition=names,
    settled=names,
    envoys=st.integers(0, 9),
    processors=st.integers(0, 9),
    late=st.lists(names, max_size=30).map(tuple),
    late_count=st.integers(0, 900),
    refused=st.dictionaries(names, words, max_size=5).map(lambda found: tuple(sorted(found.items()))),
    shared=words,
    snapshot_refused=words,
    held=words,
    heard=st.integers(0, 9),
    troubles=st.lists(troubles, max_size=9).map(tuple),
)


@given(reports)
def test_what_is_written_is_read(report: Report) -> None:
    read = decode(encode(report))
    assert read is not None
    assert (read.replica, read.edition, read.settled) == (report.replica, report.edition, report.settled)
    assert read.late == report.late[:16]
    assert read.late_count == report.late_count
    assert [name for name, _ in read.refused] == [name for name, _ in report.refused]
    assert (read.heard, read.troubles) == (report.heard, report.troubles)
    assert decode(encode(read)) == read


def test_too_much_to_tell() -> None:
    refused = tuple((f"ModelPool ns/pool-{i:04}", "Envoy's reasons " * 60) for i in range(200))
    text = encode(Report("a", "e", "s", refused=refused))
    assert len(text.encode()) <= MAX_BYTES
    read = decode(text)
    assert read is not None
    assert len(read.refused) == 200, "the words are cut, no object is left out"
    assert read.settled == "s"
    text = encode(Report("a", "e", "s", refused=tuple((f"ModelPool ns/{i}" + "x" * 200, "w") for i in range(1000))))
    assert len(text.encode()) <= MAX_BYTES
    read = decode(text)
    assert read is not None
    assert read.settled == "", "whoever leaves objects out must not say that all is well"


def test_troubles_leave_room_for_refusals() -> None:
    many = tuple(Trouble(f"ns/{i:0200}", "s" * 128, "", 1, 2, ("n" * 253,) * 3) for i in range(256))
    refused = tuple((f"ModelPool ns/{i}", "w" * 100) for i in range(100))
    text = encode(Report("a", "e", "s", refused=refused, troubles=many))
    read = decode(text)
    assert len(text.encode()) <= MAX_BYTES
    assert read is not None
    assert len(read.refused) == 100
    assert 0 < len(read.troubles) < 256
    assert read.settled == "s"


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(junk, st.sampled_from(("envoys", "late", "refused", "held", "lateCount", "edition", "replica", "troubles")))
def test_anything_in_the_annotation_is_borne(value: Any, name: str) -> None:
    import orjson

    good = orjson.loads(encode(Report("a")))
    try:
        text = orjson.dumps({**good, name: value}).decode()
    except TypeError:  # integers of more than 64 bits
        return
    read = decode(text)
    assert read is None or 0 <= read.envoys <= 1_000_000
    assert decode(value) is None or isinstance(value, str)


def test_the_lease_belongs_to_its_pod() -> None:
    made = lease(Report("pod-1", "e"), Owner("pod-1", "uid-1"), datetime(2026, 1, 1, tzinfo=UTC))
    assert made["metadata"]["name"] == "ralb-report-pod-1"
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", "uid-1")
    assert "ownerReferences" not in lease(Report("pod-1"), None, datetime(2026, 1, 1, tzinfo=UTC))["metadata"]


def item(report: Report, version: str) -> Item[Report | None]:
    return Item("ns", f"ralb-report-{report.replica}", "u", version, report)


def test_peers_count_while_they_are_renewed(client: ApiClient) -> None:
    now, changes = 0.0, 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    peers = Peers(client, "ns", "me", changed, clock=lambda: now)
    peers._replace([item(Report("me"), "1"), item(Report("b"), "2"), item(Report("c"), "3")], "9")
    assert [report.replica for report in peers.fresh()] == ["b", "c"]
    now = 20.0
    told = changes
    peers._change("MODIFIED", item(Report("b"), "10"))
    assert changes == told, "renewed, and says the same"
    peers._change("MODIFIED", item(Report("b", held="x"), "11"))
    assert changes == told + 1
    now = 31.0
    assert [report.replica for report in peers.fresh()] == ["b"]
    peers._replace([item(Report("b"), "11"), item(Report("c"), "3")], "12")
    assert [report.replica for report in peers.fresh()] == ["b"], "a list does not make an old report a new one"
    peers._change("DELETED", item(Report("b"), "13"))
    assert peers.fresh() == ()


def test_nobody_reports_under_anothers_name_and_their_number_is_bounded(client: ApiClient) -> None:
    peers = Peers(client, "ns", "me", lambda: None)
    peers._change("ADDED", Item("ns", "ralb-report-x", "u", "1", Report("y")))
    assert peers.fresh() == ()
    for i in range(200):
        peers._change("ADDED", item(Report(f"r{i}"), str(i)))
    assert len(peers.fresh()) == MAX_REPLICAS


def test_leases_of_the_dead_do_not_shut_out_the_living(client: ApiClient) -> None:
    now = 0.0
    peers = Peers(client, "ns", "me", lambda: None, clock=lambda: now)
    for i in range(MAX_REPLICAS):
        peers._change("ADDED", item(Report(f"dead{i}"), str(i)))
    now = 40.0
    peers._change("ADDED", item(Report("alive"), "1000"))
    assert [report.replica for report in peers.fresh()] == ["alive"]
    assert len(peers._seen) == MAX_REPLICAS


async def test_the_writer_writes_on_change_and_now_and_then(api: FakeApi, client: ApiClient) -> None:
    current = Report("a", "e1", "e1", snapshot="s1")
    writer = ReportWriter(client, "ns", lambda: current, renew_s=0.5)
    api.faults.append(Fault(500, "InternalError"))
    task = asyncio.create_task(writer.run())
    await wait_until(lambda: writer.written == 1, what="tried again after an error")
    assert writer.failed == 1
    current = Report("a", "e2", "e1", snapshot="s2")
    writer.changed()
    await wait_until(lambda: '"e2"' in api.bodies[-1]["metadata"]["annotations"][ANNOTATION])
    written = writer.written
    await wait_until(lambda: writer.written > written, what="renewed without a change")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert api.requests[-1][:2] == ("DELETE", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/ralb-report-a")


async def test_another_snapshot_alone_is_no_news(client: ApiClient) -> None:
    current = Report("a", "e", "e", snapshot="s1")
    writer = ReportWriter(client, "ns", lambda: current)
    writer._told = current
    current = Report("a", "e", "e", snapshot="s2")
    writer.changed()
    assert not writer._changed.is_set()
    current = Report("a", "e", "", snapshot="s2")
    writer.changed()
    assert writer._changed.is_set()
