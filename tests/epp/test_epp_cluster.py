"""The example on a real API server: an InferencePool's pods, followed by the operator, picked by the command."""

from pathlib import Path

import pytest
import yaml
from support_cluster import ControlPlane
from support_epp import CHAT, Target, calling
from support_kubelet import FakeKubelet, addresses
from support_net import wait_until
from support_operator import running_operator
from support_picker import picker_process

EXAMPLE = Path(__file__).parents[2] / "examples" / "inference-pool"


@pytest.mark.usefixtures("crds", "foreign_crds")
async def test_the_example_as_applied(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, tmp_path: Path
) -> None:
    objects = [one for file in sorted(EXAMPLE.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text())]
    for one in objects:
        one["metadata"]["namespace"] = namespace
    control_plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))
    (inference_pool,) = [one for one in objects if one["kind"] == "InferencePool"]
    labels = inference_pool["spec"]["selector"]["matchLabels"]
    first, second, stranger = addresses(3)
    await fake_kubelet.pod(namespace, "llama-0", ip=first, labels=labels)
    await fake_kubelet.pod(namespace, "other-0", ip=stranger, labels={"app": "other"})
    listen = f"unix:{tmp_path}/grpc.sock"
    async with (
        running_operator(control_plane, listen, [namespace]) as operator,
        picker_process(listen, tmp_path, pool_id=f"{namespace}/llama") as picker,
    ):
        await operator.serving()
        await picker.serving()
        async with calling(Target(picker.picker, True, ())) as caller:

            async def picked(*hosts: str) -> bool:
                return set((await caller.ask(CHAT)).endpoints) == {f"{host}:8000" for host in hosts}

            await wait_until(lambda: picked(first), what="the pod there is")
            await fake_kubelet.pod(namespace, "llama-1", ip=second, labels=labels)
            await wait_until(lambda: picked(first, second), what="both")
            await fake_kubelet.delete(namespace, "llama-0")
            await wait_until(lambda: picked(second), what="the pod that is left")
