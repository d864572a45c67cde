"""What the charts render to, what they refuse, and that their documentation tells of every value."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support_chart import CI, CRDS, RALB, REPOSITORY, Helm, golden, values_file
from support_golden import check

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", CI)
def test_golden(helm: Helm, case: str, update_golden: bool) -> None:
    check(GOLDEN / f"{case}.yaml", golden(helm.case(case).objects), update=update_golden)


def test_every_golden_has_its_values() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == CI


@pytest.mark.parametrize("case", CI)
def test_lint(helm: Helm, case: str) -> None:
    done = helm.run("lint", "--strict", RALB, "--values", values_file(case))
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint_crds(helm: Helm) -> None:
    done = helm.run("lint", "--strict", CRDS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_crd_chart_is_the_folder_crds_and_keeps_them(helm: Helm) -> None:
    rendered = {each["metadata"]["name"]: each for each in helm.template(CRDS)}
    plain = [yaml.safe_load(path.read_text()) for path in sorted((REPOSITORY / "crds").glob("*.yaml"))]
    for wanted in plain:
        got = rendered.pop(wanted["metadata"]["name"])
        assert got["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert got == wanted
    assert not rendered


@pytest.mark.parametrize("chart", [RALB, CRDS])
@pytest.mark.parametrize(("version", "installs"), [("v1.29.9", False), ("v1.30.0", True), ("v1.36.3-cloud.1", True)])
def test_kubernetes_version(helm: Helm, chart: Path, version: str, installs: bool) -> None:
    done = helm.try_template(chart, "--kube-version", version)
    assert (done.returncode == 0) is installs
    assert installs or "1.30.0-0" in done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "The resource definitions are missing"),
        ({"tls": {"mode": "Off"}}, "plain text"),
        (
            {"epp": {"enabled": True, "pools": [{"pool": "a/b", "port": 9005}]}},
            "ModelPool a/b: endpointPickerRef {name: ralb-epp, port: {number: 9005}}",
        ),
        ({"gateway": {"service": {"port": 8443}}}, "port-forward service/ralb-gateway 8080:8443"),
    ],
    ids=["crds", "tls", "epp", "port"],
)
def test_notes_say_what_is_next(helm: Helm, values: Any, said: str) -> None:
    arguments = ("install", "ralb", RALB, "--namespace", "ralb-system", "--dry-run=client", "--values", "-")
    done = helm.run(*arguments, input=json.dumps(values))
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert said in notes
    assert "rollout status deployment/ralb-gateway" in notes


# ---- what is refused ----

WRONG: list[tuple[Any, str]] = [
    ({"replicas": 3}, "replicas"),
    ({"operator": {"replica": 3}}, "replica"),
    ({"operator": {"replicas": 0}}, "operator/replicas"),
    ({"operator": {"replicas": "two"}}, "operator/replicas"),
    ({"operator": {"image": {"tag": "latest"}}}, "operator/image/tag"),
    ({"operator": {"image": {"digest": "sha256:1234"}}}, "operator/image/digest"),
    ({"operator": {"podLabels": {"app.kubernetes.io/component": "gateway"}}}, "operator/podLabels"),
    ({"operator": {"extraEnv": {"A": "b"}}}, "operator/extraEnv"),
    ({"gateway": {"port": 80}}, "gateway/port"),
    ({"gateway": {"drainSeconds": 0}}, "gateway/drainSeconds"),
    ({"gateway": {"service": {"type": "ExternalName"}}}, "gateway/service/type"),
    ({"gateway": {"service": {"loadBalancerSourceRanges": ["10.0.0.0"]}}}, "loadBalancerSourceRanges"),
    ({"gateway": {"envoy": {"logLevel": "verbose"}}}, "gateway/envoy/logLevel"),
    ({"gateway": {"envoy": {"image": {"pullPolicy": "Sometimes"}}}}, "pullPolicy"),
    ({"gateway": {"autoscaling": {"targetCPU": 80}}}, "targetCPU"),
    ({"watch": {"namespaces": "team-a"}}, "watch/namespaces"),
    ({"watch": {"namespaces": ["Team A"]}}, "watch/namespaces"),
    ({"watch": {"namespaces": ["a", "a"]}}, "watch/namespaces"),
    ({"credentials": {"secrets": [{"namespace": "a"}]}}, "credentials/secrets"),
    ({"credentials": {"secrets": [{"namespace": "a", "names": []}]}}, "credentials/secrets"),
    ({"credentials": {"secrets": [{"namespace": "a", "names": ["*"]}]}}, "credentials/secrets"),
    ({"tls": {"mode": "mTLS"}}, "tls/mode"),
    ({"tls": {"mode": False}}, "tls/mode"),
    ({"tls": {"certManager": {"issuerRef": {"name": "x"}}}}, "issuerRef"),
    ({"listenAddress": "127.0.0.1"}, "listenAddress"),
    ({"maxBodyBytes": -1}, "maxBodyBytes"),
    ({"epp": {"pools": [{"pool": "llama", "port": 9002}]}}, "epp/pools"),
    ({"networkPolicy": {"external": {"ports": ["https"]}}}, "networkPolicy/external/ports"),
    ({"metrics": {"podMonitor": {"interval": 15}}}, "metrics/podMonitor/interval"),
    ({"fullnameOverride": "x" * 51}, "fullnameOverride"),
    ({"commonLabels": {"a": "not a label"}}, "commonLabels"),
    # What the schema cannot see:
    ({"epp": {"enabled": True}}, "epp.enabled needs epp.pools"),
    ({"epp": {"pools": [{"pool": "a/b", "port": 9400}]}}, "port 9400 is taken"),
    ({"epp": {"pools": [{"pool": "a/b", "port": 9002}, {"pool": "a/c", "port": 9002}]}}, "port 9002 is taken"),
    ({"gateway": {"port": 9902}}, "gateway.port 9902 is a port of the gateway's own"),
    ({"gateway": {"drainMinSeconds": 400}}, "gateway.drainMinSeconds is above drainSeconds"),
    ({"gateway": {"autoscaling": {"enabled": True, "maxReplicas": 1}}}, "maxReplicas is below minReplicas"),
    (
        {"gateway": {"autoscaling": {"enabled": True, "processorCPU": 0, "envoyCPU": 0}}},
        "autoscaling has nothing to look at",
    ),
    (
        {"credentials": {"secrets": [{"namespace": "a", "names": ["x"]}, {"namespace": "a", "names": ["y"]}]}},
        "names namespace a twice",
    ),
    (
        {"watch": {"namespaces": ["a"]}, "credentials": {"secrets": [{"namespace": "b", "names": ["x"]}]}},
        "namespace b, which is not in watch.namespaces",
    ),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=[json.dumps(values)[:70] for values, _ in WRONG])
def test_wrong_values_are_refused_with_their_name(helm: Helm, values: Any, said: str) -> None:
    done = helm.try_template(RALB, values=values)
    assert done.returncode != 0
    assert said in done.stderr or said in done.stderr.replace("'", "").replace(".", "/"), done.stderr


def test_values_shared_by_an_umbrella_chart_are_let_be(helm: Helm) -> None:
    assert helm.template(RALB, values={"global": {"anything": True}})
    assert helm.template(CRDS, values={"global": {"anything": True}})
    assert helm.try_template(CRDS, values={"anything": True}).returncode != 0


# ---- the documentation ----


def leaves(value: Any, schema: Any, definitions: Any, path: str = "") -> list[str]:
    """Faults: keys that only one of values and schema has, and objects whose keys nobody checks."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    known = schema.get("properties")
    if known is None or isinstance(schema.get("additionalProperties"), dict):
        return []
    faults = [] if schema.get("additionalProperties") is False else [f"{path}: other keys are let in"]
    if not isinstance(value, dict):
        return faults
    optional = {"global", "claims"}
    faults += [f"{path}.{key}: not in both" for key in (value.keys() ^ known.keys()) - optional]
    for key in value.keys() & known.keys():
        faults += leaves(value[key], known[key], definitions, f"{path}.{key}")
    return faults


def test_schema_knows_exactly_the_values() -> None:
    schema = json.loads((RALB / "values.schema.json").read_text())
    values = yaml.safe_load((RALB / "values.yaml").read_text())
    assert leaves(values, schema, schema["definitions"]) == []


def test_every_value_is_in_the_readme() -> None:
    readme = (RALB / "README.md").read_text()

    def undocumented(value: Any, path: tuple[str, ...] = ()) -> list[str]:
        if path and f"| `{'.'.join(path)}` |" in readme:
            return []
        if not isinstance(value, dict) or not value:
            return [".".join(path)]
        return [name for key, below in value.items() for name in undocumented(below, (*path, key))]

    assert undocumented(yaml.safe_load((RALB / "values.yaml").read_text())) == []


@pytest.mark.parametrize("case", CI)
def test_cases_say_what_they_are_for(case: str) -> None:
    assert values_file(case).read_text().startswith("# ")
