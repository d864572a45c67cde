import json

import pytest

from ralb_operator.bootstrap import XDS_CLUSTER, bootstrap


def address_of(config):
    (cluster,) = config["static_resources"]["clusters"]
    (group,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    return cluster["type"], endpoint["endpoint"]["address"]


def socket(address, port):
    return {"socket_address": {"address": address, "port_value": port}}


@pytest.mark.parametrize(
    ("ads", "kind", "address"),
    [
        ("unix:/run/ralb/xds.sock", "STATIC", {"pipe": {"path": "/run/ralb/xds.sock"}}),
        ("127.0.0.1:18000", "STATIC", socket("127.0.0.1", 18000)),
        ("[::1]:18000", "STATIC", socket("::1", 18000)),
        ("operator.ralb.svc:18000", "STRICT_DNS", socket("operator.ralb.svc", 18000)),
    ],
)
def test_address_of_the_control_plane(ads, kind, address):
    assert address_of(bootstrap("n", ads)) == (kind, address)


def test_discovery_is_delta_over_one_stream():
    config = bootstrap("n", "unix:/x")
    dynamic = config["dynamic_resources"]
    assert dynamic["ads_config"]["api_type"] == "DELTA_GRPC"
    assert dynamic["ads_config"]["grpc_services"][0]["envoy_grpc"]["cluster_name"] == XDS_CLUSTER
    assert "ads" in dynamic["cds_config"]
    assert "ads" in dynamic["lds_config"]
    assert json.loads(json.dumps(config)) == config


def test_admin_is_on_loopback_unless_told_otherwise():
    assert bootstrap("n", "unix:/x", admin_port=9901)["admin"]["address"] == socket("127.0.0.1", 9901)
    assert bootstrap("n", "unix:/x", admin_address="::1")["admin"]["address"] == socket("::1", 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"node_id": ""}, "node_id"),
        ({"cluster": ""}, "cluster"),
        ({"ads": "unix:relative.sock"}, "must be absolute"),
        ({"ads": "localhost"}, "host:port"),
        ({"ads": ":18000"}, "host:port"),
        ({"ads": "host:0"}, "host:port"),
        ({"ads": "host:65536"}, "host:port"),
        ({"ads": "host:http"}, "host:port"),
        ({"ads": "host:\u0661"}, "host:port"),
        ({"ads": "::1:18000"}, "brackets"),
        ({"admin_address": "localhost"}, "admin_address must be an IP"),
        ({"admin_port": 70000}, "admin_port"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_heap_bytes": 1024}, "max_heap_bytes"),
        ({"reconnect_max_s": 0.1}, "reconnect_max_s"),
    ],
)
def test_what_cannot_work_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        bootstrap(**{"node_id": "n", "ads": "unix:/x", **arguments})
