"""RALB end to end on a kind cluster: ``make e2e``.

Creates a cluster, builds and loads the images, installs both charts, applies the quickstart with simulated model servers, plays
the demo through the gateway's Service, upgrades, rolls back, uninstalls, and removes the cluster, also after a failure. Needs
docker, kind, kubectl and helm; ``--dry-run`` only prints the commands. The user's own kubeconfig is neither read nor changed.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CLUSTER = "ralb-e2e"
NAMESPACE = "ralb-system"
TOOLS = {
    "docker": "https://docs.docker.com/engine/install/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "helm": "https://helm.sh/docs/intro/install/",
}
GATEWAYS = "app.kubernetes.io/component=gateway"


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        what: for people.
        command: program and arguments.
        background: it runs until the end of all steps; its output goes to ``output``.
        output: file for the standard output; None = the terminal.
    """

    what: str
    command: tuple[str, ...]
    background: bool = False
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Where things are in one run.

    Attributes:
        folder: temporary, for the kubeconfig and the decision records.
        python: interpreter with RALB installed.
        port: local port of the gateway.
    """

    folder: Path
    python: str
    port: int

    @property
    def records(self) -> Path:
        """What the processors write."""
        return self.folder / "records.jsonl"

    def steps(self) -> list[Step]:
        """Everything in order, from the images to the last check."""
        version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
        images = {target: f"ralb-{target}:{version}" for target in ("operator", "processor")}
        kubectl, helm = ("kubectl",), ("helm", "--namespace", NAMESPACE)
        mine = (*kubectl, "--namespace", NAMESPACE)
        play = (self.python, "-m", "ralb_cli.main", "demo", "--url", f"http://127.0.0.1:{self.port}")
        wait = ("--wait", "--timeout", "5m")
        ralb = ("charts/ralb", "--values", "e2e/values.yaml", *wait)
        return [
            *(
                Step(f"build the image {tag}", ("docker", "build", "--target", target, "--tag", tag, "."))
                for target, tag in images.items()
            ),
            Step(
                "create the cluster",
                ("kind", "create", "cluster", "--name", CLUSTER, "--config", "e2e/kind.yaml", "--wait", "3m"),
            ),
            Step("load the images", ("kind", "load", "docker-image", "--name", CLUSTER, *images.values())),
            Step("a restricted namespace", (*kubectl, "apply", "-f", "e2e/namespace.yaml")),
            Step("install the definitions", (*helm, "install", "ralb-crds", "charts/ralb-crds", *wait)),
            Step("install RALB", (*helm, "install", "ralb", *ralb)),
            Step("start the simulated models", (*kubectl, "apply", "-f", "e2e/pods.yaml")),
            Step("apply the quickstart", (*kubectl, "apply", "-f", "examples/quickstart")),
            Step(
                "wait for the models",
                (*kubectl, "rollout", "status", "deployment", "-l", "app=vllm", "--timeout", "3m"),
            ),
            *(
                Step(
                    f"wait until pools are {condition}",
                    (*kubectl, "wait", f"--for=condition={condition}", "--timeout", "2m", "--all", "modelpools"),
                )
                for condition in ("Accepted", "Programmed", "Ready")
            ),
            Step("what users see", (*kubectl, "get", "ralb", "--all-namespaces")),
            Step(
                "collect decision records",
                (*mine, "logs", "--follow", "--selector", GATEWAYS, "--container", "processor", "--tail", "-1"),
                background=True,
                output=self.records,
            ),
            Step(
                "forward a port to the gateway",
                (*mine, "port-forward", "service/ralb-gateway", f"{self.port}:80"),
                background=True,
                output=self.folder / "port-forward.log",
            ),
            Step("play the demo", (*play, "--records", str(self.records))),
            Step("upgrade", (*helm, "upgrade", "ralb", *ralb, "--set", "operator.replicas=3")),
            Step("roll back", (*helm, "rollback", "ralb", "1", *wait)),
            Step("uninstall", (*helm, "uninstall", "ralb", "--wait")),
            Step("definitions and objects stay", (*kubectl, "get", "modelpools", "small", "mid", "frontier")),
        ]

    def diagnosis(self) -> list[Step]:
        """What to look at after a failure."""
        mine = ("kubectl", "--namespace", NAMESPACE)
        logs = (*mine, "logs", "--all-containers", "--prefix", "--tail", "50", "--selector")
        return [
            Step("pods", ("kubectl", "get", "pods", "--all-namespaces", "-o", "wide")),
            Step("objects", ("kubectl", "get", "ralb", "--all-namespaces", "-o", "yaml")),
            Step("events", (*mine, "get", "events", "--sort-by", "lastTimestamp")),
            Step("the operators", (*logs, "app.kubernetes.io/component=operator")),
            Step("the gateways", (*logs, GATEWAYS)),
        ]

    def teardown(self) -> Step:
        """The last step, whatever happened."""
        return Step("remove the cluster", ("kind", "delete", "cluster", "--name", CLUSTER))

    def environment(self) -> dict[str, str]:
        """Commands talk to this cluster only."""
        return os.environ | {"KUBECONFIG": str(self.folder / "kubeconfig")}


def missing(find: Callable[[str], str | None] = shutil.which) -> list[str]:
    """What has to be installed first, one line each."""
    return [f"{tool} is missing: {where}" for tool, where in TOOLS.items() if find(tool) is None]


def perform(run: Run, *, keep: bool = False) -> int:
    """Take all steps; returns the exit code. The cluster is removed unless it is to be kept."""
    try:
        with ExitStack() as background:
            for step in run.steps():
                say(step)
                if step.background:
                    background.enter_context(in_background(run, step))
                    continue
                subprocess.run(step.command, cwd=REPOSITORY, env=run.environment(), check=True)
        print("\nEverything is as it should be.")
        return 0
    except (subprocess.CalledProcessError, OSError, KeyboardInterrupt) as error:
        print(f"\nFAILED: {str(error) or 'interrupted'}\n", file=sys.stderr, flush=True)
        for step in run.diagnosis():
            say(step)
            subprocess.run(step.command, cwd=REPOSITORY, env=run.environment(), check=False)
        return 1
    finally:
        if keep:
            print(f"The cluster stays: KUBECONFIG={run.folder / 'kubeconfig'}; remove it with: {shell(run.teardown())}")
        else:
            say(run.teardown())
            subprocess.run(run.teardown().command, cwd=REPOSITORY, env=run.environment(), check=False)


@contextmanager
def in_background(run: Run, step: Step) -> Iterator[None]:
    """The command runs meanwhile."""
    assert step.output is not None
    with step.output.open("wb") as output:
        process = subprocess.Popen(step.command, cwd=REPOSITORY, env=run.environment(), stdout=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def say(step: Step) -> None:
    """Announce a step."""
    print(f"\n==> {step.what}\n    {shell(step)}", flush=True)


def shell(step: Step) -> str:
    """The command as one would type it."""
    return (
        shlex.join(step.command)
        + (f" > {shlex.quote(str(step.output))}" if step.output else "")
        + (" &" if step.background else "")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 all is well, 1 something is not, 2 tools are missing."""
    parser = argparse.ArgumentParser(description="RALB end to end on a kind cluster.")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--port", type=int, default=18080, help="local port for the gateway (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.dry_run:
        run = Run(Path(tempfile.gettempdir()) / CLUSTER, sys.executable, args.port)
        for step in [*run.steps(), run.teardown()]:
            print(shell(step))
        return 0
    if lines := missing():
        print("e2e runs on machines with Docker and kind:", *lines, sep="\n  ", file=sys.stderr)
        return 2
    # Told to end, it still removes what it made.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix=f"{CLUSTER}-"))
    try:
        return perform(Run(folder, sys.executable, args.port), keep=args.keep)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
