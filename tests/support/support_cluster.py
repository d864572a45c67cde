"""A real control plane: etcd and kube-apiserver with RBAC on free loopback ports, as processes of the test run.

Fixtures (``support_cluster_fixtures``, usable in every test folder):

- ``control_plane`` (session): a running ``ControlPlane``, shared by all tests. Tests may stop and start its parts, as long as
  they start them again.
- ``namespace`` (test): name of a new namespace; it and all in it are gone afterwards.
- ``crds`` (session): the definitions in ``crds/`` are installed. ``foreign_crds`` (session): InferencePool, ReferenceGrant and
  PodMonitor too.
- ``controller_manager`` (session): the same ``ControlPlane``, with its kube-controller-manager running from then on.
- ``helm`` (session): path of the Helm program; ``control_plane.run_helm`` runs it against this cluster.
- ``fake_kubelet`` (test, async): makes Pods and their readiness, see ``support_kubelet``.
- ``simulators`` (test, async): ``ralb-sim`` processes at chosen loopback addresses, see ``support_simulators``.

A test that changes what others see (CRDs, cluster-wide objects) takes its own: ``with running_control_plane() as mine``.
Everything here blocks; in an async test that serves something itself, call it through ``asyncio.to_thread``.
There is no scheduler and no kubelet. Without ``controller_manager()`` no Deployment, EndpointSlice, default ServiceAccount or
garbage collection happens either. The trap: the API server refuses loopback addresses in EndpointSlices, but not in Pods.
"""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster_tools import locate
from support_cluster_api import ApiProblem, AuditLog, ClusterApi
from support_cluster_certs import write_keys
from support_process import Daemon, alive

NODE = "test-node"
_PREFIX = "ralb-control-plane-"
_START_S = 90.0
_ATTEMPTS = 3
CONTROLLERS = (
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "deployment-controller",
    "replicaset-controller",
    "disruption-controller",
)
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:apiserver"]},
        {"level": "None", "nonResourceURLs": ["/*"]},
        # With the answer, whose version says whether anything was changed.
        {"level": "RequestResponse", "resources": [{"group": "ralb.dev", "resources": ["*/status"]}]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None", "users": ["admin"]},
        # A watch has begun, and is not told a second time when it ends.
        {"level": "Metadata", "verbs": ["watch"], "omitStages": ["ResponseComplete"]},
        {"level": "Metadata"},
    ],
}


