"""What compile promises about references: nothing is used without a grant, and keys reach Envoy's secrets only."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from support_xds import decode_resource

from ralb_api.objects import ModelPool
from ralb_api.problems import ObjectKey
from ralb_operator.certs import new_authority
from ralb_operator.compile import Reason, compile_view, needs
from ralb_operator.view import EndpointSlice, Grant, InferencePool, Pod, Secret, Service, SliceEndpoint, View
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, SECRET

NAMESPACES = ("a", "b")
NAMES = ("x", "y")
PLACES = tuple((namespace, name) for namespace in NAMESPACES for name in NAMES)
TARGETS = (("", "Service"), ("", "Secret"), ("inference.networking.k8s.io", "InferencePool"), ("example.com", "Secret"))
KEY = b"sk-property-0123456789"
CA = new_authority("property", ["example.com"], datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1)).cert

refs = st.builds(
    lambda name, namespace: {"name": name} | ({"namespace": namespace} if namespace else {}),
    st.sampled_from(NAMES),
    st.sampled_from(["", *NAMESPACES]),
)
providers = st.builds(
    lambda schema, tls, ref: {"host": "h.com", "schema": schema, "tls": tls} | ({"credentialsRef": ref} if ref else {}),
    st.sampled_from(["OpenAI", "Anthropic"]),
    st.sampled_from([{}, {"mode": "SkipVerify"}, {"caCertificateRef": {"name": "x"}}]),
    st.one_of(refs, refs, st.none()),
)
backends = st.one_of(
    providers.map(lambda each: {"external": each}),
    refs.map(lambda each: {"service": {**each, "port": 80}}),
    refs.map(lambda each: {"inferencePool": each}),
)
pools = st.builds(
    lambda place, backend: ModelPool.model_validate(
        {
            "metadata": {"namespace": place[0], "name": place[1]},
            "spec": {"model": {"name": "m"}, "backend": backend},
        }
    ),
    st.sampled_from(PLACES),
    backends,
)
grants = st.builds(
    lambda namespace, group, source, target, name: Grant(
        namespace, "g", ((group, "ModelPool", source),), ((*target, name),)
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from(["ralb.dev", "ralb.dev", "ralb.dev", "example.com"]),
    st.sampled_from(NAMESPACES),
    st.sampled_from(TARGETS),
    st.sampled_from(["", *NAMES]),
)
some_places = st.sets(st.sampled_from(PLACES), min_size=1)
GOOD = {"apiKey": KEY, "ca.crt": CA}
contents = st.sampled_from(
    [
        *(GOOD,) * 6,
        {"apiKey": KEY + b"\n", "ca.crt": KEY},
        {"apiKey": KEY + b"\n" + KEY, "ca.crt": CA},
        {"apiKey": b"", "ca.crt": CA},
        {"other": KEY},
        None,
    ]
)
secrets = st.fixed_dictionaries({place: contents for place in PLACES}).map(
    lambda found: {place: content for place, content in found.items() if content is not None}
)


def view_of(
    found: Iterable[ModelPool],
    allowed: Iterable[Grant],
    services: Iterable[tuple[str, str]],
    inference_pools: Iterable[tuple[str, str]],
    secrets: dict[tuple[str, str], dict[str, bytes]],
    unreadable: set[tuple[str, str]],
) -> View:
    ports = (("http", 80),)
    return View(
        pools={pool.key: pool for pool in found},
        pods=tuple(Pod(namespace, "pod", {"app": "x"}, "10.0.0.1") for namespace in NAMESPACES),
        services=tuple(Service(*place, ports) for place in services),
        slices=tuple(
            EndpointSlice(namespace, name, name, (("http", 8000),), (SliceEndpoint("10.0.0.2", True, "pod"),))
            for namespace, name in services
        ),
        inference_pools=tuple(InferencePool(*place, {"app": "x"}, (8000,)) for place in inference_pools),
        grants=tuple(allowed),
        secrets={place: Secret(*place, content) for place, content in secrets.items() if place not in unreadable},
        unreadable_secrets=dict.fromkeys(unreadable, "forbidden"),
    )


views = st.builds(
    view_of,
    st.lists(pools, min_size=1, max_size=4),
    st.lists(grants, max_size=4),
    some_places,
    some_places,
    secrets,
    st.sets(st.sampled_from(PLACES), max_size=1),
)
bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _granted(view: View, source: str, kind: tuple[str, str], namespace: str, name: str) -> bool:
    """By definition."""
    return source == namespace or any(
        grant.namespace == namespace
        and ("ralb.dev", "ModelPool", source) in grant.sources
        and any((*kind, each) in grant.targets for each in ("", name))
        for grant in view.grants
    )


@bounded
@given(views)
def test_nothing_of_another_namespace_is_used_without_a_grant(view: View) -> None:
    result = compile_view(view)
    pools = {pool.id: pool for pool in result.snapshot.pools}
    for key, pool in view.pools.items():
        backend, found = pool.spec.backend, pools[key.id]
        wanted: list[tuple[tuple[str, str], str | None, str]] = []
        if backend.service is not None and backend.service.name is not None:
            wanted.append((("", "Service"), backend.service.namespace, backend.service.name))
        if backend.inference_pool is not None:
            target = backend.inference_pool
            wanted.append((("inference.networking.k8s.io", "InferencePool"), target.namespace, target.name))
        if backend.external is not None and backend.external.credentials_ref is not None:
            credentials = backend.external.credentials_ref
            wanted.append((("", "Secret"), credentials.namespace, credentials.name))
        for kind, namespace, name in wanted:
            granted = _granted(view, key.namespace, kind, namespace or key.namespace, name)
            event(f"{kind[1]}: granted {granted}, elsewhere {namespace not in (None, key.namespace)}")
            if not granted:
                assert found.blocked
                assert not found.endpoints
                assert not [
                    each
                    for named in result.xds.by_type.values()
                    for each in named
                    if each.startswith(f"external/{key.id}")
                ]
                assert result.statuses[key].conditions[1].reason == Reason.REF_NOT_PERMITTED
                assert (namespace, name) not in needs([pool], view.grants)


@bounded
@given(views)
def test_a_provider_is_reached_with_its_key_or_not_at_all(view: View) -> None:
    result = compile_view(view)
    for key, pool in view.pools.items():
        external = pool.spec.backend.external
        if external is None:
            continue
        has_key = f"external/{key.id}/key" in result.xds.get(SECRET)
        reached = f"external/{key.id}" in result.xds.get(LISTENER)
        assert reached == (f"external/{key.id}" in result.xds.get(CLUSTER))
        assert reached == result.statuses[key].conditions[2].status
        (found,) = (each for each in result.snapshot.pools if each.id == key.id)
        assert reached == (not found.blocked)
        assert has_key == (reached and external.credentials_ref is not None)
        for cluster in (found.cluster, found.rewrite_cluster):
            body = decode_resource(result.xds.get(CLUSTER)[cluster])
            assert (body.get("type") == "EDS") == (not reached)
        if not reached:
            ((endpoint,),) = (
                each["lb_endpoints"] for each in decode_resource(result.xds.get(ENDPOINTS)[key.id])["endpoints"]
            )
            assert endpoint["endpoint"]["address"] == {"pipe": {"path": "/dev/null"}}
        event(f"reached {reached}, key {has_key}, own CA {f'external/{key.id}/ca' in result.xds.get(SECRET)}")


@bounded
@given(views)
def test_keys_are_in_envoys_secrets_and_nowhere_else(view: View) -> None:
    result = compile_view(view)
    for named in result.xds.by_type.values():
        for resource in named.values():
            assert KEY not in resource.body or resource.type_url == SECRET
    told = repr((result.problems, result.statuses, result.xds, result.snapshot)) + repr(view)
    assert KEY.decode() not in told
    assert KEY not in result.snapshot.SerializeToString()
    for resource in result.xds.get(SECRET).values():
        key, _, kind = resource.name.removeprefix("external/").rpartition("/")
        assert ObjectKey("ModelPool", *key.split("/")) in view.pools
        assert (kind == "key") == (KEY in resource.body), "a key never serves as a CA"
