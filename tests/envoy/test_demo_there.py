"""``ralb demo --url``: the demo's requests to a gateway that somebody else runs, as ``make e2e`` does it."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from support_net import wait_until
from support_stack import running_stack

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


def quickstart() -> list[dict[str, Any]]:
    """The example, with models ten times as fast."""
    objects = [each for path in sorted(QUICKSTART.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
    for each in objects:
        if each["kind"] == "ModelPool":
            each["metadata"]["annotations"]["sim.ralb.dev/time-scale"] = "0.02"
    return objects


async def demo(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "ralb_cli.main", "demo", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@asynccontextmanager
async def container_log(records: Path) -> AsyncIterator[Path]:
    """A file as `kubectl logs` makes it: records among log lines, one of them cut."""
    log = records.with_name("container.log")

    async def follow() -> None:
        with records.open("rb") as source, log.open("ab") as target:
            target.write(b'started\n{"level": "info", "id": 1}\n[1]\n{"id": "cut\n')
            while True:
                target.write(source.read())
                target.flush()
                await asyncio.sleep(0.05)

    task = asyncio.create_task(follow())
    try:
        yield log
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_rows_are_judged_at_a_running_gateway() -> None:
    async with running_stack(*quickstart()) as stack:
        stack.records_file.touch()
        async with container_log(stack.records_file) as log:
            code, output = await demo("--url", stack.url, "--records", str(log))
        assert "Every row is as it should be." in output
        assert code == 0

        objects = quickstart()
        (policy,) = (each for each in objects if each["kind"] == "RoutingPolicy")
        policy["spec"]["rules"] = []
        stack.write(*objects)

        async def tier() -> str:
            body = {"model": "auto", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
            async with stack.session.post(f"{stack.url}/v1/chat/completions", json=body) as answer:
                return answer.headers.get("x-ralb-tier", "")

        async def all_are_mid() -> bool:
            return await tier() == "mid"

        await wait_until(all_are_mid, 15, interval=0.1, what="the policy without rules")
        async with container_log(stack.records_file) as log:
            code, output = await demo("--url", stack.url, "--records", str(log))
        assert "greeting: tier mid instead of small" in output
        assert code == 1


async def test_url_without_records_is_refused() -> None:
    code, output = await demo("--url", "http://127.0.0.1:1")
    assert (code, output) == (2, "ralb demo: --url and --records go together\n")
