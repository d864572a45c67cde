"""The cases of ``tests/crd/cases`` and requests about RALB's objects to a real API server.

A case is one YAML file with two documents: what is expected (``expect: valid``, or the words of the refusal and, where the API
server names it, the ``field``), and the object.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support_cluster import ControlPlane
from support_cluster_api import ApiProblem

from ralb_api import GROUP, VERSION
from ralb_api.objects import KINDS

REPOSITORY = Path(__file__).parents[2]
CASES = REPOSITORY / "tests" / "crd" / "cases"
DEFINITIONS: dict[str, dict[str, Any]] = {
    definition["spec"]["names"]["kind"]: definition
    for definition in (yaml.safe_load(path.read_text()) for path in sorted((REPOSITORY / "crds").glob("*.yaml")))
}


@dataclass(frozen=True, slots=True)
class Case:
    """One file.

    Attributes:
        id: ``kind/name`` without suffix.
        expect: "valid", or words of the refusal.
        field: dotted path the API server blames; "" where it names none.
        data: the object.
    """

    id: str
    expect: str
    field: str
    data: dict[str, Any]

    @property
    def valid(self) -> bool:
        """Whether the object is to be accepted."""
        return self.expect == "valid"

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.data["kind"])


def load_cases() -> list[Case]:
    """All cases, sorted by file name."""
    cases = []
    for path in sorted(CASES.glob("*/*.yaml")):
        head, data = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        cases.append(Case(f"{path.parent.name}/{path.stem}", head["expect"], head.get("field", ""), data))
    return cases


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """The API path of an object, or of its collection."""
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{KINDS[kind].plural}"
    return f"{path}/{name}" if name else path


def create(plane: ControlPlane, namespace: str, data: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
    """The object as the API server keeps it, defaults filled in; unknown fields are an error.

    Raises:
        ApiProblem: it is refused.
    """
    options = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    answer: dict[str, Any] = plane.api.request("POST", path_of(data["kind"], namespace) + options, data)
    return answer


def refusal(plane: ControlPlane, namespace: str, data: dict[str, Any]) -> ApiProblem | None:
    """Why the API server would not take an object; None if it would."""
    try:
        create(plane, namespace, data, dry_run=True)
    except ApiProblem as problem:
        if problem.status not in (400, 422):
            raise
        return problem
    return None


def walk(schema: dict[str, Any], path: str = "spec") -> list[tuple[str, dict[str, Any]]]:
    """Every schema inside one, with its path; ``[]`` stands for the items of a list, ``{}`` for the values of a map."""
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += walk(child, f"{path}.{name}")
    if "items" in schema:
        found += walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        found += walk(schema["additionalProperties"], f"{path}{{}}")
    return found


def spec_schema(kind: str) -> dict[str, Any]:
    """The schema of a kind's spec."""
    (version,) = DEFINITIONS[kind]["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def values_at(value: Any, path: str) -> list[Any]:
    """All values at a path as ``walk`` writes it, below a value that is at ``spec``."""
    here = [value]
    for part in path.replace("[]", ".[]").replace("{}", ".{}").split(".")[1:]:
        if part == "[]":
            here = [item for items in here for item in items]
        elif part == "{}":
            here = [item for items in here for item in items.values()]
        else:
            here = [item[part] for item in here if part in item]
    return here
