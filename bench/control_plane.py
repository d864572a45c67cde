"""From a change in the cluster to Envoy's ACK, and what the operator costs: 1, 50 and 500 pools, 5,000 pods.

Everything is real: API server, operator, Envoy and processor are processes of their own on loopback; only the kubelet is not.
A change is timed from the moment the API server is asked for it:

- ``pool``: a pool is edited (server-side apply), until Envoy has the changed cluster;
- ``pod``: a pod becomes unready or ready (status patch), until Envoy has the pool's changed endpoints;
- ``new``: a pool is created, until Envoy has its clusters;
- ``status``: a pool is edited, until its ``Programmed`` condition is True for that generation, seen by polling.

Envoy's side is its own ``update_time``, in whole milliseconds on the same clock: the time at which it took the update, which it
acknowledges in the same step. There is no baseline to pair with; ``api`` is the API server's own answer time for the same calls.

    make bench-control-plane [BENCH_ARGS="--pools 1,50 --pods 1000 --changes 10"]
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(_ROOT / "tests" / "support"), str(_ROOT / "tools")]

from support_cluster import running_control_plane  # noqa: E402  # the tests' control plane is the bench's too
from support_cluster_fixtures import install_crds  # noqa: E402
from support_kubelet import PodSpec, address  # noqa: E402
from support_net import wait_until  # noqa: E402
from support_world import Replica, World, running_gateway, running_world  # noqa: E402

_TICK = os.sysconf("SC_CLK_TCK")


def pool(number: int, max_requests: int = 1000) -> dict[str, Any]:
    """A pool over the pods labelled with its number; no metrics, for nobody listens at their addresses."""
    labels = {"app": "vllm", "pool": f"p{number}"}
    return {
        "apiVersion": "ralb.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": f"pool-{number}"},
        "spec": {
            "model": {"name": f"model-{number}"},
            "backend": {"pods": {"selector": {"matchLabels": labels}, "engine": "Generic"}},
            "balancing": {"circuitBreaker": {"maxRequests": max_requests}},
        },
    }


def others() -> list[dict[str, Any]]:
    """One tier and one policy."""
    meta = {"apiVersion": "ralb.dev/v1alpha1"}
    tier = {"kind": "ModelTier", "metadata": {"name": "main"}, "spec": {"level": 1, "pools": [{"name": "pool-0"}]}}
    policy = {"kind": "RoutingPolicy", "metadata": {"name": "auto"}, "spec": {"default": {"use": {"tier": "main"}}}}
    return [meta | tier, meta | policy]


def memory(pid: int) -> tuple[float, float]:
    """Resident memory now and at its highest, in MiB."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(rows["VmRSS"].split()[0]) / 1024, int(rows["VmHWM"].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def spread(values: list[float]) -> dict[str, float]:
    """Median, p95 and extremes in milliseconds."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"n": len(ordered), "p50": statistics.median(ordered), "p95": p95, "min": ordered[0], "max": ordered[-1]}


async def update_time(world: World, name: str) -> int:
    """When Envoy last took an update, in milliseconds since 1970; 0 before the first."""
    assert world.gateway is not None
    return (await world.gateway.envoy.stats(f"^{name.replace('.', '[.]')}$")).get(name, 0)


async def until_taken(world: World, stat: str, change: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Milliseconds from asking for the change to Envoy's update, and to the API server's answer."""
    before, start = await update_time(world, stat), time.time()
    await change()
    answered = time.time()
    await wait_until(lambda: _later(world, stat, before), 30, interval=0.005, what=f"{stat} after a change")
    return await update_time(world, stat) - start * 1000, (answered - start) * 1000


async def _later(world: World, stat: str, than: int) -> bool:
    return await update_time(world, stat) > than


async def quiet(world: World, seconds: float = 1.5) -> None:
    """Wait until the operator has published nothing for so long: what came before must not be timed."""
    last, since = await _publications(world), time.monotonic()
    while time.monotonic() - since < seconds:
        await asyncio.sleep(0.1)
        if (now := await _publications(world)) != last:
            last, since = now, time.monotonic()


async def _publications(world: World) -> float:
    series = await world.replicas[0].metrics()
    return sum(value for name, value in series.items() if name.startswith("ralb_operator_publishes_total"))


async def changes(world: World, pools: int, pods: int, count: int) -> dict[str, list[float]]:
    """All timings, in milliseconds."""
    times: dict[str, list[float]] = {"pool": [], "pod": [], "new": [], "status": [], "api": []}
    clusters = "cluster_manager.cds.update_time"
    dice = random.Random(7)
    for number in range(count):
        chosen = dice.randrange(pools)
        edit = pool(chosen, 2000 + number)
        took, api = await until_taken(world, clusters, lambda edit=edit: world.apply(edit))
        times["pool"].append(took)
        times["api"].append(api)
        await quiet(world, 0.3)
        pod = dice.randrange(pods)
        name, stat = f"pod-{pod}", f"cluster.{world.namespace}/pool-{pod % pools}.update_time"
        for ready in (False, True):
            took, _ = await until_taken(
                world, stat, lambda name=name, ready=ready: world.kubelet.set_ready(world.namespace, name, ready)
            )
            times["pod"].append(took)
            await quiet(world, 0.3)
        start = time.time()
        await world.apply(pool(chosen, 3000 + number))
        await world.programmed("ModelPool", f"pool-{chosen}")
        times["status"].append((time.time() - start) * 1000)
        await quiet(world, 0.3)
        fresh = pool(pools + number)
        took, _ = await until_taken(world, clusters, lambda fresh=fresh: world.apply(fresh))
        times["new"].append(took)
        await quiet(world, 0.3)
    return times


