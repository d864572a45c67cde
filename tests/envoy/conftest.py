from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from support_gateway import MAX_BODY, Gateway, Pods, gateway, processor_serving
from support_net import free_port
from support_provider import KEY, Authority, World, secret, world

from ralb_api.objects import Strategy
from ralb_operator.compile import Result, compile_view
from ralb_operator.files import load
from ralb_operator.view import Gateway as GatewaySettings

PODS = ("small-0", "small-1", "big-0", "service")


def _pool(name: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelPool", "metadata": {"name": name}, "spec": spec}


def _tier(name: str, level: int, pools: list[dict[str, object]], **spec: object) -> dict[str, object]:
    spec = {"level": level, "pools": pools, **spec}
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": name}, "spec": spec}


def _objects(addresses: dict[str, str]) -> list[dict[str, object]]:
    """Something of everything: pods, a service by name, limits, slow start off, tiers, fallback, rules, an empty pool."""
    port = int(addresses["service"].rpartition(":")[2])
    objects = [
        _pool(
            "small",
            model={"name": "small-model", "aliases": ["s"], "adapters": ["small-lora"]},
            backend={"pods": {"selector": {"matchLabels": {"app": "small"}}}},
            balancing={"slowStart": "0s", "circuitBreaker": {"retryBudgetPercent": 100, "minRetries": 100}},
        ),
        _pool("big", model={"name": "big-model"}, backend={"pods": {"selector": {"matchLabels": {"app": "big"}}}}),
        _pool("empty", model={"name": "empty-model"}, backend={"pods": {"selector": {"matchLabels": {"app": "none"}}}}),
        _pool("service", model={"name": "service-model"}, backend={"service": {"host": "localhost", "port": port}}),
        _tier("easy", 1, [{"name": "small", "weight": 3}, {"name": "empty"}], fallbackTier="hard"),
        _tier("hard", 5, [{"name": "big"}, {"name": "service", "priority": 1}]),
        {
            "apiVersion": "ralb.dev/v1alpha1",
            "kind": "RoutingPolicy",
            "metadata": {"name": "auto"},
            "spec": {
                "rules": [{"name": "hard", "when": {"complexity": {"min": 0.5}}, "use": {"tier": "hard"}}],
                "default": {"use": {"tier": "easy"}},
            },
        },
    ]
    nobody = {"pods": {"selector": {"matchLabels": {"app": "none"}}}}
    elsewhere = {"service": {"host": "localhost", "port": port}}
    for strategy in Strategy:
        name, balancing = strategy.lower(), {"strategy": strategy.value}
        objects.append(_pool(f"pods-{name}", model={"name": f"m-{name}"}, backend=nobody, balancing=balancing))
        objects.append(_pool(f"service-{name}", model={"name": f"n-{name}"}, backend=elsewhere, balancing=balancing))
    for name, address in addresses.items():
        host, _, number = address.rpartition(":")
        metadata = {
            "name": name,
            "labels": {"app": name.partition("-")[0]},
            "annotations": {"ralb.dev/port": number},
        }
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"podIP": host}})
    return objects


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Gateway, Result, str]]:
    """Envoy and pods, and the address at which it looks for the processor, which is not started."""
    folder = tmp_path_factory.mktemp("gw")
    pods = Pods()
    await pods.start(*PODS)
    pods.addresses["small-dead"] = f"127.0.0.1:{free_port()}"
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(_objects(pods.addresses)))
    port = free_port()
    address = f"unix:{folder}/processor.sock"
    settings = GatewaySettings(port=port, processor=address, max_body_bytes=MAX_BODY, processor_timeout_s=2.0)
    compiled = compile_view(load(folder / "objects.yaml", settings))
    assert not compiled.problems
    async with gateway(compiled, pods, address, f"http://127.0.0.1:{port}", folder) as running:
        assert running.report.complete, running.report
        yield running, compiled, address
    await pods.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_gateway(bare_gateway: tuple[Gateway, Result, str]) -> AsyncIterator[Gateway]:
    running, _, address = bare_gateway
    async with processor_serving(running.processor, address):
        yield running


@pytest.fixture
def gw(whole_gateway: Gateway) -> Gateway:
    """The running gateway, all scripts and records empty."""
    whole_gateway.reset()
    return whole_gateway


# ---- providers ----


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secrets(authority: Authority) -> list[dict[str, Any]]:
    return [secret("key", apiKey=KEY + "\n"), secret("ca", **{"ca.crt": authority.pem})]
