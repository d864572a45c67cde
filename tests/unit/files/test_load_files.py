"""Directories of YAML to a View: what is read, what is skipped, what is said about the rest."""

import os
from pathlib import Path

import pytest

from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator import files
from ralb_operator.files import load
from ralb_operator.view import Gateway

POOL = """apiVersion: ralb.dev/v1alpha1
kind: ModelPool
metadata: {{name: {name}}}
spec:
  model: {{name: m}}
  backend: {{service: {{host: h, port: {port}}}}}
"""
TIER = """apiVersion: ralb.dev/v1alpha1
kind: ModelTier
metadata: {name: t}
spec: {level: 1, pools: [{name: a}]}
"""
POLICY = """apiVersion: ralb.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: r}
spec: {default: {use: {tier: t}}}
"""
POD = """apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: x}, annotations: {ralb.dev/port: "81"}}
status: {podIP: 127.0.0.1}
"""


def pool(name: str, port: object = 80) -> str:
    return POOL.format(name=name, port=port)


def names(problems: tuple[Problem, ...], root: Path) -> list[str]:
    return [str(problem).replace(f"{root}/", "") for problem in problems]


def test_all_kinds_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "pools.yaml").write_text(pool("a") + "---\n" + pool("b"))
    (tmp_path / "a" / "tier.yml").write_text(TIER)
    (tmp_path / "a" / "b" / "policy.YAML").write_text(POLICY)
    (tmp_path / "pod.yaml").write_text(POD)
    gateway = Gateway(port=9999)
    view = load(tmp_path, gateway)
    assert [key.name for key in view.pools] == ["a", "b"]
    assert (len(view.tiers), len(view.policies)) == (1, 1)
    assert [(pod.name, pod.ip, pod.port, pod.ready) for pod in view.pods] == [("p", "127.0.0.1", 81, True)]
    assert view.problems == ()
    assert view.gateway is gateway
    assert view.sources[ObjectKey("ModelPool", "default", "b")] == f"{tmp_path}/pools.yaml:8"
    assert view.sources[ObjectKey("RoutingPolicy", "default", "r")] == f"{tmp_path}/a/b/policy.YAML:1"


def test_one_file_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text(TIER)
    assert len(load(tmp_path / "objects").tiers) == 1


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        load(tmp_path / "missing")


def test_what_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.yaml").write_text("broken: [")
    (tmp_path / ".a.yaml").write_text("broken: [")
    (tmp_path / "a.yaml.bak").write_text("broken: [")
    (tmp_path / "a.json").write_text("broken: [")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "comments.yaml").write_text("# nothing\n---\n# more of it\n")
    view = load(tmp_path)
    assert view.problems == ()
    assert [path.name for path in files.yaml_files(tmp_path)] == ["comments.yaml", "empty.yaml"]


