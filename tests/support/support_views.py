"""Views of every kind for properties: few names, so that objects meet, refer to each other and collide."""

from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from ralb_api.objects import KINDS, ModelPool, ModelTier, RoutingPolicy
from ralb_api.objects.common import Object
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.view import EndpointSlice, Grant, InferencePool, Pod, Secret, Service, SliceEndpoint, View

NAMESPACES = ("a", "b")
NAMES = ("x", "y", "z")
LABELS = ("app", "tier")
VALUES = ("1", "2")
MODELS = ("auto", "m", "n", "org/m")

names = st.sampled_from(NAMES)
namespaces = st.sampled_from(NAMESPACES)
models = st.sampled_from(MODELS)
labels = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(VALUES), max_size=2)
selectors = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(VALUES), min_size=1, max_size=2)
stamps = st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"])


def metadata() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"name": names, "namespace": namespaces, "creationTimestamp": stamps, "generation": st.integers(0, 3)}
    )


def some(strategy: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, max_size=most, unique=True)


pods_backends = st.fixed_dictionaries(
    {"selector": st.fixed_dictionaries({"matchLabels": selectors})},
    optional={"port": st.integers(1, 65535), "engine": st.sampled_from(["vLLM", "SGLang", "Generic"])},
)
hosts = st.fixed_dictionaries({"host": st.sampled_from(["svc.local", "10.0.0.9"]), "port": st.integers(1, 65535)})
elsewhere = st.fixed_dictionaries({"name": names}, optional={"namespace": namespaces})
named_services = st.tuples(elsewhere, st.sampled_from([80, 81])).map(lambda pair: {**pair[0], "port": pair[1]})
providers = st.fixed_dictionaries(
    {"host": st.sampled_from(["api.example.com", "10.0.0.8", "fd00::8"])},
    optional={
        "schema": st.sampled_from(["OpenAI", "Anthropic"]),
        "tls": st.sampled_from([{"mode": "SkipVerify"}, {"caCertificateRef": {"name": "y"}}, {"hostname": "h.com"}]),
        "credentialsRef": elsewhere,
        "pathPrefix": st.just("/v"),
    },
)
backends = st.one_of(
    st.fixed_dictionaries({"pods": pods_backends}),
    st.fixed_dictionaries({"service": st.one_of(hosts, named_services)}),
    st.fixed_dictionaries({"inferencePool": elsewhere}),
    st.fixed_dictionaries({"external": providers}),
)


def _elsewhere(spec: dict[str, Any], name: str) -> dict[str, Any]:
    """The tier without a spill tier that is itself."""
    return {key: value for key, value in spec.items() if (key, value) != ("spillTier", name)}


