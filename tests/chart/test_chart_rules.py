"""What must hold of everything the chart makes, whatever the values: security, and that the parts fit together."""

import re
from typing import Any

import pytest
from support_chart import CI, NAMESPACE, RALB, Helm, Object, Rendered, container, containers

from ralb_operator.cluster.certificates import names_of, secret_name
from ralb_operator.rotation import Part


@pytest.fixture(params=CI)
def case(request: pytest.FixtureRequest, helm: Helm) -> Rendered:
    return helm.case(request.param)


# ---- security ----


def test_pods_are_restricted(case: Rendered) -> None:
    for name, template in case.pods():
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in containers(template):
            context = each["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, each["name"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (65532, 65532, True)
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {next(iter(volume.keys() - {"name"})) for volume in spec.get("volumes", ())}
        assert kinds <= {"emptyDir", "secret", "configMap", "projected"}
        assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)


def test_only_the_operator_gets_a_token(case: Rendered) -> None:
    for name, template in case.pods():
        assert template["spec"]["automountServiceAccountToken"] is name.endswith("-operator"), name
    for account in case.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_images_are_pinned(case: Rendered) -> None:
    for _, template in case.pods():
        for each in containers(template):
            assert re.fullmatch(r"\S+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", each["image"])


def test_images_come_from_the_registry_and_digest_given(helm: Helm) -> None:
    images = {
        each["name"]: each["image"] for _, template in helm.case("production").pods() for each in containers(template)
    }
    assert images == {
        "operator": "registry.example.com/mirror/ralb-operator:0.1.0@sha256:" + "1" * 64,
        "bootstrap": "registry.example.com/mirror/ralb-operator:0.1.0@sha256:" + "1" * 64,
        "processor": "registry.example.com/mirror/ralb-processor:0.1.0",
        "envoy": "registry.example.com/mirror/envoyproxy/envoy:distroless-v1.40.0",
    }
    own = {"gateway": {"envoy": {"image": {"registry": "other.example.com"}}}, "imageRegistry": "r.example.com"}
    gateway = Rendered(tuple(helm.template(RALB, values=own))).component("Deployment", "gateway")
    assert container(gateway["spec"]["template"], "envoy")["image"].startswith("other.example.com/envoyproxy/envoy:")


