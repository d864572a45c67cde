"""Material of one process: checked, replaced, kept when the newest is bad, and never told to anybody."""

import argparse
import asyncio
import logging
import time
from datetime import timedelta
from pathlib import Path

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from prometheus_client import CollectorRegistry, generate_latest
from support_net import wait_until
from support_trust import YEAR, MountedSecret, TestAuthority

from ralb_api.tls import (
    CA_FILE,
    CERT_FILE,
    KEY_FILE,
    BadMaterial,
    Directory,
    Keeper,
    MaterialCollector,
    check,
    read,
)
from ralb_extproc.drain import ACTIVE_STAT
from ralb_operator.certs import Pair, load_key
from ralb_operator.cluster.tls import Mode, TlsOptions, add_arguments, options_of
from ralb_operator.compile.envoy.listener import listener
from ralb_operator.rotation import Lifetimes
from ralb_operator.view import Gateway

NOW = time.time()
CA = TestAuthority("one")
GOOD = CA.operator()
OTHER = CA.operator()
LINES = [line for pair in (GOOD, OTHER, CA.pair) for line in pair.key.decode().splitlines()[1:-1]]


def assert_silent(*said: object) -> None:
    for text in map(str, said):
        assert "PRIVATE" not in text
        assert not any(line in text for line in LINES)


@pytest.mark.parametrize(
    ("cert", "key", "ca", "says"),
    [
        (b"", GOOD.key, CA.ca, "tls.crt holds no certificate"),
        (GOOD.cert[:200], GOOD.key, CA.ca, "tls.crt holds no certificate"),
        (GOOD.cert, b"", CA.ca, "tls.key holds no usable private key"),
        (GOOD.cert, GOOD.key[:120], CA.ca, "tls.key holds no usable private key"),
        (GOOD.cert, GOOD.key.replace(b"E ", b"X "), CA.ca, "tls.key holds no usable private key"),
        (GOOD.cert, OTHER.key, CA.ca, "tls.key is not the key of the certificate in tls.crt"),
        (GOOD.cert, GOOD.key, b"", "ca.crt holds no certificate"),
        (GOOD.key, GOOD.key, CA.ca, "tls.crt holds no certificate"),
    ],
)
def test_what_does_not_fit_is_refused_without_content(cert: bytes, key: bytes, ca: bytes, says: str) -> None:
    with pytest.raises(BadMaterial, match=says) as refused:
        check(cert, key, ca, NOW)
    assert_silent(refused.value, repr(refused.value), refused.value.__cause__)


def test_time() -> None:
    end = check(GOOD.cert, GOOD.key, CA.ca, NOW).not_after
    assert end == pytest.approx(NOW + YEAR.total_seconds(), abs=5)
    assert check(GOOD.cert, GOOD.key, CA.ca, end - 1)
    with pytest.raises(BadMaterial, match="expired at"):
        check(GOOD.cert, GOOD.key, CA.ca, end)
    # Five minutes of a late clock are allowed for.
    assert check(GOOD.cert, GOOD.key, CA.ca, NOW - 240)
    with pytest.raises(BadMaterial, match="is the clock right"):
        check(GOOD.cert, GOOD.key, CA.ca, NOW - 400)


def test_keys_are_in_no_repr() -> None:
    material = check(GOOD.cert, GOOD.key, CA.ca, NOW)
    assert_silent(material, repr(material), repr(GOOD), repr(CA.pair), repr(Pair(b"c", GOOD.key)))
    with pytest.raises(ValueError, match="not a private key in PEM") as refused:
        load_key(GOOD.key[:100])
    assert_silent(refused.value, refused.value.__cause__)


async def test_bad_material_keeps_the_last_good_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keeper = Keeper("here")
    keeper.fail("nothing there")
    assert keeper.current is None
    assert "there is none to use" in caplog.text
    keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    good = keeper.current
    assert good is not None
    assert (keeper.accepted, keeper.refused, keeper.problem) == (1, 1, "")
    for _ in range(3):
        keeper.offer(GOOD.cert, OTHER.key, CA.ca)
    keeper.offer(GOOD.cert, GOOD.key, b"half")
    assert keeper.current is good
    assert (keeper.accepted, keeper.refused) == (1, 3)
    assert caplog.text.count("is not the key") == 1
    assert caplog.text.count("the last good material stays in use") == 2
    keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    assert keeper.problem == ""
    assert keeper.current == good
    keeper.offer(OTHER.cert, OTHER.key, CA.ca)
    assert keeper.current is not None
    assert keeper.current.version != good.version
    assert_silent(caplog.text)


async def test_waiting_for_another_version() -> None:
    keeper = Keeper("here")
    waiting = asyncio.create_task(keeper.wait())
    await asyncio.sleep(0)
    keeper.offer(b"", b"", b"")
    await asyncio.sleep(0)
    assert not waiting.done()
    keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    first = await asyncio.wait_for(waiting, 1)
    assert await keeper.wait() is first
    waiting = asyncio.create_task(keeper.wait(first.version))
    await asyncio.sleep(0)
    assert not waiting.done()
    keeper.offer(OTHER.cert, OTHER.key, CA.ca)
    assert (await asyncio.wait_for(waiting, 1)).version != first.version


