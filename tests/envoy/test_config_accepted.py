"""Everything compile makes is taken by a real Envoy without a complaint."""

import re
from collections import Counter

import pytest
from support_gateway import Gateway

from ralb_operator.compile import Result
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

# Envoy says so of every use of extensions and fields that are new: sse_to_metadata, header mutation, priority groups.
_TOLERATED = re.compile(r"work-in-progress|is in alpha|not considered (stable|production)|not intended for production")


def _complaints(log: str) -> list[str]:
    lines = re.findall(r"^\[[^\]]+\]\[[^\]]+\]\[(?:warning|error|critical)\].*$", log, re.MULTILINE)
    return [line for line in lines if not _TOLERATED.search(line)]


async def test_no_resource_is_refused(bare_gateway: tuple[Gateway, Result, str]) -> None:
    running, compiled, _ = bare_gateway
    assert running.report.complete, running.report
    dump = await running.envoy.get_json("/config_dump?include_eds")
    configs = {config["@type"].rpartition(".")[2]: config for config in dump["configs"]}
    have = Counter(
        {
            "clusters": len(configs["ClustersConfigDump"]["dynamic_active_clusters"]),
            "listeners": len(configs["ListenersConfigDump"]["dynamic_listeners"]),
            "routes": len(configs["RoutesConfigDump"]["dynamic_route_configs"]),
            "endpoints": len(configs["EndpointsConfigDump"]["dynamic_endpoint_configs"]),
        }
    )
    # Both clusters of a pool have the pool's name in statistics; each subscribes to the endpoints on its own.
    assert have["clusters"] == len(compiled.xds.get(CLUSTER))
    assert have["listeners"] == have["routes"] == 1
    assert have["endpoints"] >= len(compiled.xds.get(ENDPOINTS))
    rejected = await running.envoy.stats(".*(update_rejected|update_failure|wasm.*(error|fail)).*")
    assert not {name: value for name, value in rejected.items() if value}


async def test_no_warnings(bare_gateway: tuple[Gateway, Result, str]) -> None:
    running, _, _ = bare_gateway
    assert _complaints(running.envoy.log.read_text()) == []
    # The pattern really finds warnings: there are tolerated ones.
    assert _TOLERATED.search(running.envoy.log.read_text())
