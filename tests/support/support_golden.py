"""Golden files: what compile makes of a view, in a form that people can review as a diff."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict
from support_xds import decode_resource

from ralb_operator.compile import Result, Status
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, SECRET


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return text


def check(path: Path, text: str, *, update: bool) -> None:
    """Compare with the file, or write it.

    Raises:
        AssertionError: the file is missing or differs.
    """
    if update:
        path.write_text(text)
        return
    assert path.exists(), f"{path.name} is missing: run pytest with --update-golden and review it"
    assert text == path.read_text(), "run pytest with --update-golden and review the difference"


def summary(result: Result) -> dict[str, Any]:
    """Everything of a result, resources cut down to what depends on the objects."""
    snapshot = MessageToDict(result.snapshot, preserving_proto_field_name=True)
    snapshot.pop("version")
    for pool in snapshot.get("pools", []):
        if "labels" in pool:  # a map has no order
            pool["labels"] = dict(sorted(pool["labels"].items()))
    return {
        "snapshot": snapshot,
        "xds": {
            "names": {
                type_url.rpartition(".")[2]: sorted(named)
                for type_url, named in sorted(result.xds.by_type.items())
                if named
            },
            "clusters": {
                name: _cluster(decode_resource(resource))
                for name, resource in sorted(result.xds.get(CLUSTER).items())
                if name.startswith("pool/")
            },
            "endpoints": {
                name: _endpoints(decode_resource(resource))
                for name, resource in sorted(result.xds.get(ENDPOINTS).items())
            },
        }
        | _providers(result),
        "statuses": {str(key): _status(status) for key, status in result.statuses.items()},
        "problems": [f"{problem.severity}: {problem.reason}: {problem}" for problem in result.problems],
    }


def _providers(result: Result) -> dict[str, Any]:
    """What lies behind inner listeners; nothing when there is none. Of secrets only their kind."""
    listeners = {
        n: decode_resource(r) for n, r in sorted(result.xds.get(LISTENER).items()) if n.startswith("external/")
    }
    if not listeners:
        return {}
    clusters = {name: decode_resource(result.xds.get(CLUSTER)[name]) for name in listeners}
    secrets = {name: decode_resource(resource) for name, resource in sorted(result.xds.get(SECRET).items())}
    return {
        "providers": {name: _provider(listener, clusters[name]) for name, listener in listeners.items()},
        "secrets": {name: " ".join(secret.keys() - {"@type", "name"}) for name, secret in secrets.items()},
    }


def _provider(listener: Mapping[str, Any], cluster: Mapping[str, Any]) -> dict[str, Any]:
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    out: dict[str, Any] = {
        "address": _addresses(cluster["load_assignment"]),
        "host": route["route"]["host_rewrite_literal"],
    }
    if "prefix_rewrite" in route["route"]:
        out["path"] = route["route"]["prefix_rewrite"]
    for each in manager["http_filters"]:
        if each["name"] == "ralb.credentials":
            generic = each["typed_config"]["credential"]["typed_config"]
            out["key"] = (
                f"{generic['header']}: {generic.get('header_value_prefix', '')}<{generic['credential']['name']}>"
            )
    added = [each["header"] for each in route.get("request_headers_to_add", ())]
    if added:
        out["adds"] = [f"{header['key']}: {header['value']}" for header in added]
    if "transport_socket" in cluster:
        tls = cluster["transport_socket"]["typed_config"]
        common = tls["common_tls_context"]
        out["sni"] = tls.get("sni", "")
        combined = common.get("combined_validation_context", {})
        validation = combined.get("default_validation_context") or common.get("validation_context") or {}
        names = [
            f"{each['san_type']} {each['matcher']['exact']}"
            for each in validation.get("match_typed_subject_alt_names", ())
        ]
        out["certificate"] = names or "anything"
        if combined:
            out["ca"] = combined["validation_context_sds_secret_config"]["name"]
        elif validation:
            out["ca"] = validation["trusted_ca"]["filename"]
    return out


def _status(status: Status) -> dict[str, Any]:
    out: dict[str, Any] = {
        str(condition.type): f"{condition.status} {condition.reason}: {condition.message}"
        for condition in status.conditions
    }
    out["generation"] = status.generation
    if status.endpoints is not None:
        out["endpoints"] = "{} of {}".format(*status.endpoints)
    return out


def _cluster(cluster: Mapping[str, Any]) -> dict[str, Any]:
    options = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    filters = options["http_filters"]
    (threshold,) = cluster["circuit_breakers"]["thresholds"]
    out: dict[str, Any] = {"type": cluster["type"]}
    if "eds_cluster_config" in cluster:
        out["endpoints"] = cluster["eds_cluster_config"]["service_name"]
    else:
        out["address"] = _addresses(cluster["load_assignment"])
    out["balancing"] = " / ".join(_policies(cluster["load_balancing_policy"]))
    out["max_requests"] = threshold["max_requests"]
    budget = threshold["retry_budget"]
    out["retries"] = f"{budget['budget_percent'].get('value', 0):g} %, at least {budget['min_retry_concurrency']}"
    out["filters"] = [each["name"] for each in filters]
    for each in filters:
        if each["name"] == "ralb.rewrite_model":
            (metadata,) = each["typed_config"]["grpc_service"]["initial_metadata"]
            out["rewrites_model_to"] = metadata["value"]
    known = cluster["metadata"]["filter_metadata"]["ralb"]["fields"]
    out["known_as"] = "{} {}".format(*(known[name]["string_value"] for name in ("pool", "model")))
    return out


def _policies(policy: Mapping[str, Any]) -> list[str]:
    (only,) = policy["policies"]
    extension = only["typed_extension_config"]
    config = extension["typed_config"]
    text = extension["name"].rpartition(".")[2]
    if "slow_start_config" in config:
        text += f" (slow start {config['slow_start_config']['slow_start_window']})"
    return [text, *(_policies(config["fallback_policy"]) if "fallback_policy" in config else [])]


def _endpoints(assignment: Mapping[str, Any]) -> dict[str, Any]:
    return {"cluster_name": assignment["cluster_name"], "addresses": _addresses(assignment)}


def _addresses(assignment: Mapping[str, Any]) -> list[str]:
    out = []
    for locality in assignment["endpoints"]:
        for endpoint in locality["lb_endpoints"]:
            address = endpoint["endpoint"]["address"]
            if "pipe" in address:
                out.append(address["pipe"]["path"])
            elif "envoy_internal_address" in address:
                out.append("listener " + address["envoy_internal_address"]["server_listener_name"])
            else:
                socket = address["socket_address"]
                out.append(f"{socket['address']} port {socket['port_value']}")
    return out
