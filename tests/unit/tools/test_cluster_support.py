"""What the cluster fixtures promise without a cluster: no process outlives a test run, and no skip is silent."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cluster_tools.modules import TOOLS
from support_cluster import fixed_ports
from support_kubelet import addresses
from support_net import wait_until
from support_process import Daemon, alive

SUPPORT = TOOLS.parent / "tests" / "support"
CLUSTER_TEST = TOOLS.parent / "tests" / "cluster" / "test_control_plane.py"

RUN = """
import sys, time
from pathlib import Path
from support_process import Daemon
daemon = Daemon("sleep", ["sleep", "600"], Path(sys.argv[1]) / "log")
daemon.start()
(Path(sys.argv[1]) / "pid").write_text(f"{daemon.pid}\\n")
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends children only on Linux")
async def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", RUN, tmp_path, env=environment)
    file = tmp_path / "pid"
    await wait_until(lambda: file.exists() and file.read_text().endswith("\n"), 30, what="the child's pid")
    child = int(file.read_text())
    assert alive(child)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await wait_until(lambda: not alive(child), 5, what="end of the child")


def test_a_process_outlives_the_thread_that_started_it_and_starts_again(tmp_path: Path) -> None:
    daemon = Daemon("sleep", ["sleep", "600"], tmp_path / "log")
    thread = threading.Thread(target=daemon.start)
    thread.start()
    thread.join()
    # The kernel would have sent its signal when the thread ended; a second child is enough of a wait for that.
    subprocess.run([sys.executable, "-c", ""], check=True)
    first = daemon.pid
    assert first
    assert daemon.exit_code is None
    daemon.start()
    assert daemon.pid == first
    assert daemon.stop() == -signal.SIGTERM
    assert daemon.pid == 0
    assert not alive(first)
    daemon.start()
    assert daemon.pid not in (0, first)
    assert daemon.stop(signum=signal.SIGKILL) == -signal.SIGKILL


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    text = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    daemon = Daemon("stubborn", [sys.executable, "-c", text], tmp_path / "log")
    daemon.start()
    asyncio.run(wait_until(lambda: "on" in daemon.tail(), what="start"))
    assert daemon.stop(grace=0.1) == -signal.SIGKILL


def test_a_program_that_is_not_there_says_so_in_its_log(tmp_path: Path) -> None:
    daemon = Daemon("nothing", [tmp_path / "nothing"], tmp_path / "log")
    try:
        daemon.start()
        asyncio.run(wait_until(lambda: daemon.exit_code is not None, what="end"))
    except FileNotFoundError:
        assert sys.platform != "linux"
    else:
        assert daemon.exit_code == 1
        assert "No such file" in daemon.tail()


def test_ports_can_be_had_again_after_a_restart() -> None:
    ports = fixed_ports(20)
    assert len(set(ports)) == 20
    if sys.platform == "linux":
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert max(ports) < first


def test_addresses_are_loopback_and_never_twice() -> None:
    found = addresses(2000)
    assert len(set(found)) == 2000
    for one in found:
        octets = [int(part) for part in one.split(".")]
        assert octets[0] == 127
        assert octets[1] >= 64
        assert octets[3] not in (0, 255)


def run_without_programs(folder: Path, ci: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "wrong_token", str(CLUSTER_TEST)]
    environment = {key: value for key, value in os.environ.items() if key != "KUBEBUILDER_ASSETS"}
    environment |= {"RALB_CACHE": str(folder), "CI": ci}
    return subprocess.run(
        command, env=environment, cwd=TOOLS.parent, capture_output=True, text=True, check=False, timeout=120
    )


def test_without_programs_cluster_tests_are_skipped_loudly(tmp_path: Path) -> None:
    done = run_without_programs(tmp_path, "")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
    assert "CLUSTER TESTS SKIPPED" in done.stdout
    assert "run: make control-plane" in done.stdout


def test_without_programs_cluster_tests_fail_in_ci(tmp_path: Path) -> None:
    done = run_without_programs(tmp_path, "true")
    assert done.returncode == 1, done.stdout
    assert "CI=true, and no control plane" in done.stdout
