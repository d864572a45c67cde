"""What the processor adds: latency and CPU per request behind Envoy, against Envoy alone, paired in one run.

Two Envoys with the same limits send to the same instant upstream: one as `ralb up` runs it (ext_proc, usage filters, access
log, placement), one with nothing but a route. Each cell alternates between the two and repeats, so that noise of the machine
hits both.
The processor has a core to itself; Envoys, upstream and this generator share the other.

    make bench-extproc [BENCH_ARGS="--seconds 2 --repeats 1 --sizes 1 --loads 200,max"]
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop
import yaml
from load import Client, Load, at_rate, saturate

from ralb_cli.stack.envoy import envoy_binary
from ralb_cli.stack.stack import free_port

_PODS = 4
_TICK = os.sysconf("SC_CLK_TCK")
_WORDS = "the plan for the northern region covers carriers, customs, storage and returns in the second quarter "


@dataclass(slots=True)
class Side:
    """One side of a cell, over all repeats."""

    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    envoy_us: list[float] = field(default_factory=list)
    processor_us: list[float] = field(default_factory=list)
    errors: int = 0
    late: int = 0
    requests: int = 0


@dataclass(slots=True)
class Cell:
    """One prompt size, answer form and load."""

    kb: int
    form: str
    load: str
    alone: Side = field(default_factory=Side)
    ralb: Side = field(default_factory=Side)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def upstream_config(ports: list[int]) -> dict[str, Any]:
    """An Envoy that answers at once, as JSON or, for streamed requests (told by a header), as a short event stream."""
    usage = {"prompt_tokens": 200, "completion_tokens": 3, "total_tokens": 203}
    answer = {"id": "x", "object": "chat.completion", "model": "bench", "choices": [], "usage": usage}
    events = [{"id": "x", "choices": [{"index": 0, "delta": {"content": word}}]} for word in ("one", "two", "three")]
    stream = "".join(
        f"data: {json.dumps(event)}\n\n" for event in [*events, {"id": "x", "choices": [], "usage": usage}]
    )
    gauges = {"num_requests_running": 1, "num_requests_waiting": 0, "kv_cache_usage_perc": 0.1}
    page = "".join(f'vllm:{name}{{engine="0",model_name="bench"}} {value}\n' for name, value in gauges.items())

    def route(match: dict[str, Any], body: str, kind: str) -> dict[str, Any]:
        header = {"header": {"key": "content-type", "value": kind}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        direct = {"status": 200, "body": {"inline_string": body}}
        return {"match": match, "direct_response": direct, "response_headers_to_add": [header]}

    streamed = {"prefix": "/v1", "headers": [{"name": "x-bench-stream", "present_match": True}]}
    routes = [
        route({"path": "/metrics"}, page, "text/plain"),
        route(streamed, stream + "data: [DONE]\n\n", "text/event-stream"),
        route({"prefix": "/"}, json.dumps(answer), "application/json"),
    ]
    return static_envoy([(port, routes, []) for port in ports], [])


def alone_config(port: int, upstream: list[int]) -> dict[str, Any]:
    """Envoy alone: one route, one least-request cluster, the limits of the product's listener."""
    addresses = [{"endpoint": {"address": socket_address(pod)}} for pod in upstream]
    cluster = {
        "name": "pods",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "pods", "endpoints": [{"lb_endpoints": addresses}]},
    }
    return static_envoy(
        [(port, [{"match": {"prefix": "/"}, "route": {"cluster": "pods", "timeout": "0s"}}], [])], [cluster]
    )


