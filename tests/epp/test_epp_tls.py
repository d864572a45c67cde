"""Certificates of the picker's port."""

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from support_epp import CHAT, Target, calling
from support_picker import own_picker

from ralb_extproc.epp.tls import PickerTls

EC = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("rsa:2048",)


def write_certificate(folder: Path, name: str, kind: tuple[str, ...] = EC) -> None:
    """tls.crt and tls.key as a Secret's volume has them."""
    command = ["openssl", "req", "-x509", "-newkey", *kind, "-nodes"]
    command += ["-keyout", str(folder / "tls.key.new"), "-out", str(folder / "tls.crt.new"), "-subj", f"/CN={name}"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    for file in ("tls.key", "tls.crt"):
        (folder / f"{file}.new").replace(folder / file)


async def subject(address: str) -> str:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    secure = writer.get_extra_info("ssl_object")
    assert secure.selected_alpn_protocol() == "h2"
    der = secure.getpeercert(binary_form=True)
    await reader.readexactly(9)
    writer.close()
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()


async def test_a_certificate_is_made_where_none_is_given(tmp_path: Path) -> None:
    async with own_picker(tmp_path, tls="self-signed") as own:
        assert await subject(own.address) == "CN=ralb-endpoint-picker"


@pytest.mark.parametrize("kind", [EC, RSA], ids=["ec", "rsa"])
async def test_a_new_certificate_is_taken_up_and_open_connections_go_on(tmp_path: Path, kind: tuple[str, ...]) -> None:
    write_certificate(tmp_path, "first")
    async with own_picker(tmp_path, tls=f"dir:{tmp_path}") as own:
        pickers = own.processor.pickers
        assert pickers is not None
        async with calling(Target(own.address, True, ())) as caller:
            assert (await caller.ask(CHAT)).status == 0
            assert await subject(own.address) == "CN=first"
            write_certificate(tmp_path, "second", kind)
            pickers.tick()
            assert await subject(own.address) == "CN=second"
            assert (await caller.ask(CHAT)).status == 0


def test_broken_files_leave_the_old_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_certificate(tmp_path, "first")
    key = (tmp_path / "tls.key").read_text()
    tls = PickerTls(f"dir:{tmp_path}")
    assert not tls.refresh()
    other = tmp_path / "other"
    other.mkdir()
    write_certificate(other, "other")
    (other / "tls.crt").replace(tmp_path / "tls.crt")
    assert not tls.refresh(), "the key is another's"
    (tmp_path / "tls.crt").unlink()
    assert not tls.refresh()
    assert "stays" in caplog.text
    assert key.splitlines()[1] not in caplog.text
    write_certificate(tmp_path, "second")
    assert tls.refresh()


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"])
def test_files_that_are_no_certificate_are_refused(tmp_path: Path, content: str) -> None:
    for file in ("tls.crt", "tls.key"):
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match="no certificate with its key"):
        PickerTls(f"dir:{tmp_path}")


@pytest.mark.parametrize("mode", ["", "on", "dir:", "self_signed"])
def test_unknown_modes_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="--epp-tls"):
        PickerTls(mode)


def test_nothing_is_left_open() -> None:
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    assert PickerTls("self-signed").context is not None
    after = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    assert after == before
    assert PickerTls("off").context is None
