"""What a user sees in kubectl: explanations, tables, the category, dry runs, filters."""

import json
import re

import pytest
import yaml
from support_cluster import ControlPlane
from support_crd import DEFINITIONS, create, load_cases, spec_schema, walk

pytestmark = pytest.mark.usefixtures("crds")

SAMPLES = {case.id: case.data for case in load_cases() if case.valid}
EVERYTHING = (
    "modelpool/valid-everything",
    "modeltier/valid-everything",
    "routingpolicy/valid-everything",
    "tenant/valid-everything",
    "semanticroute/valid-everything",
    "toolbackend/valid-mcp",
)


def explain(plane: ControlPlane, path: str) -> str:
    return " ".join(plane.kubectl("explain", path).stdout.split())


@pytest.fixture
def sampled(control_plane: ControlPlane, namespace: str) -> str:
    """A namespace with one object of each kind."""
    for name in EVERYTHING:
        create(control_plane, namespace, SAMPLES[name])
    return namespace


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_explain_tells_every_field(control_plane: ControlPlane, kind: str) -> None:
    text = " ".join(control_plane.kubectl("explain", kind.lower(), "--recursive").stdout.split())
    assert DEFINITIONS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] in text
    for path, _ in walk(spec_schema(kind)):
        assert re.search(rf"\b{path.rstrip('[]{}').rpartition('.')[2]}\s<", text), path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "mp.spec.backend.external",
            ["pathPrefix is put before", "enum: OpenAI, Anthropic", "Defaults to 443. From 1 to"],
        ),
        ("mp.spec.backend.external.tls.mode", ["mode is Verify (TLS, and the provider must prove its name)"]),
        ("mp.spec.backend.service", ["needs a ReferenceGrant there", "port <integer> -required-"]),
        ("mp.status.conditions", ["conditions say how the object fares", "status <string> -required-"]),
        ("mt.spec.pools", ["name <string> -required-", "0 keeps it for failover only"]),
        ("rp.spec.rules.when.complexity", ["max is the upper end", "From 0 to 1."]),
        ("tn.spec.identification.header.trustedProxies", ["1 to 16 items, each of at most 43 characters."]),
        ("sr.spec.threshold", ["cosine similarity", "Defaults to 0.75. From 0 to 1."]),
        ("tb.spec.mcp", ["credentialsRef is the Secret"]),
    ],
)
def test_explain(control_plane: ControlPlane, path: str, words: list[str]) -> None:
    text = explain(control_plane, path)
    for word in words:
        assert word in text