def test_containers_have_resources_and_probes(case: Rendered) -> None:
    for _, template in case.pods():
        for each in containers(template):
            assert each["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in each["resources"]["limits"]
            assert "readinessProbe" in each or each["name"] == "bootstrap"


# ---- the gateway's pod ----


def test_envoy_ends_before_its_processor(case: Rendered) -> None:
    spec = case.component("Deployment", "gateway")["spec"]["template"]["spec"]
    bootstrap, processor = spec["initContainers"]
    (envoy,) = spec["containers"]
    assert (bootstrap["name"], processor["name"], processor["restartPolicy"]) == ("bootstrap", "processor", "Always")
    assert "restartPolicy" not in bootstrap
    arguments = dict(each.removeprefix("--").partition("=")[::2] for each in processor["args"])
    hook = envoy["lifecycle"]["preStop"]["httpGet"]
    assert hook == {"path": "/drain", "port": int(arguments["drain-port"])}
    assert "lifecycle" not in processor  # it would run at the same time as Envoy's
    assert spec["terminationGracePeriodSeconds"] > float(arguments["drain-timeout"]) > float(arguments["drain-min"])
    drain = envoy["args"][envoy["args"].index("--drain-time-s") + 1]
    assert float(drain) >= float(arguments["drain-timeout"])


def test_containers_of_the_gateway_meet_in_their_volumes(case: Rendered) -> None:
    template = case.component("Deployment", "gateway")["spec"]["template"]
    bootstrap, processor, envoy = (container(template, name) for name in ("bootstrap", "processor", "envoy"))
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    mounts = {
        each["name"]: {mount["mountPath"]: mount for mount in each["volumeMounts"]}
        for each in (bootstrap, processor, envoy)
    }
    assert all(mount["name"] in volumes for by_path in mounts.values() for mount in by_path.values())
    (out,) = (each.partition("=")[2] for each in bootstrap["args"] if each.startswith("--out="))
    folder = out.rpartition("/")[0]
    assert envoy["args"][envoy["args"].index("--config-path") + 1] == out
    assert mounts["bootstrap"][folder]["name"] == mounts["envoy"][folder]["name"]
    assert mounts["envoy"][folder]["readOnly"] is True
    (socket,) = (each.partition("=unix:")[2] for each in processor["args"] if each.startswith("--listen="))
    operator = container(case.component("Deployment", "operator")["spec"]["template"], "operator")
    assert f"--processor-socket=unix:{socket}" in operator["args"]
    run = socket.rpartition("/")[0]
    assert mounts["processor"][run]["name"] == mounts["envoy"][run]["name"]
    for name in ("bootstrap", "processor", "envoy"):
        assert ("/etc/ralb-tls" in mounts[name]) is any("--tls-dir" in each for each in processor["args"])


def test_gateway_and_operator_agree_on_where_they_are(case: Rendered) -> None:
    service = case.component("Service", "operator")
    address = f"{service['metadata']['name']}.{NAMESPACE}.svc:{service['spec']['ports'][0]['port']}"
    gateway = case.component("Deployment", "gateway")["spec"]["template"]
    assert f"--operator={address}" in container(gateway, "bootstrap")["args"]
    assert f"--operator={address}" in container(gateway, "processor")["args"]


@pytest.mark.parametrize("case_name", ["picker", "production"])
def test_certificates_hold_the_names_that_both_ends_ask_for(helm: Helm, case_name: str) -> None:
    case = helm.case(case_name)
    release = case.component("Deployment", "operator")["metadata"]["name"].removesuffix("-operator")
    names = names_of(release, NAMESPACE)
    for part, wanted in ((Part.OPERATOR, names.operator), (Part.GATEWAY, names.gateway)):
        certificate = case.one("Certificate", secret_name(release, part))
        assert tuple(certificate["spec"]["dnsNames"]) == wanted
        assert certificate["spec"]["secretName"] == secret_name(release, part)
    template = case.component("Deployment", "gateway")["spec"]["template"]
    assert f"--operator={names.operator[0]}:9300" in container(template, "processor")["args"]


# ---- the other objects ----


def labels_match(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def ports_of(template: Object) -> dict[Any, int]:
    """Ports of a pod by name and by number."""
    ports = [port for each in containers(template) for port in each.get("ports", ())]
    return {port["name"]: port["containerPort"] for port in ports} | {
        port["containerPort"]: port["containerPort"] for port in ports
    }


def test_selectors_find_exactly_their_pods(case: Rendered) -> None:
    pods = dict(case.pods())
    for deployment in case.of("Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert [name for name, pod in pods.items() if labels_match(selector, pod["metadata"]["labels"])] == [
            deployment["metadata"]["name"]
        ]
        assert "app.kubernetes.io/version" not in selector
    for service in case.of("Service"):
        (pod,) = (pod for pod in pods.values() if labels_match(service["spec"]["selector"], pod["metadata"]["labels"]))
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports_of(pod)
    for budget in case.of("PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        assert [name for name, pod in pods.items() if labels_match(selector, pod["metadata"]["labels"])] == [
            budget["metadata"]["name"]
        ]


def test_probes_ask_ports_that_are_there(case: Rendered) -> None:
    for _, template in case.pods():
        for each in containers(template):
            own = {port["containerPort"] for port in each.get("ports", ())}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                for action in ("httpGet", "tcpSocket", "grpc"):
                    if action in each.get(kind, {}):
                        assert each[kind][action]["port"] in own, (each["name"], kind)


def test_budgets_and_scaling_follow_the_number_of_replicas(helm: Helm) -> None:
    assert not helm.case("small").of("PodDisruptionBudget")
    assert not helm.case("small").of("HorizontalPodAutoscaler")
    case = helm.case("production")
    gateway = case.component("Deployment", "gateway")
    assert "replicas" not in gateway["spec"]  # Helm and the autoscaler would fight over it
    (scaler,) = case.of("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == gateway["metadata"]["name"]
    names = {each["name"] for each in containers(gateway["spec"]["template"])}
    watched = [
        metric["containerResource"]["container"]
        for metric in scaler["spec"]["metrics"]
        if "containerResource" in metric
    ]
    assert sorted(watched) == ["envoy", "processor"]
    assert set(watched) <= names
    assert len(case.of("PodDisruptionBudget")) == 2


def test_pods_are_spread_unless_told_otherwise(helm: Helm) -> None:
    def keys(case: str, component: str) -> list[str]:
        spec = helm.case(case).component("Deployment", component)["spec"]["template"]["spec"]
        return [each["topologyKey"] for each in spec.get("topologySpreadConstraints", ())]

    assert (
        keys("default", "operator")
        == keys("default", "gateway")
        == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    )
    assert keys("production", "gateway") == ["topology.kubernetes.io/zone"]
    assert keys("small", "gateway") == []


def test_network_policies_allow_what_the_pods_need(helm: Helm) -> None:
    case = helm.case("picker")
    pods = {name.rpartition("-")[2]: template for name, template in case.pods()}

    def allowed(component: str, direction: str, port: int, peer: dict[str, str] | None = None) -> bool:
        spec = case.component("NetworkPolicy", component)["spec"]
        assert labels_match(spec["podSelector"]["matchLabels"], pods[component]["metadata"]["labels"])
        for rule in spec[direction]:
            if "ports" in rule and port not in [each["port"] for each in rule["ports"]]:
                continue
            peers = rule.get("to", rule.get("from", []))
            if not peers or peer is None:
                return True
            selectors = [each["podSelector"]["matchLabels"] for each in peers if "podSelector" in each]
            if any("namespaceSelector" in each for each in peers) or any(labels_match(s, peer) for s in selectors):
                return True
        return False

    labels = {component: template["metadata"]["labels"] for component, template in pods.items()}
    for component in ("gateway", "epp"):
        assert allowed("operator", "ingress", 9300, labels[component])
        assert allowed(component, "egress", 9300, labels["operator"])
        assert allowed(component, "egress", 53)
        assert allowed(component, "egress", 8000, {"app": "vllm"})
        assert not allowed("operator", "ingress", 9301, labels[component])
    assert allowed("operator", "egress", 6443)
    assert allowed("operator", "egress", 53)
    assert not allowed("operator", "egress", 8000)
    assert allowed("gateway", "ingress", 8080)
    assert not allowed("gateway", "ingress", 9402)  # only the kubelet may drain
    assert allowed("epp", "ingress", 9002)
    assert allowed("epp", "ingress", 9004)
    production = helm.case("production").component("NetworkPolicy", "gateway")["spec"]
    assert {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 443}]} in production[
        "egress"
    ]


def test_metrics_ports_have_the_name_that_is_scraped(helm: Helm) -> None:
    case = helm.case("production")
    (monitor,) = case.of("PodMonitor")
    names = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for name, template in case.pods():
        assert labels_match(monitor["spec"]["selector"]["matchLabels"], template["metadata"]["labels"])
        wanted = {"metrics", "envoy-metrics"} if name.endswith("-gateway") else {"metrics"}
        assert names & ports_of(template).keys() == wanted


def test_every_object_carries_the_usual_labels(case: Rendered) -> None:
    for each in case.objects:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "ralb" or labels["app.kubernetes.io/instance"] == "ralb"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/part-of"] == "ralb"
        assert len(each["metadata"]["name"]) <= 63


def test_longest_names_fit(helm: Helm) -> None:
    for release in ("r" * 53, "ralb"):
        for each in helm.template(
            RALB, values={"fullnameOverride": "n" * 50, "tls": {"mode": "CertManager"}}, release=release
        ):
            assert len(each["metadata"]["name"]) <= 63 or each["kind"].startswith("ClusterRole")
            assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())
