"""Where the programs and files are. Needs neither Go nor the network, so tests ask here and never build.

The trap: with ``$KUBEBUILDER_ASSETS`` the control plane's programs are taken from there and only there, as its other users do
it; that folder usually has no kube-controller-manager.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from cluster_tools import cache
from cluster_tools.modules import CONTROL_PLANE, FOREIGN_CRDS, HELM, GoModule

ASSETS = "KUBEBUILDER_ASSETS"


class Missing(Exception):
    """Something is not there; the message says what and what to do."""


def program(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The path of ``etcd``, ``kube-apiserver``, ``kube-controller-manager``, ``kubectl`` or ``helm``.

    Raises:
        Missing: it was not built yet, or is not among the assets.
        KeyError: there is no program of that name.
    """
    module = next((m for m in (CONTROL_PLANE, HELM) if any(p.name == name for p in m.programs)), None)
    if module is None:
        raise KeyError(name)
    if module is CONTROL_PLANE and (given := environment.get(ASSETS)):
        path = Path(given) / name
        if not os.access(path, os.X_OK):
            raise Missing(f"{name} is not in ${ASSETS} ({given}), which has: {_names(Path(given))}")
        return path
    return _built(module) / name


def foreign_crds() -> list[Path]:
    """YAML files with the definitions of other projects' objects that RALB reads.

    Raises:
        Missing: they were not fetched yet.
    """
    folder = _built(FOREIGN_CRDS)
    return [folder / Path(path).name for _, path in FOREIGN_CRDS.files]


def _built(module: GoModule) -> Path:
    folder = cache.folder(module.name, module.key)
    if not folder.is_dir():
        raise Missing(f"{module.name} of this version is not in the cache ({cache.root()}); run: make control-plane")
    return folder


def _names(folder: Path) -> str:
    try:
        return ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    except OSError as error:
        return f"nothing ({error.strerror})"
