"""The resources that hardly depend on objects, in full."""

from dataclasses import replace
from pathlib import Path

import pytest
from support_golden import check, dump
from support_xds import decode_resource

from ralb_api.objects import Strategy
from ralb_operator.compile.envoy.balancing import Policy
from ralb_operator.compile.envoy.clusters import PoolCluster, nowhere_cluster, pool_cluster, processor_cluster
from ralb_operator.compile.envoy.listener import listener
from ralb_operator.compile.envoy.providers import Provider, provider_resources
from ralb_operator.compile.envoy.routes import routes
from ralb_operator.view import Gateway
from ralb_operator.xds.resources import Resource

FOLDER = Path(__file__).parent / "envoy"
GATEWAY = Gateway()
REMOTE = Gateway(
    address="0.0.0.0",
    port=80,
    processor="[::1]:9000",
    max_body_bytes=1_000_000,
    max_attempts=2,
    idle_timeout_s=30.5,
    processor_timeout_s=0.25,
)
PODS = PoolCluster("team-a/small", "meta-llama/Llama-3.1-8B", None, Policy(slow_start_s=30.0), 1000, 50, 64)
SERVICE = PoolCluster("team-a/big", "big", ("chat.models.svc", 8000), Policy(picked=False), 10, 0, 0)
PROVIDER = PoolCluster("team-a/cloud", "gpt", None, Policy(picked=False), 10, 0, 0, listener="external/team-a/cloud")
OPENAI = Provider(
    pool="team-a/cloud",
    host="api.openai.com",
    port=443,
    anthropic=False,
    tls=True,
    verify=True,
    server_name="api.openai.com",
    own_ca=False,
    credentials=True,
    path_prefix="",
)
ANTHROPIC = replace(OPENAI, anthropic=True, host="llm.internal", port=8443, own_ca=True, path_prefix="/a")
RESOURCES: dict[str, Resource] = {
    "listener": listener(GATEWAY),
    "listener-other-settings": listener(REMOTE),
    "routes": routes(GATEWAY),
    "routes-other-settings": routes(REMOTE),
    "processor-cluster": processor_cluster(GATEWAY),
    "processor-cluster-other-settings": processor_cluster(REMOTE),
    "nowhere-cluster": nowhere_cluster(),
    "pods-cluster": pool_cluster(PODS, GATEWAY, rewrite=False),
    "pods-cluster-rewriting": pool_cluster(PODS, GATEWAY, rewrite=True),
    "service-cluster": pool_cluster(SERVICE, REMOTE, rewrite=False),
    "service-cluster-rewriting": pool_cluster(SERVICE, REMOTE, rewrite=True),
    "pods-cluster-session-affinity": pool_cluster(
        replace(PODS, policy=Policy(Strategy.RING_HASH, bound_percent=125)), GATEWAY, rewrite=False
    ),
    "pods-cluster-round-robin": pool_cluster(
        replace(PODS, policy=Policy(Strategy.ROUND_ROBIN, picked=False, slow_start_s=30.0)), GATEWAY, rewrite=False
    ),
    "pods-cluster-ring-hash": pool_cluster(
        replace(PODS, policy=Policy(Strategy.RING_HASH, picked=False, bound_percent=150)), GATEWAY, rewrite=False
    ),
    "pods-cluster-maglev-rewriting": pool_cluster(
        replace(PODS, policy=Policy(Strategy.MAGLEV, picked=False, bound_percent=100)), GATEWAY, rewrite=True
    ),
    "provider-outer-cluster": pool_cluster(PROVIDER, GATEWAY, rewrite=False),
    "provider-outer-cluster-rewriting": pool_cluster(PROVIDER, GATEWAY, rewrite=True),
    "provider-listener": provider_resources(OPENAI, GATEWAY)[0],
    "provider-cluster": provider_resources(OPENAI, GATEWAY)[1],
    "provider-listener-anthropic": provider_resources(ANTHROPIC, REMOTE)[0],
    "provider-cluster-own-ca": provider_resources(ANTHROPIC, REMOTE)[1],
}


@pytest.mark.parametrize("name", RESOURCES)
def test_golden(name: str, update_golden: bool) -> None:
    check(FOLDER / f"{name}.yaml", dump(decode_resource(RESOURCES[name])), update=update_golden)


def test_every_file_belongs_to_a_resource() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in RESOURCES}