def socket_address(port: int) -> dict[str, Any]:
    """A loopback address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def static_envoy(listeners: list[tuple[int, list[dict[str, Any]], list[Any]]], clusters: list[Any]) -> dict[str, Any]:
    """A static bootstrap."""
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": f"l{port}",
                    "address": socket_address(port),
                    "per_connection_buffer_limit_bytes": 16 * 1024 * 1024,
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "hcm",
                                    "typed_config": {
                                        "@type": manager,
                                        "stat_prefix": "bench",
                                        "route_config": {
                                            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]
                                        },
                                        "http_filters": [{"name": "router", "typed_config": router}],
                                    },
                                }
                            ]
                        }
                    ],
                }
                for port, routes, _ in listeners
            ],
            "clusters": clusters,
        }
    }


def objects(pods: list[int]) -> list[dict[str, Any]]:
    """One tier of one pool of the upstream's ports, and a policy with a handful of rules."""

    def thing(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "ralb.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}

    backend = {"pods": {"selector": {"matchLabels": {"app": "bench"}}}}
    rules = [
        {"name": "easy", "when": {"complexity": {"max": 0.35}}, "use": {"tier": "one"}},
        {"name": "tools", "when": {"tools": {"offered": True}}, "use": {"tier": "one"}},
        {"name": "hard", "when": {"complexity": {"min": 0.7}}, "use": {"tier": "one"}},
    ]
    made = [
        thing("ModelPool", "one", {"model": {"name": "bench"}, "backend": backend}),
        thing("ModelTier", "one", {"level": 1, "pools": [{"name": "one"}]}),
        thing("RoutingPolicy", "one", {"rules": rules, "default": {"use": {"tier": "one"}}}),
    ]
    for index, port in enumerate(pods):
        metadata = {"name": f"p{index}", "labels": {"app": "bench"}, "annotations": {"ralb.dev/port": str(port)}}
        ready = {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        made.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": ready})
    return made


def requests(kb: int, *, stream: bool, host: str) -> list[bytes]:
    """Sixteen different requests with prompts of about ``kb`` kilobytes."""
    made = []
    for index in range(16):
        text = f"Case {index}. Summarise what follows in two sentences. " + _WORDS * (kb * 1024 // len(_WORDS) + 1)
        body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": text[: kb * 1024]}]}
        data = json.dumps(body).encode()
        extra = "x-bench-stream: 1\r\n" if stream else ""
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{extra}"
        made.append(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return made


class Machine:
    """All processes of the bench."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods = [free_port("127.0.0.1") for _ in range(_PODS)]
        self.alone_port = free_port("127.0.0.1")
        self._children: list[subprocess.Popen[bytes]] = []
        self.ready: dict[str, Any] = {}
        self.alone_pid = 0

    def start(self) -> None:
        """Start upstream, Envoy alone, and RALB; pin the processor to a core of its own where there are two."""
        self._envoy("upstream", upstream_config(self.pods))
        self.alone_pid = self._envoy("alone", alone_config(self.alone_port, self.pods))
        config = self.folder / "objects"
        config.mkdir()
        (config / "all.yaml").write_text(yaml.safe_dump_all(objects(self.pods)))
        ready_file = self.folder / "ready"
        command = [sys.executable, "-m", "ralb_cli.main", "up", "-f", str(config), "--port", "0", "--concurrency", "1"]
        command += ["--ready-file", str(ready_file), "--records", str(self.folder / "records")]
        self._children.append(subprocess.Popen(command, stderr=(self.folder / "up.log").open("wb")))
        deadline = time.monotonic() + 60
        while not ready_file.exists():
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "up.log").read_text())
            time.sleep(0.05)
        self.ready = json.loads(ready_file.read_text())
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= 2:
            self._pin(self.ready["processes"]["processor"], {cores[0]})
            for pid in (os.getpid(), self.alone_pid, self._children[0].pid, self.ready["processes"]["envoy"]):
                self._pin(pid, set(cores[1:]))

    def stop(self) -> None:
        """End what was started."""
        for child in reversed(self._children):
            child.terminate()
        for child in self._children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _pin(self, pid: int, cores: set[int]) -> None:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)

    def _envoy(self, name: str, config: dict[str, Any]) -> int:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [envoy_binary(), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
        child = subprocess.Popen(command, stderr=(self.folder / f"{name}.log").open("wb"))
        self._children.append(child)
        return child.pid


async def wait_open(port: int) -> None:
    """Until something listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


def quantile(values: list[float], share: float) -> float:
    """A quantile by rank; NaN for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


async def run_side(
    side: Side, client: Client, made: list[bytes], load: str, seconds: float, pids: tuple[int, int]
) -> None:
    """One repeat of one side."""
    envoy, processor = pids
    before = (cpu_seconds(envoy), cpu_seconds(processor))
    result: Load = await (
        saturate(client, made, 32, seconds) if load == "max" else at_rate(client, made, float(load), seconds)
    )
    after = (cpu_seconds(envoy), cpu_seconds(processor))
    good = len(result.latencies)
    side.requests += good
    side.errors += result.errors
    side.late += result.late
    side.rate.append(good / result.seconds)
    for values, share in ((side.p50, 0.5), (side.p95, 0.95), (side.p99, 0.99)):
        values.append(quantile(result.latencies, share) * 1000)
    if good >= 50:
        side.envoy_us.append((after[0] - before[0]) / good * 1e6)
        side.processor_us.append((after[1] - before[1]) / good * 1e6)


def spread(values: list[float], digits: int = 2) -> str:
    """Median with the range over the repeats."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def added(cell: Cell, name: str) -> list[float]:
    """Per repeat: with RALB minus alone."""
    return [b - a for a, b in zip(getattr(cell.alone, name), getattr(cell.ralb, name), strict=True)]


HEADER = (
    f"{'prompt':>7} {'form':>4} {'req/s':>6} | {'alone p50 ms':>22} {'ralb p50 ms':>22} {'added p50':>22} "
    f"{'added p95':>24} | {'processor us/req':>22} {'envoy us/req +':>14} | {'reached req/s':>20} late err"
)


def line(cell: Cell) -> str:
    """A row of the table."""
    more = [b - a for a, b in zip(cell.alone.envoy_us, cell.ralb.envoy_us, strict=False)]
    reached = f"{statistics.median(cell.alone.rate):.0f} -> {statistics.median(cell.ralb.rate):.0f}"
    return (
        f"{cell.kb:>4} KB {cell.form:>4} {cell.load:>6} | {spread(cell.alone.p50):>22} {spread(cell.ralb.p50):>22} "
        f"{spread(added(cell, 'p50')):>22} {spread(added(cell, 'p95')):>24} | {spread(cell.ralb.processor_us, 0):>22} "
        f"{spread(more, 0):>14} | {reached:>20} {cell.ralb.late:>4} {cell.alone.errors + cell.ralb.errors:>3}"
    )


async def bench(args: argparse.Namespace, machine: Machine) -> list[Cell]:
    """All cells."""
    await asyncio.gather(*(wait_open(port) for port in (machine.alone_port, machine.ready["port"])))
    processes = machine.ready["processes"]
    cells = []
    print(HEADER)
    for kb in args.sizes:
        for form in args.forms:
            made = requests(kb, stream=form == "sse", host="bench")
            sides = (
                ("alone", machine.alone_port, machine.alone_pid),
                ("ralb", machine.ready["port"], processes["envoy"]),
            )
            for load in args.loads:
                cell = Cell(kb, form, load)
                for _ in range(args.repeats):
                    for name, port, pid in sides:
                        client = Client("127.0.0.1", port)
                        await saturate(client, made, 4, 0.3)  # warm connections and caches
                        side = getattr(cell, name)
                        seconds = max(args.seconds, 8.0) if load == "1" else args.seconds
                        await run_side(side, client, made, load, seconds, (pid, processes["processor"]))
                        client.close()
                cells.append(cell)
                print(line(cell), flush=True)
    return cells


def main() -> int:
    """Run, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: [int(part) for part in text.split(",")], default=[1, 10, 100])
    parser.add_argument("--forms", type=lambda text: text.split(","), default=["json", "sse"])
    parser.add_argument("--loads", type=lambda text: text.split(","), default=["1", "200", "500", "max"])
    parser.add_argument("--seconds", type=float, default=4.0, help="per side and repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/extproc.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ralb-bench-") as folder:
        machine = Machine(Path(folder))
        try:
            machine.start()
            cells = uvloop.run(bench(args, machine))
        finally:
            machine.stop()
    cores = [statistics.median(cell.ralb.processor_us) for cell in cells if cell.ralb.processor_us and cell.kb == 1]
    if cores:
        print(
            f"\nOne processor core at 1 KB: about {1e6 / statistics.median(cores):.0f} req/s (1 s / CPU per request)."
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "time": time.time()}
    args.out.write_text(json.dumps({**facts, "cells": [asdict(cell) for cell in cells]}, indent=1))
    print(f"Written to {args.out}.")
    return 1 if any(cell.ralb.errors + cell.alone.errors for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
