"""The roles that the chart makes: what the operator says it needs, and nothing else. ``test_rbac`` asks a real authorizer."""

import pytest
from support_chart import CI, NAMESPACE, RALB, Helm, Object, Rendered, container

from ralb_operator.cluster.permissions import RULES, Scope

# API group, resource, verb, name ("" = any).
Right = tuple[str, str, str, str]


@pytest.fixture(params=CI)
def case(request: pytest.FixtureRequest, helm: Helm) -> Rendered:
    return helm.case(request.param)


def rights(role: Object) -> set[Right]:
    """What a role allows."""
    return {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def needed(scope: Scope, *, certificates: bool = True) -> set[Right]:
    """What the operator says it needs. Secrets of providers apart, which are granted by name; and those of its own
    certificates if others make these.
    """
    return {
        (rule.group, resource, verb, f"ralb{suffix}" if suffix else "")
        for rule in RULES
        if rule.scope is scope and (rule.resources != ("secrets",) or (scope is Scope.OWN and certificates))
        for resource in rule.resources
        for verb in rule.verbs
        for suffix in rule.names or ("",)
    }


def granted(case: Rendered, kind: str, namespace: str = "") -> list[Object]:
    """Roles of this kind that are bound to the operator's account, Secrets' roles apart."""
    account = {"kind": "ServiceAccount", "name": "ralb-operator", "namespace": NAMESPACE}
    found = []
    for binding in case.of(f"{kind}Binding"):
        if binding["metadata"].get("namespace", "") == namespace and binding["subjects"] == [account]:
            (role,) = (
                each
                for each in case.of(kind)
                if each["metadata"]["name"] == binding["roleRef"]["name"]
                and each["metadata"].get("namespace", "") == namespace
            )
            assert binding["roleRef"] == {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": kind,
                "name": role["metadata"]["name"],
            }
            found.append(role)
    return found


def test_the_operator_may_do_what_it_says_it_needs_and_nothing_else(helm: Helm) -> None:
    case = helm.case("default")
    (watched,) = granted(case, "ClusterRole")
    assert rights(watched) == needed(Scope.WATCHED)
    (own,) = granted(case, "Role", NAMESPACE)
    assert rights(own) == needed(Scope.OWN)
    assert len(case.of("RoleBinding")) == len(case.of("ClusterRoleBinding")) == 1


def test_namespaced_mode_has_the_same_rights_in_its_namespaces_only(helm: Helm) -> None:
    case = helm.case("namespaced")
    assert not case.of("ClusterRole")
    assert not case.of("ClusterRoleBinding")
    for namespace in ("team-a", "team-b"):
        credentials, watched = sorted(granted(case, "Role", namespace), key=lambda role: role["metadata"]["name"])
        assert rights(watched) == needed(Scope.WATCHED)
        assert {(resource, verb) for _, resource, verb, _ in rights(credentials)} == {
            ("secrets", verb) for verb in ("list", "watch")
        }
    (own,) = granted(case, "Role", NAMESPACE)
    assert rights(own) == needed(Scope.OWN)
    assert len(case.of("RoleBinding")) == 5
    arguments = container(case.component("Deployment", "operator")["spec"]["template"], "operator")["args"]
    assert [each for each in arguments if each.startswith("--namespace")] == [
        "--namespace=team-a",
        "--namespace=team-b",
    ]


@pytest.mark.parametrize("mode", ["CertManager", "Off"])
def test_no_rights_on_secrets_when_others_make_the_certificates(helm: Helm, mode: str) -> None:
    case = Rendered(tuple(helm.template(RALB, values={"tls": {"mode": mode}})))
    (own,) = granted(case, "Role", NAMESPACE)
    assert rights(own) == needed(Scope.OWN, certificates=False)


def test_rights_on_secrets_are_by_name(case: Rendered) -> None:
    for role in [*case.of("Role"), *case.of("ClusterRole")]:
        for rule in role["rules"]:
            text = str(rule)
            assert "'*'" not in text, role["metadata"]["name"]
            if "secrets" in rule["resources"] and rule["verbs"] != ["create"]:
                assert rule["resourceNames"], role["metadata"]["name"]


def test_credentials_name_the_secrets_given(helm: Helm) -> None:
    values = {"credentials": {"secrets": [{"namespace": "models", "names": ["openai", "anthropic"]}]}}
    case = Rendered(tuple(helm.template(RALB, values=values)))
    (role,) = granted(case, "Role", "models")
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["openai", "anthropic"],
            "verbs": ["list", "watch"],
        }
    ]


def test_people_get_our_kinds_with_their_usual_roles(helm: Helm) -> None:
    case = helm.case("default")
    roles = {each["metadata"]["name"]: each for each in case.of("ClusterRole")}
    labels = {
        name: {key.rpartition("-")[2] for key in role["metadata"]["labels"] if "aggregate-to-" in key}
        for name, role in roles.items()
    }
    assert labels["ralb-view-ralb-system"] == {"view"}
    assert labels["ralb-edit-ralb-system"] == {"edit", "admin"}
    assert {verb for _, _, verb, _ in rights(roles["ralb-view-ralb-system"])} == {"get", "list", "watch"}
    for name in ("ralb-view-ralb-system", "ralb-edit-ralb-system"):
        for group, resource, verb, _ in rights(roles[name]):
            assert group == "ralb.dev"
            assert not resource.endswith("/status") or verb == "get"


def test_no_roles_if_so_wished(helm: Helm) -> None:
    case = helm.case("small")
    assert not [each for each in case.objects if "rbac" in each["apiVersion"]]
