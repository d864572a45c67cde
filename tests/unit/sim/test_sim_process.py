"""The command as a process: ready-file, crash and restart on the same port, SIGTERM, start-up delay, wrong arguments."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ralb_sim.main import main
from ralb_sim.server.faults import CRASH_CODE

Start = Callable[..., tuple["subprocess.Popen[bytes]", dict[str, Any]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, wait: bool = True) -> tuple["subprocess.Popen[bytes]", dict[str, Any]]:
        ready = tmp_path / f"ready-{len(running)}.json"
        command = [
            sys.executable,
            "-m",
            "ralb_sim.main",
            "--model",
            "tiny",
            "--time-scale",
            "0.02",
            "--ready-file",
            str(ready),
        ]
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE)
        running.append(process)
        deadline = time.monotonic() + 30
        while wait and not ready.exists():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline, "not ready within 30 s"
            time.sleep(0.01)
        return process, json.loads(ready.read_text()) if wait else {"ready": ready}

    yield run
    for process in running:
        process.kill()
        process.communicate(timeout=10)


def post(port: int, path: str, body: Any) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: bytes = response.read()
        return answer


ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


def test_ready_file_then_crash_then_restart_on_the_same_port(start: Start) -> None:
    process, ready = start()
    assert (ready["host"], ready["pid"]) == ("127.0.0.1", process.pid)
    post(ready["port"], "/v1/chat/completions", ASK)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        post(ready["port"], "/admin/faults", {"kind": "crash"})
    assert process.wait(10) == CRASH_CODE
    _process, again = start("--port", str(ready["port"]))
    assert again["port"] == ready["port"]
    post(again["port"], "/v1/chat/completions", ASK)


def test_kill_and_restart_on_the_same_port_with_open_streams(start: Start) -> None:
    process, ready = start("--time-scale", "100")
    with socket.create_connection(("127.0.0.1", ready["port"])) as client:
        body = json.dumps(ASK | {"stream": True}).encode()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        process.kill()
        process.wait(10)
        start("--port", str(ready["port"]))


def test_sigterm_drains_what_is_running_and_ends_quickly(start: Start) -> None:
    process, ready = start("--time-scale", "1", "--drain-timeout", "5")
    with socket.create_connection(("127.0.0.1", ready["port"])) as client:
        body = json.dumps(ASK | {"stream": True, "max_tokens": 30, "ignore_eos": True}).encode()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        seen = client.recv(1000)
        process.send_signal(signal.SIGTERM)
        while part := client.recv(4096):
            seen += part
            if b"[DONE]" in seen:
                break
    assert b"[DONE]" in seen
    assert process.wait(10) == 0


def test_sigterm_does_not_wait_for_endless_requests(start: Start) -> None:
    process, ready = start("--time-scale", "1000", "--drain-timeout", "0.1")
    with socket.create_connection(("127.0.0.1", ready["port"])) as client:
        body = json.dumps(ASK | {"stream": True}).encode()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert client.recv(100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_startup_delay_refuses_connections_until_over_and_can_be_ended(start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process, waiting = start("--startup-delay", "600", "--port", str(port), wait=False)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    assert not waiting["ready"].exists()
    process.send_signal(signal.SIGTERM)
    # Before its handlers are installed the signal ends the interpreter, afterwards the wait.
    assert process.wait(30) in (0, -signal.SIGTERM)


def test_a_taken_port_is_said_and_exits_1(start: Start) -> None:
    _process, ready = start()
    other, _none = start("--port", str(ready["port"]), wait=False)
    assert other.wait(30) == 1
    assert other.stderr is not None
    assert b"cannot listen on 127.0.0.1:%d" % ready["port"] in other.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "x"], "unknown profile 'x'"),
        (["--time-scale", "0"], "time_scale must be between"),
        (["--reasoning-share", "2"], "reasoning_share must be between"),
        (["--max-num-seqs", "0"], "max_num_seqs must be at least 1"),
        (["--kv-tokens", "4"], "must hold at least one block"),
        (["--max-model-len", "999999999"], "max_model_len must be between"),
        (["--faults", "{"], ""),
        (["--faults", '{"kind":"x"}'], "rules[0].kind"),
        (["--startup-delay", "-1"], "--startup-delay"),
        (["--model", ""], "non-empty model name"),
    ],
)
def test_wrong_arguments_exit_2_with_a_reason(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model", "tiny", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