async def test_material_that_expires_in_use_is_told_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    now = [NOW]
    keeper = Keeper("here", clock=lambda: now[0])
    keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    now[0] += 2 * YEAR.total_seconds()
    for _ in range(3):
        keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    assert caplog.text.count("has expired") == 1
    assert keeper.current is not None


async def test_not_yet_valid_is_taken_when_its_time_comes() -> None:
    now = [NOW - 3600]
    keeper = Keeper("here", clock=lambda: now[0])
    keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    assert "is the clock right" in keeper.problem
    now[0] = NOW
    keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    assert keeper.current is not None


async def test_folder_as_the_kubelet_changes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mounted = MountedSecret(tmp_path / "tls")
    keeper = Keeper("folder")
    directory = Directory(mounted.folder, keeper, interval=0.01)
    await directory.look()
    assert keeper.problem == "cannot read tls.crt: No such file or directory"
    following = asyncio.create_task(directory.run())
    try:
        mounted.put(GOOD, CA.ca)
        first = await asyncio.wait_for(keeper.wait(), 5)
        for pair in (OTHER, GOOD, OTHER):
            version = keeper.current.version if keeper.current else ""
            mounted.put(pair, CA.ca)
            await asyncio.wait_for(keeper.wait(version), 5)
        refused = keeper.refused
        mounted.put_files({CERT_FILE: b"x" * (2 << 20), KEY_FILE: GOOD.key, CA_FILE: CA.ca})
        await wait_until(lambda: keeper.problem == "tls.crt is larger than 1048576 bytes")
        assert keeper.current is not None
        assert keeper.current.version != first.version
        assert keeper.refused == refused + 1
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert_silent(caplog.text)


async def test_one_read_is_of_one_version(tmp_path: Path) -> None:
    """A swap between two files of one read must not mix them."""
    mounted = MountedSecret(tmp_path)
    mounted.put(GOOD, CA.ca)

    def swap() -> None:
        for number in range(300):
            mounted.put(OTHER if number % 2 else GOOD, CA.ca)

    swapping = asyncio.create_task(asyncio.to_thread(swap))
    reads = 0
    while not swapping.done():
        cert, key, _ = await asyncio.to_thread(read, tmp_path)
        assert (cert, key) in ((GOOD.cert, GOOD.key), (OTHER.cert, OTHER.key))
        reads += 1
    await swapping
    assert reads > 20


def test_a_plain_folder_does_as_well(tmp_path: Path) -> None:
    for name, data in ((CERT_FILE, GOOD.cert), (KEY_FILE, GOOD.key), (CA_FILE, CA.ca)):
        (tmp_path / name).write_bytes(data)
    assert read(tmp_path) == (GOOD.cert, GOOD.key, CA.ca)


async def test_series() -> None:
    registry = CollectorRegistry()
    keeper = Keeper("here")
    registry.register(MaterialCollector(keeper))
    keeper.offer(GOOD.cert, OTHER.key, CA.ca)
    page = generate_latest(registry).decode()
    assert "ralb_tls_certificate_not_after_seconds 0.0" in page
    assert "ralb_tls_material_bad 1.0" in page
    assert "ralb_tls_material_refused_total 1.0" in page
    keeper.offer(GOOD.cert, GOOD.key, CA.ca)
    page = generate_latest(registry).decode()
    assert "ralb_tls_material_bad 0.0" in page
    assert "ralb_tls_material_accepted_total 1.0" in page
    assert keeper.current is not None
    (line,) = (each for each in page.splitlines() if each.startswith("ralb_tls_certificate_not_after_seconds "))
    assert float(line.split()[1]) == keeper.current.not_after
    assert_silent(page)


def parsed(*flags: str) -> TlsOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return options_of(parser.parse_args(flags))


def test_flags_of_the_operator() -> None:
    assert parsed().mode is Mode.OFF
    assert parsed("--tls", "dir:/etc/tls").folder == Path("/etc/tls")
    short = parsed("--tls", "bootstrap", "--certificate-days", "1", "--release", "x", "--tls-client", "a")
    assert (short.mode, short.release, short.clients) == (Mode.BOOTSTRAP, "x", ("a",))
    assert short.lifetimes.leaf == timedelta(days=1)
    assert short.lifetimes.overlap * 6 <= short.lifetimes.leaf
    assert parsed("--tls", "bootstrap").lifetimes == Lifetimes()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tls", "on"], "--tls must be off, dir:PATH, secret or bootstrap"),
        (["--tls", "dir"], "--tls must be"),
        (["--tls", "dir:"], "--tls must be"),
        (["--tls", "secret:x"], "--tls must be"),
        (["--certificate-days", "0"], "--certificate-days must be above 0"),
        (["--certificate-days", "nan"], "--certificate-days must be above 0"),
        (["--certificate-days", "9999"], "--certificate-days must be above 0"),
    ],
)
def test_flags_that_make_no_sense(flags: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parsed(*flags)


def test_drain_counts_what_the_compiler_calls_so() -> None:
    message = listener_pb2.Listener.FromString(listener(Gateway()).body)
    manager = http_connection_manager_pb2.HttpConnectionManager()
    assert message.filter_chains[0].filters[0].typed_config.Unpack(manager)
    assert f"http.{manager.stat_prefix}.downstream_rq_active" == ACTIVE_STAT
