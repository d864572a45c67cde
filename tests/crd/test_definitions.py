"""The definitions themselves on a real API server: taken without complaint, published, and kind to older objects."""

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support_cluster import ControlPlane
from support_cluster_api import ApiProblem
from support_crd import DEFINITIONS, walk
from support_net import wait_until

from ralb_operator.parse import to_object

CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MERGE = "application/merge-patch+json"


def reached(condition: Callable[[], bool], what: str) -> None:
    asyncio.run(wait_until(condition, 30, what=what))


@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize("kind", DEFINITIONS)
def test_definition_is_taken_as_it_is(control_plane: ControlPlane, kind: str) -> None:
    wanted = DEFINITIONS[kind]
    there = control_plane.api.request("GET", f"{CRD_PATH}/{wanted['metadata']['name']}")
    conditions = {item["type"]: item["status"] for item in there["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}, "nothing like NonStructuralSchema"
    assert there["status"]["storedVersions"] == ["v1alpha1"]
    assert there["spec"]["versions"] == wanted["spec"]["versions"]
    assert there["spec"]["names"] == wanted["spec"]["names"]


@pytest.mark.usefixtures("crds")
def test_the_schema_is_published_for_clients(control_plane: ControlPlane) -> None:
    for kind, definition in DEFINITIONS.items():
        (version,) = definition["spec"]["versions"]
        wanted = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

        def published(kind: str = kind) -> dict[str, Any]:
            document = control_plane.api.request("GET", "/openapi/v3/apis/ralb.dev/v1alpha1")
            found: dict[str, Any] = document["components"]["schemas"].get(f"dev.ralb.v1alpha1.{kind}", {})
            return found

        reached(lambda: bool(published()), f"{kind} in the published schema")
        paths = {path for path, _ in walk(published()["properties"]["spec"])}
        assert paths == {path for path, _ in walk(wanted)}


# A definition as an early release might have had it: fewer fields, fewer rules, and all that was needed.
EARLIER: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["model", "backend"],
            "properties": {
                "model": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string", "maxLength": 500},
                        "aliases": {
                            "type": "array",
                            "maxItems": 16,
                            "x-kubernetes-list-type": "set",
                            "items": {"type": "string", "maxLength": 253},
                        },
                    },
                },
                "backend": {
                    "type": "object",
                    "properties": {
                        "service": {
                            "type": "object",
                            "required": ["host", "port"],
                            "properties": {
                                "host": {"type": "string", "maxLength": 253},
                                "port": {"type": "integer", "format": "int32"},
                            },
                        }
                    },
                },
            },
        },
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}


