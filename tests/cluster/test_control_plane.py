"""The control plane that the tests run on is real: what it grants, keeps and makes."""

import json

from support_cluster import ControlPlane
from support_kubelet import FakeKubelet


def test_version_is_stamped(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("version", "-o", "json").stdout)
    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"] == "v1.36.3"
    assert (version["serverVersion"]["major"], version["serverVersion"]["minor"]) == ("1", "36")


async def test_pods_are_ready_at_loopback_addresses(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet
) -> None:
    ip = await fake_kubelet.pod(namespace, "a", labels={"app": "a"})
    pod = control_plane.api.request("GET", f"/api/v1/namespaces/{namespace}/pods/a")
    assert pod["status"]["podIP"] == ip
    assert ip.startswith("127.")