def test_a_mounted_config_map(tmp_path: Path) -> None:
    """Kubernetes mounts links to files in a hidden folder."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "tier.yaml").write_text(TIER)
    (tmp_path / "tier.yaml").symlink_to("..data/tier.yaml")
    view = load(tmp_path)
    assert len(view.tiers) == 1
    assert view.problems == ()


def test_linked_folders_cannot_make_it_run_in_circles(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "t.yaml").write_text(TIER)
    assert len(load(tmp_path).tiers) == 1
    assert load(tmp_path).problems == ()


def test_broken_parts_do_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: [1\n---\n" + pool("good") + "---\njust text\n---\n" + pool("bad", "web"))
    (tmp_path / "b.yaml").write_text(TIER)
    view = load(tmp_path)
    assert [key.name for key in view.pools] == ["good"]
    assert len(view.tiers) == 1
    syntax, text, port = names(view.problems, tmp_path)
    assert syntax.startswith("a.yaml:2: not valid YAML: ")
    assert text == (
        'a.yaml:10: holds "just text" where an object should be (an object has apiVersion, kind, metadata and spec)'
    )
    assert port == (
        'a.yaml:12: ModelPool default/bad: spec.backend.service.port: must be a whole number, not "web" '
        "(write it without quotes; port is the port of the Service or host.)"
    )
    assert [problem.reason for problem in view.problems] == ["Unreadable", "Unreadable", "Invalid"]


def test_lists(tmp_path: Path) -> None:
    items = "".join("- " + text.strip().replace("\n", "\n  ") + "\n" for text in (pool("a"), TIER, pool("b", 0)))
    (tmp_path / "l.yaml").write_text(f"apiVersion: v1\nkind: List\nitems:\n{items}- 5\n- {{kind: X, kind: Y}}\n")
    view = load(tmp_path)
    assert [key.name for key in view.pools] == ["a"]
    assert view.sources[ObjectKey("ModelTier", "default", "t")].endswith("l.yaml:10")
    assert [text.split(" (")[0] for text in names(view.problems, tmp_path)] == [
        "l.yaml:14: ModelPool default/b: spec.backend.service.port: must be between 1 and 65535, not 0",
        "l.yaml:20: items[3] is 5, not an object",
        "l.yaml:21: X default/<unnamed>: kind: is there twice",
        'l.yaml:21: X default/<unnamed>: kind: "X" is not a kind of ralb.dev',
    ]


def test_flaws_of_the_list_itself(tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text("apiVersion: v1\nkind: List\nkind: List\nitems: []\n")
    assert names(load(tmp_path).problems, tmp_path) == ["l.yaml:1: kind is there twice (keep one of them)"]


def test_duplicate_keys_spoil_the_object(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TIER.replace("level: 1", "level: 1, level: 2"))
    view = load(tmp_path)
    assert not view.tiers
    assert names(view.problems, tmp_path) == [
        "t.yaml:1: ModelTier default/t: spec.level: is there twice (keep one of them)"
    ]


def test_the_first_of_two_objects_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(pool("x", 1))
    (tmp_path / "b.yaml").write_text(pool("x", 2) + "---\n" + POD + "---\n" + POD)
    view = load(tmp_path)
    (only,) = view.pools.values()
    assert only.spec.backend.service is not None
    assert only.spec.backend.service.port == 1
    assert len(view.pods) == 1
    first, second = view.problems
    assert first.reason == "Duplicate"
    assert (first.field, first.file) == ("metadata.name", f"{tmp_path}/b.yaml:1")
    assert first.message == f"is already defined at {tmp_path}/a.yaml:1; this one is ignored"
    assert second.object == ObjectKey("Pod", "default", "p")


def test_unnamed_objects_are_no_duplicates(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text((TIER.replace("name: t", "") + "---\n") * 2)
    assert [problem.field for problem in load(tmp_path).problems] == ["metadata.name", "metadata.name"]


def test_other_kinds_are_ignored_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: n}\n")
    (problem,) = load(tmp_path).problems
    assert problem.severity is Severity.WARNING
    assert names((problem,), tmp_path) == [
        "a.yaml:1: Deployment n/d: apps/v1 is not for RALB; the object is ignored "
        "(kinds that are read: ModelPool, ModelTier, RoutingPolicy, Tenant, SemanticRoute, ToolBackend, Pod, Service, "
        "Secret, EndpointSlice, InferencePool, ReferenceGrant)"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \xff\n", "is not UTF-8 text (byte 3)"),
        ("a: 1".encode("utf-16"), "is not UTF-8 text (byte 0)"),
        (b"#" * (files.MAX_FILE_BYTES + 1), "is larger than 4 MiB"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    (tmp_path / "b.yaml").write_text(TIER)
    view = load(tmp_path)
    assert len(view.tiers) == 1
    (problem,) = view.problems
    assert (problem.object, problem.reason, problem.message) == (None, "Unreadable", message)
    assert problem.hint


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + TIER.encode())
    assert len(load(tmp_path).tiers) == 1


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (problem,) = load(tmp_path).problems
    assert problem.message == "is not a regular file"


def test_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nowhere")
    (problem,) = load(tmp_path).problems
    assert problem.message == "cannot be read: No such file or directory"


def test_the_total_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_TOTAL_BYTES", 1024 * 1024)
    (tmp_path / "a.yaml").write_text("#" * 1024 * 1024)
    (tmp_path / "b.yaml").write_text(TIER)
    (problem,) = load(tmp_path).problems
    assert problem.message == "brings the total over 1 MiB; it is left out"


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 2)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text(pool(name))
    view = load(tmp_path)
    assert len(view.pools) == 2
    assert [problem.message for problem in view.problems] == ["has more than 2 YAML files; the rest is left out"]


def test_the_number_of_problems_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_PROBLEMS", 3)
    (tmp_path / "a.yaml").write_text("---\njust text\n" * 10)
    (tmp_path / "b.yaml").write_text(TIER)
    view = load(tmp_path)
    assert len(view.tiers) == 1
    assert len(view.problems) == 4
    assert view.problems[-1].message == "7 more problems were found"


REFERENCED = """
apiVersion: v1
kind: Service
metadata: {name: s, namespace: n}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: n, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{port: 8000}]
endpoints: [{addresses: [10.0.0.1]}]
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: i, namespace: n}
spec: {selector: {matchLabels: {a: b}}, targetPorts: [{number: 8000}]}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: n}
spec: {from: [{group: ralb.dev, kind: ModelPool, namespace: m}], to: [{group: "", kind: Secret}]}
---
apiVersion: v1
kind: Secret
metadata: {name: k, namespace: n}
data: {apiKey: c2stMQ==}
"""


def test_what_pools_refer_to_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(REFERENCED)
    view = load(tmp_path)
    assert view.problems == ()
    assert [(each.namespace, each.name) for each in view.services] == [("n", "s")]
    assert [each.service for each in view.slices] == ["s"]
    assert [each.ports for each in view.inference_pools] == [(8000,)]
    assert [each.sources for each in view.grants] == [(("ralb.dev", "ModelPool", "m"),)]
    assert view.secrets["n", "k"].data == {"apiKey": b"sk-1"}
    assert {key.kind for key in view.sources} == {
        "Service",
        "EndpointSlice",
        "InferencePool",
        "ReferenceGrant",
        "Secret",
    }


@pytest.mark.parametrize("version", ["v1beta1", "v2", "example.com/v1", "discovery.k8s.io/v1"])
def test_other_versions_of_those_kinds_are_not_read(tmp_path: Path, version: str) -> None:
    (tmp_path / "a.yaml").write_text(f"apiVersion: {version}\nkind: Secret\nmetadata: {{name: k}}\n")
    view = load(tmp_path)
    assert view.secrets == {}
    assert [problem.reason for problem in view.problems] == ["Ignored"]


@pytest.mark.parametrize(
    "data",
    [
        "stringData: {apiKey: 12345678901234567890123456789012345678901234567890.e400}",
        "stringData: {apiKey: .inf, other: hunter2}",
        "stringData: {apiKey: hunter2, apiKey: hunter2}",
        "stringData: {? 20222 : hunter2, apiKey: [hunter2]}",
        "data: {apiKey: hunter2!}",
    ],
)
def test_nothing_of_a_broken_secret_is_shown(tmp_path: Path, data: str) -> None:
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: k}}\n{data}\n")
    view = load(tmp_path)
    assert view.problems
    assert view.secrets == {}
    told = " ".join(map(str, view.problems))
    assert not [word for word in ("hunter2", "20222", "123456", ".inf") if word in told]


def test_the_first_of_a_name_counts_for_secrets_too(tmp_path: Path) -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: k}\nstringData: {apiKey: %s}\n"
    (tmp_path / "a.yaml").write_text(f"{secret % 'first'}---\n{secret % 'second'}")
    view = load(tmp_path)
    assert view.secrets["default", "k"].data == {"apiKey": b"first"}
    assert [problem.reason for problem in view.problems] == ["Duplicate"]