class Upgrade:
    """The pools' definition under a group of its own, so that it can be older than that of other tests."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.group = f"{namespace}.test"
        self.api = plane.api
        self.definition = copy.deepcopy(DEFINITIONS["ModelPool"])
        self.definition["metadata"]["name"] = f"modelpools.{self.group}"
        self.definition["spec"]["group"] = self.group
        self.objects = f"/apis/{self.group}/v1alpha1/namespaces/{namespace}/modelpools"

    def install(self, schema: dict[str, Any] | None = None) -> None:
        """Install the current definition, or one with another schema, and wait until it holds."""
        definition = copy.deepcopy(self.definition)
        if schema is not None:
            (version,) = definition["spec"]["versions"]
            version["schema"]["openAPIV3Schema"] = schema
            del version["additionalPrinterColumns"]
        self.api.apply(f"{CRD_PATH}/{definition['metadata']['name']}", definition)
        current = {
            **self.sample("probe"),
            "spec": {"model": {"name": "m"}, "backend": {"service": {"host": "h", "port": 1}}},
        }
        reached(lambda: self.holds(current, "cost" if schema is None else ""), "the definition is in force")

    def holds(self, probe: dict[str, Any], default: str) -> bool:
        try:
            spec = self.api.request("POST", f"{self.objects}?dryRun=All", probe)["spec"]
        except ApiProblem as problem:
            if problem.status not in (404, 422):
                raise
            return False
        return (default in spec) if default else "cost" not in spec

    def sample(self, name: str, **spec: Any) -> dict[str, Any]:
        return {"apiVersion": f"{self.group}/v1alpha1", "kind": "ModelPool", "metadata": {"name": name}, "spec": spec}

    def patch(self, name: str, body: dict[str, Any]) -> Any:
        return self.api.request("PATCH", f"{self.objects}/{name}", body, content_type=MERGE)


@pytest.fixture
def upgrade(control_plane: ControlPlane, namespace: str) -> Iterator[Upgrade]:
    upgrade = Upgrade(control_plane, namespace)
    upgrade.install(EARLIER)
    yield upgrade
    control_plane.api.request("DELETE", f"{CRD_PATH}/{upgrade.definition['metadata']['name']}")


def test_an_older_object_stays_readable_and_writable(upgrade: Upgrade) -> None:
    old = upgrade.sample("old", model={"name": "m"}, backend={"service": {"host": "chat.models.svc", "port": 8000}})
    stored = upgrade.api.request("POST", upgrade.objects, old)
    upgrade.install()
    there = upgrade.api.request("GET", f"{upgrade.objects}/old")
    assert there["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"], "nobody rewrote it"
    assert there["spec"]["backend"]["service"]["host"] == "chat.models.svc"
    assert there["spec"]["balancing"]["slowStart"] == "30s", "new fields have their defaults at once"
    parsed = to_object({**json.loads(json.dumps(there)), "apiVersion": "ralb.dev/v1alpha1"})
    assert parsed.value is not None, parsed.problems
    assert upgrade.patch("old", {"metadata": {"labels": {"a": "b"}}})["spec"] == there["spec"]
    changed = upgrade.patch("old", {"spec": {"backend": {"service": {"port": 8001}}}})
    assert changed["spec"]["backend"]["service"]["port"] == 8001


def test_what_a_new_rule_forbids_is_left_alone_until_it_is_touched(upgrade: Upgrade) -> None:
    """What ``docs/versioning.md`` says of stricter rules: Kubernetes tolerates a bad value that an update does not touch."""
    backend = {"service": {"host": "h", "port": 1}}
    old = upgrade.sample("old", model={"name": "bad name", "aliases": ["x"]}, backend=backend)
    upgrade.api.request("POST", upgrade.objects, old)
    upgrade.install()
    assert upgrade.api.request("GET", f"{upgrade.objects}/old")["spec"]["model"]["name"] == "bad name"
    assert upgrade.patch("old", {"spec": {"backend": {"service": {"port": 2}}}})["spec"]["model"]["name"] == "bad name"
    with pytest.raises(ApiProblem, match=r"spec\.model\.name"):
        upgrade.patch("old", {"spec": {"model": {"name": "still bad"}}})
    with pytest.raises(ApiProblem, match=r"spec\.model\.name"):
        upgrade.api.request("POST", upgrade.objects, {**old, "metadata": {"name": "new"}})
    assert upgrade.patch("old", {"spec": {"model": {"name": "good"}}})["spec"]["model"]["name"] == "good"


def test_an_object_of_a_newer_definition_can_be_read_by_an_older_one(upgrade: Upgrade) -> None:
    """A roll-back: what the older definition does not know is dropped, not an error."""
    upgrade.install()
    backend = {"service": {"host": "h", "port": 1}}
    new = upgrade.sample("new", model={"name": "m"}, backend=backend, labels={"a": "b"})
    upgrade.api.request("POST", upgrade.objects, new)
    upgrade.install(EARLIER)
    spec = upgrade.api.request("GET", f"{upgrade.objects}/new")["spec"]
    assert spec == {"model": {"name": "m"}, "backend": backend}


def test_a_definition_newer_than_the_operator_does_not_take_its_objects_away(upgrade: Upgrade) -> None:
    """A new field with a default is in every object at once, also in those that were stored before."""
    upgrade.install()
    pool = upgrade.sample("pool", model={"name": "m"}, backend={"service": {"host": "h", "port": 1}})
    upgrade.api.request("POST", upgrade.objects, pool)
    (version,) = upgrade.definition["spec"]["versions"]
    balancing = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["balancing"]["properties"]
    balancing["mood"] = {"type": "string", "default": "Cheerful", "maxLength": 63}
    upgrade.api.apply(f"{CRD_PATH}/{upgrade.definition['metadata']['name']}", upgrade.definition)

    def stored() -> dict[str, Any]:
        kept: dict[str, Any] = upgrade.api.request("GET", f"{upgrade.objects}/pool")
        return {**kept, "apiVersion": "ralb.dev/v1alpha1"}

    reached(lambda: "mood" in stored()["spec"]["balancing"], "the new default")
    parsed = to_object(stored(), stored=True)
    assert parsed.value is not None, parsed.problems
    assert [problem.field for problem in parsed.problems] == ["spec.balancing.mood"]
