"""Every example is valid as it stands, compiles, and is complete on its own."""

from pathlib import Path

import pytest

from ralb_api.objects import Capability
from ralb_operator.compile import compile_view
from ralb_operator.files import load

EXAMPLES = Path(__file__).parents[3] / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
# Where a gateway has chosen the pool, nothing is left to route.
WITHOUT_ROUTES = {"inference-pool"}
SIMULATED = {"replicas", "profile", "time-scale", "reasoning-share"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_loads_and_compiles_without_a_word(folder: Path) -> None:
    view = load(folder)
    assert [str(problem) for problem in view.problems] == []
    result = compile_view(view)
    assert [str(problem) for problem in result.problems] == []
    assert len(result.snapshot.pools) == len(view.pools) > 0
    assert len(result.snapshot.tiers) == len(view.tiers)
    assert len(result.snapshot.policies) == len(view.policies)
    assert bool(view.tiers) == bool(view.policies) == (folder.name not in WITHOUT_ROUTES)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_is_listed_in_the_readme(folder: Path) -> None:
    assert f"[{folder.name}]({folder.name})" in (EXAMPLES / "README.md").read_text()


def test_all_features_have_one() -> None:
    assert {folder.name for folder in FOLDERS} >= {
        "quickstart",
        "by-header",
        "long-context",
        "labels-and-classes",
        "reject",
        "canary-weights",
        "spill-over",
        "strategies",
        "kv-events",
        "lora-adapters",
        "engines",
        "external-provider",
        "service-backend",
        "static-pods",
        "disaggregation",
        "inference-pool",
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_simulator_annotations(folder: Path) -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for pool in load(folder).pools.values():
        options = {
            name.removeprefix("sim.ralb.dev/"): value
            for name, value in pool.metadata.annotations.items()
            if name.startswith("sim.ralb.dev/")
        }
        assert options.keys() <= SIMULATED
        assert all(f"`sim.ralb.dev/{name}`" in readme for name in options)
        if options:
            assert 1 <= int(options["replicas"]) <= 8
            assert 0 < float(options["time-scale"]) <= 1
            assert 0 <= float(options.get("reasoning-share", "0")) <= 0.95
            reasons = pool.spec.model.capabilities.count(Capability.REASONING) == 1
            assert reasons == ("reasoning-share" in options)


def test_quickstart() -> None:
    view = load(EXAMPLES / "quickstart")
    replicas = {key.name: pool.metadata.annotations["sim.ralb.dev/replicas"] for key, pool in view.pools.items()}
    assert replicas == {"small": "3", "mid": "2", "frontier": "2"}
    fallbacks = {key.name: tier.spec.fallback_tier for key, tier in view.tiers.items()}
    assert fallbacks == {"small": "mid", "mid": "frontier", "frontier": None}
    assert [tier.spec.level for tier in view.tiers.values()] == [1, 2, 3]
    (policy,) = view.policies.values()
    assert policy.spec.default.use.tier == "mid"
    assert policy.spec.stream_usage == "Inject"


def test_static_pods_are_endpoints() -> None:
    (pool,) = compile_view(load(EXAMPLES / "static-pods")).snapshot.pools
    assert [endpoint.address for endpoint in pool.endpoints] == ["127.0.0.1:8001", "127.0.0.1:8002"]


def test_an_inference_pool_is_one_of_the_pool_beside_it() -> None:
    view = load(EXAMPLES / "inference-pool")
    ((key, pool),) = view.pools.items()
    (inference_pool,) = view.inference_pools
    backend = pool.spec.backend.inference_pool
    assert backend is not None
    assert (key.namespace, backend.name) == (inference_pool.namespace, inference_pool.name)


def test_external_providers_have_placeholders_for_keys() -> None:
    view = load(EXAMPLES / "external-provider")
    assert {value for secret in view.secrets.values() for value in secret.data.values()} == {b"replace-me"}
    result = compile_view(view)
    apis = {pool.id: list(pool.apis) for pool in result.snapshot.pools}
    assert apis["default/anthropic"] == ["messages"]
    assert "messages" not in apis["default/openai"]
    assert apis["default/own"] == []
    assert not [pool.id for pool in result.snapshot.pools if pool.blocked]
