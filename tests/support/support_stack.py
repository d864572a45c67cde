"""`ralb up` as a user runs it: a process of its own, a folder of YAML, real Envoy, simulated pods; and traffic for it."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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


# ---- traffic ----


@dataclass(slots=True)
class Answer:
    """One request of a load and what became of it; times in seconds since the load began.

    Attributes:
        error: what the client saw go wrong, "" for nothing.
        broken: the answer had begun when it broke off.
        connected: an answer's headers arrived.
    """

    number: int
    stream: bool
    wanted: int
    sent: float
    done: float = 0.0
    status: int = 0
    error: str = ""
    broken: bool = False
    connected: bool = False
    code: str = ""
    model: str = ""
    pool: str = ""
    tier: str = ""
    attempts: int = 0
    decision: str = ""
    retry_after: str = ""
    tokens: int = 0

    @property
    def good(self) -> bool:
        return not self.error


@dataclass(slots=True)
class Load:
    """Open-loop chat traffic at a fixed rate, JSON and SSE in turn, every answer checked completely.

    Attributes:
        models: pool id -> model name; an answer's model must be the one of the pool that its header names.
        rate: requests per second.
        tokens: answer lengths in turn.
        limit: seconds after which a request counts as hung.
    """

    url: str
    models: Mapping[str, str]
    rate: float = 100.0
    tokens: tuple[int, ...] = (4, 8, 12)
    limit: float = 20.0
    model: str = "auto"
    answers: list[Answer] = field(default_factory=list)
    started: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: bool = False
    _session: aiohttp.ClientSession | None = None

    @property
    def now(self) -> float:
        return time.monotonic() - self.started

    @property
    def bad(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.good]

    async def run(self, seconds: float) -> None:
        """Send for ``seconds`` and wait for all answers."""
        async with self.going(seconds):
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def going(self, at_most: float) -> AsyncIterator["Load"]:
        """Traffic while the body runs, for ``at_most`` seconds; all answers are there afterwards."""
        self.started = self.started or time.monotonic()
        self._stopping = False
        timeout = aiohttp.ClientTimeout(total=self.limit)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as self._session:
            sender = asyncio.create_task(self._send(at_most))
            try:
                yield self
            finally:
                self._stopping = True
                await sender
                await asyncio.gather(*self._tasks)

    async def _send(self, seconds: float) -> None:
        begin = time.monotonic()
        for number in range(int(self.rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / self.rate - time.monotonic()))
            if self._stopping:
                return
            self.ask(stream=number % 2 == 1, wanted=self.tokens[number % len(self.tokens)])

    def ask(self, *, stream: bool, wanted: int, model: str = "") -> Answer:
        """Send one request."""
        answer = Answer(len(self.answers), stream, wanted, self.now)
        self.answers.append(answer)
        task = asyncio.create_task(self._ask(answer, model or self.model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _ask(self, answer: Answer, model: str) -> None:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"Number {answer.number}: name a colour."}],
            "max_tokens": answer.wanted,
            "min_tokens": answer.wanted,
            "ignore_eos": True,
        }
        if answer.stream:
            body["stream"] = True
            if model != self.model:  # no policy that has usage put in
                body["stream_options"] = {"include_usage": True}
        assert self._session is not None
        try:
            async with self._session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                answer.connected = True
                _note(answer, response)
                if response.status != 200:
                    text = await response.text()
                    answer.error = f"status {response.status}: {text[:300]}"
                    answer.code = str(json.loads(text)["error"]["code"])
                elif answer.stream:
                    await self._read_stream(answer, response)
                else:
                    self._check(answer, json.loads(await response.read()))
        except TimeoutError:
            answer.error = "hung"
        except (aiohttp.ClientError, ConnectionError, ValueError, KeyError) as error:
            answer.error = answer.error or f"{type(error).__name__}: {error}"[:300]
            answer.broken = answer.connected
        answer.done = self.now

    async def _read_stream(self, answer: Answer, response: aiohttp.ClientResponse) -> None:
        events = [line[6:] async for line in response.content if line.startswith(b"data: ")]
        if not events or events[-1].strip() != b"[DONE]":
            answer.error, answer.broken = "the stream ended without [DONE]", True
            return
        chunks = [json.loads(event) for event in events[:-1]]
        self._check(answer, chunks[-1], {chunk["model"] for chunk in chunks})

    def _check(self, answer: Answer, last: Mapping[str, Any], models: Iterable[str] = ()) -> None:
        answer.model = last["model"]
        answer.tokens = last["usage"]["completion_tokens"]
        names = {answer.model, *models}
        if names != {self.models.get(answer.pool)}:
            answer.error = f"answered by {sorted(names)}, but pool {answer.pool} serves {self.models.get(answer.pool)}"
        elif answer.tokens != answer.wanted:
            answer.error = f"{answer.tokens} tokens instead of {answer.wanted}"


def _note(answer: Answer, response: aiohttp.ClientResponse) -> None:
    headers = response.headers
    answer.status = response.status
    answer.pool = headers.get("x-ralb-pool", "")
    answer.tier = headers.get("x-ralb-tier", "")
    answer.attempts = int(headers.get("x-ralb-attempts", "0"))
    answer.decision = headers.get("x-ralb-decision-id", "")
    answer.retry_after = headers.get("retry-after", "")


async def wait_for(load: Load, condition: Callable[[Answer], bool], count: int = 1, limit: float = 15.0) -> None:
    """Wait until so many further answers of a load meet a condition."""
    have = len(load.answers)
    await wait_until(
        lambda: sum(bool(answer.done and condition(answer)) for answer in load.answers[have:]) >= count,
        limit,
        interval=0.05,
        what=f"{count} such answers",
    )
