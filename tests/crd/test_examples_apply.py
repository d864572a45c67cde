"""Everything in ``examples/`` is accepted by a real API server, and means there what it means in files."""

import json
from pathlib import Path

import pytest
import yaml
from support_cluster import ControlPlane
from support_crd import DEFINITIONS, REPOSITORY

from ralb_operator.parse import to_object

EXAMPLES = sorted(path for path in (REPOSITORY / "examples").iterdir() if path.is_dir())


@pytest.mark.usefixtures("crds", "foreign_crds")
@pytest.mark.parametrize("folder", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_example(control_plane: ControlPlane, namespace: str, folder: Path) -> None:
    files = sorted(folder.rglob("*.yaml"))
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]
    # Pods in files say where servers are that no cluster runs.
    documents = [document for document in documents if document["kind"] != "Pod"]
    for document in documents:
        document["metadata"]["namespace"] = namespace
    ours = {(item["kind"], item["metadata"]["name"]): item for item in documents if item["kind"] in DEFINITIONS}
    assert ours
    text = yaml.safe_dump_all(documents)
    arguments = ("apply", "--server-side", "-n", namespace, "--validate=strict", "-f", "-")
    dry = control_plane.kubectl(*arguments, "--dry-run=server", input=text)
    assert len(dry.stdout.splitlines()) == len(documents)
    control_plane.kubectl(*arguments, input=text)

    listed = json.loads(control_plane.kubectl("get", "ralb", "-n", namespace, "-o", "json").stdout)["items"]
    assert {(item["kind"], item["metadata"]["name"]) for item in listed} == ours.keys()
    for item in listed:
        written = to_object(ours[item["kind"], item["metadata"]["name"]]).value
        kept = to_object(item).value
        assert written is not None
        assert kept is not None
        assert kept.model_dump(exclude={"metadata"}) == written.model_dump(exclude={"metadata"})
