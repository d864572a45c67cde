"""pytest fixtures of the real control plane; ``support_cluster`` says what there is and how it is meant.

A machine without the programs skips these tests and says why at the end of the run; with ``CI=true`` that is an error.
"""

import os
import re
import secrets
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
import yaml
from cluster_tools import locate
from support_cluster import ControlPlane, running_control_plane
from support_kubelet import FakeKubelet, running_kubelet
from support_simulators import Simulators, running_simulators

REPOSITORY = Path(__file__).parents[2]
_SKIPPED = pytest.StashKey[list[str]]()


def without(config: pytest.Config, reason: str) -> NoReturn:
    """Skips the test loudly, or fails it where nothing may be skipped."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"CI=true, and no control plane: {reason}", pytrace=False)
    config.stash.setdefault(_SKIPPED, []).append(reason)
    pytest.skip(f"no control plane: {reason}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses the control plane, or whose module starts one of its own."""
    for item in items:
        own = hasattr(getattr(item, "module", None), "running_control_plane")
        if own or "control_plane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Fixtures need not say what to do without programs."""
    try:
        return (yield)
    except locate.Missing as missing:
        without(item.config, str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Nor need tests that start a control plane themselves."""
    try:
        return (yield)
    except locate.Missing as missing:
        without(item.config, str(missing))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was skipped for want of a control plane, which ``-q`` would hide."""
    for reason in sorted(set(config.stash.get(_SKIPPED, []))):
        terminalreporter.write_sep("=", "CLUSTER TESTS SKIPPED", red=True)
        terminalreporter.write_line(reason)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """The control plane that all tests share."""
    with running_control_plane() as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new namespace, named after the test; deleted with all that is in it."""
    title = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).removeprefix("test-")[:40].strip("-")
    name = f"{title or 'test'}-{secrets.token_hex(3)}"
    control_plane.ensure()
    control_plane.api.create_namespace(name)
    yield name
    control_plane.ensure()
    control_plane.api.delete_namespace(name)


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> list[str]:
    """RALB's definitions are installed; their names."""
    return install_crds(control_plane, sorted((REPOSITORY / "crds").glob("*.yaml")))


@pytest.fixture(scope="session")
def foreign_crds(control_plane: ControlPlane) -> list[str]:
    """Definitions of other projects' objects are installed; their names."""
    return install_crds(control_plane, locate.foreign_crds())


@pytest.fixture(scope="session")
def controller_manager(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with its controller manager running: deletes namespaces, makes EndpointSlices and default accounts."""
    control_plane.controller_manager()
    return control_plane


@pytest.fixture(scope="session")
def helm(control_plane: ControlPlane) -> Path:
    """The Helm program; ``control_plane.run_helm`` runs it."""
    return control_plane.helm


@pytest_asyncio.fixture
async def fake_kubelet(control_plane: ControlPlane) -> AsyncIterator[FakeKubelet]:
    """Makes Pods."""
    async with running_kubelet(control_plane) as kubelet:
        yield kubelet


@pytest_asyncio.fixture
async def simulators(tmp_path: Path) -> AsyncIterator[Simulators]:
    """Starts servers for Pods."""
    async with running_simulators(tmp_path) as running:
        yield running


def require(config: pytest.Config, name: str) -> Path:
    """Path of a program (``helm``, ``kube-controller-manager``); skips the test without it."""
    try:
        return locate.program(name)
    except locate.Missing as missing:
        without(config, str(missing))


def install_crds(plane: ControlPlane, files: list[Path]) -> list[str]:
    """Apply definitions and wait until they are served; returns their names."""
    assert files
    names = []
    for file in files:
        names += [document["metadata"]["name"] for document in yaml.safe_load_all(file.read_text()) if document]
        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in names))
    return names
