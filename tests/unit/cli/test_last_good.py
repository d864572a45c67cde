from pathlib import Path

import pytest

from ralb_cli.stack.last_good import keep_last_good
from ralb_operator.files import load

POOL = """
apiVersion: ralb.dev/v1alpha1
kind: ModelPool
metadata: {name: NAME}
spec:
  model: {name: some-model}
  backend: {pods: {selector: {matchLabels: {app: NAME}}, port: 8000}}
"""
TIER = """
apiVersion: ralb.dev/v1alpha1
kind: ModelTier
metadata: {name: t}
spec: {level: 1, pools: [{name: a}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: a}}
status: {podIP: 10.0.0.1}
"""


def pool(name: str) -> str:
    return POOL.replace("NAME", name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text("---".join((pool("a"), pool("b"), POD)))
    (tmp_path / "t.yaml").write_text(TIER)
    return tmp_path


def test_file_that_cannot_be_read_keeps_its_objects(folder: Path) -> None:
    old = load(folder)
    (folder / "a.yaml").write_text("kind: [")
    view, kept = keep_last_good(old, load(folder))
    assert view.pools == old.pools
    assert view.pods == old.pods
    assert view.tiers == old.tiers
    assert [key.name for key in kept] == ["a", "b"]
    assert view.problems, "the complaint stays"
    # And again: what was kept is what is kept the next time.
    again, kept = keep_last_good(view, load(folder))
    assert again.pools == old.pools
    assert [key.name for key in kept] == ["a", "b"]


def test_object_with_an_error_keeps_its_last_good_version(folder: Path) -> None:
    old = load(folder)
    (folder / "a.yaml").write_text(
        "---".join((pool("a").replace("some-model", "other"), pool("b") + "  nonsense: 1\n"))
    )
    view, kept = keep_last_good(old, load(folder))
    assert [key.name for key in kept] == ["b"]
    assert {key.name: value.spec.model.name for key, value in view.pools.items()} == {"a": "other", "b": "some-model"}


def test_what_was_taken_out_is_gone(folder: Path) -> None:
    old = load(folder)
    (folder / "a.yaml").write_text(pool("a"))
    view, kept = keep_last_good(old, load(folder))
    assert not kept
    assert {key.name for key in view.pools} == {"a"}
    assert not view.pods


def test_object_that_moved_to_another_file_is_taken_from_there(folder: Path) -> None:
    old = load(folder)
    (folder / "a.yaml").write_text("kind: [")
    (folder / "b.yaml").write_text(pool("b").replace("some-model", "other"))
    view, kept = keep_last_good(old, load(folder))
    assert [key.name for key in kept] == ["a"]
    assert {key.name: value.spec.model.name for key, value in view.pools.items()} == {"a": "some-model", "b": "other"}


REFERENCED = """
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {apiKey: sk-1}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{port: 8000}]
endpoints: [{addresses: [10.0.0.1]}]
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: i}
spec: {selector: {matchLabels: {a: b}}, targetPorts: [{number: 8000}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g}
spec: {from: [{group: ralb.dev, kind: ModelPool, namespace: n}], to: [{group: "", kind: Secret}]}
"""


def test_what_pools_refer_to_is_kept_too(folder: Path) -> None:
    file = folder / "r.yaml"
    file.write_text(REFERENCED)
    old = load(folder)
    assert not old.problems
    assert old.secrets and old.services and old.slices and old.inference_pools and old.grants  # noqa: PT018
    file.write_text("kind: [")
    view, kept = keep_last_good(old, load(folder))
    for part in ("secrets", "services", "slices", "inference_pools", "grants"):
        assert getattr(view, part) == getattr(old, part), part
    assert {key.kind for key in kept} == {"Secret", "Service", "EndpointSlice", "InferencePool", "ReferenceGrant"}
    file.write_text(REFERENCED.replace("stringData: {apiKey: sk-1}", "data: {apiKey: '?'}"))
    view, kept = keep_last_good(old, load(folder))
    assert view.secrets == old.secrets
    assert [key.kind for key in kept] == ["Secret"]
    file.unlink()
    view, kept = keep_last_good(old, load(folder))
    assert (view.secrets, view.services, view.grants, kept) == ({}, (), (), ())