pools = st.builds(
    lambda meta, spec: ModelPool.model_validate({"metadata": meta, "spec": spec}),
    metadata(),
    st.fixed_dictionaries(
        {"model": st.fixed_dictionaries({"name": models}), "backend": backends},
        optional={
            "labels": labels,
            "cost": st.fixed_dictionaries({"inputPerMillion": st.floats(0, 100)}),
            "balancing": st.fixed_dictionaries({"slowStart": st.sampled_from(["0s", "5s", "1m"])}),
        },
    ),
)
tiers = st.builds(
    lambda meta, spec: ModelTier.model_validate({"metadata": meta, "spec": _elsewhere(spec, meta["name"])}),
    metadata(),
    st.fixed_dictionaries(
        {
            "level": st.integers(1, 100),
            "pools": st.lists(
                st.fixed_dictionaries(
                    {"name": names}, optional={"weight": st.integers(0, 9), "priority": st.integers(0, 3)}
                ),
                min_size=1,
                max_size=3,
                unique_by=lambda entry: entry["name"],
            ),
        },
        optional={
            "fallbackTier": names,
            "spillTier": names,
            "weights": st.sampled_from(["Dynamic", "Static"]),
            "prefer": st.sampled_from(["Balance", "Price"]),
            "outputCap": st.integers(1, 9),
            "reasoningEffort": st.sampled_from(["Low"]),
        },
    ),
)
uses = st.one_of(
    st.fixed_dictionaries({"tier": names}),
    st.fixed_dictionaries({"reject": st.fixed_dictionaries({}, optional={"status": st.integers(400, 499)})}),
)
header_matches = st.one_of(
    st.fixed_dictionaries({"name": st.sampled_from(["x-a", "X-B"]), "value": st.sampled_from(["1", "2"])}),
    st.fixed_dictionaries({"name": st.sampled_from(["x-a", "X-B"]), "type": st.just("Present")}),
)
matches = st.fixed_dictionaries(
    {},
    optional={
        "hostnames": some(st.sampled_from(["h.com", "a.h.com", "*.h.com", "*.com"])),
        "paths": some(st.sampled_from(["/", "/v1", "/v1/chat"])),
        "models": st.lists(models, min_size=1, max_size=3, unique=True),
        "headers": st.lists(header_matches, max_size=2),
    },
)
whens = st.fixed_dictionaries(
    {},
    optional={
        "intents": some(st.sampled_from(["code", "chat"])),
        "complexity": st.fixed_dictionaries({"min": st.floats(0, 0.4), "max": st.floats(0.5, 1)}),
        "tools": st.fixed_dictionaries({"offered": st.booleans()}),
        "inputTokens": st.fixed_dictionaries({"min": st.integers(0, 9)}),
        "headers": st.lists(header_matches, max_size=2),
    },
)
rules = st.lists(
    st.fixed_dictionaries({"name": names, "use": uses, "when": whens}), max_size=3, unique_by=lambda rule: rule["name"]
)
policies = st.builds(
    lambda meta, spec: RoutingPolicy.model_validate({"metadata": meta, "spec": spec}),
    metadata(),
    st.fixed_dictionaries(
        {"default": st.fixed_dictionaries({"use": uses})},
        optional={"match": matches, "rules": rules, "streamUsage": st.sampled_from(["AsRequested", "Inject"])},
    ),
)
pods = st.builds(
    Pod,
    namespaces,
    st.sampled_from([f"pod-{number}" for number in range(6)]),
    labels,
    st.sampled_from(["", "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]),
    st.booleans(),
    st.sampled_from([0, 0, 8001]),
)
ports = st.lists(st.tuples(st.sampled_from(["", "http"]), st.sampled_from([80, 81])), max_size=2, unique=True).map(
    tuple
)
in_services = st.builds(Service, namespaces, names, ports, st.sampled_from(["", "", "", "dns.example.com"]))
slice_endpoints = st.builds(
    SliceEndpoint,
    st.sampled_from(["10.0.1.1", "10.0.1.2", "fd00::2"]),
    st.booleans(),
    st.sampled_from(["", "pod-1", "pod-2"]),
)
in_slices = st.builds(
    EndpointSlice, namespaces, names, names, ports, st.lists(slice_endpoints, max_size=3, unique=True).map(tuple)
)
in_inference_pools = st.builds(InferencePool, namespaces, names, selectors, st.sampled_from([(8000,), (8000, 8001)]))
sources = st.tuples(st.sampled_from(["ralb.dev", "example.com"]), st.just("ModelPool"), namespaces)
targets = st.tuples(
    st.sampled_from(["", "inference.networking.k8s.io"]),
    st.sampled_from(["Service", "Secret", "InferencePool"]),
    st.sampled_from(["", *NAMES]),
)
in_grants = st.builds(
    Grant, namespaces, names, st.lists(sources, max_size=2).map(tuple), st.lists(targets, max_size=3).map(tuple)
)
in_secrets = st.builds(Secret, namespaces, names, st.just({"apiKey": b"sk-1"}))
problems = st.builds(
    Problem,
    # Few objects, so that several problems of one object are common.
    st.sampled_from([None, *(ObjectKey(kind, "a", name) for kind in (*KINDS, "Pod") for name in ("x", "broken"))]),
    st.sampled_from(["", "spec.x"]),
    st.sampled_from(["Invalid", "Duplicate"]),
    st.sampled_from(["is wrong", "is odd"]),
    severity=st.sampled_from(list(Severity)),
)


def view_of(
    objects: Iterable[Object],
    pods: Iterable[Pod] = (),
    problems: Iterable[Problem] = (),
    referenced: Mapping[str, Any] | None = None,
) -> View:
    """Of several objects of one name, the last."""
    parts: dict[str, dict[ObjectKey, Any]] = {kind: {} for kind in KINDS}
    for value in objects:
        parts[value.kind][value.key] = value
    return View(
        pools=parts["ModelPool"],
        tiers=parts["ModelTier"],
        policies=parts["RoutingPolicy"],
        pods=tuple(pods),
        problems=tuple(problems),
        **(referenced or {}),
    )


objects_lists = st.tuples(st.lists(pools, max_size=6), st.lists(tiers, max_size=6), st.lists(policies, max_size=5)).map(
    lambda parts: [*parts[0], *parts[1], *parts[2]]
)
unique_pods = st.lists(pods, max_size=8, unique_by=lambda pod: (pod.namespace, pod.name))


def several(strategy: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=most, unique_by=lambda each: (each.namespace, each.name)).map(tuple)


references = st.fixed_dictionaries(
    {
        "services": several(in_services),
        "slices": several(in_slices),
        "inference_pools": several(in_inference_pools),
        "grants": several(in_grants),
        "secrets": several(in_secrets).map(lambda found: {(each.namespace, each.name): each for each in found}),
        "unreadable_secrets": st.dictionaries(st.tuples(namespaces, names), st.just("forbidden"), max_size=1),
    }
)
views = st.builds(view_of, objects_lists, unique_pods, st.lists(problems, max_size=8), references)