def test_columns(control_plane: ControlPlane, sampled: str) -> None:
    at = {"message": "", "lastTransitionTime": "2026-11-20T10:00:00Z"}
    conditions = [
        {"type": type_, "status": status, "reason": f"{type_}Reason", **at}
        for type_, status in (("Accepted", "True"), ("ResolvedRefs", "False"), ("Programmed", "Unknown"))
    ]
    status = {"conditions": conditions, "snapshot": "4f2a"}
    tables = {}
    for short in ("mp", "mt", "rp", "tn", "sr", "tb"):
        own = {**status, "endpoints": {"ready": 2, "total": 3}} if short == "mp" else status
        patch = json.dumps({"status": own})
        control_plane.kubectl(
            "patch", short, "sample", "-n", sampled, "--subresource=status", "--type=merge", "-p", patch
        )
        for wide in (False, True):
            arguments = ["get", short, "-n", sampled, *(["-o", "wide"] if wide else [])]
            head, row = control_plane.kubectl(*arguments).stdout.splitlines()
            starts = [match.start() for match in re.finditer(r"\S+(?: \S+)*", head)]
            cells = [row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
            names = re.split(r"\s{2,}", head.strip())
            tables[short, wide] = dict(zip(names, cells, strict=True))
            assert re.fullmatch(r"\d+[sm]", tables[short, wide].pop("AGE"))
    usual = {"NAME": "sample", "ACCEPTED": "True", "PROGRAMMED": "Unknown"}
    referring = {**usual, "RESOLVEDREFS": "False"}
    assert tables["mp", False] == {**referring, "MODEL": "meta-llama/Llama-3.1-8B", "READY": "2", "PODS": "3"}
    assert tables["mt", False] == {**referring, "LEVEL": "100", "FALLBACK": "large"}
    assert tables["rp", False] == {**referring, "MODELS": '["auto","best"]', "DEFAULT": "small"}
    assert tables["tn", False] == {**usual, "PRIORITY": "Critical", "WEIGHT": "10", "TOKENS/MIN": "1000000"}
    assert tables["sr", False] == {**usual, "THRESHOLD": "1", "EMBEDDER": "BuiltIn"}
    assert tables["tb", False] == {**usual, "ON ERROR": "Model", "TIMEOUT": "1s"}
    usual |= {"RESOLVEDREFS": "False", "REASON": "AcceptedReason", "SNAPSHOT": "4f2a"}
    wide = {"ENGINE": "SGLang", "PROVIDER": "", "CONTEXT": "131072", "$/M IN": "0.1", "$/M OUT": "0.4"}
    assert tables["mp", True] == {**tables["mp", False], **usual, **wide}
    assert tables["mt", True] == {**tables["mt", False], **usual, "EFFORT": "None", "CAP": "4096"}
    assert tables["rp", True] == {
        **tables["rp", False],
        **usual,
        "HOSTS": '["llm.example.com","*.example.com"]',
    }
    assert tables["tn", True] == {**tables["tn", False], **usual, "REQUESTS/MIN": "600", "TIERS": '["small","large"]'}
    assert tables["sr", True] == {**tables["sr", False], **usual, "BAND": "0", "MARGIN": "0.2"}
    assert tables["tb", True] == {**tables["tb", False], **usual, "MCP": "https://tools.example.com/mcp", "LOOKUP": ""}


def test_the_engine_of_any_backend_is_shown(control_plane: ControlPlane, namespace: str) -> None:
    backends = {
        "pods": {"selector": {"matchLabels": {"app": "a"}}, "engine": "SGLang"},
        "service": {"name": "a", "port": 80, "engine": "Generic"},
        "inferencePool": {"name": "a", "engine": "SGLang"},
        "external": {"host": "api.example.com"},
    }
    shown = {}
    for form, backend in backends.items():
        spec = {"model": {"name": "m"}, "backend": {form: backend}}
        pool = {
            "apiVersion": "ralb.dev/v1alpha1",
            "kind": "ModelPool",
            "metadata": {"name": form.lower()},
            "spec": spec,
        }
        create(control_plane, namespace, pool)
        head, row = control_plane.kubectl("get", "mp", form.lower(), "-n", namespace, "-o", "wide").stdout.splitlines()
        shown[form] = row[head.index("ENGINE") :].split()[0]
    assert shown == {"pods": "SGLang", "service": "Generic", "inferencePool": "SGLang", "external": "api.example.com"}


def test_the_category_lists_all_kinds(control_plane: ControlPlane, sampled: str) -> None:
    listed = control_plane.kubectl("get", "ralb", "-n", sampled, "-o", "name").stdout.split()
    assert sorted(listed) == sorted(f"{kind.lower()}.ralb.dev/sample" for kind in DEFINITIONS)
    everyday = control_plane.kubectl("get", "all", "-n", sampled, "-o", "name").stdout
    assert "ralb.dev" not in everyday


def test_fields_to_filter_by(control_plane: ControlPlane, sampled: str) -> None:
    for short, selector in (
        ("mp", "spec.model.name=meta-llama/Llama-3.1-8B"),
        ("mt", "spec.level=100"),
        ("rp", "spec.default.use.tier=small"),
        ("tn", "spec.priority=Critical"),
    ):
        for operator, expected in (("=", ["sample"]), ("!=", [])):
            query = selector.replace("=", operator, 1)
            text = control_plane.kubectl("get", short, "-n", sampled, "--field-selector", query, "-o", "json").stdout
            assert [item["metadata"]["name"] for item in json.loads(text)["items"]] == expected


def test_dry_run_changes_nothing_and_shows_defaults(control_plane: ControlPlane, namespace: str) -> None:
    text = yaml.safe_dump(SAMPLES["modelpool/valid-minimal"])
    arguments = ("apply", "-n", namespace, "--dry-run=server", "-f", "-")
    shown = control_plane.kubectl(*arguments, "-o", "json", input=text).stdout
    assert json.loads(shown)["spec"]["balancing"]["slowStart"] == "30s"
    assert (
        control_plane.kubectl(*arguments, input=text).stdout == "modelpool.ralb.dev/sample created (server dry run)\n"
    )
    assert control_plane.kubectl("get", "mp", "-n", namespace, "-o", "name").stdout == ""


def test_a_refusal_says_what_to_do(control_plane: ControlPlane, namespace: str) -> None:
    data = next(case.data for case in load_cases() if case.id == "modelpool/invalid-key-in-clear")
    refused = control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=yaml.safe_dump(data), check=False)
    assert refused.returncode == 1
    assert "spec.backend.external.credentialsRef: Invalid value" in refused.stderr
    assert "keys never travel in clear: set tls.mode to Verify, or remove credentialsRef" in refused.stderr
    mistyped = yaml.safe_dump(SAMPLES["modelpool/valid-minimal"]).replace("backend:", "backends:")
    refused = control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=mistyped, check=False)
    assert 'unknown field "spec.backends"' in refused.stderr


@pytest.mark.parametrize("side", ["--server-side=false", "--server-side"])
def test_applying_the_same_again_changes_nothing(control_plane: ControlPlane, namespace: str, side: str) -> None:
    """Defaults are in the schema, so that what GitOps tools compare is equal."""
    text = "---\n".join(yaml.safe_dump(SAMPLES[name]) for name in EVERYTHING)

    def versions() -> list[str]:
        control_plane.kubectl("apply", side, "-n", namespace, "-f", "-", input=text)
        listed = json.loads(control_plane.kubectl("get", "ralb", "-n", namespace, "-o", "json").stdout)["items"]
        return [item["metadata"]["resourceVersion"] for item in listed]

    before = versions()
    assert len(before) == len(EVERYTHING)
    assert versions() == before
    assert control_plane.kubectl("diff", side, "-n", namespace, "-f", "-", input=text, check=False).stdout == ""