async def churn(world: World, replica: Replica, pods: int, seconds: float, rate: float) -> float:
    """Share of a core the operator takes while so many pods per second change their readiness."""
    pid, dice = replica.process.pid, random.Random(11)
    ready = [True] * pods
    begin, spent = time.monotonic(), cpu_seconds(pid)
    for step in range(int(seconds * rate)):
        chosen = dice.randrange(pods)
        ready[chosen] = not ready[chosen]
        await world.kubelet.set_ready(world.namespace, f"pod-{chosen}", ready[chosen])
        await asyncio.sleep(max(0.0, begin + (step + 1) / rate - time.monotonic()))
    share = (cpu_seconds(pid) - spent) / (time.monotonic() - begin)
    await world.kubelet.set_ready(world.namespace, [f"pod-{i}" for i, up in enumerate(ready) if not up], True)
    return share


async def idle(replica: Replica, seconds: float) -> float:
    """Share of a core while nothing happens."""
    spent = cpu_seconds(replica.process.pid)
    await asyncio.sleep(seconds)
    return (cpu_seconds(replica.process.pid) - spent) / seconds


async def measure(pools: int, args: argparse.Namespace) -> dict[str, Any]:
    """One row: a control plane of its own."""
    with running_control_plane() as plane:
        install_crds(plane, sorted((_ROOT / "crds").glob("*.yaml")))
        async with running_world(plane, replicas=0) as world:
            specs = [
                PodSpec(f"pod-{i}", address(), labels={"app": "vllm", "pool": f"p{i % pools}"})
                for i in range(args.pods)
            ]
            await world.kubelet.pods(world.namespace, specs)
            for number in range(pools):
                await world.apply(pool(number))
            await world.apply(*others())
            starts = []
            for _ in range(args.starts):
                begin = time.monotonic()
                replica = world.add_replica()
                await wait_until(replica.ready, 120, interval=0.02, what=f"ready:\n{replica.process.tail()}")
                starts.append(time.monotonic() - begin)
                if len(starts) < args.starts:
                    await asyncio.to_thread(replica.process.stop)
                    world.replicas.remove(replica)
                    world.relay.backends.pop()
            async with running_gateway(world):
                await world.programmed("ModelPool", f"pool-{pools - 1}", 120)
                await quiet(world)
                cpu_start = cpu_seconds(replica.process.pid)
                times = await changes(world, pools, args.pods, args.changes)
                at_rest = await idle(replica, args.seconds)
                busy = await churn(world, replica, args.pods, args.seconds, 20.0)
                await quiet(world)
                now, high = memory(replica.process.pid)
                series = await replica.metrics()
        return {
            "pools": pools,
            "pods": args.pods,
            "start_s": starts,
            "rss_mib": now,
            "rss_highest_mib": high,
            "cpu_until_changes_s": cpu_start,
            "cpu_idle_share": at_rest,
            "cpu_churn_20_per_s_share": busy,
            "times_ms": {name: spread(values) for name, values in times.items()},
            "raw_ms": times,
            "compile_s_mean": series.get("ralb_operator_compile_seconds_sum", 0.0)
            / max(1.0, series.get("ralb_operator_compile_seconds_count", 0.0)),
        }


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print("milliseconds from asking the API server to Envoy's update (status: to Programmed=True), p50 / p95")
    print(
        f"{'pools':>6}{'pods':>7}  " + "".join(f"{name:>15}" for name in ("pool", "pod", "new", "status", "api")),
        end="",
    )
    print(f"{'start s':>9}{'RSS MiB':>9}{'highest':>9}{'idle':>7}{'20/s':>7}")
    for row in rows:
        cells = "".join(f"{t['p50']:>8.0f} /{t['p95']:>5.0f}" for t in row["times_ms"].values())
        print(f"{row['pools']:>6}{row['pods']:>7}  {cells}{statistics.median(row['start_s']):>9.1f}", end="")
        print(f"{row['rss_mib']:>9.0f}{row['rss_highest_mib']:>9.0f}", end="")
        print(f"{row['cpu_idle_share']:>7.1%}{row['cpu_churn_20_per_s_share']:>7.1%}")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", default="1,50,500", help="numbers of pools (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=5000, help="pods in all (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=20, help="changes of each sort (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="starts of the operator (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of idling and of churn (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=_ROOT / "bench/results/control_plane.json")
    args = parser.parse_args()
    rows = [asyncio.run(measure(int(count), args)) for count in args.pools.split(",")]
    show(rows)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    print(f"written: {args.json}")


if __name__ == "__main__":
    main()