class ControlPlane:
    """A control plane; made by ``running_control_plane``.

    Attributes:
        url: of the API server, ``https://127.0.0.1:<port>``.
        ca_file: CA that signed its certificate.
        admin_token: bearer token of the user ``admin``, who may do everything.
        kubeconfig_file: with that token.
        audit_file: the audit log, read by ``audit``.
        api: requests as admin.
        folder: of all files; gone at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys = write_keys(folder)
        self.ca_file = self._keys.ca
        self.admin_token = secrets.token_urlsafe(24)
        self.audit_file = folder / "audit.jsonl"
        self.audit = AuditLog(self.audit_file)
        (folder / "tokens.csv").write_text(f'{self.admin_token},admin,admin,"system:masters"\n')
        (folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
        etcd_port, peer_port, port = fixed_ports(3)
        self.url = f"https://127.0.0.1:{port}"
        self._etcd_url = f"http://127.0.0.1:{etcd_port}"
        self.kubeconfig_file = self.kubeconfig_for(self.admin_token)
        self.api = ClusterApi(self.url, self.ca_file, self.admin_token)
        self.etcd = Daemon("etcd", self._etcd_command(f"http://127.0.0.1:{peer_port}"), folder / "etcd.log")
        self.apiserver = Daemon("kube-apiserver", self._apiserver_command(port), folder / "apiserver.log")
        self.manager: Daemon | None = None

    # ---- its processes ----

    def start(self) -> None:
        """Start both and wait until the API server is ready. There is a Node, without which no Pod gets into EndpointSlices."""
        self.etcd.start()
        self.start_apiserver()
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self.api.apply(f"/api/v1/nodes/{NODE}", node)

    def ensure(self) -> None:
        """Start again what a failed test left stopped."""
        if not self.etcd.pid:
            self.start_etcd()
        if not self.apiserver.pid:
            self.start_apiserver()

    def start_etcd(self) -> None:
        """Start etcd on its port with its data, and wait until it serves."""
        self.etcd.start()
        _wait(self.etcd, self._etcd_healthy)

    def stop_etcd(self, signum: int = signal.SIGTERM) -> None:
        """End etcd; SIGKILL for the hard way. Its data stays."""
        self.etcd.stop(signum=signum)

    def start_apiserver(self) -> None:
        """Start the API server on its port, and wait until it is ready."""
        self.apiserver.start()
        _wait(self.apiserver, self._ready)

    def stop_apiserver(self, signum: int = signal.SIGTERM) -> None:
        """End the API server; SIGKILL for the hard way."""
        self.apiserver.stop(signum=signum)

    def controller_manager(self) -> Daemon:
        """The kube-controller-manager, started if it does not run; it then runs until the end of the session."""
        if self.manager is None:
            self.manager = Daemon("kube-controller-manager", self._manager_command(), self.folder / "manager.log")
        self.manager.start()
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        _wait(self.manager, lambda: self.api.exists(account))
        return self.manager

    def close(self) -> None:
        """End everything."""
        self.api.close()
        for daemon in (self.manager, self.apiserver, self.etcd):
            if daemon is not None:
                # Nobody looks at what it would still write, so it need not take its time.
                daemon.stop(signum=signal.SIGKILL)

    # ---- its clients ----

    @property
    def helm(self) -> Path:
        """The Helm program.

        Raises:
            locate.Missing: it was not built.
        """
        return program("helm")

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """For kubectl, helm and other clients: this cluster, and nothing of the user's own configuration."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HELM_"))}
        own = {"HOME": self.folder, "KUBECACHEDIR": self.folder / "kube-cache"}
        own |= {"KUBECONFIG": kubeconfig or self.kubeconfig_file}
        own |= {f"HELM_{name}_HOME": self.folder / f"helm-{name.lower()}" for name in ("CACHE", "CONFIG", "DATA")}
        return kept | {name: str(value) for name, value in own.items()}

    def kubectl(
        self, *arguments: str | Path, input: str | None = None, check: bool = True, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl of the same version, as admin or with another kubeconfig. ``check`` shows what it said when it fails."""
        return self._run(program("kubectl"), arguments, input, check, kubeconfig)

    def run_helm(
        self, *arguments: str | Path, input: str | None = None, check: bool = True, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Helm, as admin or with another kubeconfig."""
        return self._run(self.helm, arguments, input, check, kubeconfig)

    def kubeconfig_for(self, token: str, namespace: str = "default") -> Path:
        """A kubeconfig file with this bearer token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        handle, name = tempfile.mkstemp(prefix="kubeconfig-", suffix=".json", dir=self.folder)
        with os.fdopen(handle, "w") as file:
            json.dump(config, file)
        return Path(name)

    def token_for(self, namespace: str, account: str, *, seconds: int = 3600) -> str:
        """A token of an existing ServiceAccount (TokenRequest), as a kubelet would mount it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer = self.api.request("POST", path, {"spec": {"expirationSeconds": seconds}})
        return str(answer["status"]["token"])

    # ---- inside ----

    def _run(
        self,
        binary: Path,
        arguments: tuple[str | Path, ...],
        input: str | None,
        check: bool,
        kubeconfig: Path | None,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [binary, *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            env=self.environment(kubeconfig),
            timeout=150,
            check=False,
        )
        if check and done.returncode:
            shown = " ".join(str(argument) for argument in arguments)
            raise AssertionError(f"{binary.name} {shown}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def _etcd_command(self, peer: str) -> list[str | Path]:
        return [
            program("etcd"),
            "--name=test",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver_command(self, port: int) -> list[str | Path]:
        return [
            program("kube-apiserver"),
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={self._keys.certificate}",
            f"--tls-private-key-file={self._keys.key}",
            f"--cert-dir={self.folder}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            # No controller manager makes default accounts, without which this plugin lets no Pod in.
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._keys.accounts}",
            f"--service-account-signing-key-file={self._keys.accounts}",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--allow-privileged=true",
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=3000",
            "--max-mutating-requests-inflight=1000",
            f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            f"--audit-log-path={self.audit_file}",
            "--audit-log-maxsize=100000",
            "--profiling=false",
        ]

    def _manager_command(self) -> list[str | Path]:
        return [
            program("kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig_file}",
            "--leader-elect=false",
            "--secure-port=0",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--root-ca-file={self.ca_file}",
            f"--service-account-private-key-file={self._keys.accounts}",
        ]

    def _ready(self) -> bool:
        try:
            return bool(self.api.request("GET", "/readyz") == "ok")
        except (OSError, ApiProblem):
            return False

    def _etcd_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self._etcd_url + "/health", timeout=5) as answer:
                return bool(json.load(answer)["health"] == "true")
        except OSError:
            return False


@contextmanager
def running_control_plane() -> Iterator[ControlPlane]:
    """A control plane of its own; everything of it is gone at the end.

    Raises:
        locate.Missing: its programs were not built.
        AssertionError: it does not start, with the end of the log.
    """
    _sweep()
    for attempt in range(_ATTEMPTS):
        plane = ControlPlane(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")))
        try:
            try:
                plane.start()
            except AssertionError as error:
                if attempt + 1 < _ATTEMPTS and "address already in use" in str(error):
                    continue  # somebody took a port in between; others now
                raise
            yield plane
            return
        finally:
            plane.close()
            shutil.rmtree(plane.folder, ignore_errors=True)


def program(name: str) -> Path:
    """Path of a program of the control plane.

    Raises:
        locate.Missing: it was not built.
    """
    return locate.program(name)


def fixed_ports(count: int) -> list[int]:
    """Free ports that the kernel gives to no outgoing connection, so that they can be had again after a restart."""
    first = 32768
    with suppress(OSError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    for port in random.sample(range(max(1024, first - 16000), first), 500):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} free ports below {first}")


def _wait(daemon: Daemon, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        assert daemon.pid, f"{daemon.name} ended with code {daemon.exit_code}:\n{daemon.tail()}"
        assert time.monotonic() < deadline, f"{daemon.name} is not ready after {_START_S:.0f} s:\n{daemon.tail()}"
        time.sleep(0.05)


def _sweep() -> None:
    """Removes folders of test runs that were killed; their processes died with them."""
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
