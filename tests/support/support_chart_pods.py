"""The pods of an installed chart as processes: the same programs with the same arguments, started in the same order.

Only what a pod has and a process has not is changed: addresses and ports, paths of volumes, the names by which Services are
found, and where the service account's token comes from.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from support_chart import RALB, Object, Rendered, container
from support_cluster import ControlPlane
from support_cluster_api import ApiProblem
from support_envoy import envoy_binary
from support_net import free_ports, wait_until
from support_process import Daemon
from support_trust import MountedSecret

_PORTS = (9300, 9301, 8080, 9400, 9402, 9901, 9902)
_MODULES = {"operator": "ralb_operator.main", "bootstrap": "ralb_operator.main", "processor": "ralb_extproc.main"}


@contextmanager
def installed(plane: ControlPlane, namespace: str, values: Any) -> Iterator[Rendered]:
    """The chart ``ralb`` as release ``ralb``; uninstalled at the end. What Helm says it made."""
    arguments = ("ralb", RALB, "--namespace", namespace, "--values", "-")
    plane.run_helm("install", *arguments, input=json.dumps(values))
    try:
        manifest = plane.run_helm("get", "manifest", "ralb", "--namespace", namespace).stdout
        yield Rendered(tuple(each for each in yaml.safe_load_all(manifest) if each))
    finally:
        plane.run_helm("uninstall", "ralb", "--namespace", namespace)


@dataclass
class ChartPods:
    """The processes.

    Attributes:
        plane, namespace, chart: where the chart is installed, and what it made.
        folder: stands for the volumes.
        ports: port in a pod -> port of this machine.
        log: folder of the logs.
    """

    plane: ControlPlane
    namespace: str
    chart: Rendered
    folder: Path
    ports: dict[int, int] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)
    _made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        for volume in ("run", "envoy", "tls", "tmp"):
            (self.folder / volume).mkdir()

    @property
    def gateway(self) -> str:
        """Where clients come in."""
        return f"http://127.0.0.1:{self.ports[8080]}"

    def template(self, component: str) -> Object:
        found: Object = self.chart.component("Deployment", component)["spec"]["template"]
        return found

    def make_pod(self, component: str) -> Object:
        """A Pod as the Deployment's controller would make it."""
        template = self.template(component)
        meta = {"generateName": f"ralb-{component}-", "labels": template["metadata"]["labels"]}
        pod: Object = self.plane.api.request(
            "POST", f"/api/v1/namespaces/{self.namespace}/pods", {"metadata": meta, "spec": template["spec"]}
        )
        return pod

    def words(self, text: str) -> str:
        """An argument as it is for a process."""
        for path, volume in (("/run/ralb", "run"), ("/etc/ralb-envoy", "envoy"), ("/etc/ralb-tls", "tls")):
            text = text.replace(path, str(self.folder / volume))
        text = text.replace("0.0.0.0", "127.0.0.1").replace(f"ralb-operator.{self.namespace}.svc:", "127.0.0.1:")
        return re.sub(r"(?<=[:=])(\d+)$", lambda match: str(self.ports.get(int(match[1]), match[1])), text)

    def command(self, component: str, name: str, pod: Object) -> list[str]:
        """Program and arguments of a container."""
        spec = container(self.template(component), name)
        variables = {"POD_NAME": pod["metadata"]["name"], "POD_NAMESPACE": self.namespace}
        given = [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], word) for word in spec["args"]]
        arguments = [self.words(word) for word in given]
        if name == "envoy":
            return [envoy_binary(), *arguments]
        if any("--tls-dir" in word for word in arguments):
            # The address is this machine's; the name in the certificate stays the Service's.
            arguments.append(f"--tls-server-name=ralb-operator.{self.namespace}.svc")
        return [sys.executable, "-m", _MODULES[name], *arguments]

    def start(self, component: str, name: str, pod: Object, *more: str, **environment: str) -> Daemon:
        log = self.folder / f"{name}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        daemon = Daemon(name, [*self.command(component, name, pod), *more], log, kept | environment)
        daemon.start()
        self.daemons.append(daemon)
        return daemon

    def start_operator(self) -> Daemon:
        """With the token of its service account."""
        account = self.template("operator")["spec"]["serviceAccountName"]
        config = self.plane.kubeconfig_for(self.plane.token_for(self.namespace, account))
        pod = self.make_pod("operator")
        identity = {
            "POD_NAME": pod["metadata"]["name"],
            "POD_NAMESPACE": self.namespace,
            "POD_UID": pod["metadata"]["uid"],
        }
        return self.start("operator", "operator", pod, f"--kubeconfig={config}", **identity)

    def mount_certificates(self) -> bool:
        """What the kubelet does with the gateway's Secret; False while there is none."""
        volumes = self.template("gateway")["spec"]["volumes"]
        (name,) = (each["secret"]["secretName"] for each in volumes if each["name"] == "tls")
        try:
            secret = self.plane.api.request("GET", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")
        except ApiProblem as problem:
            if problem.status == 404:
                return False
            raise
        MountedSecret(self.folder / "tls").put_files({key: b64decode(value) for key, value in secret["data"].items()})
        return True

    def run_bootstrap(self, pod: Object) -> None:
        """The init container."""
        done = subprocess.run(self.command("gateway", "bootstrap", pod), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def logs(self) -> str:
        return "\n".join(f"--- {daemon.name}\n{daemon.tail()}" for daemon in self.daemons)

    async def status(self, port: int, path: str) -> int:
        """HTTP status of a container's port; 0 if nobody answers."""
        timeout = aiohttp.ClientTimeout(total=5)
        with suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://127.0.0.1:{self.ports[port]}{path}") as answer,
            ):
                return answer.status
        return 0

    async def probe(self, component: str, name: str, kind: str) -> bool:
        """A probe of a container, as the kubelet would do it."""
        probe = container(self.template(component), name)[kind]
        if "httpGet" in probe:
            return await self.status(probe["httpGet"]["port"], probe["httpGet"]["path"]) == 200
        return await listening(self.ports[probe["tcpSocket"]["port"]])

    async def until(self, component: str, name: str, kind: str = "readinessProbe", seconds: float = 60.0) -> None:
        """Wait until a probe succeeds; a program that ends meanwhile fails the test with its log."""

        async def good() -> bool:
            (daemon,) = (each for each in self.daemons if each.name == name)
            return not daemon.pid or await self.probe(component, name, kind)

        try:
            await wait_until(good, seconds, interval=0.05, what=f"{kind} of {name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None
        assert all(each.pid for each in self.daemons), self.logs()


async def listening(port: int) -> bool:
    import asyncio

    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def chart_pods(plane: ControlPlane, namespace: str, values: Any) -> AsyncIterator[ChartPods]:
    """The chart installed with these values, and nothing started yet; all ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="ralb-pods-"))
    try:
        with installed(plane, namespace, values) as chart:
            pods = ChartPods(plane, namespace, chart, folder)
            try:
                yield pods
            finally:
                for daemon in reversed(pods.daemons):
                    daemon.stop()
    finally:
        if not os.environ.get("RALB_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
