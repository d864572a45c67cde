"""`ralb up` as a user runs it: a process of its own, a folder of YAML, real Envoy, simulated pods."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from support_net import wait_until

PREFIX = "sim.ralb.dev/"


def pool(name: str, model: str, replicas: int, **options: Any) -> dict[str, Any]:
    """A pool of simulated pods. ``spec`` is merged into the spec; other options are the simulator's."""
    spec = {
        "model": {"name": model},
        "backend": {"pods": {"selector": {"matchLabels": {"pool": name}}, "port": 8000}},
        "balancing": {"slowStart": "0s"},
    } | options.pop("spec", {})
    annotations = {PREFIX + "replicas": str(replicas)}
    annotations |= {PREFIX + key.replace("_", "-"): str(value) for key, value in options.items()}
    return _object("ModelPool", name, spec, annotations)


def tier(name: str, level: int, *pools: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    return _object("ModelTier", name, {"level": level, "pools": list(pools), **spec})


def policy(name: str, default: str, *rules: Mapping[str, Any], models: Iterable[str] = ("auto",)) -> dict[str, Any]:
    spec = {
        "match": {"models": list(models)},
        "streamUsage": "Inject",
        "rules": list(rules),
        "default": {"use": {"tier": default}},
    }
    return _object("RoutingPolicy", name, spec)


def _object(kind: str, name: str, spec: Any, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    metadata = {"name": name} | ({"annotations": dict(annotations)} if annotations else {})
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


class Stack:
    """A running `ralb up`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.objects = folder / "objects"
        self.records_file = folder / "records.jsonl"
        self.log_file = folder / "up.log"
        self.ready_file = folder / "ready.json"
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._seen: dict[int, str] = {}
        self._work: Path | None = None

    # ---- what there is ----

    @property
    def ready(self) -> dict[str, Any]:
        """The ready-file as it is now."""
        return json.loads(self.ready_file.read_bytes())

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def port(self) -> int:
        return int(self.ready["port"])

    def pid(self, name: str) -> int:
        """Process id of ``envoy`` or ``processor``; 0 while it is down."""
        return int(self.ready["processes"][name])

    def pods(self, pool_name: str = "") -> list[dict[str, Any]]:
        """Pods of a pool (of all): pod, address, pid, ready."""
        prefix = f"default/{pool_name}-" if pool_name else ""
        return [pod for pod in self.ready["pods"] if pod["pod"].startswith(prefix)]

    def write(self, *objects: Mapping[str, Any], name: str = "all.yaml") -> None:
        """Replace a YAML file, as an editor does."""
        write_objects(self.objects, *objects, name=name)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    # ---- what happened ----

    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        if not self.records_file.exists():
            return []
        return [json.loads(line) for line in self.records_file.read_bytes().split(b"\n")[:-1]]

    async def record(self, decision_id: str) -> dict[str, Any]:
        """The record of a decision, once it is written."""

        def find() -> dict[str, Any] | None:
            return next((one for one in reversed(self.records()) if one["id"] == decision_id), None)

        found = await wait_until(find, 5, interval=0.05, what=f"record {decision_id}")
        assert found is not None
        return found

    # ---- asking the parts ----

    async def pod_gauges(self, address: str) -> dict[str, float]:
        """vLLM's gauges of a pod by name without labels."""
        async with self.session.get(f"http://{address}/metrics", timeout=aiohttp.ClientTimeout(5)) as answer:
            page = await answer.text()
        out: dict[str, float] = {}
        for line in page.splitlines():
            if line.startswith("vllm:num_requests"):
                name, _, value = line.rpartition(" ")
                out[name.partition("{")[0]] = float(value)
        return out

    async def fault(self, address: str, *rules: Mapping[str, Any]) -> None:
        """Put faults in force on a pod; none clears them."""
        async with self.session.post(
            f"http://{address}/admin/faults", json=list(rules), timeout=aiohttp.ClientTimeout(5)
        ) as answer:
            assert answer.status == 200, await answer.text()

    async def envoy_stats(self, pattern: str) -> dict[str, int]:
        url = f"http://127.0.0.1:{self.ready['envoy_admin_port']}/stats?format=json&filter={pattern}"
        async with self.session.get(url, timeout=aiohttp.ClientTimeout(5)) as answer:
            page = await answer.json(content_type=None)
        return {entry["name"]: entry["value"] for entry in page["stats"] if "value" in entry}

    async def in_flight(self) -> float:
        """Requests the processor believes to be open."""
        url = f"http://127.0.0.1:{self.ready['admin_port']}/debug/pods"
        async with self.session.get(url, timeout=aiohttp.ClientTimeout(5)) as answer:
            return float(sum(pod["in_flight"] for pod in (await answer.json())["pods"]))

    # ---- its processes ----

    def family(self) -> dict[int, str]:
        """All descendants now: pid -> start time, which together name a process."""
        parents: dict[int, tuple[int, str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[0] != "Z":
                    parents[int(entry.name)] = (int(fields[1]), fields[19])
        found: dict[int, str] = {}
        grew = True
        while grew:
            new = {
                pid: start
                for pid, (parent, start) in parents.items()
                if pid not in found and (parent == self.process.pid or parent in found)
            }
            found |= new
            grew = bool(new)
        self._seen |= found
        return found

    def survivors(self) -> list[int]:
        """Descendants seen before that still run."""
        return [pid for pid, start in self._seen.items() if _start_time(pid) == start]

    async def terminate(self, limit: float = 45.0) -> int:
        """SIGTERM; the exit code."""
        self.family()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), limit)

    async def close(self) -> None:
        """End it cleanly: exit code 0, nobody and nothing left."""
        if self.ready_file.exists():
            self._work = Path(self.ready["folder"])
        await self.session.close()
        code = await self.terminate()
        assert code == 0, f"exit code {code}\n{self.log()[-4000:]}"
        await wait_until(lambda: not self.survivors(), 5, what=f"end of all children, left: {self.survivors()}")
        assert not self.ready_file.exists()
        assert self._work is None or not self._work.exists()


def _start_time(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def write_objects(folder: Path, *objects: Mapping[str, Any], name: str = "all.yaml") -> None:
    temporary = folder / (name + ".tmp")
    temporary.write_text(yaml.safe_dump_all(list(objects)))
    temporary.replace(folder / name)


@asynccontextmanager
async def running_stack(*objects: Mapping[str, Any], arguments: Iterable[str] = ()) -> AsyncIterator[Stack]:
    """`ralb up --sim` on free ports with these objects; ended and checked at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ralb-test-"))
    (folder / "objects").mkdir()
    write_objects(folder / "objects", *objects)
    command = [sys.executable, "-m", "ralb_cli.main", "up", "-f", str(folder / "objects"), "--sim", "--port", "0"]
    command += ["--ready-file", str(folder / "ready.json"), "--records", str(folder / "records.jsonl"), *arguments]
    with (folder / "up.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    stack = Stack(process, folder)
    try:
        await wait_until(
            lambda: stack.ready_file.exists() or process.returncode is not None, 60, interval=0.05, what="ready-file"
        )
        assert process.returncode is None, stack.log()
        yield stack
        await stack.close()
    finally:
        await stack.session.close()
        if process.returncode is None:
            process.kill()
            await process.wait()
        if os.environ.get("RALB_KEEP"):
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
